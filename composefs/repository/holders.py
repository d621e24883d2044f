"""Who has a directory locked by flock(2)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from composefs.cpus import read_lines
from composefs.mountinfo import find_mount_of

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


def find_holders(dir_fd: int, proc: str = "/proc") -> tuple[Holder, ...]:
    """Return who has locked the directory *dir_fd*, as far as /proc/locks shows."""
    return parse_locks(read_lines(f"{proc}/locks"), *_file_id(dir_fd, proc), proc)


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
        waits, mode, pid, major_number, minor_number, number = match.groups()
        if (int(major_number, 16), int(minor_number, 16)) == device and int(number) == inode:
            name = next(iter(read_lines(f"{proc}/{pid}/comm")), "")
            holders.append(Holder(max(int(pid), 0), name, mode == "WRITE", waits is not None))
    return tuple(holders)


def _file_id(dir_fd: int, proc: str) -> tuple[tuple[int, int], int]:
    """Return the numbers that /proc/locks has for a directory: of its file system, not of its subvolume."""
    found, mount = os.fstat(dir_fd), find_mount_of(dir_fd, proc)
    if mount is None:
        return (os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino
    numbers = mount.device.split(":")
    return (int(numbers[0]), int(numbers[1])), found.st_ino
