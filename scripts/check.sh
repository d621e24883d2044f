#!/usr/bin/env bash
# check.sh BIN: run every check with the tools in BIN, and print the coverage of Python and C at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1

step() {
    printf '\n== %s\n' "$*"
}

# What the tests in Python do not wait for.
other_checks() {
    step tests on three kernels
    "$bin/python" -m tests.kernel.lab test

    step C under the address and undefined behaviour sanitizers
    csrc/tests/run.sh asan
    csrc/fuzz/check.sh

    step C for AArch64, under qemu
    scripts/aarch64.sh

    step packages
    scripts/check-package.sh "$bin"

    step coverage of C
    csrc/tests/run.sh gcov
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

# The tests take minutes and one CPU, and so does all else: both run side by side, and what the latter said is told later.
rm -rf .cache/kernel
others_log=$(mktemp)
set -m # a process group of its own, so that all of it can be ended
(other_checks) >"$others_log" 2>&1 </dev/null &
others=$!
set +m
trap 'kill -- -"$others" 2>/dev/null || true; rm -f "$others_log"' EXIT

step tests
"$bin/coverage" erase
"$bin/coverage" run -m pytest

others_status=0
wait "$others" || others_status=$?
cat "$others_log"
[ "$others_status" = 0 ]

step coverage of Python
shopt -s nullglob # there are no data of guests where there is no lab
"$bin/coverage" combine --quiet .coverage.* .cache/kernel/*/.coverage.*
"$bin/coverage" report

step all checks passed
