"""zstd as composefs needs it: whole frames only, bounded memory, and frames as libzstd's streaming encoder makes them.

libzstd's decoder, as `zstandard` offers it, says nothing when its input stops inside a frame, and its objects that
would tell put out any amount for one input.  So the frames are followed here, beside the decoder.

Source: RFC 8878, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import BinaryIO, Protocol, cast

import zstandard

from composefs import limits
from composefs.errors import FormatError, LimitError

LEVEL = 3  # libzstd's default, which the reference uses; stream ids depend on it

_MAGIC = 0xFD2FB528
_SKIPPABLE_MAGIC = 0x184D2A50  # and the fifteen numbers after it
_U32 = Struct("<I")
_READ_SIZE = 1 << 17  # bytes of compressed input at a time
_PIECE = 1 << 20  # bytes of output at a time; 1 << 17 is as fast, and so is a buffer that is kept
_RLE = 1  # block type: one byte, repeated
_RESERVED = 3


class Readable(Protocol):
    """What `decompress` reads from."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""


def compressor() -> zstandard.ZstdCompressionObj:
    """Return an encoder whose frame is, with libzstd 1.5.7, the one that composefs-rs 0.9.4 writes."""
    return zstandard.ZstdCompressor(level=LEVEL).compressobj()


def decompress(file: Readable, source: str, size: int | None = None) -> Iterator[bytes]:
    """Yield the contents of all frames in *file*, in pieces of *size* bytes, or of 1 MiB.

    Raises:
        FormatError: *source*, as *file* is called in messages, is not a sequence of whole frames.
        LimitError: a frame asks for too much memory.
    """
    frames = _Frames(file, source)
    # All that the decoder asks of its source is read(size), whatever its type stub says.
    stream = cast("BinaryIO", frames)
    decompressor = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_SIZE)
    reader = decompressor.stream_reader(stream, read_size=_READ_SIZE, read_across_frames=True)
    size = size or _PIECE
    try:
        while piece := reader.read(size):
            yield piece
    except zstandard.ZstdError as error:
        raise FormatError(source, frames.offset, str(error).removeprefix("zstd decompress error: ")) from None
    frames.finish()


class _Frames:
    """Pass *file* on to the decoder and follow where its frames begin and end.

    The parts of a frame are a magic, a header, blocks of a header and a body each, and perhaps a checksum.  *_step*
    takes the next fixed-size part; bodies are only counted.
    """

    def __init__(self, file: Readable, source: str) -> None:
        self._file, self._source = file, source
        self.offset = 0  # of what was not yet read
        self._part = bytearray()
        self._part_size = 4
        self._step: Callable[[bytes, int], None] = self._magic
        self._skip = 0  # bytes of a body still to come
        self._is_single_segment = self._has_checksum = False
        self._content_size_size = 0  # bytes of the field
        self._frame_offset: int | None = None  # where the frame began that has not ended
        self._frames = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        position = 0
        while position < len(data):
            if self._skip:
                take = min(self._skip, len(data) - position)
                self._skip -= take
            else:
                take = min(self._part_size - len(self._part), len(data) - position)
                self._part += data[position : position + take]
            position += take
            if not self._skip and len(self._part) == self._part_size:
                part = bytes(self._part)
                self._part.clear()
                self._step(part, self.offset + position - len(part))
        self.offset += len(data)
        return data

    def finish(self) -> None:
        """Say that the input has ended."""
        if self._part or self._skip or self._frame_offset is not None:
            what = "zstd data ends inside a frame"
        elif not self._frames:
            what = "no zstd frame at all"
        else:
            return
        raise FormatError(self._source, self.offset, what)

    def _expect(self, size: int, step: Callable[[bytes, int], None]) -> None:
        self._part_size, self._step = size, step

    def _magic(self, part: bytes, offset: int) -> None:
        (magic,) = _U32.unpack(part)
        self._frames += 1
        self._frame_offset = offset
        if magic == _MAGIC:
            self._expect(1, self._descriptor)
        elif magic & ~0xF == _SKIPPABLE_MAGIC:
            self._expect(4, self._skippable_size)
        else:
            what = "bytes behind the last zstd frame are no frame" if self._frames > 1 else "not zstd data"
            raise FormatError(self._source, offset, what)

    def _skippable_size(self, part: bytes, _: int) -> None:
        (self._skip,) = _U32.unpack(part)
        self._end_frame()

    def _descriptor(self, part: bytes, _: int) -> None:
        descriptor = part[0]
        self._is_single_segment, self._has_checksum = bool(descriptor >> 5 & 1), bool(descriptor >> 2 & 1)
        self._content_size_size = (self._is_single_segment, 2, 4, 8)[descriptor >> 6]
        rest = (not self._is_single_segment) + (0, 1, 2, 4)[descriptor & 3] + self._content_size_size
        self._expect(rest, self._header_rest)  # never nothing: without a window there is a content size

    def _header_rest(self, part: bytes, offset: int) -> None:
        if self._is_single_segment:  # which has no window but its content, whose size comes last
            window = int.from_bytes(part[-self._content_size_size :], "little")
            window += 256 if self._content_size_size == 2 else 0
        else:
            exponent, mantissa = part[0] >> 3, part[0] & 7
            window = (1 << 10 + exponent) * (8 + mantissa) // 8
        if window > limits.ZSTD_WINDOW_SIZE:
            what = "bytes of memory for a zstd frame"
            raise LimitError(self._source, offset, what, limits.ZSTD_WINDOW_SIZE, window)
        self._expect(3, self._block)

    def _block(self, part: bytes, offset: int) -> None:
        header = int.from_bytes(part, "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == _RESERVED:
            raise FormatError(self._source, offset, "zstd block of a reserved type")
        self._skip = 1 if kind == _RLE else size
        if not last:
            return
        if self._has_checksum:
            self._skip += 4
        self._end_frame()

    def _end_frame(self) -> None:
        self._frame_offset = None
        self._expect(4, self._magic)
