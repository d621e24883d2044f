"""Which objects there are: a sorted array, since a million names would not fit memory as Python's objects."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable

from composefs._native import Buffer

_PREFIX = 8  # bytes of a digest that are searched for
_SEARCH_PAYS = 8  # times as many objects as are searched for, from which on each is searched for by itself
_BATCH = 1 << 12  # digests that are Python's objects at a time


class ObjectIndex:
    """The objects whose names, raw and sorted, are *digests*, back to back, of *digest_size* bytes each.

    What is not among them *exists* is asked for: an import may have stored it since they were listed.
    """

    def __init__(
        self, digests: Buffer, digest_size: int, exists: Callable[[bytes], bool] = lambda _digest: False
    ) -> None:
        self._digests, self._size, self._exists = memoryview(digests), digest_size, exists
        self._prefixes = array("Q")
        step = digest_size * _BATCH
        for start in range(0, len(digests), step):
            words = self._digests[start : start + step].cast("Q")
            self._prefixes.extend(words[:: digest_size // _PREFIX].tolist())
        if sys.byteorder == "little":
            self._prefixes.byteswap()  # so that they are in the order of the bytes

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def prefixes(self) -> array[int]:
        """The first 8 bytes of each digest as a number, in order; nobody may change it."""
        return self._prefixes

    def missing(self, digests: set[bytes]) -> list[bytes]:
        """Return those of *digests* that are not there, sorted."""
        return sorted(digest for digest in self._unlisted(digests) if not self._exists(digest))

    def __contains__(self, digest: bytes) -> bool:
        return self._is_listed(digest) or self._exists(digest)

    def _unlisted(self, digests: set[bytes]) -> set[bytes]:
        if _SEARCH_PAYS * len(digests) < len(self):
            return {digest for digest in digests if not self._is_listed(digest)}
        rest = set(digests)
        size, step = self._size, self._size * _BATCH
        for start in range(0, len(self._digests), step):
            batch = bytes(self._digests[start : start + step])
            rest.difference_update([batch[place : place + size] for place in range(0, len(batch), size)])
        return rest

    def _is_listed(self, digest: bytes) -> bool:
        size, prefix = self._size, int.from_bytes(digest[:_PREFIX])
        at = bisect_left(self._prefixes, prefix)
        while at < len(self._prefixes) and self._prefixes[at] == prefix:
            if self._digests[at * size : (at + 1) * size] == digest:
                return True
            at += 1
        return False
