"""How fast a piece of work runs on one CPU: the median of several runs, within a given time.

CPU time is taken, so that other work on the machine makes a figure no worse than it must.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

_RUNS_MAX = 1000  # more make no better median


def time_runs(work: Callable[[], object], seconds: float) -> float:
    """Return the CPU seconds of one call of *work*: the median of the calls that fit into *seconds*, at least one.

    One more call goes before them, uncounted: it finds caches empty and pages unmapped.
    """
    work()
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while not runs or (time.perf_counter() < end and len(runs) < _RUNS_MAX):
        start = time.thread_time()
        work()
        runs.append(time.thread_time() - start)
    return max(median(runs), 1e-9)  # a clock may be coarser than the work
