"""All writes of a disk in the order in which they came, with its flushes.

The format is that of Linux's dm-log-writes, which qemu's blklogwrites writes, too.
Source: Documentation/admin-guide/device-mapper/log-writes.rst; drivers/md/dm-log-writes.c.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Self

SECTOR = 512  # bytes, of which all is counted
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8  # bits of flags

_MAGIC = 0x6A736677736872
_VERSION = 1
# struct log_write_super: magic, version, number of entries, size of a sector; the first sector of the log
_SUPER = Struct("<QQQI")
# struct log_write_entry: first sector, number of sectors, flags, size of a mark; a sector before its data
_ENTRY = Struct("<QQQQ")


class Entry(NamedTuple):
    """A write, a flush, or both."""

    offset: int  # bytes
    data: bytes | memoryview  # whole sectors; of a mere flush none
    flags: int

    @property
    def is_flush(self) -> bool:
        """Whether all that was written before is certain from here on."""
        return bool(self.flags & FLUSH)

    @property
    def is_certain(self) -> bool:
        """Whether the write is on the disk when it is done (FUA)."""
        return bool(self.flags & FUA)


def read_log(path: Path) -> Iterator[Entry]:
    """Yield the entries of the log *path*; their data are valid as long as anybody has them."""
    with path.open("rb") as file:
        log = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    magic, version, count, sector = _SUPER.unpack_from(log)
    if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
        raise ValueError(f"{path} is no log of writes in sectors of {SECTOR} bytes")
    offset = SECTOR
    for _ in range(count):
        first, sectors, flags, _ = _ENTRY.unpack_from(log, offset)
        if flags & (DISCARD | MARK):
            raise ValueError(f"{path}: flags {flags:#x} at {offset}, which a disk here never has")
        offset += SECTOR
        yield Entry(first * SECTOR, log[offset : offset + sectors * SECTOR], flags)
        offset += sectors * SECTOR


class LogWriter:
    """Writes the log *path*."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(bytes(SECTOR))
        self._count = 0

    def add(self, offset: int, data: bytes, flags: int = 0) -> None:
        """Append an entry of whole sectors."""
        assert offset % SECTOR == len(data) % SECTOR == 0
        self._file.write(_ENTRY.pack(offset // SECTOR, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0"))
        self._file.write(data)
        self._count += 1

    def close(self) -> None:
        """Finish the log."""
        self._file.flush()
        os.pwrite(self._file.fileno(), _SUPER.pack(_MAGIC, _VERSION, self._count, SECTOR), 0)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
