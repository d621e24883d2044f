#!/usr/bin/env bash
# check.sh BIN: run every check with the tools in BIN, and print the coverage of Python and C at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1

step() {
    printf '\n== %s\n' "$*"
}

if cfsctl=$(scripts/cfsctl.sh); then
    PATH=$(dirname "$cfsctl"):$PATH
elif [ -n "${COMPOSEFS_REQUIRE_TOOLS:-}" ]; then
    exit 1
fi

step format, lint, types, layers
"$bin/ruff" format --check
"$bin/ruff" check
"$bin/mypy"
"$bin/lint-imports" | tail -n 4

# The guests of the kernel lab take minutes: they run beside what follows, and how they did is told in their turn.
lab_log=$(mktemp)
rm -rf .cache/kernel
"$bin/python" -m tests.kernel.lab test >"$lab_log" 2>&1 &
lab=$!
trap 'kill "$lab" 2>/dev/null || true; rm -f "$lab_log"' EXIT

step C under the address and undefined behaviour sanitizers
csrc/tests/run.sh asan

step C for AArch64, under qemu
scripts/aarch64.sh

step packages
scripts/check-package.sh "$bin"

step tests
"$bin/coverage" erase
"$bin/coverage" run -m pytest

step tests on three kernels
lab_status=0
wait "$lab" || lab_status=$?
cat "$lab_log"
[ "$lab_status" = 0 ]

step coverage of Python
shopt -s nullglob # there are no data of guests where there is no lab
"$bin/coverage" combine --quiet .coverage.* .cache/kernel/*/.coverage.*
"$bin/coverage" report

step coverage of C
csrc/tests/run.sh gcov

step all checks passed
