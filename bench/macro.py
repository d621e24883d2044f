"""Measure imports: `composefs-import` and cfsctl 0.9.4 in turn, on the same images, in one run.

    python bench/macro.py --scale small|medium|full [--runs 5] [--only WORK ...] [--out FILE]

Prints tables, writes JSON.  Status 1 if an import failed or the two tools made different repositories.  See README.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import report
import zstandard
from disks import Disks
from images import CACHE, directory
from measure import CommandError, Usage, adopt_orphans, run, sync_fs
from report import OURS, P5_WORKS, REFERENCE
from trees import SCALES

_HERE = Path(__file__).resolve().parent
_RESULTS = _HERE / "results"
_NAME = "bench"  # what the imported image is called
_PIECE = bytearray(1 << 20)


@dataclass(frozen=True, slots=True)
class Work:
    """Something to measure: importing the image *kind*, after that of *before* was imported, untimed."""

    kind: str
    before: str | None = None
    ours_alone: bool = False


WORKS = {
    "many-gzip": Work("many-gzip"),
    "one-gzip": Work("one-gzip"),
    "many-zstd": Work("many-zstd"),
    "many-plain": Work("many-plain"),
    "update": Work("update-gzip", before="many-gzip"),
    "nothing-new": Work("many-gzip", before="many-gzip"),
    **{kind: Work(kind, ours_alone=True) for kind in P5_WORKS},
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool; REPO and LAYOUT in its commands stand for paths."""

    name: str
    version: str
    init: tuple[str, ...]
    pull: tuple[str, ...]
    programs: Mapping[str, str]  # their paths by name

    def command(self, template: Sequence[str], repo: Path, layout: Path) -> list[str]:
        """Return the command that *template* means."""
        words = (word.replace("REPO", str(repo)).replace("LAYOUT", str(layout)) for word in template[1:])
        return [self.programs[template[0]], *words]


def find_ours(path: str | None, algorithm: str) -> Tool | None:
    """Return our commands: those at *path*, or beside this Python, or in PATH."""
    beside = Path(sys.executable).parent / "composefs-import"
    found = path or (str(beside) if beside.exists() else shutil.which("composefs-import"))
    if found is None:
        return None
    programs = {"composefs-import": found, "composefs": str(Path(found).with_name("composefs"))}
    options = ("--repo", "REPO", "--name", _NAME, "--algorithm", algorithm, "--progress", "none", "--json")
    return Tool(
        OURS,
        _version(found),
        ("composefs", "init", "--insecure", "--algorithm", algorithm, "REPO"),
        ("composefs-import", "oci:LAYOUT", *options),
        programs,
    )


def find_reference(path: str | None, algorithm: str) -> Tool | None:
    """Return cfsctl: the one at *path*, or the one that scripts/cfsctl.sh finds or builds."""
    if path is None:
        script = _HERE.parent / "scripts" / "cfsctl.sh"
        found = subprocess.run([script], check=False, stdout=subprocess.PIPE, text=True)
        if found.returncode != 0:
            return None
        path = found.stdout.strip()
    return Tool(
        REFERENCE,
        _version(path),
        ("cfsctl", "--repo", "REPO", "init", "--insecure", "--algorithm", algorithm),
        ("cfsctl", "--repo", "REPO", "oci", "pull", "oci:LAYOUT", _NAME),
        {"cfsctl": path},
    )


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]


Made = Mapping[str, Mapping[str, str]]  # what is in a repository: symlinks and their targets, by sort


class Bench:
    """The measurements of one call."""

    def __init__(self, tools: Sequence[Tool], disks: Disks, scale: str, runs: int) -> None:
        self._tools = tools
        self._disks = disks
        self._scale = scale
        self._runs = runs
        self.results: dict[str, dict[str, list[Usage]]] = {}
        self.errors: list[str] = []

    def measure(self, name: str) -> None:
        """Run the work called *name* with each tool in turn, again and again."""
        work = WORKS[name]
        tools = [tool for tool in self._tools if tool.name == OURS or not work.ours_alone]
        results = self.results[name] = {tool.name: [] for tool in tools}
        first: tuple[str, Made] | None = None
        for number in range(1, self._runs + 1):
            for tool in tools:
                with self._disks.fresh() as disk:
                    try:
                        usage, made = self._run(tool, work, disk)
                    except CommandError as error:
                        self._fail(f"{name}: {tool.name}: {error}")
                        return
                results[tool.name].append(usage)
                _say(f"{name} {number}/{self._runs} {tool.name}: {usage.wall:.2f} s, {usage.wall_synced:.2f} synced")
                first = first or (tool.name, made)
                for difference in _differences(*first, tool.name, made):
                    self._fail(f"{name}: {difference}")

    def _fail(self, text: str) -> None:
        if text not in self.errors:  # which most often comes back in each run
            self.errors.append(text)
            _say(f"ERROR: {text}")

    def _run(self, tool: Tool, work: Work, disk: Path) -> tuple[Usage, Made]:
        """Do *work* once in an empty directory; return what it took, and what is in the repository."""
        repo, layout = disk / "repo", self._layout(work.kind)
        try:
            run(tool.command(tool.init, repo, layout), disk)
            if work.before is not None:
                run(tool.command(tool.pull, repo, self._layout(work.before)), disk)
            _read_all(layout)
            sync_fs(disk)  # what happened before is not written while we measure
            usage, _ = run(tool.command(tool.pull, repo, layout), disk)
        except CommandError as error:
            text = str(error).replace(str(repo), "REPO").replace(str(CACHE), "CACHE")
            text = text.replace(str(Path(tool.programs[tool.pull[0]]).parent) + "/", "")
            raise CommandError(text) from None
        return usage, {"layer streams": _links(repo / "streams", "oci-layer-")}

    def _layout(self, kind: str) -> Path:
        return directory(self._scale, kind) / "layout"


def _links(directory: Path, prefix: str) -> dict[str, str]:
    """Return the symlinks in *directory* whose names begin with *prefix*, and their targets."""
    if not directory.is_dir():
        return {}
    return {
        entry.name: os.readlink(entry.path)
        for entry in os.scandir(directory)
        if entry.is_symlink() and entry.name.startswith(prefix)
    }


def _differences(first: str, wanted: Made, second: str, got: Made) -> Iterator[str]:
    """Yield how the repository that *second* made differs from that of *first*: then the work was not the same."""
    for what, links in wanted.items():
        if not links and not got[what]:
            yield f"{second} made no {what}"
        elif got[what] != links:
            same = len(links.items() & got[what].items())
            yield f"{what}: {first} made {len(links)}, {second} {len(got[what])}; {same} are the same"


def _read_all(layout: Path) -> None:
    """Bring *layout* into the page cache."""
    for path in (layout / "blobs" / "sha256").iterdir():
        with open(path, "rb", buffering=0) as file:
            while file.readinto(_PIECE):
                pass


def _facts(tools: Sequence[Tool], disks: Disks) -> dict[str, object]:
    """Return what the figures depend on; neither paths nor names of machines."""
    cpus = len(os.sched_getaffinity(0))
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "composefs", "csrc")),
        "cpu": _cpu_model(),
        "cpus": cpus,
        "workers": f"the default of each tool: one for each CPU, {cpus}",
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": disks.description,
        "python": platform.python_version(),
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "tools": {
            tool.name: {"version": tool.version, "init": tool.init, "pull": tool.pull, "timed": "pull"}
            for tool in tools
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_HERE, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _image_facts(scale: str, kinds: Sequence[str]) -> dict[str, object]:
    facts: dict[str, object] = {}
    for kind in kinds:
        place = directory(scale, kind)
        stats = json.loads((place / "stats.json").read_text())
        stats["layers"] = len(stats["layers"])
        index = json.loads((place / "layout" / "index.json").read_text())
        facts[kind] = {**stats, "manifest": index["manifests"][0]["digest"]}
    return facts


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure composefs-import against cfsctl on seeded images.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="size of the images (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each tool and work (default: %(default)s)")
    parser.add_argument(
        "--algorithm",
        choices=("fsverity-sha512-12", "fsverity-sha256-12"),
        default="fsverity-sha512-12",
        help="of the repositories (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, metavar="WORK", help=f"some of: {', '.join(WORKS)}")
    parser.add_argument("--out", type=Path, help="the JSON file (default: bench/results/local-SCALE.json)")
    parser.add_argument("--ours", metavar="PATH", help="our composefs-import; composefs is beside it")
    parser.add_argument("--cfsctl", metavar="PATH", help="the reference (default: what scripts/cfsctl.sh finds)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = _parse(argv)
    works = args.only or list(WORKS)
    found = [find_ours(args.ours, args.algorithm)]
    if not all(WORKS[name].ours_alone for name in works):
        found.insert(0, find_reference(args.cfsctl, args.algorithm))
    tools = [tool for tool in found if tool is not None]
    if not tools:
        _say("neither composefs-import nor cfsctl is here: nothing to measure")
        return 1
    for name in {REFERENCE, OURS} - {tool.name for tool in tools}:
        _say(f"without {name}")
    kinds = sorted({kind for name in works for kind in (WORKS[name].kind, WORKS[name].before) if kind})
    # In a process of its own: its children must not be among those that are measured.
    options = [word for kind in kinds for word in ("--kind", kind)]
    subprocess.run(
        [sys.executable, _HERE / "images.py", "--scale", args.scale, *options], check=True, stdout=sys.stderr
    )
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that file systems are unmounted
    disks = Disks(CACHE)
    bench = Bench(tools, disks, args.scale, args.runs)
    for name in works:
        bench.measure(name)
    print(f"scale {args.scale}, {args.runs} runs in turn, {args.algorithm}, {len(os.sched_getaffinity(0))} CPUs")
    print(f"{disks.description}\n")
    for line in report.tables(bench.results, {tool.name: tool.version for tool in tools}, args.scale):
        print(line.rstrip())
    for error in bench.errors:
        print(f"ERROR: {error}")
    out = args.out or _RESULTS / f"local-{args.scale}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        **_facts(tools, disks),
        "scale": args.scale,
        "algorithm": args.algorithm,
        "runs": args.runs,
        "images": _image_facts(args.scale, kinds),
        "works": {
            name: {
                "summary": report.summary(runs),
                "raw": {tool: [asdict(usage) for usage in usages] for tool, usages in runs.items()},
            }
            for name, runs in bench.results.items()
        },
        "errors": bench.errors,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
