"""Which objects no crash can have left half written.

An object gets its name before its contents are on disk, so after a power cut the name proves nothing.  But every tool
that writes composefs repositories flushes the file system between the objects of a stream and the stream's name.  So:
what a named stream refers to was on disk before; everything else must be measured or hashed.

This costs 8 bytes an object, no clock, and no reading of contents.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable

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
