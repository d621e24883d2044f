#!/usr/bin/env bash
# fuzz-trees.sh BIN TREES: so many random file systems, others each time, against cfsctl; and random layers and dumpfiles.
set -euo pipefail
cd "$(dirname "$0")/.."
cfsctl=$(scripts/cfsctl.sh)
PATH=$(dirname "$cfsctl"):$PATH COMPOSEFS_TREES=$2 COMPOSEFS_REQUIRE_TOOLS=1 exec "$1/python" -m pytest \
    --hypothesis-profile=fuzz tests/interop/test_random_trees.py tests/property
