"""Measure how an import grows: with entries, with layers, with the size of files, and with workers.

    python bench/scaling.py --scale small|medium|full [--runs 2] [--only SWEEP ...] [--out FILE]

In each sweep one thing grows and all else stays.  To the times of the first three a line is fitted, `start + unit * x`;
how far the points are from it says whether growth is linear.  Our commands alone; bench/document.py draws the plots.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import facts
import images
from disks import Disks
from macro import _read_all
from measure import CommandError, Usage, adopt_orphans, run, sync_fs
from report import Table, spread
from shapes import entries_image, layers_image, sizes_image
from tools import Tool, find_ours
from trees import SCALES
from works import ALGORITHMS

_HERE = Path(__file__).resolve().parent
_LONG = 20.0  # seconds; a point that takes longer is measured once
_WORKER_KINDS = ("many-gzip", "one-gzip")


@dataclass(frozen=True, slots=True)
class Point:
    """An import to measure."""

    x: int
    image: str  # name of its directory
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """Imports that differ in one thing."""

    unit: str  # what x counts
    points: Sequence[Point]
    shapes: Mapping[str, images.Shape]
    is_linear: bool = True  # the time should grow as x
    units: Sequence[int] = ()  # how many units each point has, if it is not x


def sweeps(scale: str) -> dict[str, Sweep]:
    """Return the sweeps at *scale*."""
    factor = SCALES[scale]
    counts = [round(count * factor) for count in (10_000, 30_000, 100_000, 300_000, 1_000_000)]
    layers = [2**power for power in range(8)]
    sizes = [1 << power for power in (10, 12, 14, 16, 18, 20, 22, 24, 26, 28)]
    total = 1 << 28 if scale == "full" else 1 << 24
    sizes = [size for size in sizes if size <= total]
    found = {
        "entries": _sweep("entry", counts, [entries_image(count) for count in counts]),
        "layers": _sweep("layer", layers, [layers_image(count, round(24_000 * factor)) for count in layers]),
        "sizes": _sweep("file", sizes, [sizes_image(size, total) for size in sizes], [total // size for size in sizes]),
    }
    cpus = len(os.sched_getaffinity(0))
    workers = sorted({1, 2, cpus, 2 * cpus})
    for kind in _WORKER_KINDS:
        name = images.directory(scale, kind).name
        points = [Point(count, name, ("--workers", str(count))) for count in workers]
        found[f"workers-{kind}"] = Sweep("worker", points, {}, is_linear=False)
    return found


def _sweep(
    unit: str, values: Sequence[int], shapes: Sequence[tuple[str, images.Shape]], units: Sequence[int] = ()
) -> Sweep:
    points = [Point(value, name) for value, (name, _) in zip(values, shapes, strict=True)]
    return Sweep(unit, points, dict(shapes), units=units)


def measure(tool: Tool, disks: Disks, point: Point) -> Usage:
    """Import the image of *point* once."""
    image = images.CACHE / point.image
    with disks.fresh() as disk:
        run(tool.command("init", disk / "repo", image), disk)
        _read_all(image / "layout")
        sync_fs(disk)
        return run(tool.command("pull", disk / "repo", image, *point.options), disk)[0]


def fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return start and slope of the line nearest to the points: the sum of squares of relative distances is least."""
    weights = [1 / y**2 for y in ys]
    total = sum(weights)
    mean_x, mean_y = (sum(w * v for w, v in zip(weights, values, strict=True)) / total for values in (xs, ys))
    across = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True))
    slope = across / sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True))
    return mean_y - slope * mean_x, slope


def summarize(sweep: Sweep, usages: Sequence[Sequence[Usage]]) -> dict[str, object]:
    """Return what came out, for the JSON file."""
    points = [
        {
            "x": point.x,
            **{
                name: spread([getattr(usage, name) for usage in found])
                for name in ("wall", "wall_synced", "cpu", "peak_sum")
            },
            "raw": [asdict(usage) for usage in found],
        }
        for point, found in zip(sweep.points, usages, strict=True)
    ]
    result: dict[str, object] = {"unit": sweep.unit, "points": points}
    if sweep.is_linear:
        xs = list(map(float, sweep.units or [point.x for point in sweep.points]))
        walls = [point["wall"]["median"] for point in points]  # type: ignore[index]
        start, slope = fit(xs, walls)
        off = [wall / (start + slope * x) for x, wall in zip(xs, walls, strict=True)]
        result |= {"units": xs, "start": start, "slope": slope, "off_min": min(off), "off_max": max(off)}
        costs = [wall / x for x, wall in zip(xs, walls, strict=True)] if sweep.unit == "entry" else walls
        result["cost_ratio"] = max(costs) / min(costs)
    return result


def tables(result: Mapping[str, dict[str, object]]) -> Iterator[tuple[str, Table]]:
    """Yield the tables of what `summarize` returned, with their names."""
    for name, sweep in result.items():
        rows = []
        for point in sweep["points"]:  # type: ignore[attr-defined]
            wall, cpu, peak = (point[value]["median"] for value in ("wall", "cpu", "peak_sum"))
            row = [f"{point['x']:,}", f"{wall:.2f}", f"{cpu:.2f}", f"{peak / 1e6:.0f}"]
            rows.append([*row, f"{wall / point['x'] * 1e6:.1f}"] if name == "entries" else row)
        what = "bytes a file" if name == "sizes" else name.partition("-")[0]
        yield name, Table((what, "wall, s", "CPU, s", "peak MB", *(["us an entry"] * (name == "entries"))), rows)


def line(sweep: Mapping[str, object]) -> str:
    """Return in a sentence how linear *sweep* is."""
    start, slope, low, high, ratio = (
        float(sweep[name])  # type: ignore[arg-type]
        for name in ("start", "slope", "off_min", "off_max", "cost_ratio")
    )
    text = (
        f"{start:.2f} s and {slope * 1e6:.1f} us for each {sweep['unit']}; the points are {low:.2f} to {high:.2f} of it"
    )
    match sweep["unit"]:
        case "entry":
            return f"{text}; with the start, an entry costs at most {ratio:.2f} times what it costs elsewhere."
        case "layer":
            return f"{text}; the slowest takes {ratio:.2f} times as long as the fastest."
        case _:
            return f"{text}."


def _measure_all(tool: Tool, disks: Disks, found: Mapping[str, Sweep], runs: int) -> dict[str, dict[str, object]]:
    """Measure every sweep, in rounds, so that a slow minute does not meet one point only."""
    usages: dict[str, list[list[Usage]]] = {name: [[] for _ in sweep.points] for name, sweep in found.items()}
    for _ in range(runs):
        for name, sweep in found.items():
            for point, done in zip(sweep.points, usages[name], strict=True):
                if done and done[0].wall > _LONG:
                    continue
                done.append(measure(tool, disks, point))
                print(f"{name} {point.x}: {done[-1].wall:.2f} s", file=sys.stderr, flush=True)
    return {name: summarize(sweep, usages[name]) for name, sweep in found.items()}


def _make(scale: str, found: Mapping[str, Sweep]) -> None:
    """Make the images."""
    images.ensure_shapes({name: shape for sweep in found.values() for name, shape in sweep.shapes.items()})
    kinds = [kind for kind in _WORKER_KINDS if f"workers-{kind}" in found]
    images.ensure(scale, kinds)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    names = list(sweeps("small"))
    parser = argparse.ArgumentParser(description="Measure how an import grows.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="of the sweeps (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="of each point (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SWEEP", help=f"some of: {', '.join(names)}")
    parser.add_argument("--make", action="store_true", help="only make the images")
    parser.add_argument("--out", type=Path, help="the JSON file (default: .cache/bench/SCALE-results/scaling.json)")
    parser.add_argument("--ours", metavar="PATH", help="our composefs-import")
    args = parser.parse_args(argv)
    found = {name: sweep for name, sweep in sweeps(args.scale).items() if name in (args.only or names)}
    if args.make:
        _make(args.scale, found)
        return 0
    tool = find_ours(args.ours, ALGORITHMS[0])
    if tool is None:
        print("composefs-import is not here: nothing to measure")
        return 1
    # In a process of its own: its children must not be among those that are measured.
    options = ["--scale", args.scale, "--make", "--only", *found]
    subprocess.run([sys.executable, __file__, *options], check=True)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that file systems are unmounted
    disks = Disks(images.CACHE)
    try:
        result = _measure_all(tool, disks, found, args.runs)
    except CommandError as error:
        print(f"ERROR: {error}")
        return 1
    for name, table in tables(result):
        print(f"\n{name}")
        print(*table.text(), sep="\n")
        if found[name].is_linear:
            print(line(result[name]))
    out = args.out or images.CACHE / f"{args.scale}-results" / "scaling.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {**facts.machine(), "file_system": disks.description, "scale": args.scale, "sweeps": result}
    out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
