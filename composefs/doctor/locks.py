"""Who has a directory locked by flock(2)."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from composefs.cpus import read_lines
from composefs.doctor.finding import Finding, Status
from composefs.mountinfo import find_mount

# 1: FLOCK  ADVISORY  READ 1234 fe:00:5678 0 EOF; who waits has an arrow behind the first number.
_FLOCK = re.compile(r"\d+: *(->)? *FLOCK +\S+ +(\S+) +(-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a lock, or waits for one.

    Attributes:
        pid: 0 if it is in another namespace of processes.
        name: of its program; empty if that cannot be found out.
        exclusive: nobody else has a lock meanwhile.
        waits: it has not got it yet.
    """

    pid: int
    name: str
    exclusive: bool
    waits: bool = False

    def __str__(self) -> str:
        if not self.pid:
            return "a process elsewhere"
        return f"process {self.pid} ({self.name})" if self.name else f"process {self.pid}"


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
        return _find(dir_fd, path, proc)
    finally:
        os.close(dir_fd)


def parse_locks(lines: Iterable[str], device: tuple[int, int], inode: int, proc: str = "/proc") -> tuple[Holder, ...]:
    """Return who has locked the file *inode* of the file system *device* by flock(2).

    Args:
        lines: of /proc/locks.
        device: major and minor number.
        inode: number of the file.
        proc: where the names of programs are.

    Source: proc_locks(5).
    """
    holders = []
    for match in filter(None, map(_FLOCK.match, lines)):
        waits, mode, pid, major, minor, number = match.groups()
        if (int(major, 16), int(minor, 16)) == device and int(number) == inode:
            name = next(iter(read_lines(f"{proc}/{pid}/comm")), "")
            holders.append(Holder(max(int(pid), 0), name, mode == "WRITE", waits is not None))
    return tuple(holders)


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


def _file_id(dir_fd: int, path: str, proc: str) -> tuple[tuple[int, int], int]:
    """Return the numbers that /proc/locks has for a directory: of its file system, not of its subvolume."""
    found, mount = os.fstat(dir_fd), find_mount(path, proc)
    if mount is None:
        return (os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino
    major, minor = mount.device.split(":")
    return (int(major), int(minor)), found.st_ino


def _find(dir_fd: int, path: str, proc: str) -> Locks:
    holders = parse_locks(
        read_lines(f"{proc}/locks"), *_file_id(dir_fd, path, proc), proc
    )  # before ours is one of them
    try:
        fcntl.flock(dir_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Locks(free=False, holders=holders)
    return Locks(free=True, holders=holders)
