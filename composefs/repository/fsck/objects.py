"""Objects: contents against names, on threads that hash outside of the interpreter."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from composefs import _native
from composefs._native import ObjectState, sweep
from composefs.cpus import available_cpus
from composefs.digest import Algorithm, Digest
from composefs.repository.directories import open_directory
from composefs.repository.fsck.findings import Finding, Kind
from composefs.repository.objects import DIRECTORY

_BATCH = 1 << 10  # objects that a thread takes at a time, where they are not those of a directory; a guess
_STAMP = 8  # bytes
_THREADS_MIN = 4  # so that a disk has something to do while the CPUs have: a guess


class Listing(NamedTuple):
    """What stands in `objects/`."""

    digests: bytearray  # the names of all objects, raw, sorted and back to back
    ends: list[int]  # of the names of each directory, in bytes
    digest_size: int
    findings: list[Finding]  # what is no object
    marks: bytearray | None = None  # 1 for each object that is to be looked into; None: all are

    @property
    def object_count(self) -> int:
        """How many objects there are."""
        return len(self.digests) // self.digest_size

    @property
    def wanted_count(self) -> int:
        """How many objects are to be looked into."""
        return self.object_count if self.marks is None else self.marks.count(1)

    def only(self, digests: Iterable[bytes]) -> Listing:
        """Return the listing of a few of the objects."""
        joined = bytearray().join(sorted(digests))
        step = self.digest_size * _BATCH
        return Listing(joined, [*range(step, len(joined), step), len(joined)], self.digest_size, [])


def list_objects(repository_fd: int, algorithm: Algorithm) -> Listing:
    """Return the names of all objects; nothing but names is looked at.

    Raises:
        RepositoryError: `objects` is no directory.
        OSError: it cannot be read.
    """
    listing = Listing(bytearray(), [], algorithm.digest_size, [])
    size = 2 * algorithm.digest_size - 2  # of names in xx/
    try:
        objects_fd = open_directory(repository_fd, DIRECTORY, "", flags=os.O_RDONLY)
    except FileNotFoundError:
        return listing
    try:
        for byte in range(256):
            directory = f"{DIRECTORY}/{byte:02x}"
            try:
                digests, strays = sweep.list_objects(objects_fd, byte, algorithm.digest_size)
            except OSError as error:
                what = error.strerror or str(error)
                listing.findings.append(Finding(Kind.OBJECT_OPEN_FAILED, directory, what))
                continue
            listing.digests.extend(digests)
            listing.ends.append(len(listing.digests))
            what = f"is not {size} hexadecimal digits in lower case, as names of {algorithm.value} are"
            for name in sorted(strays):
                listing.findings.append(Finding(Kind.OBJECT_INVALID_NAME, f"{directory}/{name}", what))
    finally:
        os.close(objects_fd)
    return listing


class ObjectCheck:
    """The check of the contents of the objects in *listing* that are to be looked into.

    Args:
        repository_fd: the repository's directory.
        algorithm: of the names.
        listing: the objects; stays as it is.
        require_verity: whether the kernel must enforce every digest.  What it enforces is believed in any case.
        stamps: gets those of all objects, as `_native.stamp_objects` returns them, if *time* tells for what time.
        time: see *stamps*.
        workers: threads; by default one for each CPU this process may use, but at least four.
    """

    def __init__(
        self,
        repository_fd: int,
        algorithm: Algorithm,
        listing: Listing,
        *,
        require_verity: bool,
        stamps: bytearray | None = None,
        time: int | None = None,
        workers: int | None = None,
    ) -> None:
        self._algorithm, self._stamps = algorithm, stamps
        self._fd = open_directory(repository_fd, DIRECTORY, "", flags=os.O_RDONLY) if listing.object_count else -1
        self._checker = _native.ObjectChecker(
            algorithm.kernel_id, self._fd, algorithm.digest_size, require_verity=require_verity, time=time
        )
        self._pool = ThreadPoolExecutor(workers or max(available_cpus(), _THREADS_MIN), thread_name_prefix="fsck")
        self._listing = listing

    def results(self) -> Iterator[tuple[int, list[Finding]]]:
        """Begin, and yield, in order, how many objects were looked at and what is wrong with them."""
        ranges = [(start, end) for start, end in pairwise((0, *self._listing.ends)) if start < end]
        for future in [self._pool.submit(self._check, start, end) for start, end in ranges]:
            yield future.result()

    def close(self) -> None:
        """Stop what is still going on."""
        self._checker.stop()
        self._pool.shutdown(cancel_futures=True)
        if self._fd >= 0:
            os.close(self._fd)

    def _wanted(self, start: int, end: int) -> memoryview:
        """Return the objects to be looked into of those that the listing has from *start* to *end*, in bytes."""
        digests, marks, size = memoryview(self._listing.digests), self._listing.marks, self._algorithm.digest_size
        if marks is None:
            return digests[start:end]
        wanted = enumerate(marks[start // size : end // size])
        places = [start + index * size for index, mark in wanted if mark]
        return memoryview(b"".join([digests[place : place + size] for place in places]))

    def _check(self, start: int, end: int) -> tuple[int, list[Finding]]:
        digests = self._wanted(start, end)
        if not digests:
            return 0, []
        found = self._checker.check(digests)
        count, size = len(found.states), self._algorithm.digest_size
        if self._stamps is not None:
            self._stamps[start // size * _STAMP : end // size * _STAMP] = found.stamps
        if found.digests == digests and max(found.states) <= ObjectState.MEASURED:  # nearly always
            return count, []
        findings = []
        for index, state in enumerate(found.states):
            place = index * size
            digest = Digest(self._algorithm, bytes(digests[place : place + size]))
            got = found.digests[place : place + size]
            finding = _judge(digest, ObjectState(state), bytes(got), found.errors[index])
            if finding is not None:
                findings.append(finding)
        return count, findings


def _judge(digest: Digest, state: ObjectState, got: bytes, error: int) -> Finding | None:
    """Return what is wrong with an object, if anything is."""
    path = f"{DIRECTORY}/{digest.object_path}"
    match state:
        case ObjectState.HASHED | ObjectState.MEASURED:
            if got == digest.raw:
                return None
            return Finding(Kind.OBJECT_DIGEST_MISMATCH, path, object_id=digest.hex, wanted=digest.hex, got=got.hex())
        case ObjectState.NOT_OPENED:
            what = "is a symbolic link" if error == errno.ELOOP else os.strerror(error)
            return Finding(Kind.OBJECT_OPEN_FAILED, path, what, object_id=digest.hex)
        case ObjectState.NO_FILE:
            return Finding(Kind.OBJECT_OPEN_FAILED, path, "is no regular file", object_id=digest.hex)
        case ObjectState.NOT_READ:
            return Finding(Kind.OBJECT_VERITY_FAILED, path, os.strerror(error), object_id=digest.hex)
        case ObjectState.NOT_SEALED:
            return Finding(Kind.OBJECT_VERITY_MISSING, path, object_id=digest.hex)
