"""zstd as composefs needs it: whole frames only, bounded memory, and frames as libzstd's streaming encoder makes them.

libzstd's decoder, as `zstandard` offers it, says nothing when its input stops inside a frame, and its objects that
would tell put out any amount for one input.  So the frames are followed here, beside the decoder.

Source: RFC 8878, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

import zstandard

from composefs import limits
from composefs._native.frames import Fault, FrameWalker
from composefs.errors import FormatError, LimitError

LEVEL = 3  # libzstd's default, which the reference uses; stream ids depend on it

READ_SIZE = 1 << 17  # bytes of compressed input at a time
_PIECE = 1 << 20  # bytes of output at a time; 1 << 17 is as fast, and so is a buffer that is kept


class Readable(Protocol):
    """What `decompress` reads from."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""


def compressor() -> zstandard.ZstdCompressionObj:
    """Return an encoder whose frame is, with libzstd 1.5.7, the one that composefs-rs 0.9.4 writes."""
    return zstandard.ZstdCompressor(level=LEVEL).compressobj()


def decompress(file: Readable, source: str, size: int | None = None, offset: int = 0) -> Iterator[bytes]:
    """Yield the contents of all frames in *file*, in pieces of *size* bytes, or of 1 MiB.

    Args:
        file: what to read.
        source: what messages call it.
        size: bytes of a piece.
        offset: of *file* in *source*, where other frames come before.

    Raises:
        FormatError: *source*, as *file* is called in messages, is not a sequence of whole frames.
        LimitError: a frame asks for too much memory.
    """
    frames = Frames(source, offset)
    # All that the decoder asks of its source is read(size), whatever its type stub says.
    stream = cast("BinaryIO", _Followed(file, frames))
    try:
        yield from decompress_frames(stream, size or _PIECE, decompressor())
    except zstandard.ZstdError as error:
        raise FormatError(source, frames.offset, str(error).removeprefix("zstd decompress error: ")) from None
    frames.finish()


def decompressor() -> zstandard.ZstdDecompressor:
    """Return a decoder of one blob after the other, whose memory is bounded."""
    return zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_SIZE)


def decompress_frames(data: bytes | BinaryIO, size: int, decompressor: zstandard.ZstdDecompressor) -> Iterator[bytes]:
    """Yield the contents of *data*, which `Frames` has followed, in pieces of *size* bytes.

    Raises:
        zstandard.ZstdError: a frame is broken.
    """
    reader = decompressor.stream_reader(data, read_size=READ_SIZE, read_across_frames=True)
    while piece := reader.read(size):
        yield piece


class Frames:
    """Follow where frames begin and end in *source*, which comes in pieces.

    Args:
        source: what messages call it.
        offset: of the first piece, where a frame begins.
    """

    def __init__(self, source: str, offset: int = 0) -> None:
        self._source = source
        self._walker = FrameWalker(offset)

    @property
    def offset(self) -> int:
        """Where the next piece begins."""
        return self._walker.offset

    @property
    def end(self) -> int:
        """Where the last whole frame ends, or the first one begins."""
        return self._walker.end

    def follow(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            FormatError: there is something else than frames in it.
            LimitError: a frame asks for too much memory.
        """
        fault, offset = self._walker.walk(data, limits.ZSTD_WINDOW_SIZE), self.offset
        match fault:
            case None:
                return
            case Fault.MAGIC:
                what = "bytes behind the last zstd frame are no frame" if offset else "not zstd data"
            case Fault.BLOCK:
                what = "zstd block of a reserved type"
            case Fault.WINDOW:
                what = "bytes of memory for a zstd frame"
                raise LimitError(self._source, offset, what, limits.ZSTD_WINDOW_SIZE, self._walker.window)
        raise FormatError(self._source, offset, what)

    def finish(self) -> None:
        """Say that no more comes.

        Raises:
            FormatError: there was no frame, or there is more to come of one.
        """
        if self.end != self.offset:
            raise FormatError(self._source, self.offset, "zstd data ends inside a frame")
        if not self.offset:
            raise FormatError(self._source, 0, "no zstd frame at all")


class _Followed:
    """Pass *file* on to the decoder; *frames* sees what it reads."""

    def __init__(self, file: Readable, frames: Frames) -> None:
        self._file, self._frames = file, frames

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._frames.follow(data)
        return data
