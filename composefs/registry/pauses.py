"""When to ask again: as servers say in Retry-After, else later and later; and that all streams to a host wait."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from composefs.errors import CancelledError

MAX_PAUSE = 60.0  # seconds; servers may ask for hours, or by mistake for years

_random = random.SystemRandom()


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Return the seconds of a Retry-After header, at most `MAX_PAUSE`; None if it says nothing that can be read.

    Args:
        value: the header: seconds, or a date.
        date: the Date header of the same answer: the server's clock.
    """
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_PAUSE)
    until = _time(value)
    if until is None:
        return None
    now = _time(date)
    return min(max(until - (time.time() if now is None else now), 0.0), MAX_PAUSE)


def _time(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, OverflowError):
        return None


def backoff(failures: int, first: float) -> float:
    """Return how many seconds to wait after *failures* in a row: *first*, then twice as long each time, with jitter."""
    return min(first * 2.0 ** (failures - 1), MAX_PAUSE) * _random.uniform(0.75, 1.25)


def spread(seconds: float) -> float:
    """Return *seconds* or a little more, so that not all who were told the same come at the same moment."""
    return seconds + _random.uniform(0, min(1.0, seconds / 10))


class Pauses:
    """Until when hosts are not asked, since they said that it is too much.

    Attributes:
        count: how often any of them said so.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self.count = 0

    def pause(self, host: str, seconds: float) -> bool:
        """Ask *host* nothing for *seconds* from now on; return whether that is news."""
        now = time.monotonic()
        with self._lock:
            before = self._until.get(host, 0.0)
            self._until[host] = max(before, now + seconds)
            self.count += 1
            return before <= now

    def wait(self, host: str, wait: Callable[[float], object]) -> None:
        """Return when *host* may be asked; *wait* waits for some seconds."""
        while (left := self._until.get(host, 0.0) - time.monotonic()) > 0:
            wait(left)


PAUSES = Pauses()


def waiting(stop: threading.Event | None) -> Callable[[float], object]:
    """Return what waits for some seconds, but raises `CancelledError` once *stop* is set."""
    if stop is None:
        return time.sleep

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise CancelledError("the waiting was stopped")

    return wait


def _forget() -> None:
    PAUSES._lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_forget)
