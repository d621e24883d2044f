"""What must hold in images beyond reading them, and the objects that they need."""

import pytest

from composefs.erofs import ondisk
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from tests.erofs_images import (
    CHARACTER,
    CHUNKED,
    DIGEST,
    LINK,
    METACOPY,
    REDIRECT,
    REGULAR,
    TRUSTED,
    ImageBuilder,
    check_refused,
    golden,
    one,
    xattr,
    xattr_area,
)


def structure(image):
    check_structure(ErofsReader(image))


def objects(image):
    return collect_objects(ErofsReader(image))


def test_structure_of_golden_images():
    """What composefs-rs wrote is right in its version, and not in another."""
    check_structure(ErofsReader(golden("V1")))
    check_structure(ErofsReader(golden("V2")))
    image = golden("V2")
    image[12] = 0
    check_refused(image, "no entry 00: of 256 stubs, 256 are missing", read=structure)


def old(builder, entries, links=2):
    """Return an image of version 1 whose root has stubs and *entries*."""
    stub = builder.inode(CHARACTER)
    return builder.finish(builder.directory([*((name, stub) for name in ondisk.STUB_NAMES), *entries], links=links))


def test_stubs():
    """All 256 names are in the root of an old image, in lower case, whatever has them."""
    check_structure(ErofsReader(old(ImageBuilder(1), [])))
    names = [name for name in ondisk.STUB_NAMES if name != b"ab"]
    builder = ImageBuilder(1)
    other = builder.inode(REGULAR)
    image = builder.finish(builder.directory([*((name, other) for name in names), (b"AB", other)]))
    check_refused(image, "no entry ab: of 256 stubs, 1 are missing", read=structure)


def test_whiteouts_below_the_root():
    """Old images have them as files, new ones have no such files."""
    for version in (0, 1, 2):
        builder = ImageBuilder(version)
        device = builder.inode(CHARACTER)
        below = builder.directory([(b"x", device)])
        image = old(builder, [(b"d", below), (b"x", device)], links=3)
        if version == 2:
            check_structure(ErofsReader(image))
        else:
            check_refused(image, "a whiteout outside the root", read=structure, offset=device * 32)

    marked = one(REGULAR, xattrs=xattr_area(xattr(TRUSTED, b"overlay.overlay.whiteout", b"")))
    check_refused(marked, "a file that stands for a whiteout", read=structure)
    assert collect_objects(ErofsReader(marked)) == set()


@pytest.mark.parametrize("version", [1, 2])
def test_links_across_blocks(version):
    """Old kernels do not read targets that cross a block."""
    builder = ImageBuilder(version)
    builder.data += bytes(4096 - len(builder.data) - 96)
    link = builder.inode(LINK, b"t" * 33)
    image = old(builder, [(b"l", link)])

    load_tree(image)
    if version == 2:
        check_structure(ErofsReader(image))
    else:
        what = "crosses a block by 1 bytes"
        check_refused(image, what, read=structure, offset=4000)


def test_links_to_the_end_of_a_block():
    """They do not cross it."""
    builder = ImageBuilder(1)
    builder.data += bytes(4096 - len(builder.data) - 96)
    check_structure(ErofsReader(old(builder, [(b"l", builder.inode(LINK, b"t" * 32))])))


def test_links_in_blocks():
    """Targets in blocks of their own cross none."""
    builder = ImageBuilder(1, blocks=[b"t" * 4096])
    structure(old(builder, [(b"l", builder.inode(LINK, size=4096, address=16))]))


def test_objects_of_all_inodes():
    """All objects that any inode names, each once, also those that are named twice."""
    other = bytes(32)
    text = other.hex().encode()
    elsewhere = xattr(4, b"overlay.redirect", b"/%b/%b" % (text[:2], text[2:]))
    builder = ImageBuilder()
    file = builder.inode(REGULAR, xattrs=xattr_area(METACOPY, REDIRECT), layout=CHUNKED)
    link = builder.inode(LINK, b"x", xattrs=xattr_area(METACOPY, elsewhere))
    reader = ErofsReader(builder.finish(builder.directory([(b"f", file), (b"l", link)])))

    assert collect_objects(reader) == {DIGEST, other}


def test_broken_images_have_no_objects():
    """Nobody removes objects by an image of which a part is lost."""
    builder = ImageBuilder()
    file = builder.inode(REGULAR, xattrs=xattr_area(METACOPY, REDIRECT), layout=CHUNKED)
    image = builder.finish(builder.directory([(b"f", file), (b"g", 2**40)]))

    check_refused(image, "behind the end", read=objects)
