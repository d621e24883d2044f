"""What room there is for objects, and what objects there are: enough to tell of some imports that they do not fit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from composefs.errors import RoomError
from composefs.oci.plan import Plan
from composefs.oci.sizes import least_stored
from composefs.privileges import may_use_reserve
from composefs.repository import Repository

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class Room:
    """What is free on a file system, for this user.

    Attributes:
        free: bytes; None: there is no limit, as in memory, or the file system does not tell.
        inodes: files; None: as many as there is room for.
        block_size: bytes, of which a file takes whole multiples.
    """

    free: int | None
    inodes: int | None
    block_size: int

    @classmethod
    def of(cls, directory: int | str) -> Self:
        """Return the room where *directory* is, a path or an open descriptor; quotas are not looked at.

        Raises:
            OSError: it cannot be had.
        """
        found = os.statvfs(directory)
        blocks, inodes = found.f_bavail, found.f_favail
        if may_use_reserve():
            blocks, inodes = found.f_bfree, found.f_ffree
        return cls(
            free=blocks * found.f_frsize if found.f_blocks else None,
            inodes=inodes if found.f_files else None,
            block_size=found.f_frsize,
        )


def room_for(repository: Repository) -> Room:
    """Return the room for objects of *repository*, whose directory may be a file system of its own.

    Raises:
        OSError: it cannot be had.
    """
    try:
        fd = repository.open_objects()
    except FileNotFoundError:
        fd = repository.open_directory()
    try:
        return Room.of(fd)
    finally:
        os.close(fd)


def stored_sizes(repository: Repository) -> Counter[int]:
    """Return how many objects of each size *repository* has.

    Raises:
        OSError: a directory of objects cannot be read.
    """
    sizes: Counter[int] = Counter()
    try:
        fd = repository.open_objects()
    except FileNotFoundError:  # there are none yet
        return sizes
    try:
        for name in _names(fd):
            sizes.update(_sizes(fd, name))
    finally:
        os.close(fd)
    return sizes


def check_room(repository: Repository, missing: Sequence[Plan]) -> None:
    """Refuse an import that certainly does not fit, before anything is fetched.

    What an image needs is not known before it is read.  So this is the least: half of what the blobs of *missing*
    layers have, less all that the repository holds, for that may be what is in them.  Most images need six times that.
    Where it is not known how much room there is, nothing is refused.

    Raises:
        RoomError: there is no room for it.
        OSError: it cannot be found out what the repository holds.
    """
    if not missing:
        return
    room = room_for(repository)
    needed = sum(least_stored(plan.size, plan.compression) for plan in missing)
    if room.free is not None and needed > room.free:  # only then is it worth a look at every object
        stored = stored_sizes(repository)
        needed -= sum(size * count for size, count in stored.items())
        if needed > room.free:
            raise RoomError(repository.path, needed, room.free, "bytes")
    if room.inodes is not None and len(missing) > room.inodes:
        raise RoomError(repository.path, len(missing), room.inodes, "inodes")


def _names(objects_fd: int) -> list[str]:
    fd = os.open(".", _FLAGS, dir_fd=objects_fd)
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)


def _sizes(objects_fd: int, name: str) -> Iterator[int]:
    """Yield the sizes of the files in the directory *name*; others may come and go meanwhile."""
    fd = os.open(name, _FLAGS, dir_fd=objects_fd)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_size
    finally:
        os.close(fd)
