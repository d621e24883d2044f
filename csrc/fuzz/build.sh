#!/bin/sh
# Build the fuzz targets under the address and undefined behaviour sanitizers: `build.sh clang` with libFuzzer, into
# build/fuzz-clang; `build.sh gcc` with a driver of our own, into build/fuzz-gcc; by default with clang, if it is there
# with what it needs.  Prints the directory.
set -eu
cd "$(dirname "$0")/../.."
compiler=${1:-}
if [ -z "$compiler" ]; then
	compiler=gcc
	if echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return !d && n; }' |
		clang -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null; then
		compiler=clang
	fi
fi
case $compiler in
clang) flags="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all" link=-fsanitize=fuzzer driver= ;;
gcc) flags="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" link= driver=csrc/fuzz/driver.c ;;
*)
	echo "usage: build.sh [clang|gcc]" >&2
	exit 2
	;;
esac

out=build/fuzz-$compiler
mkdir -p "$out"
echo "$out"

# What is there already is as new as its sources, or made again.
stamp=$out/.built
[ ! -e "$stamp" ] || [ -n "$(find csrc -name '*.[ch]' -newer "$stamp" ! -name _cfs.c ! -path '*/tests/*')" ] || exit 0

objects=
for source in csrc/*.c $driver; do
	case $source in csrc/_cfs.c) continue ;; esac # what cffi generates
	object=$out/$(basename "$source" .c).o
	# shellcheck disable=SC2086 # flags are words
	"$compiler" -std=gnu11 -Wall -Wextra -Werror $flags -Icsrc -c "$source" -o "$object"
	objects="$objects $object"
done
for source in csrc/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	# shellcheck disable=SC2086
	"$compiler" -std=gnu11 -Wall -Wextra -Werror $flags $link -Icsrc "$source" $objects -o "$out/c-${name#fuzz_}"
done
touch "$stamp"
