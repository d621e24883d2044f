"""What this process may use: the CPUs, and what the file system of a directory can do."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass

from composefs import _native, verity
from composefs.cpus import cpu_quota, read_lines
from composefs.digest import Algorithm
from composefs.mountinfo import find_mount
from composefs.repository.staging import NO_UNNAMED_FILES

_UNKNOWN = "an unknown file system"


@dataclass(frozen=True)
class Cpus:
    """The CPUs of this machine, and how many of them this process may use."""

    model: str
    online: int
    affinity: int  # that the process may be scheduled on
    quota: float | None  # CPU seconds a second that its control groups allow; None: no limit

    @property
    def usable(self) -> float:
        """CPU seconds that this process can get in a second."""
        return self.affinity if self.quota is None else min(self.affinity, self.quota)


@dataclass(frozen=True)
class FileSystem:
    """What the file system of a directory is, and can do."""

    kind: str  # as mount(8) calls it
    unnamed_files: bool  # O_TMPFILE
    reflinks: bool
    verity: bool


def find_cpus(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> Cpus:
    """Return what CPUs there are; *proc* and *cgroup* are where those file systems are mounted."""
    return Cpus(_cpu_model(proc), os.cpu_count() or 1, len(os.sched_getaffinity(0)), cpu_quota(proc, cgroup))


def find_file_system(directory: str, proc: str = "/proc") -> FileSystem:
    """Try what the file system of *directory* can do, with files of one block in it, which are removed again.

    Raises:
        OSError: no file can be made there.
    """
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    names = [f".composefs-probe-{os.urandom(6).hex()}" for _ in range(2)]
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    try:
        for name in names:
            fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
            try:
                os.write(fd, bytes(4096))
            finally:
                os.close(fd)
        unnamed, reflinks = _has_unnamed_files(dir_fd), _has_reflinks(dir_fd, *names)
        return FileSystem(file_system_type(directory, proc), unnamed, reflinks, _has_verity(dir_fd, names[0]))
    except OSError as error:
        raise OSError(error.errno, error.strerror, directory) from None
    finally:
        for name in names:
            _remove(dir_fd, name)
        os.close(dir_fd)


def dirty_limit(proc: str = "/proc") -> int:
    """Return how many bytes of files the kernel keeps in memory before it begins to write them.

    Source: the kernel's vm.rst, dirty_background_bytes and dirty_background_ratio.
    """
    size = _number(f"{proc}/sys/vm/dirty_background_bytes")
    if size:
        return size
    available = next(
        (int(line.split()[1]) << 10 for line in read_lines(f"{proc}/meminfo") if line.startswith("MemAvailable:")), 0
    )
    return available * _number(f"{proc}/sys/vm/dirty_background_ratio") // 100


def file_system_type(path: str, proc: str = "/proc") -> str:
    """Return the type of the file system of *path*."""
    mount = find_mount(path, proc)
    return mount.kind if mount is not None else _UNKNOWN


def _cpu_model(proc: str) -> str:
    for line in read_lines(f"{proc}/cpuinfo"):
        key, colon, value = line.partition(":")
        if colon and key.strip() in {"model name", "Model"}:
            return " ".join(value.split())
    return platform.machine()


def _has_unnamed_files(dir_fd: int) -> bool:
    try:
        os.close(_native.store_file(dir_fd, b""))
    except OSError as error:
        if error.errno in NO_UNNAMED_FILES:
            return False
        raise
    return True


def _has_reflinks(dir_fd: int, source: str, target: str) -> bool:
    fds = [
        os.open(name, flags | os.O_CLOEXEC, dir_fd=dir_fd)
        for name, flags in ((source, os.O_RDONLY), (target, os.O_WRONLY))
    ]
    try:
        _native.reflink(*fds)
    except OSError:
        return False
    else:
        return True
    finally:
        for fd in fds:
            os.close(fd)


def _has_verity(dir_fd: int, name: str) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return verity.enable(fd, Algorithm.SHA256)
    except OSError:  # such as a file system of larger blocks
        return False
    finally:
        os.close(fd)


def _remove(dir_fd: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)


def _number(path: str) -> int:
    """Return the number in a small file of the kernel; 0 if it cannot be read."""
    lines = read_lines(path)
    return int(lines[0]) if lines else 0
