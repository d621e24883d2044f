"""Where the contents of an image's files are: in its repository, or in a directory of objects."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import BinaryIO, Protocol

from composefs import verity
from composefs.digest import Algorithm, Digest
from composefs.errors import IntegrityError, NotFoundError
from composefs.repository.objects import ObjectStore
from composefs.tree import Backed, Object

_ALGORITHMS = {algorithm.digest_size: algorithm for algorithm in Algorithm}


class Contents(Protocol):
    """Contents that are not in the image."""

    def open(self, path: bytes | None, digest: Digest | None) -> BinaryIO:
        """Open the file at *path*, relative to the objects, whose *digest* must be that; one of the two is known."""

    def close(self) -> None:
        """Let go of what is held."""


class RepositoryContents:
    """The objects of a repository, which are always proved: their names are their digests."""

    def __init__(self, objects: ObjectStore, algorithm: Algorithm) -> None:
        self._objects, self._algorithm = objects, algorithm

    def open(self, path: bytes | None, digest: Digest | None) -> BinaryIO:
        """Open the object *digest*, or the one at *path*."""
        return self._objects.open(digest or self._named(path or b""))

    def close(self) -> None:
        """Do nothing: the repository is somebody else's."""

    def _named(self, path: bytes) -> Digest:
        try:
            digest = Digest.from_hex(self._algorithm, path.decode("ascii", "replace").replace("/", "", 1))
        except ValueError:
            digest = None
        if digest is None or digest.object_path != os.fsdecode(path):
            raise NotFoundError(f"{os.fsdecode(path)!r} is no object of {self._algorithm.value}")
        return digest


class DirectoryContents:
    """The files in a *directory*, as `mkcomposefs --digest-store` fills it; proved where their digests are known."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: bytes | None, digest: Digest | None) -> BinaryIO:
        """Open the file at *path*, or where the one with *digest* belongs."""
        if path is None:
            assert digest is not None
            path = os.fsencode(digest.object_path)
        where = f"{self._directory}/{os.fsdecode(path)}"
        if path.startswith(b"/") or b".." in path.split(b"/") or b"\0" in path:
            raise NotFoundError(f"{where} is not below the directory of objects")
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(path, flags, dir_fd=self._fd)
        except FileNotFoundError:
            raise NotFoundError(f"no object {where}") from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from None
        try:
            self._check(fd, where, digest)
            return open(fd, "rb")
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, fd: int, where: str, digest: Digest | None) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", where)
        if digest is not None:
            got = verity.measure(fd, digest.algorithm) or verity.compute_file_digest(fd, digest.algorithm)
            if got != digest:
                raise IntegrityError(where, digest.hex, got.hex)


class Zeros(io.RawIOBase):
    """A file of *size* zero bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to *offset* from the start, the position or the end, and return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants the private WriteableBuffer
        """Fill *buffer* with zeros, up to the end, and return their number."""
        count = max(0, min(len(buffer), self._size - self._position))
        buffer[:count] = bytes(count)
        self._position += count
        return count


def digest_of(content: Object | Backed) -> Digest | None:
    """Return the digest that the image has of *content*, if it has one."""
    if content.digest is None:
        return None
    return Digest(_ALGORITHMS[len(content.digest)], content.digest)


def open_content(contents: Contents, content: Object | Backed) -> BinaryIO:
    """Open *content*.

    Raises:
        NotFoundError: it is not there.
        IntegrityError: it has another digest or size than the image says.
    """
    path = content.path if isinstance(content, Backed) else None
    digest = digest_of(content)
    if path is None and digest is None:
        return io.BufferedReader(Zeros(content.size))
    file = contents.open(path, digest)
    size = os.fstat(file.fileno()).st_size
    if size != content.size:
        file.close()
        raise IntegrityError(f"size of {digest or os.fsdecode(path or b'')}", f"{content.size} bytes", f"{size} bytes")
    return file
