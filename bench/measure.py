"""Run a command and measure it with all its processes: wall time, CPU time, peak memory.

CPU time is that of every descendant, also of those whose parent does not wait for them (the fork server of Python's
multiprocessing is one): they are handed to this process, which collects what each has used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_INTERVAL = 0.05  # seconds between two looks at the processes
_STRAGGLERS_MAX = 10.0  # seconds that processes may live on after the command
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(Exception):
    """A measured command failed."""


@dataclass(slots=True)
class Process:
    """One process of the tree as last seen."""

    depth: int  # 0: the command itself, 1: its children
    peak: int  # bytes, resident


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run took; seconds and bytes."""

    wall: float  # until the command had ended
    wall_synced: float  # and then everything was on the disk
    user: float
    system: float
    peak_largest: int  # resident, of the largest single process
    peak_worker: int  # the same, of the processes below the command; 0 where it has none
    peak_sum: int  # of all at one time; pages that processes share count in each
    processes: list[Process] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """User and system time together."""
        return self.user + self.system


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent has gone; before the first `run`, when no child is running."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def sync_fs(path: Path) -> None:
    """Wait until the file system of *path* has written everything."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def run(command: Sequence[str], sync_path: Path) -> tuple[Usage, str]:
    """Run *command* to its end and that of all its processes; return what it took and its standard output.

    Raises:
        CommandError: its status is not 0; the message has the end of what it wrote to standard error.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        command_pid = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=_environment()
        ).pid
        with _watching(command_pid) as watch:
            try:
                _, status, usage = os.wait4(command_pid, 0)
            except BaseException:  # Ctrl-C, or told to end
                _kill_all()
                raise
            wall = time.perf_counter() - start
        start = time.perf_counter()
        sync_fs(sync_path)
        synced = time.perf_counter() - start
        usages = [usage, *_reap()]
        output.seek(0)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
        if os.waitstatus_to_exitcode(status) != 0:
            text = errors.read().decode(errors="replace").strip()
            raise CommandError(f"{command[0]}: status {os.waitstatus_to_exitcode(status)}: {text}")
        workers = [process.peak for process in watch.processes.values() if process.depth > 0]
        # Not ru_maxrss: before it calls exec(2), a child has the memory of this process, and that counts in it.
        largest = max((process.peak for process in watch.processes.values()), default=0)
        measured = Usage(
            wall=wall,
            wall_synced=wall + synced,
            user=sum(one.ru_utime for one in usages),
            system=sum(one.ru_stime for one in usages),
            peak_largest=largest,
            peak_worker=max(workers, default=0),
            peak_sum=max(watch.peak_sum, largest),
            processes=list(watch.processes.values()),
        )
        return measured, output.read().decode(errors="replace")


def _environment() -> dict[str, str]:
    """Return ours without what keeps Python from using compiled modules: users have them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class _Watch(threading.Thread):
    """Look at a process and its descendants until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stop_now = threading.Event()
        self.processes: dict[int, Process] = {}
        self.peak_sum = 0

    def run(self) -> None:
        while True:
            total = 0
            for pid, depth in _tree(self._pid):
                status = _status(pid)
                if "VmHWM" not in status:  # it has ended
                    continue
                process = self.processes.setdefault(pid, Process(depth, 0))
                process.peak = max(process.peak, status["VmHWM"])
                total += status["VmRSS"]
            self.peak_sum = max(self.peak_sum, total)
            if self._stop_now.wait(_INTERVAL):
                return

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


@contextlib.contextmanager
def _watching(pid: int) -> Iterator[_Watch]:
    watch = _Watch(pid)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def _tree(root: int) -> Iterator[tuple[int, int]]:
    """Yield our child *root* and its descendants, orphans too, each with its depth."""
    waiting = [(child, 0 if child == root else 1) for child in _children(os.getpid())]
    while waiting:
        pid, depth = waiting.pop()
        yield pid, depth
        waiting += ((child, depth + 1) for child in _children(pid))


def _children(pid: int) -> list[int]:
    """Return the children of a process; see proc(5), /proc/pid/task/tid/children."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _kill_all() -> None:
    """Kill what `run` has started, and wait for it."""
    for pid, _ in _tree(0):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _reap()


def _status(pid: int) -> Mapping[str, int]:
    """Return the sizes in /proc/pid/status, in bytes; nothing once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) for name, _, value in fields}


def _reap() -> list[resource.struct_rusage]:
    """Wait for the processes that the command left behind and return what each has used."""
    usages: list[resource.struct_rusage] = []
    deadline = time.monotonic() + _STRAGGLERS_MAX
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return usages
        if pid:
            usages.append(usage)
        elif time.monotonic() > deadline:
            raise CommandError(f"processes still run {_STRAGGLERS_MAX:.0f} seconds after the command ended")
        else:
            time.sleep(0.005)
