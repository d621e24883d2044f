"""The inodes of an image while it is written: what the steps of that tell each other.

An inode is a number, its index in each of the columns.  One column is bytes from the beginning: records, of which C
makes what stands in the image.  With objects in place of columns, writing takes twice the time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Literal, NamedTuple

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

Time = tuple[int, int]  # seconds and nanoseconds


class Field(NamedTuple):
    """A field of the records."""

    code: Literal["H", "I", "Q", "q"]  # of struct
    offset: int  # bytes from the start of the record


SIZE = Field("Q", 0)
MTIME = Field("q", 8)
NANOSECONDS = Field("I", 16)
UID = Field("I", 20)
GID = Field("I", 24)
LINK_COUNT = Field("I", 28)
PAYLOAD_SIZE = Field("I", 32)
MODE = Field("H", 36)
POINTER = Field("I", 48)


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
        xattrs: but for those that name an object.
        payloads: digest of the object, or data; of a directory only its tail, later.
        records: all else that an inode tells, packed.
        areas: numbers of what they have of xattrs in the image; later.
        nids: their places; later.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []
        self.xattrs: list[XattrSet] = []
        self.payloads: list[bytes] = []
        self.records = bytearray()
        self.areas: list[int] = []
        self.nids: list[int] = []

    def __len__(self) -> int:
        return len(self.nodes)

    def get(self, field: Field, inode: int) -> int:
        """Return what the record of *inode* has in a field."""
        value: int = struct.unpack_from(field.code, self.records, inode * RECORD.size + field.offset)[0]
        return value

    def set(self, field: Field, inode: int, value: int) -> None:
        """Change what the record of *inode* has in a field."""
        struct.pack_into(field.code, self.records, inode * RECORD.size + field.offset, value)

    def column(self, field: Field) -> list[int]:
        """Return what all records have in a field."""
        view = memoryview(self.records).cast(field.code)
        return view[field.offset // view.itemsize :: RECORD.size // view.itemsize].tolist()

    def set_payload(self, inode: int, payload: bytes) -> None:
        """Change the payload of *inode*."""
        self.payloads[inode] = payload
        self.set(PAYLOAD_SIZE, inode, len(payload))


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
