"""What has to end in time is stopped, and nothing else."""

import multiprocessing
import os
import threading
import time

import pytest

from composefs.registry import watchdog
from composefs.registry.watchdog import WATCHDOG, Watchdog


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(watchdog, "_PERIOD", 0.02)


def test_what_takes_too_long_is_stopped():
    """It is called once, and the limit knows."""
    stopped = threading.Event()
    began = time.monotonic()

    with Watchdog().limit(0.1, stopped.set) as limit:
        assert stopped.wait(5)

    assert limit.expired
    assert 0.1 <= time.monotonic() - began < 2


def test_what_ends_in_time_is_left_alone():
    """Also while others are late, and after it."""
    dog, called = Watchdog(), []

    with dog.limit(0.05, lambda: called.append("late")):
        for _ in range(20):
            with dog.limit(10, lambda: called.append("early")) as limit:
                time.sleep(0.01)
            assert not limit.expired
    time.sleep(0.05)

    assert called == ["late"]


def test_what_a_thread_does_can_be_stopped_early():
    """That of other threads goes on."""
    dog, results = Watchdog(), []

    def work(name: str) -> None:
        done = threading.Event()
        with dog.limit(30, done.set) as limit:
            done.wait(0.3)
        results.append((name, limit.expired))

    one, other = (threading.Thread(target=work, args=(name,)) for name in ("one", "other"))
    one.start()
    other.start()
    while len(dog._limits) < 2:
        time.sleep(0.01)
    dog.stop(one)
    one.join()
    other.join()

    assert results == [("one", True), ("other", False)]


def test_many_threads():
    """One thread watches them all."""
    dog = Watchdog()
    results = []

    def work(late: bool) -> None:
        done = threading.Event()
        with dog.limit(0.1 if late else 30, done.set) as limit:
            done.wait(5 if late else 0.2)
        results.append(late == limit.expired)

    before = threading.active_count()
    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(20)]
    for thread in threads:
        thread.start()
    assert threading.active_count() - before <= 21
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_a_child_has_its_own():
    """The thread stays with the parent; a child that was forked starts another one."""
    with WATCHDOG.limit(30, lambda: None):
        pid = os.fork()
        if pid == 0:  # pragma: no cover  # in the child
            stopped = threading.Event()
            with WATCHDOG.limit(0.05, stopped.set):
                os._exit(0 if stopped.wait(5) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert multiprocessing.active_children() == []
