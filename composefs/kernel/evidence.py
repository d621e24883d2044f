"""Whether an overlay serves the contents of objects.

Where the kernel does not follow from a file in EROFS to its object, the file still has its size, and reads as zeros or
cannot be opened.  Kernels fall back to that by themselves, with no more than a line in their log, where the file system
of the upper layer keeps no xattrs (fs/overlayfs/super.c: "falling back to metacopy=off").  So a file or two are read.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from composefs.errors import MountError
from composefs.kernel.descriptors import closing, list_directory, open_directory, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_REDIRECT = "trusted.overlay.redirect"  # the path of the object, from the directory of objects
_ENTRIES_MAX = 4096  # asked for objects, of any type
_FILES_MAX = 8  # read, if all but zeros is what they begin with
_SIZE = 4096  # bytes read of each


def check_contents(overlay_fd: int, erofs_fd: int, object_fds: Sequence[int], upper_fd: int | None) -> None:
    """Read some files of the overlay, until one does not begin with zeros.

    Args:
        overlay_fd: the overlay.
        erofs_fd: the mount that is its lower layer.
        object_fds: the directories of objects.
        upper_fd: its upper layer, whose files say nothing about objects; or None.

    Raises:
        MountError: a file has no contents, and its object has.
        OSError: the directory of the upper layer cannot be read.
    """
    changed = frozenset(list_directory(upper_fd)) if upper_fd is not None else frozenset()
    for path, target in _external_files(erofs_fd, changed):
        try:
            found = _read_start(overlay_fd, path)
        except OSError as error:
            if error.errno != errno.EPERM:  # its object is not there, or not what it should be: so it was looked for
                continue
            found = b""  # what kernels before 6.16 say: "refusing to follow metacopy origin"
        if not _is_zero(found):
            return
        if _has_contents(object_fds, target):
            what = "the kernel does not follow from this file to its object"
            remedy = "mount without an upper layer, or put that on a file system that keeps trusted xattrs"
            raise MountError(
                f"read {path}", errno.EIO, messages=(what,), remedy=remedy if upper_fd is not None else None
            )


def _external_files(top_fd: int, but: frozenset[str]) -> list[tuple[str, str]]:
    """Return some files that have objects, and the paths of these; none below the names *but* of the root."""
    # No generator: when one is dropped, an interrupt while it ends is lost.
    found: list[tuple[str, str]] = []
    directories, left = [""], _ENTRIES_MAX
    while directories and left and len(found) < _FILES_MAX:
        directory = directories.pop()
        with suppress(OSError), open_directory(directory or ".", top_fd) as fd, os.scandir(fd) as entries:
            for entry in islice(entries, left):
                left -= 1
                path = f"{directory}/{entry.name}" if directory else entry.name
                if path in but:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    directories.append(path)
                elif (target := _redirect_of(top_fd, path)) is not None:
                    found.append((path, target))
                    if len(found) == _FILES_MAX:
                        break
    return found


def _redirect_of(top_fd: int, path: str) -> str | None:
    try:
        target = os.getxattr(f"{path_of(top_fd)}/{path}", _REDIRECT, follow_symlinks=False)
    except OSError:  # ENODATA: it has none
        return None
    return os.fsdecode(target).lstrip("/")


def _has_contents(object_fds: Sequence[int], path: str) -> bool:
    for fd in object_fds:
        with suppress(OSError):
            return not _is_zero(_read_start(fd, path))
    return False


def _is_zero(data: bytes) -> bool:
    return not data.strip(b"\0")


def _read_start(dir_fd: int, path: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with closing(os.open(path, flags, dir_fd=dir_fd)) as fd:
        return os.pread(fd, _SIZE, 0)
