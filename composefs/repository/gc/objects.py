"""Which objects there are, and which of them are alive: arrays, since a million of Python's objects fit no memory."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from composefs._native import Buffer
from composefs._native.sweep import SweepAction, Sweeper, SweepError, Swept, list_objects, mark_objects
from composefs.digest import Algorithm, object_path
from composefs.errors import RepositoryError
from composefs.repository.directories import NO_DIRECTORY, NOT_FOLLOWED, open_directory
from composefs.repository.objects import DIRECTORY


class ObjectSet:
    """The objects of the repository *repository_fd*, called *where* in messages.

    Args:
        repository_fd: its directory.
        where: its path.
        algorithm: of the names.
        pool: threads that read directories.
        directory: where the objects are, below the repository's directory.

    Attributes:
        marks: a byte for each object, 1 if it is alive.
        strays: paths of what is no object.
    """

    def __init__(
        self,
        repository_fd: int,
        where: str,
        algorithm: Algorithm,
        pool: ThreadPoolExecutor,
        directory: str = DIRECTORY,
    ) -> None:
        self._where, self._size, self._pool = f"{where}/{directory}", algorithm.digest_size, pool
        self._digests = bytearray()  # sorted, back to back
        self._ends = [0]  # of the objects of each directory, as counts; the first begins at 0
        self.strays: list[str] = []
        self._fd = -1
        try:
            self._fd = open_directory(repository_fd, directory, where, flags=os.O_RDONLY)
        except FileNotFoundError:
            pass
        else:
            try:
                for byte, (digests, strays) in enumerate(pool.map(self._list, range(256))):
                    self._digests += digests
                    self._ends.append(len(self._digests) // self._size)
                    self.strays += [f"{directory}/{byte:02x}/{name}" for name in sorted(strays)]
            except BaseException:
                self.close()
                raise
        self.marks = bytearray(len(self))

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def device(self) -> int:
        """Number of the file system that the directory is on; there must be one."""
        return os.fstat(self._fd).st_dev

    def __len__(self) -> int:
        return len(self._digests) // self._size

    @property
    def digests(self) -> Buffer:
        """Those of all objects, raw, sorted and back to back; nobody may change it."""
        return self._digests

    def marked(self) -> Iterator[bytes]:
        """Yield the digests, raw, of what is alive."""
        at = self.marks.find(1)
        while at >= 0:
            yield self._digest(at)
            at = self.marks.find(1, at + 1)

    def mark(self, digests: Buffer) -> None:
        """Let *digests*, raw and back to back, be alive; those that do not exist make no difference."""
        mark_objects(self._digests, self._size, digests, self.marks)

    def is_alive(self, raw: bytes) -> bool:
        """Tell whether there is an object *raw* that is alive."""
        at = bisect_left(range(len(self)), raw, key=self._digest)
        return at < len(self) and self._digest(at) == raw and self.marks[at] == 1

    def dead_directories(self) -> Iterator[int]:
        """Yield the first bytes of the digests of what is not alive."""
        for byte, end in enumerate(self._ends[1:]):
            if self.marks.find(0, self._ends[byte], end) >= 0:
                yield byte

    def sweep(self, action: SweepAction, target_fd: int = -1) -> Swept:
        """Do *action* with all that is not alive.

        Args:
            action: what to do.
            target_fd: the directory of objects that they move to, which has the `dead_directories`.

        Raises:
            RepositoryError: what has the name of an object is a directory.
            OSError: it could not be done.
        """
        sweeper = Sweeper(self._fd, self._size, action, target_fd)
        futures = [self._pool.submit(self._sweep, sweeper, byte) for byte in self.dead_directories()]
        count = size = newest = 0
        try:
            for future in futures:
                swept = future.result()
                count, size, newest = count + swept.done, size + swept.size, max(newest, swept.newest)
        except BaseException:
            sweeper.stop()
            for future in futures:
                future.cancel()
            raise
        return Swept(count, size, newest)

    def _list(self, byte: int) -> tuple[bytes, list[str]]:
        try:
            return list_objects(self._fd, byte, self._size)
        except OSError as error:
            path = f"{self._where}/{byte:02x}"
            if error.errno in NO_DIRECTORY:
                raise RepositoryError(path, NOT_FOLLOWED) from None
            raise OSError(error.errno, error.strerror, path) from None

    def _sweep(self, sweeper: Sweeper, byte: int) -> Swept:
        start, end = self._ends[byte : byte + 2]
        digests = memoryview(self._digests)[start * self._size : end * self._size]
        try:
            return sweeper.sweep(digests, memoryview(self.marks)[start:end])
        except SweepError as error:
            path = f"{self._where}/{object_path(error.digest) if error.digest else f'{byte:02x}'}"
            if error.errno == errno.EISDIR:
                raise RepositoryError(path, "is a directory, where an object should be") from None
            raise OSError(error.errno, error.strerror, path) from None

    def _digest(self, index: int) -> bytes:
        return bytes(self._digests[index * self._size : (index + 1) * self._size])
