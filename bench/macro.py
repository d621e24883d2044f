"""Measure imports and images: our commands, cfsctl 0.9.4 and the limit in turn, on the same images, in one run.

    python bench/macro.py --scale small|medium|full [--runs 5 3] [--only WORK ...] [--out FILE]

Prints tables, writes JSON.  Status 1 if a command failed or the tools made different repositories.  See README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import facts
import report
from disks import Disks
from images import CACHE, directory
from measure import CommandError, Usage, adopt_orphans, run, sync_fs
from tools import LIMIT, OURS, REFERENCE, Tool, find_tools, locate_files
from trees import SCALES
from works import ALGORITHMS, WORKS, Work, chosen_series

_HERE = Path(__file__).resolve().parent
_PIECE = bytearray(1 << 20)

Made = Mapping[str, Mapping[str, str]]  # what is in a repository: symlinks and their targets, by sort


class Bench:
    """The measurements of the works called *names* with one algorithm, a round at a time."""

    def __init__(self, tools: Sequence[Tool], disks: Disks, scale: str, names: Sequence[str]) -> None:
        self._tools = tools
        self._disks = disks
        self._scale = scale
        self._names = names
        self._series = list(chosen_series(names))
        self._first: dict[str, tuple[str, Made]] = {}  # by work: what the first run of it made
        self._objects = tempfile.TemporaryDirectory()  # a file for each work: the names of what the limit made
        self.results: dict[str, dict[str, list[Usage]]] = {name: {} for name in WORKS if name in names}
        self.errors: list[str] = []

    def measure(self, number: int) -> None:
        """Do each series once with each tool in turn; *number*, from 1, is that of the round."""
        for series in list(self._series):
            alone = series[0].ours_alone
            if alone and number > 1:
                continue
            for tool in self._tools:
                if (alone and tool.name != OURS) or (tool.name == LIMIT and not series[0].limited):
                    continue
                try:
                    self._run_series(series, tool, number)
                except CommandError as error:
                    self._fail(f"{tool.name}: {error}")
                    self._series.remove(series)
                    break

    def _run_series(self, series: Sequence[Work], tool: Tool, number: int) -> None:
        with self._disks.fresh() as disk:
            repo = disk / "repo"
            if "init" in tool.commands:
                self._command(tool, "init", series[0], disk)
            for work in series:
                if tool.name == LIMIT and not work.limited:
                    continue
                if work.forget:
                    _forget_image(repo)
                _read_all(directory(self._scale, work.kind) / ("root" if work.command == "compute-id" else "layout"))
                sync_fs(disk)  # what happened before is not written while we measure
                usage, printed = self._command(tool, work.command, work, disk)
                if work.name in self._names:
                    self.results[work.name].setdefault(tool.name, []).append(usage)
                _say(f"{number} {work.name} {tool.name}: {usage.wall:.2f} s, {usage.wall_synced:.2f} synced")
                for difference in self._compare(tool, work, repo, printed):
                    self._fail(f"{work.name}: {difference}")

    def _command(self, tool: Tool, name: str, work: Work, disk: Path) -> tuple[Usage, str]:
        """Run a command of *tool*; an error does not name the paths of this machine."""
        repo = disk / "repo"
        try:
            return run(tool.command(name, repo, directory(self._scale, work.kind)), disk)
        except CommandError as error:
            text = str(error).replace(str(repo), "REPO").replace(str(CACHE), "CACHE")
            for program in tool.programs.values():
                text = text.replace(str(Path(program[-1]).parent) + "/", "")
            raise CommandError(f"{work.name}: {text}") from None

    def _compare(self, tool: Tool, work: Work, repo: Path, printed: str) -> Iterator[str]:
        """Yield how what *tool* did differs from what the others did: then it was not the same work."""
        names = Path(self._objects.name, work.name)
        if tool.name == LIMIT:
            _record_objects(repo / "objects", names)
            return
        if work.limited and tool.name == OURS and (missing := _count_missing(names, repo / "objects")):
            yield f"{missing} objects of the limit are not in the repository"
        if work.command in {"pull", "gc"}:
            made: Made = {
                "layer streams": _links(repo / "streams", "oci-layer-"),
                "images": _links(repo / "images", ""),
            }
        elif work.command in {"fsck", "gc-dry-run"}:
            return  # the status says it; the words differ, and what an import left that nobody needs
        else:
            made = {"output": {"standard output": hashlib.sha256(printed.encode()).hexdigest()}}
        first = self._first.setdefault(work.name, (tool.name, made))
        yield from _differences(*first, tool.name, made)

    def _fail(self, text: str) -> None:
        if text not in self.errors:  # which most often comes back in each run
            self.errors.append(text)
            _say(f"ERROR: {text}")


def _forget_image(repo: Path) -> None:
    """Remove the names of everything but layers."""
    for name in _links(repo / "streams", "oci-config-") | _links(repo / "streams", "oci-manifest-"):
        (repo / "streams" / name).unlink()
    shutil.rmtree(repo / "streams/refs")
    shutil.rmtree(repo / "images")


def _links(place: Path, prefix: str) -> dict[str, str]:
    """Return the symlinks in *place* whose names begin with *prefix*, and their targets."""
    if not place.is_dir():
        return {}
    return {
        entry.name: os.readlink(entry.path)
        for entry in os.scandir(place)
        if entry.is_symlink() and entry.name.startswith(prefix)
    }


def _differences(first: str, wanted: Made, second: str, got: Made) -> Iterator[str]:
    """Yield how the repository that *second* made differs from that of *first*."""
    for what, links in wanted.items():
        if not links and not got[what]:
            yield f"{second} made no {what}"
        elif got[what] != links:
            same = len(links.items() & got[what].items())
            yield f"{what}: {first} made {len(links)}, {second} {len(got[what])}; {same} are the same"


def _record_objects(objects: Path, names: Path) -> None:
    """Write what is in *objects* to the file *names*, a line for each directory: this process must stay small."""
    with open(names, "w") as file:
        for number in range(256):
            print(*os.listdir(objects / f"{number:02x}"), file=file)


def _count_missing(names: Path, objects: Path) -> int:
    """Return how many of the objects that `_record_objects` has written to the file *names* are not in *objects*."""
    missing = 0
    with open(names) as file:
        for number, line in enumerate(file):
            place = objects / f"{number:02x}"
            missing += len(set(line.split()) - set(os.listdir(place) if place.is_dir() else ()))
    return missing


def _read_all(place: Path) -> None:
    """Bring all regular files of *place* into the page cache."""
    for parent, _, names in os.walk(place):
        for name in names:
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(_PIECE):
                        pass


def _unpack(place: Path) -> None:
    """Unpack the layers of the image in *place* into its `root`, once; they have no whiteouts."""
    root = place / "root"
    if root.is_dir():
        return
    partial = place / "root.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    layout = place / "layout"
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    layers = json.loads(_blob(layout, manifest).read_text())["layers"]
    for layer in layers:
        command = ["tar", "--extract", "--gzip", "--file", _blob(layout, layer["digest"]), "--directory", partial]
        subprocess.run(command, check=True)
    partial.rename(root)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _prepare(scale: str, names: Sequence[str]) -> list[str]:
    """Make the images that the works called *names* need, and what belongs to them; return their kinds."""
    works = [work for series in chosen_series(names) for work in series]
    kinds = sorted({work.kind for work in works})
    # In a process of its own: its children must not be among those that are measured.
    options = [word for kind in kinds for word in ("--kind", kind)]
    subprocess.run([sys.executable, _HERE / "images.py", "--scale", scale, *options], check=True, stdout=sys.stderr)
    locate_files([directory(scale, work.kind) for work in works if work.limited])
    for work in works:
        if work.command == "compute-id":
            _say(f"{work.name}: unpacking the image, unless that was done before")
            _unpack(directory(scale, work.kind))
    return kinds


def _results(benches: Mapping[str, Bench]) -> dict[str, object]:
    """Return, by algorithm and work, every run and what follows from them."""
    return {
        algorithm: {
            name: {
                "summary": report.summarize(runs),
                "raw": {tool: [asdict(usage) for usage in usages] for tool, usages in runs.items()},
            }
            for name, runs in bench.results.items()
            if runs
        }
        for algorithm, bench in benches.items()
    }


def _print(result: Mapping[str, object], disks: Disks) -> None:
    """Print the tables of *result*."""
    print(f"scale {result['scale']}, {result['cpus']} CPUs, {disks.description}")
    if result["scale"] != "full":
        print("Start-up and luck decide small images: what is wanted is wanted of scale full.")
    for algorithm, works in result["algorithms"].items():  # type: ignore[attr-defined]
        summaries = {name: work["summary"] for name, work in works.items()}
        print(f"\n{algorithm}")
        for lines in (
            report.speed_table(summaries).text(),
            report.cost_table(summaries).text(),
            report.verdicts(summaries),
        ):
            print("", *lines, sep="\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure our commands against cfsctl on seeded images.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="size of the images (default: %(default)s)")
    parser.add_argument(
        "--algorithm",
        nargs="+",
        choices=ALGORITHMS,
        default=ALGORITHMS,
        metavar="ALGORITHM",
        help=f"of the repositories (default: {' '.join(ALGORITHMS)})",
    )
    parser.add_argument(
        "--runs",
        type=int,
        nargs="+",
        default=[5],
        metavar="N",
        help="of each tool and work, for each algorithm in turn; the last number stands for those that follow",
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, metavar="WORK", help=f"some of: {', '.join(WORKS)}")
    parser.add_argument("--out", type=Path, help="the JSON file (default: .cache/bench/SCALE-results/macro.json)")
    parser.add_argument("--ours", metavar="PATH", help="our composefs-import; composefs is beside it")
    parser.add_argument("--cfsctl", metavar="PATH", help="the reference (default: what scripts/cfsctl.sh finds)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = _parse(argv)
    names = args.only or list(WORKS)
    tools = {algorithm: find_tools(args.ours, args.cfsctl, algorithm) for algorithm in args.algorithm}
    here = {tool.name: tool for tool in tools[args.algorithm[0]]}
    for name in {REFERENCE, OURS} - here.keys():
        _say(f"without {name}")
    kinds = _prepare(args.scale, names)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that file systems are unmounted
    disks = Disks(CACHE)
    benches = {algorithm: Bench(tools[algorithm], disks, args.scale, names) for algorithm in args.algorithm}
    result = {
        **facts.machine(),
        "file_system": disks.description,
        "tools": {name: {"version": tool.version, "commands": tool.commands} for name, tool in here.items()},
        "scale": args.scale,
        "images": facts.images(args.scale, kinds),
    }
    out = args.out or CACHE / f"{args.scale}-results" / "macro.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    for place, (algorithm, bench) in enumerate(benches.items()):
        for number in range(1, args.runs[min(place, len(args.runs) - 1)] + 1):
            _say(f"{algorithm}, round {number}")
            bench.measure(number)
            result["algorithms"] = _results(benches)
            result["errors"] = [f"{name}: {error}" for name, one in benches.items() for error in one.errors]
            out.write_text(json.dumps(result, indent=1) + "\n")  # after each round: an hour may be interrupted
    _print(result, disks)
    for error in result["errors"]:  # type: ignore[attr-defined]
        print(f"ERROR: {error}")
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
