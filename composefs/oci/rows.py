"""Read the entries of a stored layer many at a time, as long as there is nothing special about them.

C reads plain headers where they are, in the decompressed chunks of a splitstream, and stops before all else: whiteouts,
extensions, odd numbers, what is cut, what is broken.  That goes through `TarSplitter`, which alone knows all rules.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Self

from composefs import _native
from composefs.splitstream import Chunks
from composefs.tar import TarSplitter

# struct tar_row of csrc/tar.c: offset, number, end of the value, directory, kind, stat
_ROW = Struct("<QQIHBx24s")
assert _ROW.size == 48


class Rows(NamedTuple):
    """Plain entries, in the order of the archive: columns, and the texts that they refer to."""

    offsets: tuple[int, ...]  # of the headers, bytes from the start of the archive
    numbers: tuple[int, ...]  # bytes of the object, if it is one
    value_ends: tuple[int, ...]
    directory_numbers: tuple[int, ...]
    kinds: tuple[int, ...]
    stats: tuple[bytes, ...]  # packed as the index has them
    names: list[bytes]
    directories: list[bytes]  # as they are spelled; several may be the same
    joined_values: bytes

    @classmethod
    def of(cls, texts: _native.TarTexts) -> Self:
        """Return what C has read, at least one entry."""
        offsets, numbers, value_ends, places, kinds, stats = zip(*_ROW.iter_unpack(texts.rows), strict=True)
        names, directories = texts.names[:-1].split(b"/"), texts.directories[:-1].split(b"\0")
        return cls(offsets, numbers, value_ends, places, kinds, stats, names, directories, texts.values)

    def path(self, row: int) -> bytes:
        """Return the path of an entry, without a slash before it."""
        return b"/".join(filter(None, (self.directories[self.directory_numbers[row]], self.names[row])))


class RowReader:
    """Read from *chunks* what *splitter* would be fed next."""

    def __init__(self, chunks: Chunks, splitter: TarSplitter) -> None:
        self._chunks, self._splitter = chunks, splitter
        digests = chunks.objects
        self._reader = _native.TarReader(digests.data, digests.digest_size)

    def read(self, boundary: tuple[int, int], limit: int) -> Rows | None:
        """Return at most *limit* plain entries, None if there are none; all but the last that was decompressed.

        Args:
            boundary: that of the splitter.
            limit: may be negative, then there are none.
        """
        chunks = self._chunks
        place = (chunks.inline_left, *boundary)
        texts, size, (inline_left, offset, padding) = self._reader.read(chunks.ahead(), place, max(limit, 0))
        if not texts.rows:
            return None
        rows = Rows.of(texts)
        chunks.skip(size, inline_left)
        self._splitter.skip_entries(len(rows.kinds), offset, padding)
        return rows
