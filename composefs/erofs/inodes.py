"""The inodes of an image while it is written: what the steps of that tell each other.

An inode is a number, its index in each of the columns.  One column is bytes from the beginning: records, of which C
makes what stands in the image.  With objects in place of columns, writing takes twice the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct

from composefs.erofs import ondisk
from composefs.erofs.xattrs import XattrSet
from composefs.tree import Directory, Node

# struct inode_record of csrc/erofs.c.  What an inode is: size, mtime, nanoseconds, uid, gid, link count, size of the
# payload, mode
RECORD = Struct("=QqIIIIIH26x")
assert RECORD.size == 64
# and where: format, nid, number, pointer, area, size of the tail
PLACE = Struct("=HIIIII4x")
PLACE_OFFSET = 38  # bytes from the start of the record
assert PLACE_OFFSET + PLACE.size == RECORD.size
_SIZE, _SIZE_OFFSET = Struct("=Q"), 0
_NARROW, _NARROW_OFFSET = Struct("=4I"), 16  # nanoseconds, uid, gid, link count
_LINK_COUNT, _LINK_COUNT_OFFSET = Struct("=I"), 28
_PAYLOAD_SIZE, _PAYLOAD_SIZE_OFFSET = Struct("=I"), 32
_MODE, _MODE_OFFSET = Struct("=H"), 36
_POINTER, _POINTER_OFFSET = Struct("=I"), 48

Time = tuple[int, int]  # seconds and nanoseconds


@dataclass(slots=True, eq=False)
class Shape:
    """What an inode is a file of, and how its data are stored: shared by many inodes, and never changed."""

    file_type: int  # as directories have it
    layout: int = ondisk.LAYOUT_FLAT_PLAIN
    tail_size: int = 0  # bytes behind the xattrs: the last of the data, or addresses of chunks
    block_count: int = 0
    pointer: int = 0  # of a device its number, of chunks their size; of other data it is their first block
    is_object: bool = False  # the payload is a digest


class Inodes:
    """The columns, in the order in which the inodes were made; the first is that of the root.

    Attributes:
        nodes: what they are in the tree, or stubs.
        shapes: what kind of file they are.
        mtimes: seconds.
        xattrs: but for those that name an object.
        payloads: digest of the object, or data; of a directory only its tail, later.
        records: all else that an inode tells, packed.
        areas: numbers of what they have of xattrs in the image; later.
        nids: their places; later.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []
        self.mtimes: list[int] = []
        self.xattrs: list[XattrSet] = []
        self.payloads: list[bytes] = []
        self.records = bytearray()
        self.areas: list[int] = []
        self.nids: list[int] = []

    def __len__(self) -> int:
        return len(self.nodes)

    def set_size(self, index: int, size: int) -> None:
        """Set the size, bytes."""
        _SIZE.pack_into(self.records, index * RECORD.size + _SIZE_OFFSET, size)

    def link_count(self, index: int) -> int:
        """Return the number of links."""
        count: int = _LINK_COUNT.unpack_from(self.records, index * RECORD.size + _LINK_COUNT_OFFSET)[0]
        return count

    def set_link_count(self, index: int, count: int) -> None:
        """Set the number of links."""
        _LINK_COUNT.pack_into(self.records, index * RECORD.size + _LINK_COUNT_OFFSET, count)

    def is_narrow(self, index: int, nanoseconds: int) -> bool:
        """Tell whether a compact inode, whose mtime has *nanoseconds*, has room for the numbers of this one."""
        start = index * RECORD.size
        own, uid, gid, count = _NARROW.unpack_from(self.records, start + _NARROW_OFFSET)
        size = _SIZE.unpack_from(self.records, start + _SIZE_OFFSET)[0]
        return own == nanoseconds and not ((uid | gid | count) >> 16 or size >> 32)

    def oldest(self, *, is_signed: bool) -> Time:
        """Return the smallest mtime; if it has no sign, years before 1970 come after all others."""
        first = min(self.mtimes)
        if first < 0 and not is_signed:
            first = min(self.mtimes, key=_unsigned)
        starts = [index * RECORD.size for index, mtime in enumerate(self.mtimes) if mtime == first]
        return first, min(_NARROW.unpack_from(self.records, start + _NARROW_OFFSET)[0] for start in starts)

    def set_mode(self, index: int, mode: int) -> None:
        """Set the mode, with the type."""
        _MODE.pack_into(self.records, index * RECORD.size + _MODE_OFFSET, mode)

    def set_payload(self, index: int, payload: bytes) -> None:
        """Set the payload, which is the tail of a directory."""
        self.payloads[index] = payload
        _PAYLOAD_SIZE.pack_into(self.records, index * RECORD.size + _PAYLOAD_SIZE_OFFSET, len(payload))

    def set_pointer(self, index: int, pointer: int) -> None:
        """Set what an inode with data blocks has for them."""
        _POINTER.pack_into(self.records, index * RECORD.size + _POINTER_OFFSET, pointer)


def _unsigned(number: int) -> int:
    return number & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(slots=True, eq=False)
class Listing:
    """The entries of a directory."""

    index: int  # among all listings
    directory: Directory
    inode: int
    parent: int
    entries: Mapping[bytes, Node]
    names: list[bytes]  # sorted
    joined: bytes  # all names, . and .. included
    sizes: bytes  # of these
    children: list[int] = field(default_factory=list)  # by names
    below: list[Listing] = field(default_factory=list)  # of the directories among them
