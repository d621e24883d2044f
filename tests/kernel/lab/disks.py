"""Disks of a guest: sparse files on the host."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError, UnavailableError

SIZE = 4 << 30  # bytes; only what is written takes room
RESULTS_SIZE = 256 << 20  # bytes
RESULTS = "results"

_MAKE = {
    # Small disks would get blocks of 1 KiB, in which this kernel does not enable fs-verity.
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-O", "verity", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
}


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk whose file system a guest mounts at /disks/*filesystem*."""

    filesystem: str
    path: Path

    @property
    def name(self) -> str:
        """The serial number by which a guest knows it."""
        return self.filesystem

    def drive(self) -> list[str]:
        """Return the options by which qemu knows it as a drive of its name; flushing takes no time."""
        return ["-drive", f"if=none,id={self.name},format=raw,cache=unsafe,file={self.path}"]


@dataclass(frozen=True, slots=True)
class RawDisk:
    """A disk that a guest finds at /dev/*name* and leaves alone; it is flushed when the guest says so.

    Attributes:
        name: begins with `raw-`.
        path: of the file.
        log: gets all writes and flushes, in the format of dm-log-writes; None: nothing does.
        direct: qemu passes by the host's cache (`cache=none`).
    """

    name: str
    path: Path
    log: Path | None = None
    direct: bool = False

    def drive(self) -> list[str]:
        """Return the options by which qemu knows it as a drive of its name."""
        cache = f"cache.direct={'on' if self.direct else 'off'}"
        if self.log is None:
            return ["-blockdev", f"driver=file,node-name={self.name},filename={self.path},{cache}"]
        self.log.touch()
        return [
            *("-blockdev", f"driver=file,node-name={self.name}-data,filename={self.path},{cache}"),
            *("-blockdev", f"driver=file,node-name={self.name}-log,filename={self.log}"),
            *("-blockdev", f"driver=blklogwrites,node-name={self.name},file={self.name}-data,log={self.name}-log"),
        ]


def make_disks(directory: Path) -> list[Disk]:
    """Make one empty disk of each file system in *directory*."""
    return [make_disk(filesystem, directory / f"{filesystem}.img") for filesystem in _MAKE]


def make_disk(filesystem: str, path: Path) -> Disk:
    """Make an empty disk in the file *path*."""
    make_sparse(path, SIZE)
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    try:
        done = subprocess.run([*_MAKE[filesystem], path], capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        raise UnavailableError(f"{_MAKE[filesystem][0]} is missing") from None
    if done.returncode != 0:
        raise LabError(f"{_MAKE[filesystem][0]} failed: {done.stderr.strip()}")
    return Disk(filesystem, path)


def make_sparse(path: Path, size: int) -> None:
    """Make a file of *size* bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
