"""Read the blob of a layer once: its digest and size are checked while its tar archive comes out.

gzip (all members) and zstd (all frames) are chosen by media type and proved by their magic numbers, which the decoders
ask for.  Memory is bounded, whatever a blob inflates to.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self

from composefs import zstd
from composefs.errors import CancelledError, FormatError, IntegrityError
from composefs.oci.manifest import Compression
from composefs.oci.sources.source import Blob

READ_SIZE = 1 << 18  # bytes of a blob at a time
SLOT_SIZE = 1 << 19  # bytes of tar archive at a time; with 1 << 20, ISA-L is 0.6 to 0.9 times as fast: page faults
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_FLAGS, _GZIP_RESERVED = 3, 0xE0  # place in the header; those that RFC 1952 has refused, as ISA-L does not


class BlobReader:
    """The bytes of *blob*, proved by its digest and size; messages call it *source*.

    Args:
        blob: where it is, and what it must be.
        source: for messages.
        advance: called with the number of bytes of each piece that was read.
        streams: how many connections it may have at a time.
        is_hashed: compute the digest; otherwise who reads it does.
    """

    def __init__(
        self,
        blob: Blob,
        source: str,
        advance: Callable[[int], None],
        *,
        streams: Callable[[], int] = lambda: 1,
        is_hashed: bool = True,
    ) -> None:
        self.source = source
        self._blob, self._size, self.advance = blob, blob.size, advance
        self._streams, self._is_hashed, self._is_stopped = streams, is_hashed, False
        self._sha256 = hashlib.sha256()
        self.offset = 0  # bytes read so far
        self._counted = 0  # bytes that *advance* knows of
        self._stream = blob.place.open(source, self._allowed)
        if self._stream.size not in (None, self._size):
            self.close()
            raise IntegrityError(f"{source}, blob {blob.digest}", f"{self._size} bytes", f"{self._stream.size} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the bytes."""
        self._stream.close()

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, none only at the end."""
        data = self._stream.read(size)
        if self._is_hashed:
            self._sha256.update(data)
        self.offset += len(data)
        if self.offset > self._size:
            raise IntegrityError(f"{self.source}, blob {self._blob.digest}", f"{self._size} bytes", "more: it grows")
        new = max(self.offset - self._counted, 0)  # none, while it is read again
        self._counted += new
        self.advance(new)
        return data

    def stop(self) -> None:
        """Have no thread wait any longer for bytes from a network: they are of no use any more."""
        self._is_stopped = True

    def _allowed(self) -> int:
        if self._is_stopped:
            raise CancelledError(f"{self.source} was given up")
        return self._streams()

    def verify(self, got: str | None = None) -> None:
        """Compare the whole with the digest; what is left of it is read before.

        Args:
            got: the digest of the whole, if who has read all of it knows that.

        Raises:
            IntegrityError: it is another blob.
        """
        if got is None:
            if not self._is_hashed:
                self._is_hashed, self.offset = True, 0
                self._stream.close()
                self._stream = self._blob.place.open(self.source, self._allowed)
            while self.read(READ_SIZE):
                pass
            got = "sha256:" + self._sha256.hexdigest()
        if got != self._blob.digest:
            raise IntegrityError(f"{self.source}, blob", self._blob.digest, got)


class Compressed(Protocol):
    """What `decompress` reads from."""

    @property
    def source(self) -> str:
        """What messages call it."""

    @property
    def offset(self) -> int:
        """How many bytes were read so far."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""


def decompress(blob: Compressed, compression: Compression) -> Iterator[bytes]:
    """Yield the tar archive in *blob*, in slots.

    Args:
        blob: at its begin, or between two of its members or frames.
        compression: how it holds the archive.

    Raises:
        FormatError: the blob is cut, followed by other data, or not compressed as *compression* says.
    """
    match compression:
        case Compression.NONE:
            while slot := blob.read(SLOT_SIZE):
                yield slot
        case Compression.ZSTD:
            yield from zstd.decompress(blob, blob.source, SLOT_SIZE, blob.offset)
        case Compression.GZIP:
            yield from in_slots(_gunzip(blob))


def in_slots(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *pieces*, small ones put together: the entries that are whole in a slot are done with at once."""
    gathered, size = list[bytes](), 0
    for piece in pieces:
        if size + len(piece) > SLOT_SIZE:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(piece)
        size += len(piece)
    if gathered:
        yield b"".join(gathered)


def _gunzip(blob: Compressed) -> Iterator[bytes]:
    is_first = not blob.offset
    data = _fill(blob, b"")
    while data or is_first:
        start = blob.offset - len(data)
        if not data.startswith(_GZIP_MAGIC):
            raise FormatError(blob.source, start, _what_is_wrong(data, is_first=is_first))
        if len(data) > _GZIP_FLAGS and data[_GZIP_FLAGS] & _GZIP_RESERVED:
            what = f"gzip member at {start} is broken: unknown flags {data[_GZIP_FLAGS] & _GZIP_RESERVED:#x}"
            raise FormatError(blob.source, start, what)
        member = new_member_decoder()
        try:
            yield from _inflate(blob, member, data)
        except decoder_errors as error:
            text = str(error).partition(": ")[2] or str(error)
            raise FormatError(blob.source, blob.offset, f"gzip member at {start} is broken: {text}") from None
        data, is_first = _fill(blob, member.unused_data), False


def _inflate(blob: Compressed, member: MemberDecoder, data: bytes) -> Iterator[bytes]:
    slot = member.decompress(data, SLOT_SIZE)
    while True:
        if slot:
            yield slot
        if member.eof:
            return
        data = b""
        if member.needs_input:
            data = blob.read(READ_SIZE)
            if not data:
                raise FormatError(blob.source, blob.offset, "gzip data ends inside a member")
        slot = member.decompress(data, SLOT_SIZE)


def _fill(blob: Compressed, data: bytes) -> bytes:
    """Return *data* and more, so that a member's whole header is in it: ISA-L misreads one that comes in pieces."""
    while len(data) < READ_SIZE // 2 and (more := blob.read(READ_SIZE)):
        data += more
    return data


def _what_is_wrong(data: bytes, *, is_first: bool) -> str:
    if is_first:
        return "not gzip data" if data else "no gzip data at all"
    return f"{'zero padding' if not data.strip(bytes(1)) else 'bytes'} behind the last gzip member"


class MemberDecoder(Protocol):
    """A decoder of one gzip member that never puts out more than it is asked to."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing to put out before more comes in."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the member."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most *max_length* bytes; what is left of *data* is kept for the next call."""


class ZlibDecoder:
    """zlib's decoder with the interface of ISA-L's."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the member."""
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """As in `MemberDecoder`."""
        slot = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.needs_input = len(slot) < max_length and not self._decoder.unconsumed_tail
        return slot


def _isal_decoder() -> MemberDecoder:
    decoder: MemberDecoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decoder


new_member_decoder: Callable[[], MemberDecoder] = ZlibDecoder
decoder_errors: tuple[type[Exception], ...] = (zlib.error,)
with contextlib.suppress(ImportError):  # there is no wheel for this CPU
    from isal import igzip_lib  # twice as fast as zlib

    new_member_decoder = _isal_decoder
    isal_error: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # isal's stub says: an instance
    decoder_errors = (zlib.error, isal_error)
