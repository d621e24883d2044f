#!/usr/bin/env bash
# fuzz-tools.sh BIN: what fuzzing has more of where it is: clang with libFuzzer, by apt, and atheris, by pip, beside the
# Python in BIN.  Without them the targets in C run by a driver of ours, and those in Python by seeded mutations.
set -euo pipefail
bin=$1

if ! echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return !d && n; }' |
    clang -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null; then
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    else
        as_root=(sudo -n)
    fi
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        echo "installing clang and libclang-rt-dev"
        "${as_root[@]}" apt-get update -qq
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq --no-install-recommends \
            clang libclang-rt-dev >/dev/null
    else
        echo "clang is not installed, since that needs root and apt: the targets in C know nothing of coverage" >&2
    fi
fi

"$bin/python" -c 'import atheris' 2>/dev/null || "$bin/python" -m pip install --quiet --only-binary :all: 'atheris>=3.0' ||
    echo "there is no atheris for this Python: the targets in Python know nothing of coverage" >&2
