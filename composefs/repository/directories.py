"""Directories of a repository: opened one name after the other, so that no link is followed to somewhere else.

Whoever may write in a repository could put a link in the place of a directory, also while another user's program works.
"""

from __future__ import annotations

import errno
import os
from enum import Enum

from composefs import _native
from composefs.errors import RepositoryError

MODE = 0o755
_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_FOLLOWED = "is no directory, and links are not followed"  # for messages
NO_DIRECTORY = frozenset([errno.ENOTDIR, errno.ELOOP])  # what a link gives, or a file


class Missing(Enum):
    """What to do about a directory that is missing."""

    FAIL = "fail"
    MAKE = "make"
    MAKE_DURABLY = "make durably"  # its name is on disk before it is used


def open_directory(
    dir_fd: int, path: str, where: str, *, flags: int = os.O_PATH, missing: Missing = Missing.FAIL, mode: int = MODE
) -> int:
    """Return a descriptor of the directory *path*, which no link leads to; the caller closes it.

    Args:
        dir_fd: what *path* is relative to.
        path: names, with slashes between them; empty: that directory itself.
        where: path of *dir_fd*, for messages.
        flags: how to open it, of open(2); with `O_PATH`, the default, it can be used, but neither listed nor synced.
        missing: what to do about those that are missing.
        mode: of those that are made, whatever the umask.

    Raises:
        FileNotFoundError: there is none, and none is to be made.
        RepositoryError: something else stands there, or on the way.
    """
    names = path.split("/") if path else ["."]
    fd = os.dup(dir_fd)
    for depth, name in enumerate(names, 1):
        is_last = depth == len(names)
        try:
            inner = _open(fd, name, flags if is_last else os.O_PATH, missing, mode)
        except OSError as error:
            place = os.path.join(where, *names[:depth])
            if error.errno in NO_DIRECTORY:
                raise RepositoryError(place, NOT_FOLLOWED) from None
            raise OSError(error.errno, error.strerror, place) from None
        finally:
            os.close(fd)
        fd = inner
    return fd


def list_directory(dir_fd: int, path: str, where: str) -> list[str]:
    """Return the sorted names in the directory *path*, none if there is no such directory.

    Args and errors are those of `open_directory`; also OSError, if it cannot be read.
    """
    try:
        fd = open_directory(dir_fd, path, where, flags=os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def make_directory(name: str, dir_fd: int, mode: int = MODE) -> bool:
    """Make the directory *name*, of *mode* whatever the umask, unless it exists; return whether it was made."""
    try:
        _native.make_directory(dir_fd, name, mode)
    except FileExistsError:
        return False
    return True


def _open(dir_fd: int, name: str, flags: int, missing: Missing, mode: int) -> int:
    try:
        return os.open(name, _FLAGS | flags, dir_fd=dir_fd)
    except FileNotFoundError:
        if missing is Missing.FAIL:
            raise
    if make_directory(name, dir_fd, mode) and missing is Missing.MAKE_DURABLY:
        _sync(dir_fd)
    return os.open(name, _FLAGS | flags, dir_fd=dir_fd)


def _sync(dir_fd: int) -> None:
    fd = os.open(".", os.O_RDONLY | _FLAGS, dir_fd=dir_fd)  # which may be of O_PATH
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
