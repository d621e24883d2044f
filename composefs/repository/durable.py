"""Which objects no crash can have left half written.

An object gets its name before its contents are on disk, so after a power cut the name proves nothing.  But every tool
that writes composefs repositories flushes the file system between the objects of a stream and the stream's name.  So:
what a named stream refers to was on disk before; everything else must be measured or hashed.

This costs 8 bytes an object, no clock, and no reading of contents.  A flush that fails is the end of it: see
`forget_contents`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from composefs import _native

_FLAGS = os.O_RDONLY | os.O_NONBLOCK
_PREFIX = 8  # bytes of a digest that are kept; a match by chance, 1 in 2**64, still needs an object of the full name


class DurableObjects:
    """The objects in *tables*, each the digests of one named stream, *digest_size* bytes each, back to back."""

    def __init__(self, tables: Iterable[bytes], digest_size: int) -> None:
        prefixes: set[int] = set()
        for table in tables:
            prefixes.update(memoryview(table).cast("Q")[:: digest_size // _PREFIX].tolist())
        self._prefixes = array("Q", sorted(prefixes))

    def __contains__(self, digest: bytes) -> bool:
        prefix = int.from_bytes(digest[:_PREFIX], sys.byteorder)
        index = bisect_left(self._prefixes, prefix)
        return index < len(self._prefixes) and self._prefixes[index] == prefix


def forget_contents(dir_fd: int, digest_size: int, is_durable: Callable[[bytes], bool]) -> None:
    """Have the kernel read anew those objects in the directory *dir_fd* that are not durable.

    After a flush that failed it has in memory still what it could not write, but takes that for written: no other flush
    will say so again.  Whoever finds such an object, and hashes it, must see what is on the disk.

    Args:
        dir_fd: the directory of objects.
        digest_size: of their names, in bytes.
        is_durable: tells whether an object needs no proof.
    """
    for path in _paths(dir_fd, 2 * digest_size - 2):
        with contextlib.suppress(OSError, ValueError):  # one that cannot be opened cannot be believed either
            if not is_durable(bytes.fromhex(path.replace("/", ""))):
                fd = _native.open_below(dir_fd, path, _FLAGS)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)


def _paths(dir_fd: int, name_size: int) -> Iterator[str]:
    """Yield the path of every object, whose name has *name_size* digits behind xx/."""
    for byte in range(256):
        with contextlib.suppress(OSError):
            fd = _native.open_below(dir_fd, f"{byte:02x}", os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
            yield from (f"{byte:02x}/{name}" for name in names if len(name) == name_size)
