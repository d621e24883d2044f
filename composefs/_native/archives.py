"""Tar archives, and the chunks of splitstreams."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, NamedTuple, cast

from composefs._native.core import SPAN_SIZE, Buffer, check, ffi, lib
from composefs._native.hashes import StreamHash

if TYPE_CHECKING:
    from composefs._cfs import Merge, TarObjects, TarPlace, TarRows


def sum_bytes(data: Buffer) -> int:
    """Return the sum of all bytes of *data*, as in the checksum of a tar header."""
    source = ffi.from_buffer(data)
    return lib.cfs_sum_bytes(source, len(source))


class TarTexts(NamedTuple):
    """Entries of an archive, as `struct cfs_tar_rows` of csrc/cfs_api.h."""

    rows: bytes  # records, as `struct tar_row` of csrc/tar.c
    names: bytes
    directories: bytes
    values: bytes


class TarReader:
    """Read the plain entries of a layer from the chunks of its splitstream, many at a time.

    Args:
        digests: of its objects, back to back.
        digest_size: bytes of one.
    """

    CAPACITY = 2048  # entries at a time: 1 MiB of headers
    _ROW_SIZE, _TEXT_SIZE = 48, 256  # bytes for each

    def __init__(self, digests: bytes, digest_size: int) -> None:
        self._source = ffi.from_buffer(digests)
        self._digests = ffi.new("struct cfs_digests *", (self._source, digest_size, len(digests) // digest_size))
        self._rows = ffi.new("uint8_t[]", self.CAPACITY * self._ROW_SIZE)
        self._names, self._directories = (ffi.new("char[]", self.CAPACITY * self._TEXT_SIZE) for _ in range(2))
        self._values = ffi.new("uint8_t[]", self.CAPACITY * self._TEXT_SIZE)
        texts = (self._rows, self._names, self._directories, self._values)
        self._out = cast("TarRows", ffi.new("struct cfs_tar_rows *", texts))
        self._place = cast("TarPlace", ffi.new("struct cfs_tar_place *"))

    def read(self, data: Buffer, place: tuple[int, int, int], limit: int) -> tuple[TarTexts, int, tuple[int, int, int]]:
        """Read at most *limit* entries from *data*.

        Args:
            data: decompressed chunks.
            place: the bytes to come of the inline chunk that *data* begins in; the offset in the archive; the bytes
                before the next header.
            limit: at most `CAPACITY`.

        Returns:
            The entries; the bytes of *data* that they take; and the place behind them.
        """
        here, out = self._place, self._out
        here.position = 0
        here.inline_left, here.offset, here.padding = place
        out.capacity = min(limit, self.CAPACITY)
        with ffi.from_buffer(data) as source:
            check(lib.cfs_tar_read(source, len(source), here, self._digests, out))
        texts = TarTexts(
            ffi.buffer(self._rows, out.count * self._ROW_SIZE)[:],
            ffi.buffer(self._names, out.names_size)[:],
            ffi.buffer(self._directories, out.directories_size)[:],
            ffi.buffer(self._values, out.values_size)[:],
        )
        return texts, here.position, (here.inline_left, here.offset, here.padding)


class TarPart(NamedTuple):
    """Plain entries of an archive, split off."""

    texts: TarTexts
    spans: bytes  # where the contents of its objects are, as `struct cfs_span` each
    digests: bytes  # of these, back to back
    end: int  # where what follows begins
    offset: int  # of that in the archive
    padding: int  # bytes there before the next header


class TarCutter:
    """Split plain entries off an archive, many at a time, and compute the digests of their contents.

    Args:
        alg: the hash.
        digest_size: bytes; must be that of the hash.
    """

    CAPACITY = 1024  # entries at a time
    _ROW_SIZE, _TEXT_SIZE = 48, 256  # bytes for each

    def __init__(self, alg: int, digest_size: int) -> None:
        self._alg = alg
        self._rows = ffi.new("uint8_t[]", self.CAPACITY * self._ROW_SIZE)
        self._names, self._directories = (ffi.new("char[]", self.CAPACITY * self._TEXT_SIZE) for _ in range(2))
        self._values = ffi.new("uint8_t[]", self.CAPACITY * self._TEXT_SIZE)
        texts = (self._rows, self._names, self._directories, self._values, self.CAPACITY)
        self._out = cast("TarRows", ffi.new("struct cfs_tar_rows *", texts))
        self._spans = ffi.new("struct cfs_span[]", self.CAPACITY)
        self._digests = ffi.new("uint8_t[]", self.CAPACITY * digest_size)
        self._objects = cast(
            "TarObjects", ffi.new("struct cfs_tar_objects *", (self._spans, self._digests, digest_size))
        )
        self._place = cast("TarPlace", ffi.new("struct cfs_tar_place *"))

    def cut(
        self, data: Buffer, place: tuple[int, int, int], limit: int, beside: StreamHash | None = None
    ) -> TarPart | None:
        """Split off at most *limit* entries; None: there is no plain one.

        Args:
            data: a piece of the archive.
            place: where to begin in it; the offset of that in the archive; the bytes before the next header.
            limit: at most `CAPACITY`.
            beside: is hashed meanwhile, as far as there is room.
        """
        here, out, objects = self._place, self._out, self._objects
        here.position, here.offset, here.padding = place
        out.capacity = min(limit, self.CAPACITY)
        stream = beside.stream if beside is not None else ffi.NULL
        with ffi.from_buffer(data) as source:
            check(lib.cfs_tar_split(self._alg, source, len(source), here, out, objects, stream))
        count = out.count
        if not count:
            return None
        found = objects.count
        texts = TarTexts(
            ffi.buffer(self._rows, count * self._ROW_SIZE)[:],
            ffi.buffer(self._names, out.names_size)[:],
            ffi.buffer(self._directories, out.directories_size)[:],
            ffi.buffer(self._values, out.values_size)[:],
        )
        spans = ffi.buffer(self._spans, found * SPAN_SIZE)[:]
        digests = ffi.buffer(self._digests, found * objects.digest_size)[:]
        return TarPart(texts, spans, digests, here.position, here.offset, here.padding)


def pack_chunks(data: Buffer, spans: bytes, indexes: array[int], capacity: int) -> bytearray:
    """Return the chunks of a splitstream for *data* from its first object to its last.

    Args:
        data: a piece of an archive.
        spans: where the objects are in it, in order, as `struct cfs_span` each.
        indexes: theirs among the references, of type "q".
        capacity: bytes, at least as many as there will be.

    Raises:
        OSError: EINVAL, for spans out of order or outside.
    """
    out = bytearray(capacity)
    where, numbers = ffi.from_buffer("struct cfs_span[]", spans), ffi.from_buffer("int64_t[]", indexes)
    with ffi.from_buffer(data) as source, ffi.from_buffer(out) as target:
        size = check(lib.cfs_pack_chunks(source, len(source), where, numbers, len(numbers), target, capacity))
    del out[size:]
    return out


class ChunkMerger:
    """Join what the chunks of a splitstream are: inline bytes and objects, which are not proved.

    Args:
        digests: of its objects, back to back.
        digest_size: bytes of one.
        dir_fd: the directory of all objects, each at `xx/rest`.
    """

    def __init__(self, digests: bytes, digest_size: int, dir_fd: int) -> None:
        self._source = ffi.from_buffer(digests)
        self._digests = ffi.new("struct cfs_digests *", (self._source, digest_size, len(digests) // digest_size))
        self._dir_fd = dir_fd
        self._merge = cast("Merge", ffi.new("struct cfs_merge *"))
        self._merge.fd = -1

    def merge(self, chunks: Buffer, out: bytearray) -> tuple[int, int]:
        """Fill *out* from decompressed *chunks*.

        Returns:
            The bytes of *chunks* that are done with, and the bytes put out.  Less than all of *out*: there must be more
            chunks.

        Raises:
            OSError: the object number `object` cannot be read; ERANGE: there is none of that number.
        """
        source, target = ffi.from_buffer(chunks), ffi.from_buffer(out)
        size = lib.cfs_merge_chunks(source, len(source), self._merge, self._digests, self._dir_fd, target, len(target))
        del source, target  # as in `ObjectChecker.check`
        return self._merge.position, check(size)

    @property
    def object(self) -> int:
        """The number of the last object."""
        return self._merge.object

    @property
    def is_at_end(self) -> bool:
        """Whether the chunks may end here."""
        return not self._merge.inline_left and not self._merge.head_size and self._merge.fd < 0

    def close(self) -> None:
        """Close the object that was being read."""
        if self._merge.fd >= 0:
            os.close(self._merge.fd)
            self._merge.fd = -1
