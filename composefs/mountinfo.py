"""What is mounted where: /proc/self/mountinfo, see proc_pid_mountinfo(5).

Paths are bytes to the kernel.  Of these it writes blanks, tabs, newlines and backslashes as octal numbers, and the rest
as it is: a newline alone ends a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """Where a file system is mounted.

    Attributes:
        kind: its type, as mount(8) calls it.
        source: what it is of: a device, mostly.
        path: the place.
        device: MAJOR:MINOR of the file system as a whole, decimal.
        read_only: nothing can be written there.
        options: of the file system.
    """

    kind: str
    source: str
    path: str
    device: str
    read_only: bool = False
    options: tuple[str, ...] = ()

    @property
    def is_fuse(self) -> bool:
        """Whether a process serves it."""
        return self.kind in {"fuse", "fuseblk"} or self.kind.startswith("fuse.")


def read_mounts(proc: str = "/proc") -> list[MountPoint]:
    """Return all mounts that this process sees.

    Raises:
        OSError: the table cannot be read.
    """
    return [_parse(line) for line in _read_table(proc)]


def find_mount(path: str, proc: str = "/proc") -> MountPoint | None:
    """Return the mount that *path* is in, of several at one place the topmost; None where /proc does not tell.

    Raises:
        OSError: there is no such path.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # which asks nothing of a server of FUSE, that may be dead
    try:
        return find_mount_of(fd, proc)
    finally:
        os.close(fd)


def find_mount_of(fd: int, proc: str = "/proc") -> MountPoint | None:
    """Return the mount that the open file *fd* is in; None where /proc does not tell.

    The mount is known by its number: a device has none where subvolumes or overlays are, and of mounts at one place the
    table does not say which is on top.

    Source: proc_pid_fdinfo(5).
    """
    try:
        number = _mount_number(fd, proc)
        return next((_parse(line) for line in _read_table(proc) if line.partition(b" ")[0] == number), None)
    except OSError:
        return None


def _mount_number(fd: int, proc: str) -> bytes | None:
    with open(f"{proc}/self/fdinfo/{fd}", "rb") as file:
        return next((line.split()[1] for line in file if line.startswith(b"mnt_id:")), None)


def _read_table(proc: str) -> Iterator[bytes]:
    with open(f"{proc}/self/mountinfo", "rb") as file:
        for line in file:  # of a binary file only a newline ends it, unlike splitlines()
            yield line.rstrip(b"\n")


def _parse(line: bytes) -> MountPoint:
    """Return the mount of a *line*: id, parent, device, root, path, options, tags, -, type, source, more options."""
    mount, _, file_system = line.partition(b" - ")
    device, _, path, mount_options = map(_text, mount.split(b" ")[2:6])
    kind, source, options = map(_text, file_system.split(b" ", 2))
    all_options = tuple(options.split(","))
    read_only = "ro" in mount_options.split(",") or "ro" in all_options
    return MountPoint(kind, source, path, device, read_only, all_options)


def _text(field: bytes) -> str:
    """Return a field without the escapes."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
