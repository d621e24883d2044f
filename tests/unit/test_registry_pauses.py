"""How long servers are left alone, as they say in Retry-After or not."""

import threading
import time
from email.utils import formatdate

import pytest

from composefs.errors import CancelledError
from composefs.registry.pauses import MAX_PAUSE, Pauses, backoff, retry_after, spread, waiting

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("60", 60),
        ("61", MAX_PAUSE),
        ("1000000000", MAX_PAUSE),
        ("9" * 5000, MAX_PAUSE),
        (formatdate(NOW + 20, usegmt=True), 20),
        (formatdate(NOW - 20, usegmt=True), 0),
        (formatdate(NOW + 10**8, usegmt=True), MAX_PAUSE),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\N{SUPERSCRIPT TWO}", None),
    ],
)
def test_retry_after(value, seconds):
    """Retry-After after 429: seconds, a date by the server's clock, nothing, 10^9."""
    assert retry_after(value, formatdate(NOW, usegmt=True)) == seconds


def test_a_date_without_a_date():
    """Without the server's clock, ours counts."""
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)


def test_backoff():
    """Twice as long each time, with jitter, and not for ever."""
    for failures in range(1, 5):
        found = {backoff(failures, 2.0) for _ in range(50)}
        assert len(found) > 40
        assert all(0.75 * 2**failures <= each <= 1.25 * 2**failures for each in found)
    assert backoff(500, 2.0) <= 1.25 * MAX_PAUSE


def test_spread():
    """Never earlier than was asked for, and not all at once."""
    found = {spread(10.0) for _ in range(50)}
    assert len(found) > 40
    assert all(10 <= each <= 11 for each in found)


def test_all_streams_to_the_host_wait():
    """One stream is told; others wait, too, but not for another host, and the first only says so."""
    pauses = Pauses()
    waited: list[float] = []

    assert pauses.pause("a.example", 0.3)
    assert not pauses.pause("a.example", 0.2)
    pauses.wait("b.example", waited.append)
    assert waited == []
    threads = [threading.Thread(target=pauses.wait, args=("a.example", lambda s: (waited.append(s), time.sleep(s))))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert time.monotonic() - began >= 0.25
    assert waited[0] == pytest.approx(0.3, abs=0.1)
    assert pauses.count == 2
    assert pauses.pause("a.example", 0.1), "the first pause is over: it is news again"


def test_waiting_stops():
    """Who is to stop does not wait till the end."""
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()

    with pytest.raises(CancelledError):
        waiting(stop)(30)

    assert time.monotonic() - began < 5
    assert waiting(None) is time.sleep
