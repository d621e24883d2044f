"""The inodes of an image while it is written: what the steps of that tell each other.

An inode is a number, its index in each of the columns; most of what it tells is in a column of packed records, which C
reads and completes.  With objects in place of columns, writing takes several times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Literal, NamedTuple

from composefs.erofs.xattrs import NO_XATTR_SET, XattrSet
from composefs.tree import Node

# What struct inode_record of csrc/erofs.h has before C says where the inode stands: size, mtime, nanoseconds, uid, gid,
# link count, size of the payload, xattrs, home, pointer, mode, storage
RECORD = Struct("=QqIIIIIIIIHB29x")
assert RECORD.size == 80
# struct directory_record: inode, parent, first dirent, count
DIRECTORY_RECORD = Struct("=IIII")


class Storage(IntEnum):
    """Where the content of a regular file is; as csrc/erofs.h has it."""

    HERE = 0  # in the payload
    OBJECT = 1  # in the object whose digest is the payload
    DIGESTED = 2  # elsewhere, and xattrs of its own tell the digest
    ELSEWHERE = 3


class Field(NamedTuple):
    """A field of the records."""

    code: Literal["B", "H", "I", "Q"]  # of struct
    offset: int  # bytes from the start of the record


SIZE = Field("Q", 0)
LINK_COUNT = Field("I", 28)
PAYLOAD_SIZE = Field("I", 32)
XATTRS = Field("I", 36)
HOME = Field("I", 40)
POINTER = Field("I", 44)
MODE = Field("H", 48)
STORAGE = Field("B", 50)
NID = Field("I", 56)


class Inodes:
    """The inodes of an image, in the order in which they were made.

    Attributes:
        records: what C knows of them.
        sets: their xattrs by number, but for those that name an object.
        nodes: what they are in the tree, or stubs; none if there is no tree.
    """

    def __init__(self, records: bytearray, sets: list[XattrSet], nodes: Sequence[Node] = ()) -> None:
        self.records, self.sets, self.nodes = records, sets, nodes
        self._numbers = {pairs: number for number, pairs in enumerate(sets)}

    @classmethod
    def new(cls, nodes: Sequence[Node]) -> Inodes:
        """Return no inodes yet; *nodes* is to grow with them."""
        return cls(bytearray(), [NO_XATTR_SET], nodes)

    def __len__(self) -> int:
        return len(self.records) // RECORD.size

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

    def number_of(self, xattrs: XattrSet) -> int:
        """Return the number of a set of xattrs."""
        number = self._numbers.get(xattrs)
        if number is None:
            number = self._numbers[xattrs] = len(self.sets)
            self.sets.append(xattrs)
        return number

    def node(self, inode: int) -> Node | None:
        """Return what an inode is in the tree, if there is one."""
        return self.nodes[inode] if self.nodes else None
