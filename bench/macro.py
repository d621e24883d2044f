"""Measure imports and images: our commands and cfsctl 0.9.4 in turn, on the same images, in one run.

    python bench/macro.py --scale small|medium|full [--runs 5] [--only WORK ...] [--out FILE]

Prints tables, writes JSON.  Status 1 if an import failed or the two tools made different repositories.  See README.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import shutil
import signal
import stat
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
    """Something to measure on the image *kind*, after that of *before* was imported, untimed."""

    kind: str
    before: str | None = None
    ours_alone: bool = False
    timed: str = "pull"  # which command of a tool
    forget: bool = False  # all names but those of layers, so that the image is made again of what is stored


WORKS = {
    "many-gzip": Work("many-gzip"),
    "one-gzip": Work("one-gzip"),
    "many-zstd": Work("many-zstd"),
    "many-plain": Work("many-plain"),
    "update": Work("update-gzip", before="many-gzip"),
    "nothing-new": Work("many-gzip", before="many-gzip"),
    "image": Work("many-gzip", before="many-gzip", forget=True),
    "dump": Work("many-gzip", before="many-gzip", timed="dump"),
    "directory": Work("many-gzip", timed="compute-id"),
    **{kind: Work(kind, ours_alone=True) for kind in P5_WORKS},
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, and its commands by what they do; REPO, LAYOUT and DIRECTORY in them stand for paths."""

    name: str
    version: str
    commands: Mapping[str, tuple[str, ...]]
    programs: Mapping[str, str]  # their paths by name

    def command(self, name: str, repo: Path, place: Path) -> list[str]:
        """Return the command called *name*, for the image whose layout and files are in *place*."""
        paths = {"REPO": repo, "LAYOUT": place / "layout", "DIRECTORY": place / "root"}
        program, *words = self.commands[name]
        for variable, path in paths.items():
            words = [word.replace(variable, str(path)) for word in words]
        return [self.programs[program], *words]


def find_ours(path: str | None, algorithm: str) -> Tool | None:
    """Return our commands: those at *path*, or beside this Python, or in PATH."""
    beside = Path(sys.executable).parent / "composefs-import"
    found = path or (str(beside) if beside.exists() else shutil.which("composefs-import"))
    if found is None:
        return None
    programs = {"composefs-import": found, "composefs": str(Path(found).with_name("composefs"))}
    options = ("--repo", "REPO", "--name", _NAME, "--algorithm", algorithm, "--progress", "none", "--json")
    commands = {
        "init": ("composefs", "init", "--insecure", "--algorithm", algorithm, "REPO"),
        "pull": ("composefs-import", "oci:LAYOUT", *options),
        **_readers("composefs", algorithm),
    }
    return Tool(OURS, _version(found), commands, programs)


def find_reference(path: str | None, algorithm: str) -> Tool | None:
    """Return cfsctl: the one at *path*, or the one that scripts/cfsctl.sh finds or builds."""
    if path is None:
        script = _HERE.parent / "scripts" / "cfsctl.sh"
        found = subprocess.run([script], check=False, stdout=subprocess.PIPE, text=True)
        if found.returncode != 0:
            return None
        path = found.stdout.strip()
    commands = {
        "init": ("cfsctl", "--repo", "REPO", "init", "--insecure", "--algorithm", algorithm),
        "pull": ("cfsctl", "--repo", "REPO", "oci", "pull", "oci:LAYOUT", _NAME),
        **_readers("cfsctl", algorithm),
    }
    return Tool(REFERENCE, _version(path), commands, {"cfsctl": path})


def _readers(program: str, algorithm: str) -> dict[str, tuple[str, ...]]:
    """Return the commands that both tools spell alike, and whose outputs must be the same."""
    hash_name = algorithm.split("-")[1]
    return {
        "dump": (program, "--repo", "REPO", "oci", "dump", _NAME),
        "compute-id": (program, "--no-repo", "--hash", hash_name, "compute-id", "DIRECTORY"),
    }


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
        """Do *work* once in an empty directory; return what it took, and what was made or printed."""
        repo, place = disk / "repo", directory(self._scale, work.kind)
        try:
            run(tool.command("init", repo, place), disk)
            if work.before is not None:
                run(tool.command("pull", repo, directory(self._scale, work.before)), disk)
            if work.forget:
                _forget_image(repo)
            _read_all(place / ("root" if work.timed == "compute-id" else "layout"))
            sync_fs(disk)  # what happened before is not written while we measure
            usage, printed = run(tool.command(work.timed, repo, place), disk)
        except CommandError as error:
            text = str(error).replace(str(repo), "REPO").replace(str(CACHE), "CACHE")
            text = text.replace(str(Path(tool.programs[tool.commands["pull"][0]]).parent) + "/", "")
            raise CommandError(text) from None
        if work.timed != "pull":
            return usage, {"output": {"standard output": hashlib.sha256(printed.encode()).hexdigest()}}
        return usage, {"layer streams": _links(repo / "streams", "oci-layer-"), "images": _links(repo / "images", "")}


def _forget_image(repo: Path) -> None:
    """Remove the names of everything but layers."""
    for name in _links(repo / "streams", "oci-config-") | _links(repo / "streams", "oci-manifest-"):
        (repo / "streams" / name).unlink()
    shutil.rmtree(repo / "streams/refs")
    shutil.rmtree(repo / "images")


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
        "tools": {tool.name: {"version": tool.version, "commands": tool.commands} for tool in tools},
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
    parser = argparse.ArgumentParser(description="Measure our commands against cfsctl on seeded images.")
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
    for name in works:
        if WORKS[name].timed == "compute-id":
            _say(f"{name}: unpacking the image, unless that was done before")
            _unpack(directory(args.scale, WORKS[name].kind))
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
