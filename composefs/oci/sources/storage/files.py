"""The files of a layer, opened one after another: below their directory, and through no link."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable
from typing import Self

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError, NotFoundError

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever stands there, never wait for it
_OPEN_MAX = 64  # directories that stay open: archives have the files of one behind each other
# What stands where the file of a lower layer has got other metadata: its contents are still there.
_STUBS = frozenset(["trusted.overlay.metacopy", "user.overlay.metacopy"])
_GONE = (FileNotFoundError, NotADirectoryError)
# Why what is a link, or a socket, or has a name that no file can have, cannot be opened.
_NO_FILE = frozenset([errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG])
UNSHARE = "try it inside of `podman unshare`"  # where files are of users that only the owner of the store can be


class LayerFiles:
    """The files of a layer, in its own directory or, where that has a stub, in those of the layers below.

    Args:
        directories: of the layer, and of those below it, the next one first; only the first one must exist.
        source: the layer, for messages.
    """

    def __init__(self, directories: Iterable[str], source: str) -> None:
        self._paths, self._source = tuple(directories), source
        self._open: OrderedDict[tuple[str, bytes], int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directories."""
        while self._open:
            os.close(self._open.popitem()[1])

    def open(self, path: bytes, size: int) -> int:
        """Open the file *path*, which is *size* bytes long; the caller closes it.

        Raises:
            NotFoundError: there is none.
            FormatError: there is something else, or the path leads out of the layer.
            IntegrityError: it has another size.
            OSError: it cannot be read.
        """
        if len(path) > limits.PATH_SIZE:
            raise LimitError(self._source, 0, "bytes of path", limits.PATH_SIZE, len(path))
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        shown = path.decode("utf-8", "backslashreplace")
        if not parts or b".." in parts or b"\0" in path:
            raise FormatError(self._source, 0, "its files are below its root", shown)
        for directory in self._paths:
            if (fd := self._try(directory, parts, shown)) is None:
                continue
            got = os.fstat(fd).st_size
            if got == size:
                return fd
            os.close(fd)
            raise IntegrityError(f"{self._source}, file {shown}", f"{size} bytes", f"{got} bytes")
        raise NotFoundError(f"{self._source}: no file {shown} in {self._paths[0]}")

    def _try(self, directory: str, parts: list[bytes], shown: str) -> int | None:
        """Open the file in *directory*; None: there is none, or a stub."""
        try:
            fd = os.open(parts[-1], _FILE_FLAGS, dir_fd=self._parent(directory, parts[:-1]))
        except _GONE:
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FormatError(self._source, 0, f"no regular file: {error.strerror}", shown) from None
            remedy = f"; {UNSHARE}" if isinstance(error, PermissionError) else ""
            raise OSError(error.errno, f"{error.strerror}{remedy}", f"{directory}/{shown}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FormatError(self._source, 0, "no regular file", shown)
            if not _is_stub(fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _parent(self, directory: str, parts: list[bytes]) -> int:
        """Return the directory *parts* below *directory*, which stays open for a while."""
        key = (directory, b"/".join(parts))
        if (fd := self._open.get(key)) is not None:
            self._open.move_to_end(key)
            return fd
        fd = os.open(directory, _DIRECTORY_FLAGS)
        for part in parts:
            try:
                below = os.open(part, _DIRECTORY_FLAGS, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        self._open[key] = fd
        if len(self._open) > _OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])
        return fd


def _is_stub(fd: int) -> bool:
    try:
        return not _STUBS.isdisjoint(os.listxattr(fd))
    except OSError:  # there are none
        return False
