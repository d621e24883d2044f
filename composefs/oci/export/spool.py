"""Files without a name: workers write them, and at the end they get one, or are read and forgotten.

Whatever ends a process, nothing is left of them.  Where a file system has no such files, they have a name for a while:

    .composefs-export-...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from composefs import _native
from composefs.repository.staging import NO_UNNAMED_FILES

_PIECE = 1 << 20  # bytes read at a time
_MODE = 0o666  # and what the umask leaves of it: these files are for others to read


class Spool:
    """A new file in *directory*, open until `close`.

    Attributes:
        directory: where it is, for messages: it has no name.
        path: by which this process and others of the same user open it, to write it.
    """

    def __init__(self, directory: str) -> None:
        self.directory, self._name = directory, ""
        try:
            self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE)
        except OSError as error:
            if error.errno not in NO_UNNAMED_FILES:
                raise
            self._name = _temporary_name()
            path = os.path.join(directory, self._name)
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _MODE)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append *data*."""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.directory) from None

    def flush(self) -> None:
        """Wait until it is on disk."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.directory) from None

    def pieces(self) -> Iterator[bytes]:
        """Yield what was written."""
        offset = 0
        while piece := self._read(offset):
            offset += len(piece)
            yield piece

    def _read(self, offset: int) -> bytes:
        try:
            return os.pread(self._fd, _PIECE, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.directory) from None

    def link(self, name: str) -> None:
        """Give the file its *name* in the directory; what has that name is replaced in one step."""
        path = os.path.join(self.directory, name)
        if self._name:
            os.replace(os.path.join(self.directory, self._name), path)
            self._name = ""
            return
        dir_fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                _native.link_fd(self._fd, dir_fd, name)
            except FileExistsError:
                temporary = _temporary_name()
                _native.link_fd(self._fd, dir_fd, temporary)
                try:
                    os.replace(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                except OSError:
                    os.unlink(temporary, dir_fd=dir_fd)
                    raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(dir_fd)

    def close(self) -> None:
        """Let go of the file; without a name, it is gone."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._name:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.directory, self._name))


class NewDirectories:
    """The directory *path* and those above it, made where they are missing, and removed again unless kept."""

    def __init__(self, path: str) -> None:
        self._made: list[str] = []  # the outermost first
        try:
            self._make(path)
        except BaseException:
            self.close()
            raise

    def keep(self) -> None:
        """Let them stay."""
        self._made.clear()

    def close(self) -> None:
        """Remove them, if they are empty."""
        for path in reversed(self._made):
            with suppress(OSError):  # somebody else uses it already
                os.rmdir(path)
        self._made.clear()

    def _make(self, path: str) -> None:
        if os.path.isdir(path):
            return
        self._make(os.path.dirname(path))
        with suppress(FileExistsError):  # if that is no directory, nothing can be made in it
            os.mkdir(path)
            self._made.append(path)


def flush(directory: str) -> None:
    """Wait until all that was written to the file system of *directory* is on disk."""
    _call(_native.syncfs, directory)


def flush_names(directory: str) -> None:
    """Wait until the names in *directory* are on disk."""
    _call(os.fsync, directory)


def _call(flush: Callable[[int], None], directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, directory) from None
    finally:
        os.close(fd)


def _temporary_name() -> str:
    return f".composefs-export-{os.urandom(6).hex()}"
