"""Splitstreams: a byte string as inline data and references to objects, and named references to other objects.

A file is a header, an info block, two tables of digests, and two zstd sections: the named references and the chunks.
The merged content is the chunks joined, each being inline bytes or the whole of an object.

Source: composefs-rs, doc/splitstream.md; read by every composefs tool, written here bit for bit as by composefs-rs
0.9.4 if libzstd is 1.5.7.
"""

from __future__ import annotations

import io
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import BinaryIO, NamedTuple

from composefs import _native, limits, zstd
from composefs.digest import LG_BLOCK_SIZE, Algorithm, Digest
from composefs.errors import FormatError, LimitError
from composefs.tasks import Do, do_now

MAGIC = b"SplitStream"
VERSION = 0

# struct Header: magic, version, flags, algorithm, lg_blocksize, info start, info end
_HEADER = Struct("<11sBHBBQQ")
assert _HEADER.size == 32
# As bootc 1.15 and older wrote it: info start, end, flags, magic, version, algorithm, lg_blocksize
_OLD_HEADER = Struct("<QQH11sBBB")
assert _OLD_HEADER.size == _HEADER.size
# struct Info: start and end of stream refs, object refs, stream, named refs; content type; stream size
_INFO = Struct("<8Q8sQ")
assert _INFO.size == 80
_CHUNK = Struct("<q")  # negative: minus the number of inline bytes that follow; else an index into the object refs

_RUN_MAX = 1 << 22  # bytes of one inline run kept in memory; a guess, real ones have some kilobytes
_CHUNKS_MAX = 1 << 17  # bytes of chunks given to the compressor at a time: one call for many files
_SECTION_MAX = 1 << 24  # bytes of compressed chunks kept in memory; a guess, real layers have a few megabytes
_PIECE = 1 << 20  # bytes copied at a time

Spill = Callable[[], BinaryIO]


class ContentType:
    """The eight characters that say what a splitstream holds."""

    LAYER = b"ocilayer"
    CONFIG = b"ociconfg"
    MANIFEST = b"ocimanif"
    BLOB = b"oci_blob"


class SplitstreamWriter:
    """Write one splitstream: chunks in order, named references at any time, then `finish`.

    Args:
        algorithm: whose digests the references are.
        content_type: eight bytes, see `ContentType`.
        spill: makes an empty file, opened to read and write, for what does not fit memory.
        compress: does what compresses chunks; all that was given to it must be done before `finish`.
    """

    def __init__(self, algorithm: Algorithm, content_type: bytes, spill: Spill, compress: Do = do_now) -> None:
        self._algorithm, self._content_type, self._spill, self._do = algorithm, content_type, spill, compress
        self.inline_size = 0  # bytes of inline data so far
        self._size = 0  # bytes of merged content
        self._run = bytearray()  # inline data since the last reference ...
        self._run_file: BinaryIO | None = None  # ... and what came before it, if it got too long
        self._run_file_size = 0
        self._object_refs: dict[bytes, int] = {}
        self._stream_refs: dict[bytes, int] = {}
        self._names: dict[str, int] = {}
        self._chunks = bytearray()  # whole chunks that are not yet compressed
        self._compressor = zstd.compressor()
        self._section = _Section(spill)

    def inline(self, data: bytes | bytearray | memoryview) -> None:
        """Append inline bytes."""
        self._run += data
        if len(self._run) > _RUN_MAX:
            self._run_file = self._run_file or self._spill()
            self._run_file.write(self._run)
            self._run_file_size += len(self._run)
            self._run.clear()

    def external(self, digest: bytes, size: int) -> None:
        """Append the whole of the object named *digest*, which has *size* bytes."""
        self._flush()
        index = self._object_refs.setdefault(digest, len(self._object_refs))
        self._chunks += _CHUNK.pack(index)
        self._size += size

    def mixed(self, data: memoryview, start: int, end: int, spans: bytes, digests: bytes) -> None:
        """Append *data* from *start* to *end*, as `inline` and `external` would: the *spans* are objects.

        Args:
            data: holds what is appended.
            start: offset in *data*.
            end: offset in *data*.
            spans: offset in *data* and size of each object, in order; 8 bytes each, as the processor has numbers.
            digests: of the objects, back to back.
        """
        where = memoryview(spans).cast("Q")
        if not where:
            self.inline(data[start:end])
            return
        first, last = where[0], where[-2] + where[-1]
        self.inline(data[start:first])
        self._flush()
        refs, digest_size = self._object_refs, self._algorithm.digest_size
        each = [digests[place : place + digest_size] for place in range(0, len(digests), digest_size)]
        indexes = array("q", [refs.setdefault(digest, len(refs)) for digest in each])
        inline_size = last - first - sum(where[1::2])
        self._chunks += _native.pack_chunks(data, spans, indexes, inline_size + 2 * _CHUNK.size * len(each))
        self.inline_size += inline_size
        self._size += last - first
        if len(self._chunks) > _CHUNKS_MAX:
            self._compress()
        self.inline(data[last:end])

    def name(self, name: str, digest: bytes) -> None:
        """Add a reference to the object *digest* under *name*; the last one of a name counts."""
        self._names[name] = self._stream_refs.setdefault(digest, len(self._stream_refs))

    def finish(self) -> Iterator[bytes]:
        """Yield the bytes of the file, in order."""
        self._flush()
        self._compress()
        self._section.write(self._compressor.flush())
        compressor = zstd.compressor()
        records = [b"%d:%s\0" % (self._names[name], name.encode()) for name in sorted(self._names, key=str.encode)]
        named_refs = b"".join(map(compressor.compress, records)) + compressor.flush()

        stream_refs, object_refs = b"".join(self._stream_refs), b"".join(self._object_refs)
        ends, offset = [], _HEADER.size + _INFO.size
        for size in (len(stream_refs), len(object_refs), len(named_refs), self._section.size):
            ends.append((offset, offset + size))
            offset += size
        stream_range, object_range, names_range, section_range = ends
        info = (*stream_range, *object_range, *section_range, *names_range, self._content_type, self._size)
        header = (MAGIC, VERSION, 0, self._algorithm.kernel_id, LG_BLOCK_SIZE, _HEADER.size, _HEADER.size + _INFO.size)
        yield _HEADER.pack(*header) + _INFO.pack(*info)
        yield stream_refs
        yield object_refs
        yield named_refs
        yield from self._section.pieces()

    def close(self) -> None:
        """Let go of the files for what did not fit memory."""
        if self._run_file is not None:
            self._run_file.close()
        self._section.close()

    def _flush(self) -> None:
        """Emit the inline run as one chunk, as readers of layers want it."""
        size = self._run_file_size + len(self._run)
        if not size:
            return
        self.inline_size += size
        self._size += size
        self._chunks += _CHUNK.pack(-size)
        if self._run_file is not None:
            self._run_file.seek(0)
            while piece := self._run_file.read(_PIECE):
                self._chunks += piece
                self._compress()
            self._run_file.close()
            self._run_file, self._run_file_size = None, 0
        self._chunks += self._run
        self._run.clear()
        if len(self._chunks) > _CHUNKS_MAX:
            self._compress()

    def _compress(self) -> None:
        chunks, self._chunks = self._chunks, bytearray()
        self._do(lambda: self._section.write(self._compressor.compress(chunks)))


class _Section:
    """Bytes collected in memory, or in a file once there are many."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._file: BinaryIO = io.BytesIO()
        self.size = 0

    def write(self, data: bytes) -> None:
        if self.size <= _SECTION_MAX < self.size + len(data):
            memory, self._file = self._file, self._spill()
            memory.seek(0)
            self._file.write(memory.read())
        self._file.write(data)
        self.size += len(data)

    def pieces(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        self._file.close()

    def close(self) -> None:
        self._file.close()


class Inline(NamedTuple):
    """A piece of an inline chunk; the next piece overwrites it."""

    data: memoryview


class External(NamedTuple):
    """A chunk that is the whole of an object."""

    digest: Digest


class SplitstreamReader:
    """Read the splitstream in *file*, which messages call *source*.

    Args:
        file: seekable; stays the caller's to close.
        algorithm: that of the repository.
        content_type: the one that is wanted, if one is.

    Raises:
        FormatError: *file* is no splitstream, or one of another algorithm or content type.
        LimitError: it refers to too much.
    """

    def __init__(self, file: BinaryIO, algorithm: Algorithm, source: str, content_type: bytes | None = None) -> None:
        self._file, self._algorithm, self._source = file, algorithm, source
        self._file_size = file.seek(0, os.SEEK_END)
        info_start, info_end = self._header()
        if info_end - info_start < _INFO.size:
            raise FormatError(source, 0, f"info block of {info_end - info_start} bytes, less than {_INFO.size}")
        self._check_range(info_start, info_end, "info block")
        info = _INFO.unpack(self._range(info_start, info_start + _INFO.size, "info block"))
        self.content_type: bytes = info[8]
        self.size: int = info[9]  # bytes of merged content, as the writer says
        if self.size > limits.ARCHIVE_SIZE:
            raise LimitError(source, info_start + 72, "bytes of content", limits.ARCHIVE_SIZE, self.size)
        if content_type is not None and self.content_type != content_type:
            what = f"content type {self.content_type!r}, wanted {content_type!r}"
            raise FormatError(source, info_start + 64, what)
        self.stream_refs = self._digests(info[0], info[1], "stream references")
        self.object_refs = self._digests(info[2], info[3], "object references")
        self._section = self._check_range(info[4], info[5], "stream")
        self.named_refs = self._named_refs(info[6], info[7])

    def chunks(self) -> Iterator[Inline | External]:
        """Yield the merged content in order.

        Raises:
            FormatError: the chunks are cut, or refer to nothing.
        """
        return iter(self.open_chunks().next, None)

    def open_chunks(self) -> Chunks:
        """Return the merged content as `Chunks`, which give more of a hand than an iterator."""
        source = _Decompressed(_FileRange(self._file, *self._section), f"{self._source}, chunks")
        return Chunks(source, self.object_refs, self._source)

    def merged(self, open_object: Callable[[Digest], BinaryIO]) -> Iterator[bytes | memoryview]:
        """Yield the merged content in pieces; *open_object* opens the objects it refers to."""
        size = 0
        for chunk in self.chunks():
            if isinstance(chunk, Inline):
                size += len(chunk.data)
                self.check_size(size)
                yield chunk.data
                continue
            with open_object(chunk.digest) as file:
                while piece := file.read(_PIECE):
                    size += len(piece)
                    self.check_size(size)
                    yield piece

    def check_size(self, size: int) -> None:
        """See that what has come so far, *size* bytes, is not more than there is to come.

        A few bytes can refer to a large object over and over, so that it would never end.

        Raises:
            FormatError: it is more.
        """
        if size > self.size:
            raise FormatError(self._source, 0, f"has more than the {self.size} bytes that it says")

    def _header(self) -> tuple[int, int]:
        """Return the range of the info block."""
        data = self._range(0, min(_HEADER.size, self._file_size), "header")
        if len(data) < _HEADER.size:
            raise FormatError(self._source, 0, f"file of {len(data)} bytes is no splitstream")
        magic, version, _, algorithm, lg_block_size, start, end = _HEADER.unpack(data)
        if magic != MAGIC:
            start, end, _, magic, version, algorithm, lg_block_size = _OLD_HEADER.unpack(data)
        if magic != MAGIC:
            raise FormatError(self._source, 0, "not a splitstream")
        for what, got, wanted in (
            ("version", version, VERSION),
            ("algorithm", algorithm, self._algorithm.kernel_id),
            ("log2 of the block size", lg_block_size, LG_BLOCK_SIZE),
        ):
            if got != wanted:
                raise FormatError(self._source, 0, f"{what} {got}, wanted {wanted}")
        return start, end

    def _check_range(self, start: int, end: int, what: str) -> tuple[int, int]:
        if not start <= end <= self._file_size:
            raise FormatError(self._source, start, f"{what} at {start} to {end} of {self._file_size} bytes")
        return start, end

    def _range(self, start: int, end: int, what: str) -> bytes:
        self._check_range(start, end, what)
        self._file.seek(start)
        data = self._file.read(end - start)
        if len(data) != end - start:
            raise FormatError(self._source, start, f"{what} is cut to {len(data)} of {end - start} bytes")
        return data

    def _digests(self, start: int, end: int, what: str) -> DigestTable:
        size = self._algorithm.digest_size
        self._check_range(start, end, what)
        if (end - start) % size:
            raise FormatError(self._source, start, f"{what} of {end - start} bytes are no whole digests")
        if (end - start) // size > limits.ENTRIES:
            raise LimitError(self._source, start, what, limits.ENTRIES, (end - start) // size)
        return DigestTable(self._algorithm, self._range(start, end, what))

    def _named_refs(self, start: int, end: int) -> dict[str, Digest]:
        where = f"{self._source}, named references"
        source = _FileRange(self._file, *self._check_range(start, end, "named references"))
        data = bytearray()
        for slot in zstd.decompress(source, where):
            data += slot
            if len(data) > limits.NAMED_REFS_SIZE:
                raise LimitError(where, 0, "bytes", limits.NAMED_REFS_SIZE)
        *records, rest = bytes(data).split(b"\0")
        if rest:
            raise FormatError(where, len(data) - len(rest), "bytes behind the last record")
        found = {}
        for record in records:
            index, colon, name = record.partition(b":")
            digits = index.removeprefix(b"+")
            if not colon or not digits.isdigit() or len(digits) > 20 or int(digits) >= len(self.stream_refs):
                raise FormatError(where, 0, f"record {record!r} refers to none of {len(self.stream_refs)} digests")
            try:
                found[name.decode()] = self.stream_refs[int(digits)]
            except UnicodeDecodeError:
                raise FormatError(where, 0, f"name {name!r} is not UTF-8") from None
        return found


class Chunks:
    """The merged content of a splitstream, chunk by chunk; errors are those of `SplitstreamReader.chunks`.

    Args:
        source: the decompressed chunks.
        objects: that they refer to.
        label: what messages call the splitstream.
    """

    def __init__(self, source: _Decompressed, objects: DigestTable, label: str) -> None:
        self._source, self.objects, self._label = source, objects, label
        self.inline_left = 0  # bytes of the inline chunk still to come
        self._references = 0  # to objects, so far

    def next(self, size: int = sys.maxsize) -> Inline | External | None:
        """Return the next chunk, of an inline one a piece of at most *size* bytes; None at the end."""
        source = self._source
        if not self.inline_left:
            head = source.read(_CHUNK.size)
            if not head:
                return None
            if len(head) < _CHUNK.size:
                raise FormatError(self._label, source.offset, "chunks end inside a chunk header")
            (number,) = _CHUNK.unpack(head)
            if number >= 0:
                if number >= len(self.objects):
                    what = f"chunk refers to object {number} of {len(self.objects)}"
                    raise FormatError(self._label, source.offset, what)
                self._references += 1
                if self._references > limits.ENTRIES:
                    raise LimitError(self._label, source.offset, "references to objects", limits.ENTRIES)
                return External(self.objects[number])
            self.inline_left = -number
        piece = source.take(min(self.inline_left, size))
        if not piece:
            what = f"{self.inline_left} bytes of inline data are missing"
            raise FormatError(f"{self._label}, chunks", source.offset, what)
        self.inline_left -= len(piece)
        return Inline(piece)

    def ahead(self) -> memoryview:
        """Return what is decompressed of what comes: first *inline_left* bytes, then chunks with their headers."""
        return self._source.ahead()

    def skip(self, size: int, inline_left: int) -> None:
        """Go over *size* bytes of `ahead`, to where *inline_left* bytes of an inline chunk are still to come."""
        self._source.take(size)
        self.inline_left = inline_left


class DigestTable(Sequence[Digest]):
    """Digests back to back, as a sequence."""

    def __init__(self, algorithm: Algorithm, data: bytes) -> None:
        self._algorithm = algorithm
        self.data = data

    @property
    def digest_size(self) -> int:
        """Bytes of a digest."""
        return self._algorithm.digest_size

    def raw(self) -> set[bytes]:
        """Return the different digests among them, as bytes."""
        size = self.digest_size
        return {self.data[start : start + size] for start in range(0, len(self.data), size)}

    def __len__(self) -> int:
        return len(self.data) // self._algorithm.digest_size

    def __getitem__(self, index: int) -> Digest:  # type: ignore[override]  # nobody needs slices
        size = self._algorithm.digest_size
        raw = self.data[index * size : (index + 1) * size]
        if index < 0 or not raw:
            raise IndexError(index)
        return Digest(self._algorithm, raw)

    def __iter__(self) -> Iterator[Digest]:
        algorithm, size = self._algorithm, self._algorithm.digest_size
        for start in range(0, len(self.data), size):
            yield Digest(algorithm, self.data[start : start + size])


class _FileRange:
    """The bytes *start* to *end* of a file, read in order; others may move its position meanwhile."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._position, self._end = file, start, end

    def read(self, size: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(min(size, self._end - self._position))
        self._position += len(data)
        return data


class _Decompressed:
    """The contents of a zstd section, by number of bytes."""

    def __init__(self, file: zstd.Readable, source: str) -> None:
        self._slots = zstd.decompress(file, source)
        self._slot = memoryview(b"")
        self._start = 0  # of the slot, bytes from the start of the contents
        self._position = 0  # in the slot

    @property
    def offset(self) -> int:
        """Where the next byte is, from the start of the contents."""
        return self._start + self._position

    def ahead(self) -> memoryview:
        """Return what is decompressed of the bytes that come next, none only at the end."""
        self._refill()
        return self._slot[self._position :]

    def read(self, size: int) -> bytes:
        """Return *size* bytes, or what there is before the end."""
        end = self._position + size
        if end <= len(self._slot):  # nearly always, and in a third of the time
            data = bytes(self._slot[self._position : end])
            self._position = end
            return data
        data = bytes(self.take(size))
        while len(data) < size and (piece := self.take(size - len(data))):
            data += piece
        return data

    def take(self, size: int) -> memoryview:
        """Return at most *size* bytes, none only at the end."""
        self._refill()
        piece = self._slot[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def _refill(self) -> None:
        if self._position == len(self._slot):
            self._start += len(self._slot)
            self._slot, self._position = memoryview(next(self._slots, b"")), 0
