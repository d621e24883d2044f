"""What each kind of work on garbage needs: the repository's directory, and threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from composefs.cpus import available_cpus
from composefs.repository import Repository

_THREADS_MIN = 4  # so that a disk has something to do while the CPUs have: a guess


@contextmanager
def opened(repository: Repository) -> Iterator[int]:
    """Yield a descriptor of the repository's directory."""
    fd = repository.open_directory()
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Yield *workers* threads; by default one for each CPU this process may use, but at least four.

    What they have not begun when the work ends early is not done.
    """
    pool = ThreadPoolExecutor(workers or max(available_cpus(), _THREADS_MIN), thread_name_prefix="gc")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
