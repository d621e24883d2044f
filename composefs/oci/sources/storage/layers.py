"""The archives of layers in container storage: put together again byte by byte, or in segments to be taken over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from composefs.errors import IntegrityError, NotFoundError
from composefs.oci.segments import FileSegment, Segment
from composefs.oci.sources.access import LocalFetch
from composefs.oci.sources.source import ByteStream
from composefs.oci.sources.storage.files import LayerFiles
from composefs.oci.sources.storage.locking import locked
from composefs.oci.sources.storage.tar_split import FileContents, read_tar_split

_AHEAD = 64  # segments, half of them files; with none, files that are not in memory take half as long again to link


@dataclass(frozen=True)
class StoredArchive:
    """The place of the archive of a layer.

    Attributes:
        tar_split: the file that has what is no contents.
        directories: of the files of the layer, and of those below it, the next one first.
        lock: the file that is locked meanwhile.
    """

    tar_split: str
    directories: tuple[str, ...]
    lock: str

    def open(self, label: str, streams: Callable[[], int]) -> ByteStream:
        """Open the archive; see `Place`."""
        return _ArchiveStream(self, label, streams)

    def again(self) -> None:
        """Return None: a store says the same again."""

    @contextmanager
    def segments(self, label: str, checkpoint: Callable[[], object]) -> Generator[Iterator[Segment]]:
        """Open the archive as segments; see `SegmentedPlace`.

        Raises:
            NotFoundError: a part of it is missing.
            FormatError, IntegrityError: it is broken.
            OSError: it cannot be read.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self.lock, checkpoint))
            tar_split = stack.enter_context(_open_tar_split(self.tar_split, label))
            files = stack.enter_context(LayerFiles(self.directories, label))
            segments = _segments(read_tar_split(tar_split, f"{label}, {self.tar_split}"), files)
            stack.callback(segments.close)
            yield segments


@dataclass(frozen=True)
class SharedArchive(StoredArchive):
    """The place of the archive of a layer whose files are to be shared as *local_fetch* says."""

    local_fetch: LocalFetch


def archive_size(place: StoredArchive, label: str) -> int:
    """Return the size of an archive in bytes, of which no file is looked at; errors are those of `segments`."""
    with _open_tar_split(place.tar_split, label) as file:
        parts = read_tar_split(file, f"{label}, {place.tar_split}")
        return sum(part.size if isinstance(part, FileContents) else len(part) for part in parts)


def _open_tar_split(path: str, label: str) -> BinaryIO:
    try:
        return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        raise NotFoundError(f"{label}: no file {path}, without which it cannot be read") from None


def _segments(parts: Iterator[bytes | FileContents], files: LayerFiles) -> Generator[Segment]:
    """Yield the segments of an archive; files are opened, and begin to be read, some time before they are due."""
    opened: deque[Segment] = deque()
    try:
        for part in parts:
            opened.append(_begun(part, files) if isinstance(part, FileContents) else part)
            if len(opened) > _AHEAD:
                yield from _next(opened)
        while opened:
            yield from _next(opened)
    finally:
        for segment in opened:
            if isinstance(segment, FileSegment):
                os.close(segment.fd)


def _begun(part: FileContents, files: LayerFiles) -> FileSegment:
    fd = files.open(part.path, part.size)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    return FileSegment(fd, part.size, part.path.decode("utf-8", "backslashreplace"))


def _next(opened: deque[Segment]) -> Iterator[Segment]:
    segment = opened.popleft()
    try:
        yield segment
    finally:
        if isinstance(segment, FileSegment):
            os.close(segment.fd)


class _ArchiveStream:
    """The bytes of an archive, joined of its segments."""

    size = None

    def __init__(self, place: StoredArchive, label: str, checkpoint: Callable[[], object]) -> None:
        self._label = label
        self._stack = ExitStack()
        self._segments = self._stack.enter_context(place.segments(label, checkpoint))
        self._bytes = memoryview(b"")  # what is left of a segment of bytes, ...
        self._file: FileSegment | None = None  # ... or the file, ...
        self._file_left = 0  # ... and how much is left of it

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""
        pieces: list[bytes | memoryview] = []
        left = size
        while left and (piece := self._piece(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Let go of the store."""
        self._stack.close()

    def _piece(self, size: int) -> bytes | memoryview:
        """Return some of the next *size* bytes, none only at the end."""
        while not self._bytes and not self._file_left:
            segment = next(self._segments, None)
            if segment is None:
                return b""
            if isinstance(segment, FileSegment):
                self._file, self._file_left = segment, segment.size
            else:
                self._bytes = memoryview(segment)
        if self._bytes:
            piece, self._bytes = self._bytes[:size], self._bytes[size:]
            return piece
        file = self._file
        assert file is not None
        data = os.read(file.fd, min(size, self._file_left))
        if not data:
            got = file.size - self._file_left
            raise IntegrityError(f"{self._label}, file {file.name}", f"{file.size} bytes", f"{got} bytes: it shrinks")
        self._file_left -= len(data)
        return data
