"""What it means for the next program who has a repository open."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from composefs.doctor.finding import Finding, Status
from composefs.repository.holders import Holder, find_holders


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks of a repository.

    Attributes:
        free: a shared lock could be had.
        holders: who has a lock, as far as /proc/locks shows.
    """

    free: bool
    holders: tuple[Holder, ...]


def find_locks(path: str, proc: str = "/proc") -> Locks:
    """Return who has locked the directory *path*.

    For a moment this takes the shared lock, as everybody does who opens a repository.
    """
    dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _find(dir_fd, proc)
    finally:
        os.close(dir_fd)


def judge_locks(locks: Locks) -> Finding:
    """Return what *locks* mean for the next program that opens the repository."""
    waiting = [str(holder) for holder in locks.holders if holder.waits]
    shared = [str(holder) for holder in locks.holders if not holder.exclusive and not holder.waits]
    exclusive = [str(holder) for holder in locks.holders if holder.exclusive and not holder.waits]
    remedy = None
    if not locks.free:
        status = Status.DEGRADED
        found = f"locked by {' and '.join(exclusive) or 'a process that is not shown'}; all others wait"
        remedy = "wait: garbage is being collected; or look whether that process hangs"
    elif waiting:
        status = Status.DEGRADED
        found = f"{', '.join(waiting)} cannot go on before {', '.join(shared) or 'others'} closes the repository"
        remedy = "wait, or end the process that has the repository open"
    elif shared:
        status, found = Status.OK, f"open in {', '.join(shared)}"
    else:
        status, found = Status.OK, "nobody has it open"
    return Finding("repository.lock", "lock", status, found, remedy)


def _find(dir_fd: int, proc: str) -> Locks:
    holders = find_holders(dir_fd, proc)  # before ours is one of them
    try:
        fcntl.flock(dir_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Locks(free=False, holders=holders)
    return Locks(free=True, holders=holders)
