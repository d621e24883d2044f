"""Run what is to be done with layers: in processes of our own, or in the executor of the caller.

The first failure stops the rest: a worker looks at the board with every piece that it reads.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Protocol, TypeVar

from composefs.cpus import available_cpus
from composefs.errors import ComposefsError, IntegrityError
from composefs.oci.progress import Board

_LOGS = logging.getLogger()
_TICK = 0.1  # seconds between two looks at the board
_PATIENCE = 3.0  # seconds that processes have to end in; one may be in a codec that takes a minute for a call
_STOPS = (signal.SIGINT, signal.SIGTERM)  # which the parent turns into an end in good order


class Job(Protocol):
    """What to do with one layer."""

    @property
    def size(self) -> int:
        """How much work it is, compared with the others."""

    @property
    def label(self) -> str:
        """The layer, for messages."""


_Job = TypeVar("_Job", bound=Job)
_Result = TypeVar("_Result")


def run_jobs(
    work: Callable[[_Job], _Result],
    jobs: Sequence[_Job],
    board: Board,
    *,
    workers: int | None,
    are_fetched: bool = False,
    modules: Collection[str] = (),
    executor: Executor | None,
    on_progress: Callable[[int, int], None],
    on_result: Callable[[int, _Result], None],
) -> None:
    """Run *work* for each of *jobs*, the largest first.

    Args:
        work: a function of a module, that other processes can import.
        jobs: what to do; each has its place on the board.
        board: that of the jobs.
        workers: jobs at the same time; by default as `default_workers` says.
        are_fetched: by a network, for which a job waits now and then: one more of them keeps all CPUs busy.
        modules: what processes of our own need beside `composefs.oci.work`; imported once, not by each.
        executor: runs the jobs; by default processes of our own, or a thread if one job at a time is enough.
        on_progress: called with a job's number and the bytes it has read.
        on_result: called with a job's number and its result, also of those that are done when another one fails.

    Raises:
        ComposefsError, OSError: the first failure of a job; the others are stopped.
    """
    by_size = sorted(range(len(jobs)), key=lambda number: jobs[number].size, reverse=True)
    at_once = available_cpus() + are_fetched
    count = min(len(jobs), workers or default_workers([job.size for job in jobs], at_once))
    futures: dict[Future[_Result], int] = {}
    with _executor(executor, count, modules) as pool:
        try:
            with nullcontext() if executor is not None else _stops_held():
                for number in by_size:
                    futures[_submit(pool, work, jobs[number])] = number
            _watch(jobs, futures, pool, board, on_progress, on_result)
        except BaseException:
            board.cancel()
            running = [future for future in futures if not future.cancel()]  # these see the board
            patience = time.monotonic() + _PATIENCE
            while wait(running, timeout=_TICK).not_done:
                if isinstance(pool, _Processes) and time.monotonic() > patience:
                    pool.kill()
                _check(pool)
            _check(pool)
            _take_finished(futures, on_result)
            raise


def default_workers(sizes: Sequence[int], cpus: int) -> int:
    """Return how many jobs to run at a time: one for each CPU, unless fewer end as early.

    No number of them ends before the largest does, and so many as would fill that time, and one more to make up for
    those that do not fit, are done by then: the largest begin first.  CPUs that are left go to threads of the jobs (see
    `composefs.oci.stages`).  A slow disk does not ask for another number: nothing waits for it but the last flush.

    Args:
        sizes: how much work each job is, compared with the others.
        cpus: that may be used.
    """
    return max(1, min(len(sizes), cpus, -(-sum(sizes) // max([1, *sizes])) + 1))


def _watch(  # noqa: PLR0917  # what run_jobs was given
    jobs: Sequence[_Job],
    futures: dict[Future[_Result], int],
    pool: Executor,
    board: Board,
    on_progress: Callable[[int, int], None],
    on_result: Callable[[int, _Result], None],
) -> None:
    pending = set(futures)
    reported = [0] * len(jobs)
    while pending:
        done, pending = wait(pending, timeout=_TICK, return_when=FIRST_EXCEPTION)
        _check(pool)
        for number in range(len(jobs)):
            read = board.read(number)
            if read != reported[number]:
                reported[number] = read
                on_progress(number, read)
        for future in sorted(done, key=lambda future: futures[future]):
            number = futures.pop(future)  # it would keep the result, which may be large
            on_result(number, _result(future, jobs[number]))


def _take_finished(futures: dict[Future[_Result], int], on_result: Callable[[int, _Result], None]) -> None:
    """Pass on what is done, when something else has failed."""
    for future, number in futures.items():
        if not future.cancelled() and future.exception() is None:
            with suppress(Exception):  # the first failure is the one that is told
                on_result(number, future.result())


def _submit(pool: Executor, work: Callable[[_Job], _Result], job: _Job) -> Future[_Result]:
    try:
        return pool.submit(work, job)
    except (BrokenExecutor, EOFError, ConnectionError):  # the last two come from the process that starts workers
        raise _worker_died(job) from None


def _result(future: Future[_Result], job: Job) -> _Result:
    try:
        return future.result()
    except BrokenExecutor:
        raise _worker_died(job) from None
    except (OSError, IntegrityError) as error:
        if job.label not in str(error):
            error.add_note(f"in {job.label}")
        raise


def _worker_died(job: Job) -> ComposefsError:
    return ComposefsError(f"{job.label}: its worker process died; out of memory, or killed")


@contextmanager
def _executor(given: Executor | None, count: int, modules: Collection[str]) -> Iterator[Executor]:
    """Yield the executor of the caller, which stays open, or one of our own for *count* jobs at a time."""
    if given is not None:
        yield given
    elif count == 1:
        with ThreadPoolExecutor(1) as threads:
            yield threads
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["composefs.oci.work", *modules])
        with _Processes(count, mp_context=context, initializer=_begin_worker, initargs=(_LOGS.level,)) as processes:
            yield processes


class _Processes(ProcessPoolExecutor):
    """Worker processes of our own: when one of them dies, all do."""

    def check(self) -> None:
        """Kill all of them if one has died.

        It may have had the lock of a queue, or have written half of a result: the others, or the thread that takes the
        results, would wait for the rest for ever, and whoever closes the pool for them.
        """
        if any(process.exitcode is not None for process in self._all()):
            self.kill()
            # The last writer: now the rest of a result is known not to come.
            self._result_queue._writer.close()  # type: ignore[attr-defined]  # typeshed lacks it

    def kill(self) -> None:
        """Kill all of them."""
        for process in self._all():
            process.kill()

    def _all(self) -> list[BaseProcess]:
        return list((self._processes or {}).values())


def _check(pool: Executor) -> None:
    """Notice when a worker has died, which the executor may not; those of a caller's executor are the caller's."""
    if isinstance(pool, _Processes):
        pool.check()


@contextmanager
def _stops_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait: processes that start meanwhile never see one, not even before they can ignore it.

    The mask, which they inherit, is that of this thread.  Another one, such as that which draws bars, may take the
    signal all the same, and Python then calls the handler here: a process just started would be known to nobody.
    """
    held: list[int] = []
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        if threading.current_thread() is threading.main_thread():
            for signum in _STOPS:
                handler = signal.getsignal(signum)
                if callable(handler):
                    handlers[signum] = handler
                    signal.signal(signum, lambda number, _: held.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in held[:1]:
            signal.raise_signal(number)


def _begin_worker(log_level: int) -> None:
    """Leave Ctrl-C and SIGTERM, which may come to all processes, to the parent; but end when the parent is killed."""
    _LOGS.setLevel(log_level)  # as the parent has it
    for signum in _STOPS:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # otherwise it would wait for ever for the next layer, or finish this one for nobody
