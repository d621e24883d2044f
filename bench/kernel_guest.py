"""The part of kernel.py that runs in the guest: does each work by each tool in turn, and prints seconds as JSON.

    python kernel_guest.py LAYOUT --ours PATH [--cfsctl PATH] --insmod BUSYBOX --modules DIR [--runs 5]

Repositories are made on two disks with ext4, one of which has fs-verity.  A write takes 2 ms there, many at a time: to
the emulated CPU that is what 0.1 ms are to a real one, and a write to an SSD takes about that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NAME = "bench"
OURS, REFERENCE = "composefs", "cfsctl"
_ALGORITHM = "fsverity-sha512-12"
_SEALED, _PLAIN = Path("/mnt/sealed"), Path("/mnt/plain")
_DISK_SIZE = 1200  # MiB, in memory as far as they are written
_LATENCY = 2_000_000  # nanoseconds of a write or a read
_MOUNTPOINT = Path("/mnt/image")
_WALK = ["find", str(_MOUNTPOINT), "-printf", "%m %s %T@\n"]  # which takes a stat of each
_READ = ["sh", "-c", f"find {_MOUNTPOINT} -type f -print0 | xargs -0 cat"]


class Bench:
    """Works, and what they took in each run."""

    def __init__(self, layout: Path, programs: dict[str, str]) -> None:
        self._layout, self._programs = layout, programs
        self.seconds: dict[str, dict[str, list[float]]] = {}

    def run(self, number: int) -> None:
        """Do all works once with each tool, those that start first in turn."""
        tools = list(self._programs)
        for tool in tools if number % 2 else reversed(tools):
            repositories = {place: place / f"{tool}-{number}" for place in (_SEALED, _PLAIN)}
            self._time("start", tool, number, lambda tool=tool: self._call(tool, "--version", NAME))  # type: ignore[misc]
            for place, work in ((_SEALED, "import"), (_PLAIN, "import, not sealed")):
                self._init(tool, repositories[place], place)
                self._time(work, tool, number, self._pull(tool, repositories[place]), place)
            self._mount(tool, repositories[_SEALED], number)

    def _mount(self, tool: str, repository: Path, number: int) -> None:
        """Mount the image, and read it: names first, then contents, each from the disk."""
        program = self._programs[tool] if tool == REFERENCE else self._composefs()
        mount = [program, "--repo", repository, "oci", "mount", NAME, _MOUNTPOINT]
        subprocess.run(mount, check=True, stdout=subprocess.DEVNULL)
        try:
            for work, command in (("find and stat, cold", _WALK), ("cat, cold", _READ), ("cat, again", _READ)):
                if work.endswith("cold"):
                    _drop_caches()
                self._time(work, tool, number, lambda command=command: _quiet(command))  # type: ignore[misc]
        finally:
            subprocess.run(["umount", _MOUNTPOINT], check=True)

    def _time(
        self, work: str, tool: str, number: int, command: Callable[[], object], synced: Path | None = None
    ) -> None:
        """Time *command*, and until the file system of *synced* has written all; the run 0 is not counted."""
        start = time.perf_counter()
        command()
        if synced is not None:
            subprocess.run(["sync", "-f", synced], check=True)
        taken = time.perf_counter() - start
        if number:
            self.seconds.setdefault(work, {}).setdefault(tool, []).append(taken)
        print(f"{number} {work}, {tool}: {taken:.2f} s", flush=True)

    def _init(self, tool: str, repository: Path, place: Path) -> None:
        options = [] if place is _SEALED else ["--insecure"]
        program = self._programs[tool] if tool == REFERENCE else self._composefs()
        _quiet([program, "--repo", repository, "init", "--algorithm", _ALGORITHM, *options])
        os.sync()

    def _pull(self, tool: str, repository: Path) -> Callable[[], object]:
        if tool == REFERENCE:
            return lambda: self._call(tool, "--repo", repository, "oci", "pull", f"oci:{self._layout}", NAME)
        options = ("--repo", repository, "--name", NAME, "--progress", "none")
        return lambda: self._call(tool, f"oci:{self._layout}", *options)

    def _call(self, tool: str, *arguments: object) -> None:
        _quiet([self._programs[tool], *map(str, arguments)])

    def _composefs(self) -> str:
        return str(Path(self._programs[OURS]).with_name("composefs"))


def _quiet(command: list[object] | list[str]) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _load(busybox: Path, modules: Path) -> None:
    for module in sorted(modules.iterdir()):
        _quiet([busybox, "insmod", module, *(["nr_devices=0"] if "null_blk" in module.name else [])])
    _quiet(["mount", "-t", "configfs", "none", "/sys/kernel/config"])


@contextlib.contextmanager
def _disk(point: Path, *options: str) -> Iterator[None]:
    """Make a disk, an ext4 on it, and mount that."""
    settings = Path("/sys/kernel/config/nullb", point.name)
    settings.mkdir()
    for name, value in (
        ("size", _DISK_SIZE),
        ("memory_backed", 1),
        ("irqmode", 2),  # by a timer
        ("completion_nsec", _LATENCY),
        ("blocksize", 4096),
        ("power", 1),
    ):
        (settings / name).write_text(str(value))
    device = Path("/dev", point.name)
    _quiet(["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", *options, device])
    point.mkdir()
    _quiet(["mount", device, point])
    try:
        yield
    finally:
        _quiet(["umount", point])


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("layout", type=Path)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--cfsctl")
    parser.add_argument("--insmod", type=Path, required=True)
    parser.add_argument("--modules", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    _load(args.insmod, args.modules)
    _MOUNTPOINT.mkdir()
    programs = {OURS: args.ours} | ({REFERENCE: args.cfsctl} if args.cfsctl else {})
    bench = Bench(args.layout, programs)
    with _disk(_SEALED, "-O", "verity"), _disk(_PLAIN):
        for number in range(args.runs + 1):
            bench.run(number)
    result = {
        "kernel": os.uname().release,
        "emulator": "qemu (TCG)",
        "cpus": os.cpu_count(),
        "file_system": f"ext4, null_blk in memory, {_LATENCY / 1e6:g} ms a write",
        "seconds": bench.seconds,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
