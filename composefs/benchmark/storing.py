"""How fast files are created, written and flushed in a directory, as objects of a repository are.

All happens in one new directory, which is removed at the end, whatever happens.  Nothing is removed before: some file
systems create slowly where much was just removed.  How much is written follows from what a few files take, so that a
slow disk is not busy for minutes.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple, Self

from composefs import _native
from composefs.benchmark.machine import FileSystem
from composefs.benchmark.sample import file_sizes
from composefs.digest import Algorithm, object_path
from composefs.errors import RepositoryError

_BATCH = 20  # files that are stored by one call: one of each size
_ROUND = 200  # files whose creation is timed at once, for each writer; the median of rounds is less disturbed
_PIECE = 1 << 20  # bytes of the large file written at once
_WRITERS_MAX = 16  # more threads than that say little of a file system; a guess
_DIRECTORIES = 256  # of a repository's objects
_TICK = 1e-9  # seconds; a clock may be coarser than the work
_ROOM = 1.15  # of what is written: rounded up to blocks, inodes, directories


@dataclass(frozen=True)
class Amounts:
    """How much is written at most."""

    files: int = 8000
    large: int = 256 << 20  # bytes of the large file

    @property
    def inodes(self) -> int:
        """Files and directories that are made: at least a round by one writer, and by all, and two more."""
        return max(self.files, (1 + _WRITERS_MAX) * _ROUND) + 2 * _ROUND + _DIRECTORIES

    @property
    def needed(self) -> int:
        """Bytes that must be free."""
        small = sum(file_sizes(self.inodes))
        return round(_ROOM * (small + self.large))


@dataclass(frozen=True)
class FileSpeed:
    """How fast files are created; seconds are those of one file, the mean of sizes as in an image."""

    mean_size: float  # bytes of a file
    writers: int
    one: float  # seconds with one writer
    several: float  # seconds with all writers, all files counted
    cpu: float  # CPU seconds of it with all writers
    flush: float  # seconds of one flush of the file system for all, without the bytes
    seal: float | None  # seconds to enable fs-verity; None: there is none
    write_rate: float  # bytes a second of a large file, into the page cache
    flush_rate: float  # bytes a second of it, to the disk


def check_room(directory: str, amounts: Amounts) -> None:
    """See that *amounts* can be written in *directory*.

    Raises:
        RepositoryError: there is too little room.
    """
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < amounts.needed:
        what = f"{free / 1e6:.0f} MB are free, and trying how fast files are created takes {amounts.needed / 1e6:.0f}"
        raise RepositoryError(directory, what)
    if status.f_files and status.f_favail < amounts.inodes:
        raise RepositoryError(directory, f"{status.f_favail} inodes are free, and {amounts.inodes} are needed")


@contextmanager
def scratch_directory(directory: str) -> Iterator[str]:
    """Yield a new directory in *directory*, removed with all that is in it afterwards."""
    path = tempfile.mkdtemp(prefix=".composefs-bench-", dir=directory)
    try:
        yield path
    finally:
        try:
            shutil.rmtree(path)
        except KeyboardInterrupt:
            shutil.rmtree(path)  # all of it, before that is obeyed
            raise


def time_files(
    scratch: str,
    system: FileSystem,
    content: bytes,
    algorithm: Algorithm,
    *,
    writers: float,
    seconds: float,
    amounts: Amounts,
) -> FileSpeed:
    """Create files in *scratch*, an empty directory.

    Args:
        scratch: what is made in it is for the caller to remove.
        system: what its file system can do.
        content: of which the contents are slices; larger than the largest.
        algorithm: of their names.
        writers: at the same time, at most; CPUs.
        seconds: for all, about.
        amounts: to write at most.

    Raises:
        OSError: something could not be made or written.
    """
    count = max(1, min(int(writers), _WRITERS_MAX))
    path = os.path.join(scratch, "objects")
    os.mkdir(path)
    with _Files(path, content, algorithm, unnamed=system.unnamed_files) as files:
        files.flush()  # what others have written
        probe = _ROUND * files.create().seconds + _elapsed(files.flush)
        most = _ROUND * (1 + count)  # files of two rounds
        rounds = max(1, min(amounts.files // most, round(seconds / 2 / (1 + count) / probe)))
        # In turn, so that what else the machine does disturbs both alike.
        pairs = [(files.create(), files.create(writers=count)) for _ in range(rounds)]
        one, several = (median(each.seconds for each in way) for way in zip(*pairs, strict=True))
        cpu = median(together.cpu for _, together in pairs)
        flush = _elapsed(files.flush) / (rounds * most)
        seal = max(files.create(seal=True).seconds - one, 0.0) if system.verity and system.unnamed_files else None
        write_rate, flush_rate = files.write_large(seconds / 4, amounts.large)
    size = sum(file_sizes(_ROUND)) / _ROUND
    return FileSpeed(size, count, one, several, cpu, max(flush - size / flush_rate, 0.0), seal, write_rate, flush_rate)


def _elapsed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, _TICK)


class _Batch(NamedTuple):
    """Files to create: where their contents are, as the kernel's side takes it, and their digests."""

    spans: bytes
    digests: bytes


class _Round(NamedTuple):
    """What one file of a round took, in seconds."""

    seconds: float
    cpu: float


class _Files:
    """Creates files in the directory *path*, in the way of a repository's objects."""

    def __init__(self, path: str, content: bytes, algorithm: Algorithm, *, unnamed: bool) -> None:
        self._content, self._algorithm, self._unnamed = content, algorithm, unnamed
        self._numbers = itertools.count()
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        for number in range(_DIRECTORIES):
            os.mkdir(f"{number:02x}", dir_fd=self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def flush(self) -> None:
        _native.syncfs(self._fd)

    def create(self, *, writers: int = 1, seal: bool = False) -> _Round:
        """Create a round of files by each of so many *writers*."""
        batches = [self._prepare() for _ in range(writers * _ROUND // _BATCH)]
        store = partial(self._store, seal=seal) if self._unnamed else self._store_named
        with ThreadPoolExecutor(writers) as pool:
            start, cpu = time.perf_counter(), time.process_time()
            for _ in map(store, batches) if writers == 1 else pool.map(store, batches):
                pass
            cpu, seconds = time.process_time() - cpu, time.perf_counter() - start
        count = writers * _ROUND
        return _Round(max(seconds, _TICK) / count, cpu / count)

    def write_large(self, seconds: float, size_max: int) -> tuple[float, float]:
        """Write a file, more and more, until that takes *seconds*; return the rates of writing and flushing."""
        piece = memoryview(self._content)[:_PIECE]
        size = 4 * _PIECE
        fd = os.open("large", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            left = size_max
            while True:
                size = min(size, left)
                written = _elapsed(partial(_write, fd, piece, size))
                flushed = _elapsed(lambda: os.fdatasync(fd))
                left -= size
                if written + flushed > seconds / 8 or not left:  # the next would take four times as long
                    return size / written, size / flushed
                size *= 4
        finally:
            os.close(fd)

    def _prepare(self) -> _Batch:
        sizes = file_sizes(_BATCH)
        room = len(self._content) - max(sizes)
        # 4099 is a prime, so contents differ; a repository would store equal ones once.
        places = array("Q", [part for size in sizes for part in (next(self._numbers) * 4099 % room, size)])
        spans = places.tobytes()
        kernel_id, digest_size = self._algorithm.kernel_id, self._algorithm.digest_size
        return _Batch(spans, _native.verity_digests(kernel_id, self._content, spans, digest_size))

    def _store(self, batch: _Batch, *, seal: bool) -> None:
        kernel_id = self._algorithm.kernel_id if seal else 0
        for result in _native.store_objects(self._fd, kernel_id, self._content, *batch):
            if result < 0:
                raise OSError(-result, os.strerror(-result))

    def _store_named(self, batch: _Batch) -> None:
        """Do it where there is no `O_TMPFILE`."""
        size = self._algorithm.digest_size
        places = array("Q", batch.spans)
        for number in range(_BATCH):
            start, end = places[2 * number], sum(places[2 * number : 2 * number + 2])
            path = object_path(batch.digests[number * size : (number + 1) * size])
            temporary = f".tmp-{path[3:]}"
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=self._fd)
            try:
                _write(fd, memoryview(self._content)[start:end], end - start)
            finally:
                os.close(fd)
            _native.rename(self._fd, temporary, self._fd, path)


def _write(fd: int, piece: memoryview, size: int) -> None:
    """Write *size* bytes that are *piece* again and again."""
    while size:
        size -= os.write(fd, piece[:size])
