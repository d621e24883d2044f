"""What an import says of itself while it runs: a stream of events, read by bars, JSON lines or a caller's function.

Totals are known at the start, from the manifest.  Workers report through a few shared bytes (`Board`), not messages.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from composefs.cpus import available_cpus
from composefs.errors import CancelledError

_COUNTER = Struct("<Q")


@dataclass(frozen=True)
class LayerPlan:
    """One layer of the image, in manifest order."""

    digest: str  # of the blob
    diff_id: str
    size: int  # bytes of the blob
    present: bool  # already in the repository


@dataclass(frozen=True)
class ImportStarted:
    """The image is known: *layers* are all of it, *total* the bytes of blobs to read."""

    reference: str
    manifest: str
    layers: tuple[LayerPlan, ...]
    total: int


@dataclass(frozen=True)
class LayerPresent:
    """The layer number *index* is in the repository already."""

    index: int
    diff_id: str


@dataclass(frozen=True)
class LayerProgress:
    """*done* of *total* bytes of the blob of layer *index* have been read."""

    index: int
    done: int
    total: int


@dataclass(frozen=True)
class LayerDone:
    """Layer *index* is stored; it gets its name soon, or with the others."""

    index: int
    diff_id: str
    objects_new: int
    objects_present: int


@dataclass(frozen=True)
class BuildingImage:
    """The layers are merged; their EROFS image of the format *version* is being made."""

    version: int
    bootable: bool


@dataclass(frozen=True)
class Syncing:
    """All is written; the file system is being flushed, and names follow."""


@dataclass(frozen=True)
class ImportDone:
    """The image has its name."""

    name: str
    seconds: float


Event = ImportStarted | LayerPresent | LayerProgress | LayerDone | BuildingImage | Syncing | ImportDone
Listener = Callable[[Event], None]


_WAITS, _RUNS, _ENDED = range(3)  # states of a layer


class Board:
    """Shared bytes: a flag that says stop, and for each of *count* layers the bytes read, and a byte for its state.

    They lie in memory without a file; a worker of the same user on this machine finds them by the path.
    """

    def __init__(self, count: int) -> None:
        self._fd = os.memfd_create("composefs-import")
        size = _COUNTER.size * (count + 1) + count
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Free the memory, once no worker uses it."""
        self._map.close()
        os.close(self._fd)

    def cancel(self) -> None:
        """Tell all workers to stop."""
        self._map[0] = 1

    def read(self, index: int) -> int:
        """Return the bytes read of layer *index*."""
        (count,) = _COUNTER.unpack_from(self._map, _COUNTER.size * (index + 1))
        return int(count)


class Pen:
    """A worker's access to layer *index* of the board at *path*; where that is out of reach, it does nothing."""

    def __init__(self, path: str, index: int) -> None:
        self._index = index
        self._offset = _COUNTER.size * (index + 1)
        self._count = 0
        self._cpus = available_cpus()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another machine, or a /proc that hides
            self._map = None
            return
        try:
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        # The counters of n layers and the flag, 8 bytes each, and n states.
        self._states = _COUNTER.size * ((len(self._map) - _COUNTER.size) // (_COUNTER.size + 1) + 1)
        self._map[self._states + index] = _RUNS

    def has_idle_cpus(self, busy: int = 1) -> bool:
        """Tell whether there are more CPUs than layers that are worked on, if each of these keeps *busy* of them so."""
        count = 1 if self._map is None else self._map[self._states :].count(_RUNS)
        return count * busy < self._cpus

    def share(self, total: int) -> int:
        """Return how many of *total* things that are for all layers are for each that is worked on; at least one.

        Raises:
            CancelledError: the import is to stop.
        """
        if self._map is None:
            return max(1, total // self._cpus)
        self._check()
        states = self._map[self._states :]
        each, left = divmod(total, states.count(_RUNS))
        return max(1, each + (states[: self._index].count(_RUNS) < left))

    def advance(self, size: int) -> None:
        """Add *size* bytes.

        Raises:
            CancelledError: the import is to stop.
        """
        if self._map is None:
            return
        self._check()
        self._count += size
        _COUNTER.pack_into(self._map, self._offset, self._count)

    def _check(self) -> None:
        assert self._map is not None
        if self._map[0]:
            raise CancelledError("the import was stopped")

    def close(self) -> None:
        """Let go of the board."""
        if self._map is not None:
            self._map[self._states + self._index] = _ENDED
            self._map.close()
