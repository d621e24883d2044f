"""Walks over an image that a hostile one cannot make endless."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from composefs import limits
from composefs.erofs.reader import ErofsReader, Inode
from composefs.errors import LimitError

if TYPE_CHECKING:
    from composefs.image.files import Image


class Guard:
    """The directories that a walk has entered: a hostile image has loops, or small ones that unfold to huge trees."""

    def __init__(self, reader: ErofsReader) -> None:
        self._reader = reader
        self._seen: set[int] = set()
        self._room = reader.size  # bytes that directories not entered yet may occupy

    def enter(self, directory: Inode, depth: int) -> None:
        """Count *directory*, that many levels below the first.

        Raises:
            FormatError: no honest image has it there.
        """
        reader = self._reader
        if directory.nid in self._seen:
            raise reader.error(directory.offset, f"inode {directory.nid} is a directory with two names")
        if depth >= limits.DIRECTORY_DEPTH:
            raise LimitError(reader.source, directory.offset, "levels of directories", limits.DIRECTORY_DEPTH)
        self._seen.add(directory.nid)
        self._room -= reader.occupied(directory)
        if self._room < 0:
            raise reader.error(directory.offset, "directories overlap: together they are larger than the image")


def walk_inodes(image: Image, path: bytes, inode: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Yield path and inode of everything below the directory *inode*: depth first, siblings by name.

    Args:
        image: what it is in.
        path: that of *inode*, with which the others begin.
        inode: a directory; it is not yielded itself.

    Raises:
        FormatError: the image is broken there.
    """
    guard = Guard(image.reader)
    guard.enter(inode, 0)
    stack = [(path.rstrip(b"/") + b"/", iter(image.children(inode)))]
    while stack:
        prefix, children = stack[-1]
        for name, child in children:
            yield prefix + name, child
            if child.type == stat.S_IFDIR:
                guard.enter(child, len(stack))
                stack.append((prefix + name + b"/", iter(image.children(child))))
                break
        else:
            stack.pop()
