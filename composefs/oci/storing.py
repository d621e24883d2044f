"""Who stores the contents of an archive: one thread in turn, or many, where each content is sealed: that is waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self, TypeAlias

from composefs.oci.blobs import SLOT_SIZE
from composefs.oci.stages import Behind
from composefs.repository import Repository
from composefs.tasks import Do, Task

# Who enables fs-verity mostly waits: ext4 writes all of a file before it goes on.  Where a write took 15 ms, 400 files
# took 8.2 s by one thread, 2.2 s by 4, 1.2 s by 8, 0.7 s by 16, 0.9 s by 32.  To begin the writes earlier, by
# sync_file_range(), gained nothing: the Merkle tree must be written in any case.
_THREADS = 16
_DEPTH = 24  # slots that they hold; a guess
_COUNT = 16  # objects of one task, so that the threads share what one slot has; a guess
_ALL = 1 << 32  # objects: more than one slot has

DoLarge: TypeAlias = Callable[[Task, int], object]  # has a task done, now or later, that holds so many bytes meanwhile


class Storing(NamedTuple):
    """Who stores the contents of an archive."""

    in_order: Do  # the pieces of a large file
    apart: DoLarge  # what can be done in any order, and at the same time
    count_max: int = _ALL  # contents of one task

    @classmethod
    def in_turn(cls, do: Do) -> Self:
        """Return what has *do* do all."""
        return cls(do, lambda task, _size: do(task))


class Sealers:
    """Threads that store what comes into *repository*, if that is sealed; `finish`, then `close`."""

    def __init__(self, repository: Repository) -> None:
        self._seals = repository.objects.seals
        self._behind = Behind(_DEPTH, lambda: True, _THREADS)

    def storing(self, do: Do) -> Storing:
        """Return who stores contents, where *do* has in order what must be, and all if nothing is sealed."""
        if not self._seals:
            return Storing.in_turn(do)
        return Storing(do, lambda task, size: self._behind.do(task, 1 + size // SLOT_SIZE), _COUNT)

    def check(self) -> None:
        """Raise what could not be stored."""
        self._behind.check()

    def finish(self) -> None:
        """Wait until all is stored, or raise what could not be."""
        self._behind.finish()

    def close(self) -> None:
        """End the threads."""
        self._behind.close()
