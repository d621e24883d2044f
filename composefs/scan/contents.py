"""The contents of files become digests: hashed, or stored as objects.

Threads do that; processes were measured to be no faster, and would have to open every file once more, by path.  Files
come in batches, since most are small: a batch is hashed by one call of C, without the GIL, which the walk needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Self, TypeAlias

from composefs import _native
from composefs.digest import Algorithm
from composefs.errors import CancelledError, TreeError
from composefs.repository.files import WHOLE_MAX, Checkpoint, Sharing, hash_file
from composefs.repository.objects import ObjectStore
from composefs.scan.places import Place, check_same, located, path_of
from composefs.tree import Object

_BATCH_COUNT = 32  # files of a batch
_BATCH_SIZE = 1 << 20  # bytes; a batch that has them is large enough
_STORED_SMALL_MAX = 1 << 18  # bytes; to hash and write more takes longer than to wait for the GIL
_SEALING_WORKERS = 8  # who enables fs-verity mostly waits, see oci/storing.py; a guess
_OPEN_MAX = 512  # files open at a time; by default a process may have 1024 of all kinds


class OpenFile(NamedTuple):
    """A regular file, open for reading."""

    fd: int
    info: os.stat_result
    place: Place
    content: Object  # to be given its digest


# Digest, bytes that it is of, and ctime of the file in nanoseconds, looked at afterwards.
Digested: TypeAlias = tuple[bytes, int, int]


class Digester(NamedTuple):
    """A way to give files their digests."""

    digest_files: Callable[[list[OpenFile], Checkpoint], Iterator[Digested]]  # in turn; several threads call it
    small_max: int  # bytes; a larger file is worth a thread of its own, and comes alone
    small_on_threads: bool  # whether a batch of others is worth one, too
    may_link: bool = False  # whether a file can get another name, which changes its ctime
    workers_min: int = 1  # threads that are worth it whatever CPUs there are


def hasher(algorithm: Algorithm) -> Digester:
    """Return what only hashes files."""
    kernel_id, digest_size = algorithm.kernel_id, algorithm.digest_size

    def digest_files(files: list[OpenFile], checkpoint: Checkpoint) -> Iterator[Digested]:
        if files[0].info.st_size > WHOLE_MAX:
            fd, info, *_ = files[0]
            yield hash_file(fd, info.st_size, kernel_id, digest_size, checkpoint), *_size_and_ctime(fd)
            return
        for digested in _native.verity_digest_fds(kernel_id, [file.fd for file in files], digest_size):
            if digested[1] < 0:
                raise OSError(-digested[1], os.strerror(-digested[1]))
            yield digested

    return Digester(digest_files, WHOLE_MAX, small_on_threads=True)


def storer(store: ObjectStore, sharing: Sharing) -> Digester:
    """Return what stores files in *store*.

    To store a small file takes a dozen short system calls, and after each a thread would wait for the GIL: 200,000 of
    them took 8.0 s without threads, and 9.7 s with one.  To seal it, too, takes longer than all that.
    """

    def digest_files(files: list[OpenFile], checkpoint: Checkpoint) -> Iterator[Digested]:
        for file in files:
            checkpoint()
            yield store.ensure_file(file.fd, sharing, checkpoint)[0], *_size_and_ctime(file.fd)

    return Digester(
        digest_files,
        _STORED_SMALL_MAX,
        small_on_threads=store.seals,
        may_link=sharing is Sharing.HARD_LINK,
        workers_min=_SEALING_WORKERS if store.seals else 1,
    )


def _size_and_ctime(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    has_all = info.st_size == 0 or os.pread(fd, 1, info.st_size - 1)  # not so in /sys
    return info.st_size if has_all else 0, info.st_ctime_ns


class Contents:
    """Gives files their digests; when its block is left, all have them.

    Args:
        digester: how.
        workers: threads; with one, the caller's own is taken.
        executor: threads of the caller, to use instead; they stay open.
    """

    def __init__(self, digester: Digester, *, workers: int, executor: ThreadPoolExecutor | None) -> None:
        self._digester = digester
        self._own = ThreadPoolExecutor(workers) if executor is None and workers > 1 else None
        self._executor = executor if executor is not None else self._own
        self._queue_max = 2 * workers  # batches
        self._batch: list[OpenFile] = []
        self._batch_size = 0
        self._running: dict[Future[None], list[OpenFile]] = {}
        self._open_count = 0  # files of what runs
        self._uses_threads = self._has_failed = self._is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._end()

    def add(self, fd: int, info: os.stat_result, place: Place, content: Object) -> None:
        """Have *content* given the digest of the regular file *fd*, and that closed.

        Raises:
            TreeError: one of the files so far was changed while it was read.
            OSError: one could not be read or stored.
        """
        file = OpenFile(fd, info, place, content)
        if info.st_size > self._digester.small_max:
            self._submit([file])
            return
        if not self._digester.small_on_threads:
            self._digest_here([file])
            return
        self._batch.append(file)
        self._batch_size += info.st_size
        if len(self._batch) == _BATCH_COUNT or self._batch_size >= _BATCH_SIZE:
            self._submit(self._take_batch())

    def check(self) -> None:
        """Raise what went wrong meanwhile, if something did, as `add` does."""
        if self._has_failed:
            self._collect()

    def _submit(self, batch: list[OpenFile]) -> None:
        if self._executor is None:
            self._digest_here(batch)
            return
        self._uses_threads = True
        self._running[self._executor.submit(self._digest, batch)] = batch
        self._open_count += len(batch)
        while len(self._running) > self._queue_max or self._open_count > _OPEN_MAX - _BATCH_COUNT:
            self._collect()

    def _take_batch(self) -> list[OpenFile]:
        batch, self._batch, self._batch_size = self._batch, [], 0
        return batch

    def _finish(self) -> None:
        if self._uses_threads:
            self._submit(self._take_batch())
        else:
            self._digest_here(self._take_batch())  # too little for threads
        while self._running:
            self._collect()

    def _digest_here(self, batch: list[OpenFile]) -> None:
        try:
            self._digest(batch)
        finally:
            _close(batch)

    def _collect(self) -> None:
        """Wait for at least one batch, and raise what went wrong."""
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            batch = self._running.pop(future)
            self._open_count -= len(batch)
            _close(batch)
            future.result()

    def _end(self) -> None:
        """Stop what still runs, and close all files."""
        self._is_cancelled = True
        _close(self._batch)
        for future in self._running:
            future.cancel()
        wait(self._running)
        for batch in self._running.values():
            _close(batch)
        if self._own is not None:
            self._own.shutdown()

    def _digest(self, batch: list[OpenFile]) -> None:
        if not batch:
            return
        place = batch[0].place
        try:
            self._checkpoint()
            digested = self._digester.digest_files(batch, self._checkpoint)
            for fd, info, place, content in batch:  # of which the handler wants the place
                content.digest, size, ctime = next(digested)
                if size != info.st_size or ctime != info.st_ctime_ns:
                    self._check(fd, info, place, size)
        except OSError as error:
            self._has_failed = True
            raise located(error, place) from None
        except BaseException:
            self._has_failed = True
            raise

    def _check(self, fd: int, info: os.stat_result, place: Place, size: int) -> None:
        check_same(info, os.fstat(fd), place, may_be_linked=self._digester.may_link)
        if size != info.st_size:
            raise TreeError(path_of(place), f"has a size of {info.st_size} bytes, but other contents to read")

    def _checkpoint(self) -> None:
        if self._is_cancelled:
            raise CancelledError


def _close(files: Iterable[OpenFile]) -> None:
    for file in files:
        os.close(file.fd)
