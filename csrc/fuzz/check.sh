#!/bin/sh
# Run every fuzz target on its corpus and on mutations of it, the same each time: `check.sh [RUNS]`.  For more, and with
# what clang knows of coverage, there is `python -m tests.fuzz`.
set -eu
cd "$(dirname "$0")/../.."
runs=${1:-10000}

out=$(csrc/fuzz/build.sh gcc)
for target in csrc/fuzz/fuzz_*.c; do
	name=$(basename "$target" .c)
	name=c-${name#fuzz_}
	corpus=tests/corpus/$name
	[ -d "$corpus" ] || corpus=tests/corpus/${name#c-} # archives serve both
	"$out/$name" -runs="$runs" -seed=1 -timeout=20 -artifact_prefix="$out/" "$corpus" >"$out/log" 2>&1 || {
		cat "$out/log"
		exit 1
	}
	echo "$name: $runs inputs, passed"
done
