#!/bin/sh
# Run the C tests: `run.sh asan` under the sanitizers, `run.sh gcov` with the coverage of each file by lines.
# CC chooses the compiler; what is built goes to build/.
set -eu
cd "$(dirname "$0")/../.."

mode=${1:?usage: run.sh asan|gcov}
out=$PWD/build/ctest-$mode
case $mode in
asan) flags="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
gcov) flags="-O0 --coverage" ;;
*)
	echo "usage: run.sh asan|gcov" >&2
	exit 2
	;;
esac

rm -rf "$out"
mkdir -p "$out"
objects=
for source in csrc/*.c csrc/tests/test_cfs.c; do
	case $source in csrc/_cfs.c) continue ;; esac # what cffi generates
	object=$out/$(basename "$source" .c).o
	# shellcheck disable=SC2086 # flags are words
	${CC:-gcc} -std=gnu11 -g -Wall -Wextra -Werror $flags -Icsrc -c "$source" -o "$object"
	objects="$objects $object"
done
# shellcheck disable=SC2086
${CC:-gcc} $flags $objects -o "$out/test_cfs" \
	-Wl,--wrap=malloc,--wrap=pread,--wrap=write,--wrap=ioctl
"$out/test_cfs"

if [ "$mode" = gcov ]; then
	# -n: no .gcov files; one "File" line, then one "Lines executed" line each.
	gcov -n -s "$PWD" -r -o "$out" csrc/*.c csrc/tests/test_cfs.c |
		sed -n "s/^File '\(.*\)'/\1/p; s/^Lines executed:/  /p" | paste - - | grep '^csrc/[^t]\|^csrc/tar' | sort -u
fi
