"""Check the structure of an image, and list the objects that it needs.

Both are one walk over the inodes, each read once.  As in `load_tree`, inodes that are together larger than the image
end it.

Source: what composefs-rs 0.9.4 demands of images before it collects garbage.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from composefs import limits
from composefs.erofs import ondisk
from composefs.erofs.raw import Inode
from composefs.erofs.reader import ErofsReader, metacopy_digest, redirect_digest
from composefs.errors import LimitError

_WHITEOUT = ondisk.WHITEOUT_XATTRS[0]
_DOTS = (b".", b"..")
_TYPE = 0o170000  # S_IFMT
_NO_NAMES: dict[bytes, int] = {}


def check_structure(reader: ErofsReader) -> None:
    """Check what must hold in every image beyond what reading it demands.

    In versions 0 and 1, the root has all 256 stubs or other entries of their names, there are no whiteouts but in the
    root, and no link target crosses a block, which Linux before 6.12 does not read.  Version 2 has no file that stands
    for a whiteout.

    Raises:
        FormatError: it does not hold, or the image is broken.
    """
    for _ in _checked_inodes(reader):
        pass


def collect_objects(reader: ErofsReader) -> set[bytes]:
    """Return the raw digests of all objects that an image names, whatever inode does.

    An image that is broken anywhere has no such list: who removes what no image names must not trust half of one.  But
    what `check_structure` demands need not hold.

    Raises:
        FormatError: the image is broken.
    """
    return _collect(reader, _inodes(reader))


def check_and_collect(reader: ErofsReader) -> set[bytes]:
    """Check the structure of an image and return its objects, as the two others do, in one walk."""
    return _collect(reader, _checked_inodes(reader))


def _collect(reader: ErofsReader, inodes: Iterator[tuple[Inode, dict[bytes, int]]]) -> set[bytes]:
    objects: set[bytes] = set()
    for inode, _ in inodes:
        objects.update(objects_of(reader, inode))
    return objects


def objects_of(reader: ErofsReader, inode: Inode) -> list[bytes]:
    """Return the raw digests of the objects that *inode* names: none, one, or in a hostile image two."""
    found = []
    for name, value in reader.xattrs(inode):
        if name == ondisk.METACOPY:
            found.append(metacopy_digest(value))
        elif name == ondisk.REDIRECT:
            found.append(redirect_digest(value))
    return [digest for digest in found if digest is not None]


def _checked_inodes(reader: ErofsReader) -> Iterator[tuple[Inode, dict[bytes, int]]]:
    """Yield what `_inodes` does, and check it."""
    is_old = reader.version < 2
    root = reader.root.nid
    whiteouts: set[int] = set()  # nids
    below: set[int] = set()  # nids of what stands elsewhere than in the root
    for inode, names in _inodes(reader):
        kind = inode.mode & _TYPE
        if names and inode.nid != root:
            below.update(names.values())
        if not is_old:
            _check_new(reader, inode)
        elif kind == stat.S_IFLNK:
            _check_link(reader, inode)
        elif kind == stat.S_IFCHR and inode.rdev == 0:
            whiteouts.add(inode.nid)
        elif inode.nid == root:
            _check_stubs(reader, names)
        yield inode, names
    if not whiteouts.isdisjoint(below):
        nid = min(whiteouts & below)
        what = "a whiteout outside the root, where versions 0 and 1 have files that stand for them"
        raise reader.error(nid * ondisk.SLOT, what)


def _check_stubs(reader: ErofsReader, names: dict[bytes, int]) -> None:
    if missing := [name for name in ondisk.STUB_NAMES if name not in names]:
        what = f"the root has no entry {missing[0].decode()}: of 256 stubs, {len(missing)} are missing"
        raise reader.error(reader.root.offset, what)


def _check_link(reader: ErofsReader, inode: Inode) -> None:
    if inode.layout != ondisk.LAYOUT_FLAT_INLINE:
        return
    tail = inode.size % ondisk.BLOCK
    end = inode.offset % ondisk.BLOCK + inode.tail_offset - inode.offset + tail
    if tail and end > ondisk.BLOCK:
        what = f"a link target crosses a block by {end - ondisk.BLOCK} bytes, which Linux before 6.12 refuses"
        raise reader.error(inode.offset, what)


def _check_new(reader: ErofsReader, inode: Inode) -> None:
    if inode.type == stat.S_IFREG and any(name == _WHITEOUT for name, _ in reader.xattrs(inode)):
        raise reader.error(inode.offset, "a file that stands for a whiteout, which version 2 does not have")


def _inodes(reader: ErofsReader) -> Iterator[tuple[Inode, dict[bytes, int]]]:
    """Yield every inode that has a name, once, and of directories what stands in them, without the dots."""
    # This runs for 240,000 inodes, most of which are no directories.
    room = reader.size
    seen = {reader.root.nid}
    pending = [reader.root]
    while pending:
        inode = pending.pop()
        is_directory = inode.mode & _TYPE == stat.S_IFDIR
        room -= reader.occupied(inode) if is_directory else inode.tail_offset - inode.nid * ondisk.SLOT
        if room < 0:
            raise reader.error(inode.offset, "inodes overlap: together they are larger than the image")
        if not is_directory:
            yield inode, _NO_NAMES
            continue
        names = reader.names(inode)
        for dots in _DOTS:
            names.pop(dots, None)
        for nid in names.values():
            if nid not in seen:
                seen.add(nid)
                pending.append(reader.inode(nid))
        if len(seen) > limits.ENTRIES:
            raise LimitError(reader.source, inode.offset, "inodes", limits.ENTRIES)
        yield inode, names
