"""Mounts that no path leads to yet, and the end of those that one does."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from composefs._native import mounts
from composefs.kernel.contexts import PRIVILEGES, failure
from composefs.kernel.descriptors import closing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

_ATTACH_REMEDIES = {
    errno.EPERM: PRIVILEGES,
    errno.ENOENT: "make the directory",
    errno.EINVAL: "it takes a directory, in the mount namespace where the mount was made",
}
_UNMOUNT_REMEDIES = {
    errno.EPERM: "it takes who mounted it, or root",
    errno.EINVAL: "nothing is mounted there",
    errno.EBUSY: "end what is open (fuser -vm) or mounted (findmnt -R) there, or unmount it lazily",
}


class Mount:
    """A detached mount: a file system that only a descriptor leads to, and that ends with the last of these.

    What is below it is had with `dir_fd`, such as `os.open("etc/passwd", os.O_RDONLY, dir_fd=mount.fd)`.

    Args:
        fd: of its root, as open_tree(2) and fsmount(2) give it; closed by this.

    Attributes:
        fd: the descriptor; -1 once closed.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def attach(self, path: str) -> None:
        """Mount it at *path*, where it stays when this is closed; once only.

        Args:
            path: an existing directory; a symbolic link in its last place is not followed.

        Raises:
            MountError: as move_mount(2), with the path.
        """
        _attach(self.fd, path)

    def close(self) -> None:
        """Let go of it: if it is not attached, it ends.  More than once does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def unmount(path: str, *, lazy: bool = False) -> None:
    """End the topmost mount at *path*; a symbolic link in its last place is not followed.

    Args:
        path: where it is mounted.
        lazy: take it away from there at once, and let it end when nothing uses it any more.

    Raises:
        MountError: EBUSY where something uses it, EINVAL where nothing is mounted, as umount2(2).
    """
    try:
        mounts.unmount(path, mounts.UMOUNT_NOFOLLOW | (mounts.MNT_DETACH if lazy else 0))
    except OSError as error:
        raise failure(f"umount {path}", error, remedies=_UNMOUNT_REMEDIES) from error


@contextmanager
def attached(fd: int) -> Iterator[int]:
    """Attach the detached mount *fd* at a temporary directory, and give a descriptor of its root there.

    After the context neither mount nor directory is to be seen.  SIGINT and SIGTERM wait for that.

    Raises:
        MountError: it cannot be attached, or not be taken away again.
        OSError: there is no place for temporary directories.
    """
    with _signals_later():
        path = tempfile.mkdtemp(prefix=".composefs.")
        try:
            _attach(fd, path)
            with closing(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root_fd:
                yield root_fd
        finally:
            try:
                _detach(path)
            finally:
                with suppress(OSError):  # it is still mounted, which the other error says
                    os.rmdir(path)


@contextmanager
def _signals_later() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}
        )  # may be interrupted when it has done so
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attach(fd: int, path: str) -> None:
    try:
        mounts.move_mount(fd, path)
    except OSError as error:
        raise failure(f"move_mount {path}", error, remedies=_ATTACH_REMEDIES) from error


def _detach(path: str) -> None:
    try:
        unmount(path, lazy=True)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it was not attached, then
            raise
