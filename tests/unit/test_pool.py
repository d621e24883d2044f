"""Running jobs: what they leave in memory.  How a run ends early is tested with imports."""

import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from composefs.oci import pool
from composefs.oci.pool import _stops_held, default_workers, run_jobs
from composefs.oci.progress import Board


class Result:
    """What a job comes to, and may be large."""


@dataclass
class Job:
    """The job *number*, which waits until it may end."""

    number: int
    may_end: threading.Event
    size = 1
    label = "layer"


@dataclass
class Seconds:
    number: int
    seconds: float
    size: int = 1
    label: str = "layer"


def sleep(job):
    time.sleep(job.seconds)


def end(job):
    assert job.may_end.wait(10)
    return Result()


def test_results_are_let_go():
    """A result belongs to who takes it: the results of many layers would fill the memory."""
    jobs = [Job(number, threading.Event()) for number in range(3)]
    taken, alive = [], []
    board = Board(len(jobs))

    def on_result(number, result):
        alive.append(sum(earlier() is not None for earlier in taken))
        taken.append(weakref.ref(result))
        if number + 1 < len(jobs):
            jobs[number + 1].may_end.set()

    jobs[0].may_end.set()
    try:
        with ThreadPoolExecutor(1) as executor:
            run_jobs(
                end, jobs, board, workers=None, executor=executor, on_progress=lambda *_: None, on_result=on_result
            )
    finally:
        board.close()

    assert alive == [0, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "cpus", "wanted"),
    [
        ([], 4, 1),
        ([5], 4, 1),
        ([5, 5, 5], 2, 2),
        ([1] * 60, 16, 16),
        ([1] * 60, 64, 60),
        ([100, 1, 1, 1], 16, 3),
        ([370, 200, 150, 130, 110, *[30] * 15], 64, 5),
        ([0, 0], 8, 1),
    ],
)
def test_default_workers(sizes, cpus, wanted):
    """There are no more workers than CPUs, than layers, or than can be busy while the largest layer is worked on."""
    assert default_workers(sizes, cpus) == wanted


@pytest.mark.parametrize("times", [1, 2])
def test_stops_are_held_whoever_takes_them(times):
    """Ctrl-C waits until all workers are known, also where the system hands it to another thread, as of a bar."""
    done, seen = threading.Event(), []
    thread = threading.Thread(target=done.wait)
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), _stops_held():  # noqa: PT012  # how far it comes is the test
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)  # enough for Python to call a handler
            seen.append("all of it")
    finally:
        done.set()
        thread.join()

    assert seen == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_that_do_not_look(monkeypatch):
    """What does not see that it is to stop is not waited for: some calls of codecs take a minute."""
    monkeypatch.setattr(pool, "_PATIENCE", 0.5)
    board = Board(2)
    seconds = (Seconds(0, 600.0), Seconds(1, 0.0))

    def stop(*_):
        raise KeyboardInterrupt

    before = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs(sleep, seconds, board, workers=2, executor=None, on_progress=stop, on_result=stop)
    finally:
        board.close()
    took = time.monotonic() - before
    gc.collect()  # the pipes of a pool that was killed are in a circle

    assert took < 60
