"""The lock of a repository: flock(2) on its directory, which composefs-rs uses likewise.

Everybody who opens it holds it shared; who collects garbage holds it alone.  So what an import has stored and not yet
named is safe: the import holds the lock from before its first object until after its last name.
"""

from __future__ import annotations

import fcntl
import os
import time

from composefs.errors import BusyError

_PAUSE_MIN, _PAUSE_MAX = 0.01, 0.25  # seconds between two attempts: nothing wakes us, and flock(2) knows no time limit


def lock_shared(dir_fd: int, path: str, wait: float | None) -> None:
    """Lock the repository *dir_fd*, called *path* in messages, as everybody does who opens it.

    Args:
        dir_fd: its directory.
        path: for messages.
        wait: for how many seconds, if somebody has it for himself; None: as long as it takes.

    Raises:
        BusyError: he has not given it back by then.
    """
    if _try(dir_fd, fcntl.LOCK_SH):
        return
    if wait is None:
        import logging  # noqa: PLC0415  # takes 3 ms, and one seldom has to wait

        logging.getLogger(__name__).warning("%s: waiting for the lock: garbage is being collected", path)
        fcntl.flock(dir_fd, fcntl.LOCK_SH)
    elif not _keep_trying(dir_fd, fcntl.LOCK_SH, wait):
        raise _busy(dir_fd, path)


def lock_exclusive(dir_fd: int, path: str, wait: float | None) -> None:
    """Lock the repository *dir_fd* so that nobody else has it open; a shared lock of *dir_fd* becomes this one.

    Two who have it open and want it for themselves do not wait for each other: to wait is to give back the shared lock.
    So what was found out before may not hold any more.

    Args:
        dir_fd: its directory.
        path: for messages.
        wait: for how many seconds, while others have it open; None: as long as it takes.

    Raises:
        BusyError: they have it open still.  There is no lock then.
    """
    if wait is None:
        fcntl.flock(dir_fd, fcntl.LOCK_EX)
    elif not _try(dir_fd, fcntl.LOCK_EX) and not _keep_trying(dir_fd, fcntl.LOCK_EX, wait):
        raise _busy(dir_fd, path)


def unlock(dir_fd: int, pid: int) -> None:
    """Release the lock of *dir_fd*, which the process *pid* is about to close.

    To close is not enough: children that it has forked meanwhile have the lock, too, until they end.  If one of them
    closes what it has inherited, the lock stays.
    """
    if os.getpid() == pid:
        fcntl.flock(dir_fd, fcntl.LOCK_UN)


def _try(dir_fd: int, kind: int) -> bool:
    """Return whether the lock can be had at once; one that was held of *dir_fd* is lost if it cannot."""
    try:
        fcntl.flock(dir_fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keep_trying(dir_fd: int, kind: int, wait: float) -> bool:
    """Return whether the lock can be had within *wait* seconds."""
    end, pause = time.monotonic() + wait, _PAUSE_MIN
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        if _try(dir_fd, kind):
            return True
        pause = min(2 * pause, _PAUSE_MAX)
    return False


def _busy(dir_fd: int, path: str) -> BusyError:
    from composefs.repository.holders import find_holders  # noqa: PLC0415  # the same

    return BusyError(path, tuple(str(holder) for holder in find_holders(dir_fd) if not holder.waits))
