"""What the last clean check saw, so that the next one need not look into what has not changed since.

    REPO/fsck-record   a header; of each object the first 8 bytes of its digest, in order; of each its stamp; of each
                       layer that was proved 16 bytes; SHA-256 of all of it

A stamp is a number for inode, size, mtime and ctime.  Stamps are compared for equality: no clock is asked what came
later.  What was changed just before the check has none, since it could be changed again within one tick of the clock.
A disk that gives other bytes than were written changes no inode, and is not seen: only a whole check reads them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from struct import Struct

from composefs import _native
from composefs._native import Buffer
from composefs.cpus import available_cpus
from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError
from composefs.repository import Repository
from composefs.repository.fsck.objects import Listing
from composefs.repository.notes import write_note

NAME = "fsck-record"
# struct Header: magic, version, kernel number of the algorithm and a bit, objects, layers
_HEADER = Struct("<14sBBQQ")
assert _HEADER.size == 32
_MAGIC, _VERSION = b"composefs-fsck", 1
_SUM_SIZE = 32  # bytes
_SEALED = 0x80  # the bit: every object had to be sealed
_ENTRY_SIZE = _LAYER_SIZE = 16  # bytes
_SIZE_MAX = 1 << 30  # bytes, of 67 million objects
_MODE = 0o644
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_TICK = 100_000_000  # nanoseconds: ten times the longest tick of the clock that gives files their times


@dataclass(frozen=True)
class Record:
    """What was seen to be right.

    Attributes:
        algorithm: of the objects.
        prefixes: of the objects, in order: the first 8 bytes of each digest as a number.
        stamps: of the objects; 0 never says that one has not changed.
        layers: 16 bytes for each layer that was proved, see `layer_key`.
        sealed: whether every object had to be sealed.
    """

    algorithm: Algorithm
    prefixes: array[int]
    stamps: array[int]
    layers: frozenset[bytes] = frozenset()
    sealed: bool = False

    def changed(self, now: Record, listing: Listing) -> bytearray:
        """Return a 1 for each object in *listing*, of which *now* is the record, that may have changed, and else 0."""
        marks = bytearray(len(now.stamps))
        if (self.prefixes, self.stamps) == (now.prefixes, now.stamps) and 0 not in now.stamps:
            return marks
        for first, end in pairwise((0, *(end // listing.digest_size for end in listing.ends))):
            if first == end:
                continue
            low = bisect_left(self.prefixes, now.prefixes[first])
            high = bisect_right(self.prefixes, now.prefixes[end - 1], low)
            known = dict(zip(self.prefixes[low:high], self.stamps[low:high], strict=True))
            pairs = zip(now.prefixes[first:end], now.stamps[first:end], strict=True)
            marks[first:end] = bytes([not stamp or known.get(prefix) != stamp for prefix, stamp in pairs])
        return marks

    def pack(self) -> Iterator[bytes]:
        """Yield the bytes of the file."""
        sha256 = hashlib.sha256()
        kind = _kind(self.algorithm, sealed=self.sealed)
        header = _HEADER.pack(_MAGIC, _VERSION, kind, len(self.prefixes), len(self.layers))
        for part in (header, _little(self.prefixes), _little(self.stamps), b"".join(sorted(self.layers))):
            sha256.update(part)
            yield part
        yield sha256.digest()

    @classmethod
    def parse(cls, file: bytes, algorithm: Algorithm, *, sealed: bool = False) -> Record:
        """Return the record in *file*, of a repository of *algorithm* whose objects must be sealed, or need not.

        Raises:
            FormatError: it is none, or that of another repository.
        """
        data = memoryview(file)
        if len(data) < _HEADER.size + _SUM_SIZE or hashlib.sha256(data[:-_SUM_SIZE]).digest() != data[-_SUM_SIZE:]:
            raise FormatError(NAME, 0, "it is cut, or its checksum is wrong")
        magic, version, kind, objects, layers = _HEADER.unpack_from(data)
        if (magic, version, kind) != (_MAGIC, _VERSION, _kind(algorithm, sealed=sealed)):
            raise FormatError(NAME, 0, "it is of another version, or of a repository of another algorithm or policy")
        ends = [_HEADER.size + 8 * objects, _HEADER.size + _ENTRY_SIZE * objects]
        if len(data) != ends[1] + _LAYER_SIZE * layers + _SUM_SIZE:
            raise FormatError(NAME, 0, f"{len(data)} bytes are not those of {objects} objects and {layers} layers")
        keys = bytes(data[ends[1] : -_SUM_SIZE])
        return cls(
            algorithm,
            _numbers(data[_HEADER.size : ends[0]]),
            _numbers(data[ends[0] : ends[1]]),
            frozenset(keys[start : start + _LAYER_SIZE] for start in range(0, len(keys), _LAYER_SIZE)),
            sealed,
        )


def stamp_time() -> int:
    """Return the time, in nanoseconds, from which on a change of now may not be the last one that its file shows."""
    return time.time_ns() - _TICK


def stamp_objects(objects_fd: int, listing: Listing, workers: int | None = None) -> array[int]:
    """Return the stamps of the objects in *listing*, as they are now.

    Args:
        objects_fd: their directory.
        listing: the objects.
        workers: threads; by default one for each CPU this process may use.
    """
    before, digests = stamp_time(), memoryview(listing.digests)
    ranges = [digests[start:end] for start, end in pairwise((0, *listing.ends))]
    stamps = array("Q")
    with ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="fsck-stamps") as pool:
        for part in pool.map(lambda some: _native.stamp_objects(objects_fd, some, listing.digest_size, before), ranges):
            stamps.frombytes(part)
    return stamps


def load(repository: Repository) -> Record:
    """Return the record of the last clean check of *repository*.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is broken, or not to be trusted.
        OSError: it cannot be read.
    """
    dir_fd = repository.open_directory()
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
        with open(fd, "rb") as file:
            info, owners = os.fstat(fd), {0, os.geteuid()}  # not the repository's, if that is somebody else
            if not stat.S_ISREG(info.st_mode) or info.st_size > _SIZE_MAX:
                raise FormatError(NAME, 0, f"it is no file of at most {_SIZE_MAX} bytes")
            if info.st_uid not in owners or info.st_mode & _OTHERS_WRITE:
                raise FormatError(NAME, 0, "others may have written it")
            return Record.parse(file.read(_SIZE_MAX), repository.algorithm, sealed=repository.verity)
    finally:
        os.close(dir_fd)


def save(repository: Repository, record: Record) -> None:
    """Let *record* be what `load` returns from now on, whole at any moment.

    What was seen is on disk before: after a power cut, an inode might be as it was, and its contents not.  What the
    last record says of layers is kept if *record* says nothing of any: it holds, since all objects are right.

    Raises:
        RepositoryError: the repository cannot be written.
        OSError: the record cannot be; then the last one stays.
    """
    repository.check_writable()
    if record.prefixes:
        repository.sync()
    if not record.layers:
        with suppress(FormatError, OSError):
            record = replace(record, layers=load(repository).layers)
    dir_fd = repository.open_directory()
    name = f".{NAME}-{os.urandom(6).hex()}"
    try:
        write_note(dir_fd, name, record.pack(), _MODE)
        try:
            _native.rename(dir_fd, name, dir_fd, NAME)
        except BaseException:
            os.unlink(name, dir_fd=dir_fd)
            raise
    finally:
        os.close(dir_fd)


def layer_key(digest: str, stream: Digest) -> bytes:
    """Return what stands for the proof that *stream* is the layer *digest*, which holds while its objects are right."""
    return hashlib.sha256(digest.encode() + b"\0" + stream.raw).digest()[:_LAYER_SIZE]


def _kind(algorithm: Algorithm, *, sealed: bool) -> int:
    return algorithm.kernel_id | (_SEALED if sealed else 0)


def _little(numbers: array[int]) -> bytes:
    """Return numbers of 8 bytes each, as the file has them."""
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(data: Buffer) -> array[int]:
    """Return the numbers that `_little` has packed."""
    numbers = array("Q")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
