"""Stops what takes too long as a whole, though each of its parts comes in time: one thread for all of a process.

A socket's timeout is about one `recv`: a server that sends a byte each second is never late.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PERIOD = 1.0  # seconds between two looks


class Limit:
    """Something that has to end in time, or is stopped."""

    __slots__ = ("deadline", "expired", "stop", "thread")

    def __init__(self, deadline: float, stop: Callable[[], object]) -> None:
        self.deadline, self.stop, self.expired = deadline, stop, False
        self.thread = threading.current_thread()


class Watchdog:
    """Knows what has to end in time, and stops it."""

    def __init__(self) -> None:
        self._limits: set[Limit] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float, stop: Callable[[], object]) -> Iterator[Limit]:
        """Call *stop*, in another thread, if what is done under this has not ended after *seconds*.

        Whether it was called stands in `expired` of what this gives.  *stop* must not wait for anything.
        """
        limit = Limit(time.monotonic() + seconds, stop)
        with self._changed:
            self._limits.add(limit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="composefs-watchdog", daemon=True)
                self._thread.start()
            elif len(self._limits) == 1:
                self._changed.notify()
        try:
            yield limit
        finally:
            with self._changed:
                self._limits.discard(limit)

    def stop(self, thread: threading.Thread) -> None:
        """Stop what *thread* does now, as if it had taken too long."""
        with self._changed:
            self._stop_all(lambda limit: limit.thread is thread)

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._stop_all(lambda limit: limit.deadline <= time.monotonic())
                self._changed.wait(_PERIOD if self._limits else None)

    def _stop_all(self, is_over: Callable[[Limit], bool]) -> None:
        for limit in list(filter(is_over, self._limits)):
            self._limits.discard(limit)
            limit.expired = True
            limit.stop()


WATCHDOG = Watchdog()


def _forget() -> None:
    WATCHDOG.__init__()  # type: ignore[misc]  # the thread stayed with the parent, the lock as it was


os.register_at_fork(after_in_child=_forget)
