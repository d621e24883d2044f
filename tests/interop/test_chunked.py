"""Layers that skopeo makes of ours by zstd:chunked, whatever keys its version writes."""

import io
import json
import subprocess
import tarfile

import pytest

import composefs
from composefs.oci.toc import read_toc
from tests import layouts
from tests.layouts import noise
from tests.tools import require_tool

FILES = {
    "usr/": b"",
    "usr/empty": b"",
    "usr/small": b"small",
    "usr/text": b"".join(b"line %d\n" % (number * number % 97) for number in range(40_000)),
    "usr/zeros": b"begin" + bytes(100_000) + b"end",
    **{f"usr/{number}": noise(number * 100, seed=number) for number in range(1, 60)},
}


@pytest.fixture
def images(tmp_path):
    """Return a layout, and the one that skopeo makes of it."""
    skopeo = require_tool("skopeo")
    archive = layouts.tar(FILES).rstrip(b"\0")
    archive += bytes(-len(archive) % 512 + 1024)  # skopeo 1.9.3 leaves out what follows the end marker
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    layouts.image_layout(ours, [layouts.layer(archive)])
    arguments = ["--dest-compress", "--dest-compress-format", "zstd:chunked", f"oci:{ours}", f"oci:{theirs}"]
    subprocess.run([skopeo, "--insecure-policy", "copy", "--quiet", *arguments], check=True)
    return ours, theirs, archive


def descriptor_of_layer(layout):
    read = lambda digest: (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()  # noqa: E731
    index = json.loads((layout / "index.json").read_text())
    layer = json.loads(read(index["manifests"][0]["digest"]))["layers"][0]
    return layer, read(layer["digest"])


def test_import(tmp_path, images):
    """It is the same image: only the manifest, which says how its layer is compressed, is another one."""
    found = []
    for number, layout in enumerate(images[:2]):
        path = tmp_path / f"repository{number}"
        composefs.Repository.init(path)
        with composefs.Repository.open(path) as repository:
            found.append(composefs.import_image(repository, f"oci:{layout}", name="image"))

    ours, theirs = found
    assert ours.manifest != theirs.manifest
    assert (ours.config, ours.images) == (theirs.config, theirs.images)
    assert [layer.stream for layer in ours.layers] == [layer.stream for layer in theirs.layers]


def test_table(images):
    """Its table of contents says what is in the archive."""
    _, theirs, archive = images
    descriptor, blob = descriptor_of_layer(theirs)
    assert descriptor["mediaType"].endswith("+zstd")

    toc = read_toc(descriptor["annotations"], len(blob), lambda offset, size: blob[offset : offset + size])

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        wanted = {info.name: layouts.sha256(tar.extractfile(info).read()) for info in tar if info.size}
    assert {file.name: file.digest for file in toc.files() if file.size} == wanted
    assert {file.size for file in toc.files()} == {len(data) for name, data in FILES.items() if name != "usr/"}
