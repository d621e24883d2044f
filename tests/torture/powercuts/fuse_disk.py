"""A disk that records what is written to it: a loop device over a file of FUSE.

The loop device sends each write of the file system on as it comes, and a flush as fsync(2); it says that it cannot do
FUA, so the kernel flushes instead.
"""

import argparse
import contextlib
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .disklog import FLUSH, LogWriter

_NAME = "disk"
_START_MAX = 20  # seconds


@contextlib.contextmanager
def recorded(image: Path, log: Path, directory: Path) -> Iterator[Path]:
    """Yield a block device that is the disk *image*, which it changes; all writes get into *log*.

    Args:
        image: a file.
        log: a new one; complete when the context is left.
        directory: empty; where FUSE shows the file.
    """
    server = subprocess.Popen([sys.executable, "-m", __name__, image, log, directory], stdin=subprocess.DEVNULL)
    try:
        _wait_until_mounted(server, directory)
        device = _output("losetup", "--find", "--show", directory / _NAME)
        try:
            yield Path(device)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
            _wait_until_free(device)
        subprocess.run(["umount", directory], check=True)
        if server.wait(_START_MAX) != 0:
            raise RuntimeError(f"the disk that records ended with status {server.returncode}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
            subprocess.run(["umount", "--lazy", directory], check=False)


def _wait_until_mounted(server: subprocess.Popen[bytes], directory: Path) -> None:
    end = time.monotonic() + _START_MAX
    while not (directory / _NAME).exists():
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the disk that records does not come up in {directory}")
        time.sleep(0.02)


def _wait_until_free(device: str) -> None:
    """Wait until a loop device has let its file go, which it may do some time after it is told."""
    end = time.monotonic() + _START_MAX
    while Path("/sys/block", Path(device).name, "loop").exists() and time.monotonic() < end:
        time.sleep(0.01)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _serve(image: Path, log: Path, directory: Path) -> None:
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"  # mfusepy would take version 2, where there is one
    import mfusepy  # noqa: PLC0415  # loads the library

    class Disk(mfusepy.Operations):  # type: ignore[misc]  # mfusepy has no types
        """The one file in *directory*."""

        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path == f"/{_NAME}":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fd, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            writer.add(offset, data)
            return os.pwrite(fd, data, offset)

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            writer.add(0, b"", FLUSH)
            return 0

    fd = os.open(image, os.O_RDWR)
    size = os.fstat(fd).st_size
    with LogWriter(log) as writer:
        mfusepy.FUSE(Disk(), str(directory), foreground=True, nothreads=True)
    os.close(fd)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a disk until it is unmounted.")
    for name in ("image", "log", "directory"):
        parser.add_argument(name, type=Path)
    _serve(**vars(parser.parse_args()))
