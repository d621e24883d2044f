"""What the file system answers to each request of the kernel; mfusepy calls these, from several threads at once.

Paths and names come and go as text with surrogates for what is no UTF-8, times as nanoseconds, failures as OSError.
What is wrong with image or repository is EIO to whoever asks, and one line in the log.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from composefs.erofs.ondisk import BLOCK
from composefs.errors import ComposefsError
from composefs.fuse.contents import Contents
from composefs.fuse.view import Attributes, Listing, View, attributes
from composefs.image import Image
from composefs.text import printable

_NAME_MAX = 255  # bytes, as statfs has it
_HIDDEN_FROM_USERS = "trusted."

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def to_text(name: bytes) -> str:
    """Return *name* as mfusepy wants it."""
    return name.decode("utf-8", "surrogateescape")


def _on_path(
    operation: Callable[Concatenate[Operations, bytes, _P], _R],
) -> Callable[Concatenate[Operations, str, _P], _R]:
    """Give *operation* its path as bytes, and the kernel its errors."""

    @wraps(operation)
    def wrapper(self: Operations, path: str, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        place = path.encode("utf-8", "surrogateescape")
        try:
            return operation(self, place, *args, **kwargs)
        except ComposefsError as error:
            _log.error("%s: %s: %s", self.source, printable(place), error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    return wrapper


class Operations:
    """The requests that there are for a file system that is only read.

    Attributes:
        source: what the file system is called.
        may_have_acls: whether the kernel must ask for access control lists.
        use_ns: tells mfusepy that times are in nanoseconds.

    Args:
        image: what is served.
        source: what to call it.
        caller: returns the user who asks, from within a request.
    """

    use_ns = True

    def __init__(self, image: Image, source: str, caller: Callable[[], int]) -> None:
        self.source, self.may_have_acls = source, image.reader.may_have_acls
        self._view = View(image)
        self._contents = Contents(source, image.open_content)
        self._caller = caller
        self._listings: dict[int, Listing] = {}
        self._numbers = itertools.count(1)  # of handles; next() is atomic

    @_on_path
    def getattr(self, path: bytes, _: int | None = None) -> Attributes:
        """Return the metadata of *path*."""
        return attributes(self._view.find(path))

    @_on_path
    def readlink(self, path: bytes) -> str:
        """Return where the symbolic link *path* leads to."""
        return to_text(self._view.target(path))

    @_on_path
    def listxattr(self, path: bytes) -> list[str]:
        """Return the names of the extended attributes of *path* that whoever asks may see."""
        names = [to_text(name) for name in self._view.xattrs(path)]
        # The kernel does so by capabilities, which nobody tells us; and it lets nobody else read them.
        if any(name.startswith(_HIDDEN_FROM_USERS) for name in names) and self._caller() != 0:
            return [name for name in names if not name.startswith(_HIDDEN_FROM_USERS)]
        return names

    @_on_path
    def getxattr(self, path: bytes, name: str, _: int = 0) -> bytes:
        """Return the value of the extended attribute *name* of *path*."""
        value = self._view.xattrs(path).get(name.encode("utf-8", "surrogateescape"))
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    @_on_path
    def opendir(self, path: bytes) -> int:
        """Read the directory *path*, and return a handle."""
        handle = next(self._numbers)
        self._listings[handle] = self._view.listing(path)
        return handle

    def readdir(self, handle: int, start: int, *, whole: bool) -> Iterator[tuple[bytes, Attributes, int, bool]]:
        """Yield the entries of an open directory, from offset *start* on.

        This is what the session calls (session.py), not what mfusepy would.

        Args:
            handle: what `opendir` returned.
            start: an offset, 0 for the first.
            whole: give all metadata, and not only type and number.

        Returns:
            Name, metadata, the offset of the next, and whether the metadata are all.
        """
        listing = self._listings[handle]
        for index in range(start, len(listing)):
            if whole:
                try:
                    yield listing.name(index), listing.attributes(index), index + 1, True
                    continue
                except ComposefsError:  # which is told to whoever looks at that file
                    pass
            yield listing.name(index), listing.type_and_number(index), index + 1, False

    @_on_path
    def releasedir(self, _: bytes, handle: int) -> int:
        """Forget the *handle*."""
        del self._listings[handle]
        return 0

    @_on_path
    def open(self, _: bytes, __: int) -> int:
        """Say that there is no need to open files; the kernel never asks again.

        It asks for contents that it has not cached, and no more: reading 10,000 small files again takes a fifth of the
        time.
        """
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    @_on_path
    def read(self, path: bytes, size: int, offset: int, _: int) -> bytes:
        """Return *size* bytes from *offset* on of the file *path*."""
        return self._contents.read(self._view.content(path), size, offset, path)

    @_on_path
    def statfs(self, _: bytes) -> dict[str, int]:
        """Return that there is no room."""
        return {"f_bsize": BLOCK, "f_frsize": BLOCK, "f_namemax": _NAME_MAX}

    def close(self) -> None:
        """Close the files that are open."""
        self._contents.close()
