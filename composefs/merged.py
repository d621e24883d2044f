"""The merged content of a splitstream as a seekable file."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable
from typing import BinaryIO

from composefs.digest import Digest
from composefs.splitstream import External, SplitstreamReader


class MergedFile(io.RawIOBase):
    """Random access to what the chunks of *reader* are, joined.

    One pass over the chunks, when it is made, notes where each begins; inline bytes are kept in *spill*, contents stay
    in their objects, of which at most one is open at a time.

    Args:
        reader: the splitstream.
        open_object: opens the object of a digest.
        spill: an empty file to read and write, which this one closes.
    """

    def __init__(self, reader: SplitstreamReader, open_object: Callable[[Digest], BinaryIO], spill: BinaryIO) -> None:
        super().__init__()
        self._open_object, self._spill = open_object, spill
        self._starts: list[int] = []  # of the segments, in bytes of merged content
        self._segments: list[Digest | int] = []  # an object, or an offset in the spill
        self._position = 0
        self._object: tuple[Digest, BinaryIO] | None = None
        size = spilled = 0
        for chunk in reader.chunks():
            self._starts.append(size)
            if isinstance(chunk, External):
                self._segments.append(chunk.digest)
                with open_object(chunk.digest) as file:
                    size += os.fstat(file.fileno()).st_size
            else:
                self._segments.append(spilled)
                spill.write(chunk.data)
                spilled += len(chunk.data)
                size += len(chunk.data)
            reader.check_size(size)
        spill.flush()
        self._size = size

    def close(self) -> None:
        """Close this file and what it holds open."""
        if self._object is not None:
            self._object[1].close()
            self._object = None
        self._spill.close()
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to *offset* from the start, the position or the end, and return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants the private WriteableBuffer
        """Read into *buffer* up to the end of a segment, and return the number of bytes."""
        if self._position >= self._size:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        start, segment = self._starts[index], self._segments[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
        view = memoryview(buffer)[: end - self._position]
        if isinstance(segment, int):
            size = os.preadv(self._spill.fileno(), [view], segment + self._position - start)
        else:
            size = os.preadv(self._file(segment).fileno(), [view], self._position - start)
        self._position += size
        return size

    def _file(self, digest: Digest) -> BinaryIO:
        if self._object is None or self._object[0] != digest:
            if self._object is not None:
                self._object[1].close()
            self._object = (digest, self._open_object(digest))
        return self._object[1]
