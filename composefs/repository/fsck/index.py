"""Which objects there are: a sorted array, since a million names would not fit memory as Python's objects."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left

from composefs._native import Buffer

_PREFIX = 8  # bytes of a digest that are searched for
_SEARCH_PAYS = 8  # times as many objects as are searched for, from which on each is searched for by itself
_BATCH = 1 << 12  # digests that are Python's objects at a time


class ObjectIndex:
    """The objects whose names, raw and sorted, are *digests*, back to back, of *digest_size* bytes each."""

    def __init__(self, digests: Buffer, digest_size: int) -> None:
        self._digests, self._size = memoryview(digests), digest_size
        self._prefixes = array("Q")
        step = digest_size * _BATCH
        for start in range(0, len(digests), step):
            words = self._digests[start : start + step].cast("Q")
            self._prefixes.extend(words[:: digest_size // _PREFIX].tolist())
        if sys.byteorder == "little":
            self._prefixes.byteswap()  # so that they are in the order of the bytes

    def __len__(self) -> int:
        return len(self._prefixes)

    def missing(self, digests: set[bytes]) -> list[bytes]:
        """Return those of *digests* that are not there, sorted."""
        if _SEARCH_PAYS * len(digests) < len(self):
            return sorted(digest for digest in digests if digest not in self)
        rest = set(digests)
        size, step = self._size, self._size * _BATCH
        for start in range(0, len(self._digests), step):
            batch = bytes(self._digests[start : start + step])
            rest.difference_update([batch[place : place + size] for place in range(0, len(batch), size)])
        return sorted(rest)

    def __contains__(self, digest: bytes) -> bool:
        size, prefix = self._size, int.from_bytes(digest[:_PREFIX])
        at = bisect_left(self._prefixes, prefix)
        while at < len(self._prefixes) and self._prefixes[at] == prefix:
            if self._digests[at * size : (at + 1) * size] == digest:
                return True
            at += 1
        return False
