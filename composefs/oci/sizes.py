"""How much a layer holds, told before it is read: by what its blob says of itself, else by what is usual.

Whatever is not known is a range: the least that can be, the likeliest, and the most that is usual.  The usual is
that of 58 Debian packages, browsers, office, compilers and a kernel among them, in 20 layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, Self

from composefs.oci.manifest import Compression
from composefs.tar import BLOCK, INLINE_MAX

if TYPE_CHECKING:
    from composefs.oci.toc import TocEntry

RATIOS = {Compression.NONE: 1.0, Compression.GZIP: 3.16, Compression.ZSTD: 3.5}  # of archive to blob
ARCHIVE_SIZE = 4_560_000_000  # bytes of all archives of the usual image
ENTRIES = 240_000
OBJECTS = 156_000  # files above 64 bytes
_DISTINCT_SIZE = 0.926  # of the archive: contents, without headers, and each only once

_RATIO_MAX = 8  # of archive to blob, of what is usual
_OBJECT_SIZE_MIN = 2048  # bytes of archive for each object, of what is usual: source code has twice that
# What a layer stores takes at least this part of its blob: contents are stored as they are, so only files that occur
# twice or that the repository has, and file systems that compress, make it less.  Most images store thrice the blob.
_LEAST = 0.5

_DEFLATE_MAX = 1032  # bytes that one byte of deflate holds at most
_GZIP_TRAILER = Struct("<II")  # CRC-32, and the size of the contents, modulo 2**32
_GZIP_MODULUS = 1 << 32
TAIL_SIZE = _GZIP_TRAILER.size  # bytes at the end of a blob that tell something


class Known(Enum):
    """What tells how much a layer holds; the value is for people."""

    STORED = "the repository"
    CONTENTS = "table of contents"  # of zstd:chunked, or eStargz
    PLAIN = "its size"  # the blob is the archive
    TRAILER = "end of the blob"
    USUAL = "usual ratio"


@dataclass(frozen=True)
class Range:
    """A number that is not known: the least that it can be, the likeliest, and the most that is usual."""

    least: int
    likely: int
    most: int

    @classmethod
    def exactly(cls, number: int) -> Self:
        """Return the range of what is known."""
        return cls(number, number, number)

    def times(self, least: int, likely: int, most: int) -> Range:
        """Return the range of so many things that each have so much."""
        return Range(self.least * least, self.likely * likely, self.most * most)

    def __add__(self, other: Range) -> Range:
        return Range(self.least + other.least, self.likely + other.likely, self.most + other.most)


@dataclass(frozen=True)
class Contents:
    """How much a layer holds.

    Attributes:
        known: what tells it.
        archive: bytes of its tar archive.
        entries: of the archive.
        objects: files above 64 bytes, which become objects, each content once.
        size: bytes of these.
        files: the same, if that is known exactly: sizes by content, whatever the content is called.
    """

    known: Known
    archive: Range
    entries: Range
    objects: Range
    size: Range
    files: Mapping[str, int] | None = None

    @classmethod
    def of_entries(cls, entries: Iterable[TocEntry]) -> Self:
        """Return what the *entries* of a table of contents tell; longer headers of the archive are not in it."""
        count, archive, files = 0, 2 * BLOCK, dict[str, int]()
        for entry in entries:
            if entry.type == "chunk":
                continue
            count += 1
            archive += BLOCK
            if entry.type == "reg":
                archive += -(-entry.size // BLOCK) * BLOCK
                if entry.size > INLINE_MAX and entry.digest is not None:
                    files[entry.digest] = entry.size
        objects, size = Range.exactly(len(files)), Range.exactly(sum(files.values()))
        return cls(Known.CONTENTS, Range.exactly(archive), Range.exactly(count), objects, size, files)

    @classmethod
    def of_stream(cls, objects: int, archive: int) -> Self:
        """Return what is known of a layer that is in the repository: of its archive, and how many *objects* it has."""
        entries = Range(objects, round(objects * ENTRIES / OBJECTS), max(objects, archive // BLOCK))
        return cls(Known.STORED, Range.exactly(archive), entries, Range.exactly(objects), Range.exactly(archive))

    @classmethod
    def of_blob(cls, blob_size: int, compression: Compression | None, tail: bytes | None = None) -> Self:
        """Return what is usual for a blob of *blob_size* bytes, whose last bytes are *tail*, if they are known."""
        if compression is None:  # an artifact's, which is stored as it is
            size = Range.exactly(blob_size)
            return cls(Known.PLAIN, size, Range.exactly(0), Range.exactly(1), size)
        archive, known = archive_size(blob_size, compression, tail)
        size = Range(least_stored(blob_size, compression), round(_DISTINCT_SIZE * archive.likely), archive.most)
        return cls(known, archive, _usual_count(ENTRIES, archive), _usual_count(OBJECTS, archive), size)


def least_stored(blob_size: int, compression: Compression | None) -> int:
    """Return the bytes of contents that a layer has at least, of which there may be some in the repository."""
    # What is not compressed may be so by the file system.
    is_plain = compression in (None, Compression.NONE)
    return round(_LEAST * (blob_size / RATIOS[Compression.GZIP] if is_plain else blob_size))


def archive_size(blob_size: int, compression: Compression, tail: bytes | None) -> tuple[Range, Known]:
    """Return about how large the archive in a blob is.

    The end of a gzip member tells its size, but for what goes beyond 4 GiB; of several the last one's would be told,
    which is not taken for the whole.

    Args:
        blob_size: bytes.
        compression: of the archive in it.
        tail: the last `TAIL_SIZE` bytes of the blob; None: they are not known.
    """
    if compression is Compression.NONE:
        return Range.exactly(blob_size), Known.PLAIN
    usual, most = round(blob_size * RATIOS[compression]), _RATIO_MAX * blob_size
    if compression is Compression.GZIP and tail is not None and len(tail) == TAIL_SIZE:
        told = _GZIP_TRAILER.unpack(tail)[1]
        told += max(0, round((usual - told) / _GZIP_MODULUS)) * _GZIP_MODULUS
        if blob_size <= told <= _DEFLATE_MAX * blob_size:
            return Range.exactly(told), Known.TRAILER
        if told < blob_size and told + _GZIP_MODULUS <= _DEFLATE_MAX * blob_size:  # there may be a file of zeros
            most = max(most, told + _GZIP_MODULUS)
    return Range(blob_size, usual, most), Known.USUAL


def _usual_count(count: int, archive: Range) -> Range:
    """Return how many of what the usual image has *count* of are in an archive."""
    return Range(0, round(count * archive.likely / ARCHIVE_SIZE), archive.most // _OBJECT_SIZE_MIN)
