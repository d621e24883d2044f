"""Fresh file systems to import into, and slow ones.

Where root allows, each run has an ext4 of its own, with a journal, on a loop device: creating files is slow where many
were deleted before (perf-limits.md, section 4), and a used file system would make every run a bit slower than the last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SIZE = 16 << 30  # bytes, sparse; the same at every scale, because the size of the journal follows it
_WAYS = ("read", "write")
_BLKIO = Path("/sys/fs/cgroup/blkio")  # of the root group: it counts what the kernel writes back, too


class Disks:
    """Makes fresh file systems below *directory*, or where that cannot be done, fresh directories."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._loop = os.geteuid() == 0
        if self._loop:
            try:
                with self.fresh():
                    pass
            except (OSError, subprocess.CalledProcessError):
                self._loop = False

    @property
    def description(self) -> str:
        """What a run gets, for people."""
        if self._loop:
            return "a fresh ext4 with journal on a loop device for each run"
        return f"a fresh directory on {_type_of(self._directory)} for each run: no root, or no loop device"

    @property
    def are_own(self) -> bool:
        """Whether each run gets a file system of its own, which alone can be slowed down."""
        return self._loop

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Give an empty directory, on its own file system if possible, and remove it afterwards."""
        with tempfile.TemporaryDirectory(prefix=".disk-", dir=self._directory, ignore_cleanup_errors=True) as own:
            place = Path(own, "fs")
            place.mkdir()
            if not self._loop:
                yield place
                return
            backing = Path(own, "backing")
            with open(backing, "xb") as file:
                file.truncate(_SIZE)
            _call("mkfs.ext4", "-q", "-F", str(backing))
            # noinit_itable: nothing else writes while we measure
            _call("mount", "-t", "ext4", "-o", "loop,noinit_itable", str(backing), str(place))
            try:
                shutil.rmtree(place / "lost+found")
                yield place
            finally:
                _call("umount", str(place))


@dataclass(frozen=True, slots=True)
class Throttle:
    """What a slow disk can do at most; reads and writes count apart, None is no bound."""

    bytes: int | None = None  # a second
    operations: int | None = None  # a second; those of the file system, before neighbours are merged

    def can_be_set(self) -> bool:
        """Tell whether this kernel can be told: cgroup v1 with blkio, by root."""
        return os.access(_BLKIO / "blkio.throttle.write_bps_device", os.W_OK)

    @contextlib.contextmanager
    def on(self, path: Path) -> Iterator[None]:
        """Slow down the disk of *path*, for everybody.

        Raises:
            OSError: it cannot be told.
        """
        device = os.stat(path).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        bounds = {"bps": self.bytes, "iops": self.operations}
        rules = {_BLKIO / f"blkio.throttle.{way}_{what}_device": bounds[what] for way in _WAYS for what in bounds}
        try:
            for file, bound in rules.items():
                file.write_text(f"{name} {bound or 0}")  # 0 removes
            yield
        finally:
            for file in rules:
                file.write_text(f"{name} 0")


def forget_pages(place: Path) -> None:
    """Drop what the page cache has of the files in *place*; they must have been written."""
    for parent, _, names in os.walk(place):
        for name in names:
            fd = os.open(os.path.join(parent, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _call(*command: str) -> None:
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, env=environment)


def _type_of(path: Path) -> str:
    """Return the type of the file system of *path*; see proc(5), /proc/pid/mountinfo."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "an unknown file system"
