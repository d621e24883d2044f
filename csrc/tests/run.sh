#!/bin/sh
# Run the C tests: `run.sh asan` under the sanitizers, `run.sh gcov` with the coverage of each file by lines,
# `run.sh aarch64` as they are shipped for AArch64, under qemu.
# CC chooses the compiler; what is built goes to build/.
set -eu
cd "$(dirname "$0")/../.."

mode=${1:?usage: run.sh asan|gcov|aarch64}
out=$PWD/build/ctest-$mode
cc=gcc
case $mode in
asan) flags="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
gcov) flags="-O0 --coverage" ;;
aarch64)
	cc=aarch64-linux-gnu-gcc
	flags="-O3 -static"
	;;
*)
	echo "usage: run.sh asan|gcov|aarch64" >&2
	exit 2
	;;
esac

rm -rf "$out"
mkdir -p "$out"
objects=
for source in csrc/*.c csrc/tests/*.c; do
	case $source in csrc/_cfs.c) continue ;; esac # what cffi generates
	object=$out/$(basename "$source" .c).o
	# shellcheck disable=SC2086 # flags are words
	${CC:-$cc} -std=gnu11 -g -Wall -Wextra -Werror $flags -Icsrc -c "$source" -o "$object"
	objects="$objects $object"
done
# shellcheck disable=SC2086
${CC:-$cc} $flags $objects -o "$out/test_cfs" \
	-Wl,--wrap=malloc,--wrap=pread,--wrap=write,--wrap=ioctl,--wrap=getauxval

if [ "$mode" = aarch64 ]; then
	# What must be in use on a CPU; qemu has none without SHA-2, so there its features are hidden.
	qemu-aarch64 -cpu max "$out/test_cfs" arm-sha2 arm-sha512
	qemu-aarch64 -cpu cortex-a57 "$out/test_cfs" arm-sha2 generic
	qemu-aarch64 -cpu max "$out/test_cfs" generic generic 0
	exit
fi
"$out/test_cfs"

if [ "$mode" = gcov ]; then
	# -n: no .gcov files; one "File" line, then one "Lines executed" line each.
	gcov -n -s "$PWD" -r -o "$out" csrc/*.c csrc/tests/*.c |
		sed -n "s/^File '\(.*\)'/\1/p; s/^Lines executed:/  /p" | paste - - | grep '^csrc/[^t]\|^csrc/tar' | sort -u
fi
