#!/usr/bin/env bash
# venv.sh PYTHON DIRECTORY: make the virtual environment, and build the package into it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "$python is missing or older than 3.11; name another with PYTHON=" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null || ! command -v "${CC:-cc}" >/dev/null; then
    scripts/install-tools.sh # a fresh Debian's Python cannot make environments
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
