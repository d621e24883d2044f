"""How many CPUs this process may use: those that it may be scheduled on, and what its control groups allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator


def available_cpus() -> int:
    """Return the number of CPUs that this process can keep busy."""
    affinity, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return affinity if quota is None else min(affinity, math.ceil(quota))


def cpu_quota(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> float | None:
    """Return the CPU seconds a second that the control groups of this process allow, None without a limit.

    Args:
        proc: where proc(5) is mounted.
        cgroup: where control groups are mounted.

    Source: cgroups(7); the kernel's cgroup-v2.rst, cpu.max; sched-bwc.rst of version 1.
    """
    limits: list[float] = []
    for line in read_lines(f"{proc}/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += (limit for name in _ancestors(cgroup, path) if (limit := _quota_v2(name)) is not None)
        elif "cpu" in controllers.split(","):
            mount = os.path.join(cgroup, "cpu")
            limits += (limit for name in _ancestors(mount, path) if (limit := _quota_v1(name)) is not None)
    return min(limits, default=None)


def _ancestors(mount: str, path: str) -> Iterator[str]:
    """Yield the directories from *path*, in a control group file system, up to its *mount*."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield os.path.join(mount, *parts[:count])


def _quota_v2(directory: str) -> float | None:
    for line in read_lines(os.path.join(directory, "cpu.max")):
        quota, period = line.split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(directory: str) -> float | None:
    values = [read_lines(os.path.join(directory, f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    if not all(values):
        return None
    quota, period = (int(lines[0]) for lines in values)
    return None if quota < 0 else quota / period


def read_lines(path: str) -> list[str]:
    """Return the lines of a small file of the kernel; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
