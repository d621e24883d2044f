#!/usr/bin/env bash
# aarch64.sh: build the C for AArch64, and run its tests under qemu. What is missing for that is skipped by name, except in CI.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in aarch64-linux-gnu-gcc qemu-aarch64 /usr/aarch64-linux-gnu/lib/libc.a; do
    if ! command -v "$tool" >/dev/null && [ ! -e "$tool" ]; then
        echo "skipped: $tool is missing" >&2
        [ -z "${COMPOSEFS_REQUIRE_TOOLS:-}" ]
        exit
    fi
done
exec csrc/tests/run.sh aarch64
