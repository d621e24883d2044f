"""Cut a compressed blob, as it comes, between frames of zstd or members of gzip, each of which inflates by itself.

Frames are followed by their headers.  Where a member ends only its decoder knows: that another one begins is seen by
the header that Go writes, and so eStargz, or bgzip.  Compressed data may hold the same bytes by chance, so that is a
guess; who inflates what was cut finds out.  The tables of contents of zstd:chunked and eStargz would say no more, come
last in the blob, and may be wrong as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import zstandard

from composefs import zstd
from composefs.oci.blobs import READ_SIZE, SLOT_SIZE, MemberDecoder, decoder_errors, in_slots, new_member_decoder

# Bytes that are read in search of the next border: a frame of pzstd, where nothing of its 8 MiB could be compressed.
PATIENCE = 9 << 20
_REUSED_MAX = 1 << 22  # bytes: a decoder that has put out more may have as much of its window in memory; it is let go
_MAGIC = b"\x1f\x8b\x08"
# It, no flags or that of an extra field, no time, the level, an unknown system.
_HEADER = re.compile(rb"\x1f\x8b\x08[\x00\x04]\x00\x00\x00\x00[\x00\x02\x04]\xff")
_HEADER_SIZE = 10


class CutError(Exception):
    """What was cut off are no whole frames or members, or they are damaged."""


class Cutter(Protocol):
    """Knows where to cut a blob."""

    @property
    def patience(self) -> int:
        """Bytes to read at most until a border comes."""

    def feed(self, piece: bytes) -> int:
        """Take the next piece; return the last border that is known, as an offset in the blob.

        Raises:
            FormatError: the blob is broken.
        """

    def inflate(self, run: bytes) -> Iterator[bytes]:
        """Yield what *run*, which lies between two borders, holds, in slots.

        Raises:
            CutError: there is no border, or *run* is damaged.
        """


class ZstdCutter:
    """Cuts between frames."""

    def __init__(self, source: str) -> None:
        self._frames = zstd.Frames(source)
        self._idle: list[zstandard.ZstdDecompressor] = []  # to be used again: new ones have new pages

    @property
    def patience(self) -> int:
        """As in `Cutter`."""
        return PATIENCE

    def feed(self, piece: bytes) -> int:
        """As in `Cutter`."""
        self._frames.follow(piece)
        return self._frames.end

    def inflate(self, run: bytes) -> Iterator[bytes]:
        """As in `Cutter`."""
        decompressor, size = self._idle.pop() if self._idle else zstd.decompressor(), 0
        try:
            for slot in zstd.decompress_frames(run, SLOT_SIZE, decompressor):
                size += len(slot)
                yield slot
        except zstandard.ZstdError as error:
            raise CutError from error
        if size <= _REUSED_MAX:
            self._idle.append(decompressor)


class GzipCutter:
    """Cuts before members whose header is one of those that Go writes when it is told nothing."""

    def __init__(self) -> None:
        self._offset = self._border = 0
        self._tail = b""  # of what was fed: a header may begin in it

    @property
    def patience(self) -> int:
        """As in `Cutter`: a blob of many members has the second one near its begin."""
        return PATIENCE if self._border else READ_SIZE

    def feed(self, piece: bytes) -> int:
        """As in `Cutter`."""
        data, start = self._tail + piece, self._offset - len(self._tail)
        self._offset += len(piece)
        self._tail = data[1 - _HEADER_SIZE :]
        at = len(data)
        while (at := data.rfind(_MAGIC, 0, at)) >= 0:
            if _HEADER.match(data, at):
                self._border = start + at
                break
        return self._border

    def inflate(self, run: bytes) -> Iterator[bytes]:
        """As in `Cutter`."""
        return in_slots(self._inflate(run))

    def _inflate(self, run: bytes) -> Iterator[bytes]:
        borders = [header.start() for header in _HEADER.finditer(run)]
        if borders[:1] != [0]:  # the first member of a blob may have any header
            raise CutError
        member = new_member_decoder()
        try:
            for start, end in pairwise([*borders, len(run)]):
                if member.eof:
                    member = new_member_decoder()
                yield from _slots(member, run[start:end])
                if member.unused_data:
                    raise CutError
        except decoder_errors as error:
            raise CutError from error
        if not member.eof:
            raise CutError


def _slots(member: MemberDecoder, data: bytes) -> Iterator[bytes]:
    while slot := member.decompress(data, SLOT_SIZE):
        yield slot
        if member.eof or member.needs_input:
            return
        data = b""
