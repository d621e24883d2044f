"""Where zstd frames begin and end."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, cast

from composefs._native.core import Buffer, check, ffi, lib

if TYPE_CHECKING:
    from composefs._cfs import Frames


class Fault(IntEnum):
    """What is no part of a zstd frame: what `cfs_frames_walk` returns."""

    MAGIC = 1  # no frame begins so
    BLOCK = 2  # no block is of that type
    WINDOW = 3  # it asks for too much memory


class FrameWalker:
    """Follow zstd frames, which come in pieces from the byte *offset* on, where one begins."""

    def __init__(self, offset: int) -> None:
        self._frames = cast("Frames", ffi.new("struct cfs_frames *"))
        lib.cfs_frames_init(self._frames, offset)

    def walk(self, data: Buffer, window_max: int) -> Fault | None:
        """Take the next piece, up to what is no part of a frame.

        Args:
            data: the piece.
            window_max: bytes of memory that a frame may ask for.
        """
        with ffi.from_buffer(data) as source:
            fault = check(lib.cfs_frames_walk(self._frames, source, len(source), window_max))
        return Fault(fault) if fault else None

    @property
    def offset(self) -> int:
        """Where the next piece begins, or a fault is."""
        return self._frames.offset

    @property
    def end(self) -> int:
        """Where the last whole frame ends, or the first one begins."""
        return self._frames.end

    @property
    def window(self) -> int:
        """Bytes of memory that the last frame asks for."""
        return self._frames.window
