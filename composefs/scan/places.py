"""Where a node stands on disk, and what is wrong when it is not what it was.

A place is the path of the tree's root, or a pair of the directory's place and a name: of the many places of a walk, few
become a path, which is made for messages only.
"""

from __future__ import annotations

import errno
import os
from typing import TypeAlias

from composefs.errors import TreeError

Place: TypeAlias = "bytes | tuple[Place, bytes]"

_OTHER_TYPE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})  # of a link, no directory, a socket or fifo
_FIELDS = (("size", "st_size"), ("mtime in nanoseconds", "st_mtime_ns"), ("ctime in nanoseconds", "st_ctime_ns"))


def path_of(place: Place) -> bytes:
    """Return the path that *place* is."""
    names = []
    while isinstance(place, tuple):
        place, name = place
        names.append(name)
    return b"/".join([place.rstrip(b"/") if names else place, *reversed(names)])


def open_at(name: bytes, flags: int, dir_fd: int, place: Place) -> int:
    """Open *name*, just read from the directory *dir_fd*, whose place is *place*.

    Raises:
        TreeError: it is not there any more, or of another type.
        OSError: it cannot be opened; with its path.
    """
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except OSError as error:
        where = (place, name)
        if error.errno == errno.ENOENT:
            raise TreeError(path_of(where), "vanished while the tree was read") from None
        if error.errno in _OTHER_TYPE:
            raise changed_type(where) from None
        error.filename = os.fsdecode(path_of(where))
        raise


def located(error: OSError, place: Place) -> OSError:
    """Return *error*, with the path of *place* unless it has its own: of an object, or of /proc if that is missing."""
    name = error.filename
    is_descriptor = not isinstance(name, str | bytes) or os.fsdecode(name).startswith("/proc/self/fd/")
    if not name or (is_descriptor and error.errno != errno.ENOENT):
        error.filename = os.fsdecode(path_of(place))
    return error


def changed_type(place: Place) -> TreeError:
    """Return the error that what stands at *place* is not of the type that its directory said."""
    return TreeError(path_of(place), "changed its type while the tree was read")


def check_same(before: os.stat_result, after: os.stat_result, place: Place, *, may_be_linked: bool = False) -> None:
    """Refuse what was written to between *before* and *after*.

    Args:
        before: as it was.
        after: as it is.
        place: where it stands.
        may_be_linked: it may have got another name meanwhile, which changes the ctime.

    Raises:
        TreeError: its size or one of its times is another; the message says which.
    """
    if before.st_ctime_ns == after.st_ctime_ns and before.st_size == after.st_size:
        return  # nobody can set a ctime
    for text, field in _FIELDS[:2] if may_be_linked else _FIELDS:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            raise TreeError(path_of(place), f"changed while it was read: {text} was {old}, now it is {new}")
