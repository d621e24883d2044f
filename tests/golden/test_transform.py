"""The transforms of the golden images: from the dump of one to that of another, without the layers."""

import io
import tarfile

import pytest

from composefs.boot import transform_for_boot
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump, parse_dump, read_lines
from composefs.transform import XattrFilter, transform_for_oci
from composefs.verity import compute_digest
from tests.golden import vectors

ALGORITHMS = {"sha256": Algorithm.SHA256, "sha512": Algorithm.SHA512}
IMAGES = {name: vectors.expected(f"images/{name}") for name in vectors.image_names()}
KEPT = [name for name, image in IMAGES.items() if "dump_keep_user_xattrs" in image["sha256"]]
BOOTABLE = [name for name, image in IMAGES.items() if "dump_bootable" in image["sha256"]]


def text_of(name, hash_name, key):
    recorded = IMAGES[name][hash_name][key]
    if isinstance(recorded, list):
        return "".join(f"{line}\n" for line in recorded).encode()
    return vectors.read(vectors.ROOT / "images" / name / recorded["file"])


def tree_of(text):
    return parse_dump(read_lines(io.BytesIO(text)), "the dump").root


def test_there_are_such_images():
    assert len(KEPT) >= 5
    assert len(BOOTABLE) >= 2


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", KEPT)
def test_extended_attributes_of_users_are_what_the_modes_differ_in(name, hash_name):
    with_all = tree_of(text_of(name, hash_name, "dump_keep_user_xattrs"))

    transform_for_oci(with_all, XattrFilter.KEEP_USER_XATTRS)
    assert b"".join(format_dump(with_all)) == text_of(name, hash_name, "dump_keep_user_xattrs")

    transform_for_oci(with_all)
    assert b"".join(format_dump(with_all)) == text_of(name, hash_name, "dump")


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", BOOTABLE)
def test_bootable(name, hash_name):
    contents = {}
    for archive in vectors.layer_archives(name):
        with tarfile.open(fileobj=io.BytesIO(archive)) as layer:
            for member in filter(tarfile.TarInfo.isreg, layer):
                data = layer.extractfile(member).read()
                contents[compute_digest(data, ALGORITHMS[hash_name]).raw] = data
    tree = tree_of(text_of(name, hash_name, "dump"))

    transform_for_boot(tree, lambda leaf: contents[leaf.content.digest])

    assert b"".join(format_dump(tree)) == text_of(name, hash_name, "dump_bootable")
