"""Read the blob of a layer once: its digest and size are checked while its tar archive comes out.

gzip (all members) and zstd (all frames) are chosen by media type and proved by their magic numbers, which the decoders
ask for.  Memory is bounded, whatever a blob inflates to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from composefs import zstd
from composefs.errors import FormatError, IntegrityError
from composefs.oci.layout import open_regular
from composefs.oci.manifest import Compression

READ_SIZE = 1 << 18  # bytes of a blob at a time
SLOT_SIZE = 1 << 19  # bytes of tar archive at a time; with 1 << 20, ISA-L is 0.6 to 0.9 times as fast: page faults
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_FLAGS, _GZIP_RESERVED = 3, 0xE0  # place in the header; those that RFC 1952 has refused, as ISA-L does not


class BlobReader:
    """The blob in the file *path*, whose *digest* and *size* are known; messages call it *source*.

    Args:
        path: a regular file.
        digest: sha256:..., as the manifest says.
        size: bytes, as the manifest says.
        source: for messages.
        advance: called with the number of bytes of each piece that was read.
        is_hashed: compute the digest; otherwise who reads it does.
    """

    def __init__(
        self,
        path: str,
        digest: str,
        size: int,
        source: str,
        advance: Callable[[int], None],
        *,
        is_hashed: bool = True,
    ) -> None:
        self.source = source
        self._digest, self._size, self.advance, self._is_hashed = digest, size, advance, is_hashed
        self._sha256 = hashlib.sha256()
        self.offset = 0  # bytes read so far
        self._counted = 0  # bytes that *advance* knows of
        self._fd = open_regular(path, source)
        found = os.fstat(self._fd).st_size
        if found != size:
            self.close()
            raise IntegrityError(f"{source}, blob {digest}", f"{size} bytes", f"{found} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, none only at the end."""
        data = os.read(self._fd, size)
        if self._is_hashed:
            self._sha256.update(data)
        self.offset += len(data)
        if self.offset > self._size:
            raise IntegrityError(f"{self.source}, blob {self._digest}", f"{self._size} bytes", "more: it grows")
        new = max(self.offset - self._counted, 0)  # none, while it is read again
        self._counted += new
        self.advance(new)
        return data

    def verify(self, got: str | None = None) -> None:
        """Compare the whole with the digest; what is left of it is read before.

        Args:
            got: the digest of the whole, if who has read all of it knows that.

        Raises:
            IntegrityError: it is another blob.
        """
        if got is None:
            if not self._is_hashed:
                self._is_hashed, self.offset = True, os.lseek(self._fd, 0, os.SEEK_SET)
            while self.read(READ_SIZE):
                pass
            got = "sha256:" + self._sha256.hexdigest()
        if got != self._digest:
            raise IntegrityError(f"{self.source}, blob", self._digest, got)


def decompress(blob: BlobReader, compression: Compression) -> Iterator[bytes]:
    """Yield the tar archive in *blob*, in slots.

    Raises:
        FormatError: the blob is cut, followed by other data, or not compressed as *compression* says.
    """
    match compression:
        case Compression.NONE:
            while slot := blob.read(SLOT_SIZE):
                yield slot
        case Compression.ZSTD:
            yield from zstd.decompress(blob, blob.source, SLOT_SIZE)
        case Compression.GZIP:
            yield from _gunzip(blob)


def _gunzip(blob: BlobReader) -> Iterator[bytes]:
    data, members = _fill(blob, b""), 0
    while data or not members:
        start = blob.offset - len(data)
        if not data.startswith(_GZIP_MAGIC):
            raise FormatError(blob.source, start, _what_is_wrong(data, members))
        if len(data) > _GZIP_FLAGS and data[_GZIP_FLAGS] & _GZIP_RESERVED:
            what = f"gzip member at {start} is broken: unknown flags {data[_GZIP_FLAGS] & _GZIP_RESERVED:#x}"
            raise FormatError(blob.source, start, what)
        member = new_member_decoder()
        try:
            yield from _inflate(blob, member, data)
        except decoder_errors as error:
            text = str(error).partition(": ")[2] or str(error)
            raise FormatError(blob.source, blob.offset, f"gzip member at {start} is broken: {text}") from None
        data, members = _fill(blob, member.unused_data), members + 1


def _inflate(blob: BlobReader, member: MemberDecoder, data: bytes) -> Iterator[bytes]:
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


def _fill(blob: BlobReader, data: bytes) -> bytes:
    """Return *data* and more, so that a member's whole header is in it: ISA-L misreads one that comes in pieces."""
    while len(data) < READ_SIZE // 2 and (more := blob.read(READ_SIZE)):
        data += more
    return data


def _what_is_wrong(data: bytes, members: int) -> str:
    if not members:
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
