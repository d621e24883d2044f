"""Objects: contents against names, on threads that hash outside of the interpreter."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from composefs import _native
from composefs._native import ObjectState
from composefs.cpus import available_cpus
from composefs.digest import Algorithm, Digest
from composefs.repository.fsck.findings import Finding, Kind
from composefs.repository.objects import DIRECTORY

_DIGITS = re.compile("[0-9a-f]*")
_DIRECTORIES = tuple(f"{number:02x}" for number in range(256))
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_THREADS_MIN = 4  # so that a disk has something to do while the CPUs have: a guess


class Listing(NamedTuple):
    """What stands in `objects/`."""

    digests: bytearray  # the names of all objects, raw, sorted and back to back
    ends: list[int]  # of the names of each directory, in bytes
    digest_size: int
    findings: list[Finding]  # what is no object

    @property
    def object_count(self) -> int:
        """How many objects there are."""
        return len(self.digests) // self.digest_size


def list_objects(repository_fd: int, algorithm: Algorithm) -> Listing:
    """Return the names of all objects; nothing but names is looked at.

    Raises:
        OSError: `objects/` itself cannot be read.
    """
    listing = Listing(bytearray(), [], algorithm.digest_size, [])
    try:
        objects_fd = os.open(DIRECTORY, _DIRECTORY_FLAGS, dir_fd=repository_fd)
    except FileNotFoundError:
        return listing
    try:
        for directory in _DIRECTORIES:
            try:
                names = _names(objects_fd, directory)
            except OSError as error:
                what = error.strerror or str(error)
                listing.findings.append(Finding(Kind.OBJECT_OPEN_FAILED, f"{DIRECTORY}/{directory}", what))
                continue
            listing.digests.extend(_parse(directory, names, algorithm, listing.findings))
            listing.ends.append(len(listing.digests))
    finally:
        os.close(objects_fd)
    return listing


def _names(objects_fd: int, directory: str) -> list[str]:
    """Return the sorted names in a directory, none if it does not exist."""
    try:
        fd = os.open(directory, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=objects_fd)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _parse(directory: str, names: list[str], algorithm: Algorithm, findings: list[Finding]) -> bytes:
    """Return the objects *names* in *directory*, raw; what is none is a finding."""
    size = 2 * algorithm.digest_size - len(directory)
    if set(map(len, names)) <= {size} and _DIGITS.fullmatch("".join(names)):  # nearly always
        return bytes.fromhex("".join([directory + name for name in names]))
    good = [name for name in names if len(name) == size and _DIGITS.fullmatch(name)]
    for name in sorted(set(names).difference(good)):
        what = f"is not {size} hexadecimal digits in lower case, as names of {algorithm.value} are"
        findings.append(Finding(Kind.OBJECT_INVALID_NAME, f"{DIRECTORY}/{directory}/{name}", what))
    return bytes.fromhex("".join(directory + name for name in good))


class ObjectCheck:
    """The check of the contents of all objects in *listing*.

    Args:
        repository_fd: the repository's directory.
        algorithm: of the names.
        listing: the objects; stays as it is.
        require_verity: whether the kernel must enforce every digest.  What it enforces is believed in any case.
        workers: threads; by default one for each CPU this process may use, but at least four.
    """

    def __init__(
        self,
        repository_fd: int,
        algorithm: Algorithm,
        listing: Listing,
        *,
        require_verity: bool,
        workers: int | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._fd = os.open(DIRECTORY, _DIRECTORY_FLAGS, dir_fd=repository_fd) if listing.object_count else -1
        self._checker = _native.ObjectChecker(
            algorithm.kernel_id, self._fd, algorithm.digest_size, require_verity=require_verity
        )
        self._pool = ThreadPoolExecutor(workers or max(available_cpus(), _THREADS_MIN), thread_name_prefix="fsck")
        self._listing = listing

    def results(self) -> Iterator[tuple[int, list[Finding]]]:
        """Begin, and yield, in order, how many objects were looked at and what is wrong with them."""
        digests = memoryview(self._listing.digests)
        ranges = [(start, end) for start, end in pairwise((0, *self._listing.ends)) if start < end]
        for future in [self._pool.submit(self._check, digests[start:end]) for start, end in ranges]:
            yield future.result()

    def close(self) -> None:
        """Stop what is still going on."""
        self._checker.stop()
        self._pool.shutdown(cancel_futures=True)
        if self._fd >= 0:
            os.close(self._fd)

    def _check(self, digests: memoryview) -> tuple[int, list[Finding]]:
        found = self._checker.check(digests)
        count, size = len(found.states), self._algorithm.digest_size
        if found.digests == digests and max(found.states) <= ObjectState.MEASURED:  # nearly always
            return count, []
        findings = []
        for index, state in enumerate(found.states):
            start = index * size
            digest = Digest(self._algorithm, bytes(digests[start : start + size]))
            got = found.digests[start : start + size]
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
