#!/usr/bin/env bash
# demo.sh BIN: make a sample image, import it twice, list it, take a layer out again, and all of it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(cd "$1" && pwd):$PATH
demo=build/demo
rm -rf "$demo"
mkdir -p "$demo"

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

run python scripts/sample_image.py "$demo/image"
run composefs --repo "$demo/repo" oci plan "oci:$demo/image:demo"
run composefs-import "oci:$demo/image:demo" --repo "$demo/repo" --name demo
run composefs-import "oci:$demo/image:demo" --repo "$demo/repo" --name demo
run composefs --repo "$demo/repo" oci images
layer=$(composefs-import "oci:$demo/image:demo" --repo "$demo/repo" --name demo --json --progress none |
    python -c 'import json, sys; print(json.load(sys.stdin)["layers"][0]["diff_id"])')
printf '\n$ composefs --repo %s oci layer %s | sha256sum\n' "$demo/repo" "$layer"
composefs --repo "$demo/repo" oci layer "$layer" | sha256sum | tee "$demo/sum"
grep -q "^${layer#sha256:} " "$demo/sum"
run composefs --repo "$demo/repo" ls -l demo /
run composefs --repo "$demo/repo" extract demo "$demo/root"
touch "$demo/root/usr"
printf '\n$ composefs --repo %s diff demo dir:%s\n' "$demo/repo" "$demo/root"
composefs --repo "$demo/repo" diff demo "dir:$demo/root" || [ $? = 1 ]
run composefs --repo "$demo/repo" oci export demo "oci-archive:$demo/demo.tar:demo"
run composefs-import "$demo/demo.tar:demo" --repo "$demo/copy" --name demo
run composefs digest README.md
