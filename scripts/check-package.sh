#!/usr/bin/env bash
# check-package.sh BIN: build sdist and wheel, look into the wheel, and import an image with it where no compiler is.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$bin/python" -m build --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; } # wheel from sdist
wheel=$(echo "$work"/dist/*.whl)
echo "${wheel##*/} $(basename "$work"/dist/*.tar.gz)"
case $wheel in
*-cp311-abi3-linux_*.whl) ;;
*) echo "the wheel has no stable ABI tag" >&2; exit 1 ;;
esac
"$bin/python" -m zipfile -l "$wheel" >"$work/list"
for name in composefs/_cfs.abi3.so composefs/_cfs.pyi composefs/py.typed licenses/LICENSE-MIT licenses/LICENSE-APACHE; do
    grep -q "$name" "$work/list" || { echo "the wheel lacks $name" >&2; exit 1; }
done
! grep -E '(^| )(tests|bench|csrc|build)/' "$work/list"

# A host without compiler: a PATH with the little that venv and pip need.
mkdir "$work/path"
for tool in sh env uname cat rm mkdir ls; do
    ln -s "$(command -v $tool)" "$work/path/$tool"
done
"$bin/python" scripts/sample_image.py "$work/image"
for python in "$bin"/python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3.1[1-9]; do
    [ -x "$python" ] || continue
    version=$("$python" -c 'import platform; print(platform.python_version())')
    [ ! -e "$work/$version" ] || continue
    "$python" -m venv "$work/$version"
    (
        export PATH=$work/path CC=/bin/false
        "$work/$version/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$wheel"
        "$work/$version/bin/composefs-import" "oci:$work/image:demo" --repo "$work/repository-$version" --name sample --quiet
        "$work/$version/bin/composefs" --repo "$work/repository-$version" oci images >"$work/images"
    )
    grep -q '^sample ' "$work/images"
    echo "Python $version: installed and imported without a compiler"
done
