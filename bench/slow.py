"""Measure imports where the disk is the bottleneck: by what it can do, by what lies on it, and by number of workers.

    python bench/slow.py --scale small|medium|full [--runs 1] [--out FILE]

The disk is a loop device whose rate a control group bounds.  Status 0 without figures where that cannot be done.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import facts
from disks import Disks, Throttle, forget_pages
from images import CACHE, directory
from measure import CommandError, adopt_orphans, run, sync_fs
from report import Table, spread
from tools import OURS, REFERENCE, Tool, find_tools
from trees import SCALES
from works import ALGORITHMS

_HERE = Path(__file__).resolve().parent
_KIND = "many-gzip"
_WORKERS = (1, 2, 4, 8)


class Disk(NamedTuple):
    """What is slow."""

    name: str
    throttle: Throttle
    what: str  # that lies on it: repository, image (not in the page cache) or both


DISKS = (
    Disk("a disk as it is", Throttle(), "both"),
    Disk("50 MB/s", Throttle(bytes=50_000_000), "repository"),
    Disk("1000 operations/s", Throttle(operations=1000), "repository"),
    Disk("50 MB/s", Throttle(bytes=50_000_000), "image"),
    Disk("50 MB/s, 1000 operations/s", Throttle(bytes=50_000_000, operations=1000), "both"),
)


def measure(tool: Tool, disks: Disks, slow: Disk, image: Path, *options: str) -> float:
    """Import *image* once with the disk *slow*; return the seconds until all was written."""
    with ExitStack() as stack:
        repository, source = (stack.enter_context(disks.fresh()) for _ in range(2))
        shutil.copytree(image / "layout", source / "layout")
        run(tool.command("init", repository / "repo", source), repository)
        for disk in (repository, source):
            sync_fs(disk)
        for name, disk in (("repository", repository), ("image", source)):
            if slow.what in (name, "both"):
                stack.enter_context(slow.throttle.on(disk))
                forget_pages(disk)
        usage, _ = run(tool.command("pull", repository / "repo", source, *options), repository)
        return usage.wall_synced


def table(rows: Sequence[dict[str, object]]) -> Table:
    """Return the table of what was measured."""
    names = list(rows[0]["seconds"])  # type: ignore[call-overload]
    texts = [
        [str(row["disk"]), str(row["what"]), *(f"{row['seconds'][name]['median']:.1f}" for name in names)]  # type: ignore[index]
        for row in rows
    ]
    return Table(("disk", "what lies on it", *names), texts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure imports on slow disks.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="of the image (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON file (default: .cache/bench/SCALE-results/slow.json)")
    parser.add_argument("--ours", metavar="PATH", help="our composefs-import")
    parser.add_argument("--cfsctl", metavar="PATH", help="the reference (default: what scripts/cfsctl.sh finds)")
    args = parser.parse_args(argv)
    make = [sys.executable, _HERE / "images.py", "--scale", args.scale, "--kind", _KIND]
    subprocess.run(make, check=True, stdout=sys.stderr)
    tools = {tool.name: tool for tool in find_tools(args.ours, args.cfsctl, ALGORITHMS[0])}
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that disks are fast again, and unmounted
    disks = Disks(CACHE)
    if not (disks.are_own and Throttle().can_be_set()):
        print("no slow disks: they need root, a loop device, and blkio of cgroup v1")
        return 0
    variants = {f"{count} worker{'s' * (count > 1)}": (OURS, ("--workers", str(count))) for count in _WORKERS}
    variants |= {"default": (OURS, ())} | ({REFERENCE: (REFERENCE, ())} if REFERENCE in tools else {})
    rows: list[dict[str, object]] = []
    for slow in DISKS:
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(args.runs):
            for name, (tool, options) in variants.items():
                try:
                    taken = measure(tools[tool], disks, slow, directory(args.scale, _KIND), *options)
                except CommandError as error:
                    print(f"ERROR: {error}")
                    return 1
                seconds[name].append(taken)
                print(f"{slow.name}, {slow.what}, {name}: {taken:.1f} s", file=sys.stderr, flush=True)
        spreads = {name: spread(values) for name, values in seconds.items()}
        rows.append({"disk": slow.name, "what": slow.what, "seconds": spreads})
    print(f"many-gzip at scale {args.scale}, {ALGORITHMS[0]}: seconds until all was written")
    print(*table(rows).text(), sep="\n")
    result = {**facts.machine(), "scale": args.scale, "image": facts.images(args.scale, [_KIND])[_KIND], "rows": rows}
    out = args.out or CACHE / f"{args.scale}-results" / "slow.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
