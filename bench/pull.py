"""Measure pulls from a registry on this machine: our command, cfsctl 0.9.4 (by skopeo) and podman in turn.

    python bench/pull.py --scale small|medium|full [--runs 5] [--only WORK ...] [--out FILE]

The registry is Debian's, alone for full speed, and behind an nginx that gives each stream 25 MB/s.  Prints a table,
writes JSON.  Status 0 without figures where a server is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import facts
from disks import Disks
from images import CACHE, directory
from measure import CommandError, Usage, adopt_orphans, run, sync_fs
from report import Table, spread
from tools import NAME, OURS, REFERENCE, find_ours, find_reference
from trees import SCALES
from works import ALGORITHMS

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent))

from tests.registries.docker_registry import docker_registry, skopeo_copy  # noqa: E402  # beside this directory
from tests.registries.nginx import Front, nginx  # noqa: E402

PODMAN, LAYOUT = "podman", "oci:"
_RATE = 25_000_000  # bytes a second of each stream: about what ECR gives, see the README
_SERVERS = ("docker-registry", "nginx", "skopeo")


@dataclass(frozen=True)
class Work:
    """An image of *kind* to fetch, with each stream at full speed or not; *wanted* times as fast as cfsctl."""

    kind: str
    slow: bool
    wanted: float


WORKS = {
    "many-gzip": Work("many-gzip", slow=False, wanted=2.5),
    "one-gzip": Work("one-gzip", slow=False, wanted=2.5),
    "many-gzip-25": Work("many-gzip", slow=True, wanted=3.0),
    "one-gzip-25": Work("one-gzip", slow=True, wanted=3.0),
}
ARCHIVE = "archive"  # our import of an archive, beside that of the same layout
ARCHIVE_KIND = "many-gzip"
WANTED_ARCHIVE = 1.1  # times as long, at most


class Bench:
    """The tools, and what they are given.

    Args:
        fast: host and port of the registry at full speed.
        slow: the same, of the one whose streams are limited.
        scale: of the images.
    """

    def __init__(self, fast: str, slow: str, scale: str) -> None:
        self._addresses, self._scale = {False: fast, True: slow}, scale
        ours, reference = find_ours(None, ALGORITHMS[0]), find_reference(None, ALGORITHMS[0])
        assert ours is not None
        self._ours = ours.programs["composefs-import"][0]
        self._reference = reference.programs["cfsctl"][0] if reference is not None else None
        self._podman = shutil.which("podman")
        self.versions = {tool.name: tool.version for tool in (ours, reference) if tool is not None}

    def commands(self, work: Work, disk: Path) -> Iterator[tuple[str, list[str]]]:
        """Yield the commands that do *work*, by tool; each leaves what it makes in *disk*."""
        reference = f"docker://{self._addresses[work.slow]}/{work.kind}:{self._scale}"
        repo = f"{disk}/repo"
        if self._reference is not None:
            yield REFERENCE, [self._reference, "--repo", repo, "oci", "pull", reference, NAME]
        if self._podman is not None and work.kind != "one-gzip":  # it takes no layer that has a path twice
            places = ("--root", f"{disk}/storage", "--runroot", f"{disk}/run", "--storage-driver", "overlay")
            yield PODMAN, [self._podman, *places, "pull", "--quiet", "--tls-verify=false", reference]
        yield OURS, self.import_command(reference, repo, "--tls-verify=false")

    def import_command(self, reference: str, repo: str, *options: str) -> list[str]:
        """Return our command."""
        return [self._ours, reference, "--repo", repo, "--name", NAME, "--progress", "none", *options]

    def init(self, tool: str, disk: Path) -> None:
        """Make the repository that *tool* needs beforehand."""
        if tool == REFERENCE:
            assert self._reference is not None
            subprocess.run(
                [self._reference, "--repo", f"{disk}/repo", "init", "--insecure"], check=True, stdout=subprocess.DEVNULL
            )


def measure(
    bench: Bench, disks: Disks, names: Sequence[str], scale: str, runs: int
) -> dict[str, dict[str, list[Usage]]]:
    """Do each work *runs* times with each tool in turn; return what each run took."""
    taken: dict[str, dict[str, list[Usage]]] = {name: {} for name in names}
    for number in range(1, runs + 1):
        for name in names:
            for tool in _tools(bench, name, scale):
                with disks.fresh() as disk:
                    bench.init(tool, disk)
                    command = dict(_commands(bench, name, disk, scale))[tool]
                    sync_fs(disk)
                    try:
                        usage, _ = run(command, disk)
                    finally:
                        _unmount(disk)
                taken[name].setdefault(tool, []).append(usage)
                _say(f"{number} {name} {tool}: {usage.wall:.2f} s, {usage.wall_synced:.2f} synced, CPU {usage.cpu:.2f}")
    return taken


def _tools(bench: Bench, name: str, scale: str) -> list[str]:
    return [tool for tool, _ in _commands(bench, name, Path("/"), scale)]


def _commands(bench: Bench, name: str, disk: Path, scale: str) -> Iterator[tuple[str, list[str]]]:
    if name != ARCHIVE:
        yield from bench.commands(WORKS[name], disk)
        return
    place = directory(scale, ARCHIVE_KIND)
    yield LAYOUT, bench.import_command(f"oci:{place}/layout", f"{disk}/repo")
    yield ARCHIVE, bench.import_command(f"oci-archive:{_archive(scale)}", f"{disk}/repo")


def _archive(scale: str) -> Path:
    return CACHE / f"{scale}-{ARCHIVE_KIND}.oci"


def _unmount(disk: Path) -> None:
    """Let go of what podman leaves mounted."""
    storage = disk / "storage" / "overlay"
    if storage.is_dir():
        subprocess.run(["umount", storage], check=False, stderr=subprocess.DEVNULL)


def table(taken: Mapping[str, Mapping[str, Sequence[Usage]]]) -> Table:
    """Return the table of what each work took: seconds until all was written, and ratios of runs next to each other."""
    rows = []
    for name, tools in taken.items():
        for tool, usages in tools.items():
            base = tools[OURS if OURS in tools else LAYOUT]
            ratios = [usage.wall_synced / ours.wall_synced for usage, ours in zip(usages, base, strict=True)]
            times, cpu = spread([usage.wall_synced for usage in usages]), spread([usage.cpu for usage in usages])
            ratio, peak = spread(ratios), spread([usage.peak_sum for usage in usages])
            cells = [f"{times['median']:.2f}", f"{cpu['median']:.2f}", f"{peak['median'] / 1e6:.0f}"]
            rows.append([name, tool, *cells, f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"])
    return Table(("work", "tool", "s", "CPU s", "peak MB", "over ours"), rows)


@contextmanager
def _served(scale: str, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Serve the images of *kinds*; yield the addresses at full speed, and with limited streams."""
    with ExitStack() as stack:
        registry = stack.enter_context(docker_registry(CACHE / f"{scale}-registry"))
        for kind in kinds:
            tag = registry.storage / f"docker/registry/v2/repositories/{kind}/_manifests/tags/{scale}"
            if not tag.exists():
                skopeo_copy(f"oci:{directory(scale, kind)}/layout", f"docker://{registry.address}/{kind}:{scale}")
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE)))
        front = stack.enter_context(nginx(place, registry.port, Front(limit_rate=str(_RATE))))
        yield registry.address, front.address


def _configure(home: Path, addresses: Sequence[str]) -> None:
    """Let programs of others speak plain HTTP to the registries: skopeo looks in its user's home only."""
    place = home / ".config/containers"
    place.mkdir(parents=True)
    lines = (f'[[registry]]\nlocation = "{address}"\ninsecure = true\n' for address in addresses)
    (place / "registries.conf").write_text("".join(lines))
    (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    os.environ["HOME"] = str(home)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, and have a process of its own measure: servers must not be among what is measured."""
    parser = argparse.ArgumentParser(description="Measure pulls from a registry.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="of the images (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[*WORKS, ARCHIVE], metavar="WORK", help="some of the works")
    parser.add_argument("--out", type=Path, help="the JSON file (default: .cache/bench/SCALE-results/pull.json)")
    parser.add_argument(
        "--addresses", nargs=2, metavar="ADDRESS", help=argparse.SUPPRESS
    )  # of the process that measures
    args = parser.parse_args(argv)
    names = args.only or [*WORKS, ARCHIVE]
    if args.addresses:
        return _measure(args, names)
    if missing := [name for name in _SERVERS if shutil.which(name) is None]:
        print(f"no figures of pulls: {', '.join(missing)} missing")
        return 0
    kinds = sorted({WORKS[name].kind if name in WORKS else ARCHIVE_KIND for name in names})
    make = [sys.executable, _HERE / "images.py", "--scale", args.scale]
    subprocess.run([*make, *(word for kind in kinds for word in ("--kind", kind))], check=True, stdout=sys.stderr)
    if ARCHIVE in names and not _archive(args.scale).exists():
        layout = directory(args.scale, ARCHIVE_KIND) / "layout"
        subprocess.run(["tar", "--create", "--file", _archive(args.scale), "--directory", layout, "."], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers end
    with _served(args.scale, kinds) as addresses:
        command = [sys.executable, __file__, *(argv if argv is not None else sys.argv[1:]), "--addresses", *addresses]
        return subprocess.run(command, check=False).returncode


def _measure(args: argparse.Namespace, names: Sequence[str]) -> int:
    adopt_orphans()
    disks = Disks(CACHE)
    bench = Bench(*args.addresses, args.scale)
    with tempfile.TemporaryDirectory() as home:
        _configure(Path(home), args.addresses)
        try:
            taken = measure(bench, disks, names, args.scale, args.runs)
        except CommandError as error:
            print(f"ERROR: {error}")
            return 1
    print(f"scale {args.scale}, {ALGORITHMS[0]}: until all was written; medians of {args.runs}")
    print(*table(taken).text(), sep="\n")
    rows = {
        name: {
            tool: {
                value: spread([getattr(usage, value) for usage in usages]) for value in ("wall_synced", "wall", "cpu")
            }
            for tool, usages in tools.items()
        }
        for name, tools in taken.items()
    }
    kinds = sorted({WORKS[name].kind for name in names if name in WORKS})
    result = {
        **facts.machine(),
        "versions": bench.versions,
        "scale": args.scale,
        "runs": args.runs,
        "images": facts.images(args.scale, kinds),
        "table": table(taken)._asdict(),
        "rows": rows,
    }
    out = args.out or CACHE / f"{args.scale}-results" / "pull.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
