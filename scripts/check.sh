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

# What takes minutes and one CPU runs side by side, and what it says is told one after the other.
rm -rf .cache/kernel
logs=$(mktemp -d)
jobs=()
trap 'for job in "${jobs[@]}"; do kill -- -"$job" 2>/dev/null || true; done; rm -rf "$logs"' EXIT

# beside COMMAND...: run it in a process group of its own, so that all of it can be ended.
beside() {
    set -m
    ("$@") >"$logs/${#jobs[@]}" 2>&1 </dev/null &
    jobs+=($!)
    set +m
}

"$bin/coverage" erase
beside other_checks
beside "$bin/coverage" run -m pytest --ignore tests/unit

step tests
"$bin/coverage" run -m pytest tests/unit

failed=0
for number in "${!jobs[@]}"; do
    wait "${jobs[number]}" || failed=1
    cat "$logs/$number"
done
[ "$failed" = 0 ]

step coverage of Python
shopt -s nullglob # there are no data of guests where there is no lab
"$bin/coverage" combine --quiet .coverage.* .cache/kernel/*/.coverage.*
"$bin/coverage" report

step all checks passed
