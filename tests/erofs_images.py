"""EROFS images made by hand, field by field, so that they can be wrong in any way."""

import stat
import struct

import pytest

from composefs.erofs import ondisk
from composefs.erofs.load import load_tree
from composefs.errors import FormatError
from tests.golden import vectors

SHARED_BLOCK = 15  # the block of the shared xattrs, behind the inodes; data blocks follow

DIRECTORY, REGULAR, LINK, CHARACTER = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFCHR
USER, TRUSTED, SECURITY = 1, 4, 6  # prefixes of xattrs
PLAIN, INLINE, CHUNKED = ondisk.LAYOUT_FLAT_PLAIN, ondisk.LAYOUT_FLAT_INLINE, ondisk.LAYOUT_CHUNKED


class ImageBuilder:
    """Puts inodes one after another, from nid 36; the shared xattrs are at block 15, data blocks from 16 on."""

    def __init__(self, version=2, blocks=()):
        self.data = bytearray(ondisk.INODES_OFFSET)
        self.version = version
        self.shared = bytearray()
        self.blocks = list(blocks)

    def next_nid(self):
        return -(-len(self.data) // ondisk.SLOT)

    def inode(self, mode, tail=b"", *, xattrs=b"", size=None, links=1, address=0, layout=None, mtime=1, nanoseconds=0):
        """Add an extended inode, and return its nid."""
        nid = self.next_nid()
        self.data += bytes(nid * ondisk.SLOT - len(self.data))
        if layout is None:
            layout = INLINE if tail else PLAIN
        words = (len(xattrs) - 8) // 4 if xattrs else 0
        form = ondisk.FORMAT_EXTENDED | layout
        size = len(tail) if size is None else size
        self.data += ondisk.EXTENDED_INODE.pack(
            form, words, mode, size, address, nid, 1000, 2000, mtime, nanoseconds, links
        )
        self.data += xattrs + tail
        return nid

    def directory(self, entries, *, parent=None, links=2, dots=True, **options):
        """Add a directory whose *entries* are pairs of name and nid, all in its tail, and return its nid."""
        nid = self.next_nid()
        if dots:
            entries = sorted([(b".", nid), (b"..", nid if parent is None else parent), *entries])
        return self.inode(DIRECTORY, block(entries), links=links, **options)

    def finish(self, root):
        """Return the image."""
        assert len(self.data) <= SHARED_BLOCK * ondisk.BLOCK
        image = self.data.ljust(SHARED_BLOCK * ondisk.BLOCK, b"\0") + self.shared.ljust(ondisk.BLOCK, b"\0")
        for data in self.blocks:
            image += data.ljust(ondisk.BLOCK, b"\0")
        ondisk.HEADER.pack_into(image, 0, ondisk.HEADER_MAGIC, ondisk.HEADER_VERSION, 0, self.version)
        superblock = [
            ondisk.EROFS_MAGIC,
            0,
            6,
            12,
            0,
            root,
            0,
            0,
            0,
            len(image) // ondisk.BLOCK,
            0,
            SHARED_BLOCK,
            b"",
            b"",
        ]
        ondisk.SUPERBLOCK.pack_into(image, ondisk.SUPERBLOCK_OFFSET, *superblock, *[0] * 9)
        return bytes(image)


def block(entries):
    """Return a directory block of *entries*, pairs of name and nid, in the order given."""
    head, names = bytearray(), bytearray()
    first = ondisk.DIRENT.size * len(entries)
    for name, nid in entries:
        head += ondisk.DIRENT.pack(nid, first + len(names), 0)
        names += name
    return bytes(head + names)


def xattr(index, suffix, value):
    """Return the entry of an xattr."""
    entry = ondisk.XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return entry + bytes(-len(entry) % 4)


def xattr_area(*entries, references=()):
    """Return what follows an inode with these xattrs."""
    return (
        ondisk.XATTR_HEADER.pack(0, len(references))
        + struct.pack(f"<{len(references)}I", *references)
        + b"".join(entries)
    )


DIGEST = bytes(range(32))
OBJECT = b"/00/" + DIGEST.hex()[2:].encode()  # where it lies, as xattrs have it
METACOPY = xattr(TRUSTED, b"overlay.metacopy", bytes([0, 36, 0, 1]) + DIGEST)
REDIRECT = xattr(TRUSTED, b"overlay.redirect", OBJECT)


def golden(version="V1"):
    """Return an image of composefs-rs that has every type of node."""
    return bytearray(vectors.read(vectors.ROOT / "trees" / "types" / "sha256" / f"image-{version}.erofs.gz"))


def one(mode, tail=b"", *, version=2, **options):
    """Return an image with one leaf, /f, which is inode 36."""
    builder = ImageBuilder(version)
    leaf = builder.inode(mode, tail, **options)
    return builder.finish(builder.directory([(b"f", leaf)]))


def check_refused(image, what, *, entry=None, offset=None, read=load_tree, **options):
    """Check that *image* is refused for *what*, in *entry*, at *offset*."""
    with pytest.raises(FormatError, match=what) as caught:
        read(image, **options)
    error = caught.value
    assert error.source == "image"
    assert error.entry == entry
    assert error.offset >= 0
    if offset is not None:
        assert error.offset == offset
