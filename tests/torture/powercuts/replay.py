"""The disk after a cut, and its file system, recovered by its journal."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cuts import Cut, last_flush, survivors
from .recording import SIZE, Recording

_PIECE = 1 << 16  # bytes
_ZEROS = bytes(_PIECE)


class Replay:
    """The disk of *recording*, at moments of which none is before the last one; uses the new *directory* alone."""

    def __init__(self, recording: Recording, directory: Path) -> None:
        self._entries = recording.entries
        self._past, self._now, self._mountpoint = directory / "past", directory / "now", directory / "mounted"
        self._mountpoint.mkdir(parents=True)
        with recording.base.open("rb") as base:
            copy_sparse(base.fileno(), self._past)
        self._fd = os.open(self._past, os.O_RDWR | os.O_CLOEXEC)
        self._applied = 0  # entries that are certain, and on the disk `past`

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    @contextmanager
    def after(self, cut: Cut) -> Iterator[Path]:
        """Yield where the file system is mounted after *cut*, for whatever use; the disk is a copy.

        Raises:
            CalledProcessError: it cannot be mounted.
        """
        certain = last_flush(self._entries, cut.position)
        for entry in self._entries[self._applied : certain]:
            os.pwrite(self._fd, entry.data, entry.offset)
        self._applied = max(self._applied, certain)
        self._now.unlink(missing_ok=True)  # a new file, whatever still has the last one
        copy_sparse(self._fd, self._now)
        fd = os.open(self._now, os.O_WRONLY | os.O_CLOEXEC)
        for offset, data in survivors(self._entries[certain : cut.position], cut.way, random.Random(cut.seed)):
            os.pwrite(fd, data, offset)
        os.close(fd)
        with mounted(self._now, self._mountpoint):
            yield self._mountpoint


@contextmanager
def mounted(image: Path, mountpoint: Path) -> Iterator[None]:
    """Have the file system on the disk *image* mounted at *mountpoint*, which replays its journal."""
    options = f"loop,sizelimit={SIZE}"
    subprocess.run(["mount", "-t", "ext4", "-o", options, image, mountpoint], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def copy_sparse(source: int, target: Path) -> None:
    """Copy the file *source* to the new file *target*, without its holes, and without zeros: it may be in memory."""
    size = os.fstat(source).st_size
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        os.truncate(fd, size)
        end = 0
        while (start := _data_after(source, end)) is not None:
            end = os.lseek(source, start, os.SEEK_HOLE)
            for offset in range(start, end, _PIECE):
                piece = os.pread(source, min(_PIECE, end - offset), offset)
                if not _ZEROS.startswith(piece):
                    os.pwrite(fd, piece, offset)
    finally:
        os.close(fd)


def _data_after(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # there is no more
        return None
