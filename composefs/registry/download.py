"""The bytes of one blob in order, as they come, whatever happens to connections; no file, and little memory.

Rule 1: what is handed on is never asked for again: each request begins at the first byte that is still missing.
Rule 2: an answer that begins elsewhere is never joined to what is there: it is read up to that byte, or dropped.
Rule 3: threads read the network, and the reader waits for them, so that it notices within `_TICK` that it is to stop.

One connection is enough while the reader has other things to do.  As soon as it is seen to wait for bytes, and others
leave connections to it, the rest of the blob is fetched in ranges, several at a time, a few ahead of the reader.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from composefs.errors import CancelledError, ConnectionLostError, IntegrityError, RangeError, RegistryError
from composefs.registry.blobs import BlobResponse
from composefs.registry.origins import BlobSource, Origin
from composefs.registry.pauses import backoff
from composefs.registry.watchdog import WATCHDOG

_log = logging.getLogger(__name__)

_TICK = 0.1  # seconds between two looks at whether to go on
_END = 1.0  # seconds that threads have to end in; one that waits for a name or a connection may take longer
_READ_SIZES = (1 << 14, 1 << 18)  # bytes of one read: few where they come slowly, so that what came is handed on
_READ_TIMES = (0.02, 0.2)  # seconds that a read should take
_HUNGRY = 0.25  # part of its time that a reader waits, if more connections would help it; a guess


@dataclass(frozen=True)
class Pace:
    """How fast, and how patient, downloads are.

    Attributes:
        range_size: bytes of a range, where there are several.
        ahead: ranges that may be fetched before the reader is there: one less than connections that are common.
        buffer: bytes that a single stream may be ahead of the reader.
        tries: in a row, without progress.
        progress: bytes that a connection has to bring, to count as progress: those that the slowest one brings in the
            time after which it is given up.
        pause: seconds after the first try without progress; twice as long after the second.
        look: seconds between two looks at whether the reader waits.
    """

    range_size: int = 8 << 20
    ahead: int = 5
    buffer: int = 4 << 20
    tries: int = 3
    progress: int = 60_000
    pause: float = 1.0
    look: float = 0.05


PACE = Pace()


class _Range:
    """Bytes from *start* to *end* of the blob, as far as they are there."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.got = start  # where the next byte belongs
        self.pieces: deque[bytes] = deque()  # that the reader has not got
        self.response: BlobResponse | None = None
        self.is_dropped = False  # another one has taken over


class Download:
    """A blob that is being fetched from the moment on that this is made; it has to be closed.

    Args:
        sources: that have it, in the order in which they are asked: each once the one before has failed.
        digest: of the blob; who reads it checks that.
        size: bytes of the blob.
        label: of the blob, for messages.
        streams: tells how many connections it may have at a time; what it raises ends the reading.
        pace: how fast; by default `PACE`.
    """

    def __init__(
        self,
        sources: Sequence[BlobSource],
        digest: str,
        size: int,
        label: str,
        streams: Callable[[], int],
        *,
        pace: Pace | None = None,
    ) -> None:
        self.size = size
        self._digest, self._label, self._streams, self._pace = digest, label, streams, pace or PACE
        self._stop = threading.Event()
        self._origins = deque(map(Origin, sources))
        self._changed = threading.Condition()
        self._ranges: deque[_Range] = deque()  # in the order of the reader
        self._next, self._is_split = 0, False  # where the next range begins; whether there are several
        self._offset = 0  # of the reader
        self._rest = memoryview(b"")  # of the last piece
        self._threads: list[threading.Thread] = []
        self._fetchers: set[threading.Thread] = set()  # those that go on to fetch
        self._most = 1  # of them
        self._error: BaseException | None = None
        self._failed: list[RegistryError] = []  # of the sources before this one
        self._looked, self._waited = 0.0, 0.0  # when was looked at how long the reader waited; seconds since
        if size:
            self._begin()

    # For the reader

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end.

        Raises:
            RegistryError: no source gives all of it.
            IntegrityError: it has another size.
        """
        if self._offset == self.size or not size:
            return b""
        piece = self._rest or self._take_piece()
        if len(piece) > size:
            piece, self._rest = piece[:size], memoryview(piece)[size:]
        else:
            self._rest = memoryview(b"")
        with self._changed:
            self._offset += len(piece)
            self._changed.notify_all()
        return bytes(piece)  # which copies no bytes

    def close(self) -> None:
        """End all connections and threads."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + _END
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < deadline:
                WATCHDOG.stop(thread)
                thread.join(_TICK)

    def _take_piece(self) -> bytes:
        """Return the piece where the reader is, as soon as it is there."""
        with self._changed:
            while True:
                while self._ranges and self._ranges[0].got == self._ranges[0].end and not self._ranges[0].pieces:
                    self._ranges.popleft()
                if self._ranges and self._ranges[0].pieces:
                    return self._ranges[0].pieces.popleft()
                if self._stop.is_set():
                    raise CancelledError("the download was stopped")
                if self._error is not None:
                    raise self._error
                self._wait()

    def _wait(self) -> None:
        began = time.monotonic()
        self._changed.wait(_TICK)
        self._most = self._origins[0].most(self._streams())
        if not self._offset:
            return  # that the first byte takes time says nothing
        now = time.monotonic()
        self._waited += now - began
        if now - self._looked >= self._pace.look:
            if self._waited > _HUNGRY * (now - self._looked):
                self._widen()
            self._looked, self._waited = now, 0.0

    def _widen(self) -> None:
        """Use as many connections as there may be."""
        more = self._most - len(self._fetchers)
        if more > 0 and (self._is_split or self._split()):
            for _ in range(more):
                self._begin()

    def _split(self) -> bool:
        """Let the single stream end soon, so that ranges may follow; tell whether that pays."""
        if not self._ranges:
            return False
        lead = self._ranges[-1]
        end = lead.got + self._pace.range_size
        if end + self._pace.range_size > self.size:
            return False
        lead.end, self._next, self._is_split = end, end, True
        return True

    # Threads

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="composefs-download", daemon=True)
        self._fetchers.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no more
            self._fetchers.discard(thread)
            if not self._fetchers:
                raise
        else:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _run(self) -> None:
        try:
            while (part := self._next_range()) is not None:
                self._fetch(part)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._fetchers.discard(threading.current_thread())
                self._changed.notify_all()

    def _next_range(self) -> _Range | None:
        """Return what to fetch next, once there is room for it; None: nothing, for this thread."""
        with self._changed:
            while not self._stop.is_set() and self._error is None:
                if self._next >= self.size or len(self._fetchers) > self._most:
                    self._fetchers.discard(threading.current_thread())  # now, else the others would go, too
                    return None
                if self._next <= self._offset + self._pace.ahead * self._pace.range_size:
                    size = self._pace.range_size if self._is_split else self.size
                    part = _Range(self._next, min(self._next + size, self.size))
                    self._next = part.end
                    self._ranges.append(part)
                    return part
                self._changed.wait()
        return None

    def _fetch(self, part: _Range) -> None:
        """Fetch *part*, with as many requests as it takes."""
        failures, origin = 0, self._origins[0]
        while self._is_wanted(part):
            if origin is not self._origins[0]:
                failures, origin = 0, self._origins[0]
            before = part.got
            try:
                self._request(part, origin)
            except ConnectionLostError as error:
                if not self._is_wanted(part):
                    return
                failures = 0 if part.got - before >= self._pace.progress else failures + 1
                if failures >= self._pace.tries:
                    what = f"given up at byte {part.got} after {failures} tries without progress"
                    reason = error.what.removeprefix(f"blob {self._digest}: ")
                    self._leave(origin, RegistryError(f"{self._what}: {what}: {reason}", error.host))
                elif failures:
                    _log.warning("%s; trying again at byte %d", error, part.got)
                    self._pause(backoff(failures, self._pace.pause))

    def _request(self, part: _Range, origin: Origin) -> None:
        """Fetch what is missing of *part* with one request, or as much as comes.

        Raises:
            ConnectionLostError: not all came.
            RegistryError: no source has it, or not for us.
        """
        has_ranges = origin.has_ranges
        try:
            response = self._open(part, origin)
            if response is not None:
                try:
                    self._read(part, origin, response)
                finally:
                    with self._changed:
                        part.response = None
                    response.close()
        except RangeError as error:
            if not has_ranges:
                self._leave(origin, error)
            self._end_ranges(origin)

    def _open(self, part: _Range, origin: Origin) -> BlobResponse | None:
        """Ask for what is missing of *part*; None: another source is to be asked."""
        start = part.got if origin.has_ranges else 0
        end = part.end if origin.has_ranges and part.end < self.size else None
        try:
            return origin.source.open_blob(self._digest, start=start, end=end, stop=self._stop)
        except RangeError:
            raise
        except RegistryError as error:
            if isinstance(error, ConnectionLostError):  # in several tries
                error = RegistryError(error.what, error.host)  # not one that is tried again
            elif part.got and error.status is None:
                raise ConnectionLostError(error.what, error.host) from None  # the network is gone, perhaps to come back
            self._leave(origin, error)
            return None

    def _read(self, part: _Range, origin: Origin, response: BlobResponse) -> None:
        """Read *response* up to the end of *part*."""
        with self._changed:
            part.response = response
        self._check(part, origin, response)
        skip, size = part.got - response.start, _READ_SIZES[0]
        while self._is_wanted(part):
            began = time.monotonic()
            data = response.read(min(size, skip) if skip else min(size, part.end - part.got))
            if not data:
                raise ConnectionLostError("the answer ended before the blob did", response.host)
            seconds = time.monotonic() - began
            if seconds < _READ_TIMES[0]:
                size = min(size * 2, _READ_SIZES[1])
            elif seconds > _READ_TIMES[1]:
                size = max(size // 2, _READ_SIZES[0])
            if skip:
                skip -= len(data)
            else:
                self._add(part, data)

    def _add(self, part: _Range, data: bytes) -> None:
        """Add *data* to what is there of *part*, and wait while there is much of it."""
        with self._changed:
            if part.is_dropped:
                return
            data = data[: part.end - part.got]
            part.got += len(data)
            part.pieces.append(data)
            self._changed.notify_all()
            while self._is_wanted(part) and part.got - max(part.start, self._offset) >= self._buffer:
                self._changed.wait()

    @property
    def _buffer(self) -> int:
        """Bytes that a connection may be ahead of the reader; those of a range are all fetched."""
        return max(self._pace.buffer, self._pace.range_size if self._is_split else 0)

    def _is_wanted(self, part: _Range) -> bool:
        """Tell whether more of *part* is to be fetched by who does it now."""
        return part.got < part.end and not (part.is_dropped or self._stop.is_set() or self._error is not None)

    def _pause(self, seconds: float) -> None:
        """Wait, unless the download ends."""
        if self._stop.wait(seconds):
            raise CancelledError("the download was stopped")

    # What goes wrong

    @property
    def _what(self) -> str:
        return f"{self._label}, blob {self._digest}"

    def _check(self, part: _Range, origin: Origin, response: BlobResponse) -> None:
        """See that *response* has bytes of the blob, and what *part* lacks among them."""
        if response.start > part.got or (response.start and response.total not in (None, self.size)):
            raise RangeError(f"{self._what}: another range than was asked for", response.host)
        if response.total not in (None, self.size):
            raise IntegrityError(f"{self._what} at {response.host}", f"{self.size} bytes", f"{response.total} bytes")
        if response.start < part.got:
            self._end_ranges(origin)

    def _end_ranges(self, origin: Origin) -> None:
        """Ask *origin* for no more ranges: the first one that lacks something becomes the rest of the blob."""
        with self._changed:
            origin.has_ranges, self._most = False, 1
            self._is_split = False
            lacking = next((index for index, part in enumerate(self._ranges) if part.got < part.end), None)
            if lacking is not None:
                self._ranges[lacking].end = self._next = self.size
                while len(self._ranges) > lacking + 1:
                    self._drop(self._ranges.pop())
            self._changed.notify_all()

    @staticmethod
    def _drop(part: _Range) -> None:
        part.is_dropped = True
        if part.response is not None:
            part.response.abort()

    def _leave(self, origin: Origin, error: RegistryError) -> None:
        """Go on with the next source, since *origin* has failed; if there is none, raise *error*."""
        with self._changed:
            if self._origins[0] is not origin:
                return  # another thread has done so
            if len(self._origins) > 1:
                self._failed.append(error)
                self._origins.popleft()
                return
        for earlier in self._failed:
            error.add_note(f"before that, {earlier}")
        raise error
