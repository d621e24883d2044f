"""Inflate one blob by many threads, where it can be cut: a huge layer would keep one CPU busy and leave others idle.

Runs of whole frames or members are inflated at the same time and put out in order.  Whatever is wrong with a run, or
with where it was cut, it and all that follows is done by `composefs.oci.blobs.decompress`: so bytes and errors are
those that it gives, and where a border is none that only costs time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

from composefs.cpus import available_cpus
from composefs.errors import FormatError
from composefs.oci.blobs import READ_SIZE, Compressed, decompress
from composefs.oci.frames import CutError, Cutter, GzipCutter, ZstdCutter
from composefs.oci.manifest import Compression

RUN_SIZE = 1 << 18  # bytes of a blob that one thread inflates at a time, at least; a guess
AHEAD_MAX = 1 << 22  # bytes that a run may inflate to before its turn comes; usual ones have a quarter
_THREADS_MAX = 4  # more of them would inflate faster than one thread hashes


class _Run(NamedTuple):
    """Bytes of a blob between two borders; *begun*: what they inflate to, if another thread does that."""

    data: bytes
    begun: Future[Iterator[bytes]] | None


def inflate(blob: Compressed, compression: Compression, may_begin: Callable[[], bool]) -> Generator[bytes]:
    """Yield the tar archive in *blob*, in slots, as `composefs.oci.blobs.decompress` does; errors are the same.

    Args:
        blob: at its begin.
        compression: of the blob.
        may_begin: asked again and again, whether other threads shall work on it.
    """
    cutter = _cutter(blob, compression)
    rest, skip = b"", 0
    if cutter is not None:
        rest, skip = yield from _inflate_runs(blob, cutter, may_begin)
    for slot in decompress(_Resumed(blob, rest), compression):
        if skip < len(slot):
            yield slot[skip:] if skip else slot
        skip = max(0, skip - len(slot))


def _cutter(blob: Compressed, compression: Compression) -> Cutter | None:
    match compression:
        case Compression.ZSTD:
            return ZstdCutter(blob.source)
        case Compression.GZIP:
            return GzipCutter()
    return None


def _inflate_runs(
    blob: Compressed, cutter: Cutter, may_begin: Callable[[], bool]
) -> Generator[bytes, None, tuple[bytes, int]]:
    """Yield what the runs of *blob* hold, as long as they are good.

    Returns:
        What was read beyond them, and how much of what that inflates to was put out.
    """
    runs = _Runs(blob, cutter)
    threads = min(_THREADS_MAX, available_cpus())
    ahead: deque[_Run] = deque()
    with ThreadPoolExecutor(threads, "composefs-inflate") as pool:
        while True:
            data = runs.read()
            if data:
                ahead.append(_Run(data, pool.submit(_begin, cutter, data) if may_begin() else None))
            while ahead and (not data or ahead[-1].begun is None or len(ahead) > threads):
                skip = yield from _finish(cutter, ahead[0])
                if skip is not None:
                    return b"".join([*(run.data for run in ahead), runs.rest()]), skip
                ahead.popleft()
            if not data:
                return runs.rest(), 0


def _begin(cutter: Cutter, data: bytes) -> Iterator[bytes]:
    """Inflate a run, and return its slots; if it has too many, the last ones are left to who asks for them."""
    slots, begun, size = cutter.inflate(data), list[bytes](), 0
    for slot in slots:
        begun.append(slot)
        size += len(slot)
        if size >= AHEAD_MAX:
            break
    return chain(begun, slots)


def _finish(cutter: Cutter, run: _Run) -> Generator[bytes, None, int | None]:
    """Yield the slots of *run*; return None, or how many bytes it had before it proved to be bad."""
    size = 0
    try:
        for slot in cutter.inflate(run.data) if run.begun is None else run.begun.result():
            size += len(slot)
            yield slot
    except CutError:
        return size
    return None


class _Runs:
    """The runs of *blob*, one after the other."""

    def __init__(self, blob: Compressed, cutter: Cutter) -> None:
        self._blob, self._cutter = blob, cutter
        self._pieces: list[bytes] = []
        self._start = blob.offset  # of these
        self._has_ended = False

    def read(self) -> bytes:
        """Return the next run; nothing: there is none in what follows, if anything does."""
        while not self._has_ended and (piece := self._blob.read(READ_SIZE)):
            self._pieces.append(piece)
            try:
                size = self._cutter.feed(piece) - self._start
            except FormatError:  # to be found again behind what comes before it
                break
            if size >= RUN_SIZE:
                return self._cut(size)
            if self._blob.offset - self._start >= self._cutter.patience:
                break
        self._has_ended = True
        return b""

    def rest(self) -> bytes:
        """Return what was read beyond the last run."""
        return b"".join(self._pieces)

    def _cut(self, size: int) -> bytes:
        """Return the first *size* bytes of what was read."""
        left, last = self._blob.offset - self._start - size, b""
        while len(last) < left:  # once: what is left is less than a piece, but for the header that ends in it
            last = self._pieces.pop() + last
        run = b"".join([*self._pieces, last[: len(last) - left]])
        self._pieces = [last[len(last) - left :]]
        self._start += size
        return run


class _Resumed:
    """*blob*, as if it had not been read beyond a border: *data* comes again."""

    def __init__(self, blob: Compressed, data: bytes) -> None:
        self.source = blob.source
        self._blob, self._data, self._position = blob, data, 0

    @property
    def offset(self) -> int:
        """How many bytes were read so far."""
        return self._blob.offset - len(self._data) + self._position

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, none only at the end.

        Pieces end where they do when all is read by that size, and so do those that messages speak of.
        """
        position = self._position
        if position == len(self._data):
            self._data, self._position = b"", 0
            return self._blob.read(size)
        self._position = min(len(self._data), position + size - self.offset % size)
        return self._data[position : self._position]
