"""Images of golden dumps are those of composefs-rs, bit for bit."""

import hashlib
import json

import pytest

from composefs import verity
from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile import parse_dump
from composefs.erofs.writer import write_image
from composefs.errors import TreeError
from tests.golden import dumps, erofs_ids, vectors

ALGORITHMS = {"sha256": Algorithm.SHA256, "sha512": Algorithm.SHA512}
VERSIONS = {"V0": 0, "V1": 1, "V2": 2}
TREES = sorted(path.name for path in (vectors.ROOT / "trees").iterdir())
SWEEPS = sorted(path.stem for path in (vectors.ROOT / "sweeps").glob("*.json"))
# Of two images the dump is not recorded, only its hash, and that of one shows modes from which types cannot be told.
# Tests of the whole import make these.
WITHOUT_DUMP = {"directory-3000", "files-5000", "modes"}
# What composefs-rs makes broken images of.
BROKEN = {
    "xattr-area-too-large": "/file: has xattrs of 300052 bytes in all, more than 262148",
    "xattr-shared-256": "/one: has more than 255 xattrs that other nodes have, too",
}
# What it takes of layers, though no kernel can read it.
UNREADABLE = {
    "name-256": "/usr/n{256}: has a name of 256 bytes, more than 255",
    "name-nul": "/usr/a\0b: has the name b'a\\\\x00b', which no file can have",
    "name-4084": "/usr/n{4084}: has a name of 4084 bytes, more than 255",
    "symlink-4096": "/usr/s: is a link with a target of 4096 bytes, more than 4095",
    "symlink-5000": "/usr/s: is a link with a target of 5000 bytes, more than 4095",
    "xattr-value-65536": "/usr/f: has an xattr security.capability of 65536 bytes, more than 65535",
    "xattr-value-65537": "/usr/f: has an xattr security.capability of 65537 bytes, more than 65535",
}
DOUBTFUL = [case for case in vectors.expected("refused") if "dump" in case.get("pull", ())]
KINDS = {"image": "dump", "boot_image": "dump_bootable", "image_keep_user_xattrs": "dump_keep_user_xattrs"}


def check(image, algorithm, recorded, directory):
    """Check that *image* is the recorded one: by its bytes where these are, and else by their hash or its id."""
    if isinstance(recorded, str):
        assert verity.compute_digest(image, algorithm).hex == recorded
        return
    if "file" in recorded:
        assert image == vectors.read(directory / recorded["file"])
    assert hashlib.sha256(image).hexdigest() == recorded["sha256"]
    assert len(image) == recorded["size"]
    assert verity.compute_digest(image, algorithm).hex == recorded["id"]


def lines_of(recorded, directory):
    if isinstance(recorded, list):
        return [f"{line}\n".encode() for line in recorded]
    return vectors.read(directory / (recorded if isinstance(recorded, str) else recorded["file"])).splitlines(True)


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", TREES)
def test_trees(name, hash_name):
    """Directories on disk, with what no layer and no dump file brings."""
    directory, case = vectors.ROOT / "trees" / name, vectors.expected(f"trees/{name}")[hash_name]
    root = dumps.read(lines_of(case["dump"], directory), ALGORITHMS[hash_name])
    for key, version in VERSIONS.items():
        if name in BROKEN:
            with pytest.raises(TreeError) as caught:
                write_image(root, version)
            assert str(caught.value) == BROKEN[name]
        else:
            check(write_image(root, version), ALGORITHMS[hash_name], case[key], directory)


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps(name):
    """Series of trees that move a tail, a target or a name through a page, and random ones."""
    recorded = json.loads((vectors.ROOT / "sweeps" / f"{name}.json").read_text())
    texts = dumps.split(vectors.read(vectors.ROOT / "sweeps" / recorded["dumps"]))
    for lines, images in zip(texts, recorded["sha256"], strict=True):
        root = dumps.read(lines)
        for key, digest in images.items():
            check(write_image(root, VERSIONS[key]), Algorithm.SHA256, digest, None)


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", sorted(set(vectors.image_names()) - WITHOUT_DUMP))
def test_images(name, hash_name):
    """Images of containers, from the dumps of these."""
    directory, case = vectors.ROOT / "images" / name, vectors.expected(f"images/{name}")[hash_name]
    made = 0
    for kind, dump in KINDS.items():
        root = dumps.read(lines_of(case.get(dump, case["dump"]), directory), ALGORITHMS[hash_name])
        for key, version in VERSIONS.items():
            if kind in case[key]:
                check(write_image(root, version), ALGORITHMS[hash_name], case[key][kind], directory)
                made += 1
    assert made >= 3


@pytest.mark.parametrize("case", DOUBTFUL, ids=lambda case: case["case"])
def test_doubtful_layers(case):
    """Images of layers that composefs-rs takes, though they are odd: the same, or an error with the path."""
    root = dumps.read(lines_of(case["pull"]["dump"], vectors.ROOT / "refused"))
    for version, key in ((1, "image"), (2, "image_V2")):
        if case["case"] in UNREADABLE:
            with pytest.raises(TreeError, match=f"^{UNREADABLE[case['case']]}$"):
                write_image(root, version)
        else:
            check(write_image(root, version), Algorithm.SHA256, case["pull"][key], None)


@pytest.mark.parametrize("case", erofs_ids.CASES, ids=lambda case: case.name)
def test_dialects(case):
    """Images of dumps, where the two programs agree and where they do not."""
    lines = [f"{line}\n".encode() for line in case.lines]
    for dialect, ids in ((Dialect.RUST, case.by_rust), (Dialect.C, case.by_c)):
        for version, digest in enumerate(ids):
            dump = parse_dump(lines, "the dump", dialect=dialect)
            image = write_image(dump.root, version, dialect=dialect, homes=dump.homes)
            check(image, Algorithm.SHA256, digest, None)
