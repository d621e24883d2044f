"""Measure what only a kernel with fs-verity shows, in a guest of the lab: sealed imports, and mounts of both tools.

    python bench/kernel.py [--runs 5] [--entries 6000] [--kernel 6.12] [--out FILE]

Prints a table, writes JSON.  Status 0 without figures where the lab cannot be had.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import facts
import images
import shapes
from report import Table, spread
from tools import OURS, REFERENCE, find_reference

_ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(_ROOT))

from tests.kernel.lab.errors import UnavailableError  # noqa: E402  # a package beside this directory
from tests.kernel.lab.tools import ensure_kernel, ensure_tools  # noqa: E402

_LAYERS = 4
_TIMEOUT = 3600  # seconds

Seconds = Mapping[str, Mapping[str, Sequence[float]]]  # of each run, by work and tool


def table(result: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Return the table of the works in *result*: medians, and the ratio of runs next to each other."""
    rows = []
    for work, row in result.items():
        times = [f"{row[tool]['median']:.2f}" if tool in row else "-" for tool in (OURS, REFERENCE)]
        ratio = row.get("ratio")
        rows.append(
            [work, *times, f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-"]
        )
    return Table(("in the lab", f"{OURS} s", f"{REFERENCE} s", f"{REFERENCE} / {OURS}"), rows)


def summarize(seconds: Seconds) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by work, the spread of each tool, and of the ratios of runs next to each other."""
    found = {}
    for work, runs in seconds.items():
        found[work] = {tool: spread(values) for tool, values in runs.items()}
        if OURS in runs and REFERENCE in runs:
            pairs = zip(runs[REFERENCE], runs[OURS], strict=True)
            found[work]["ratio"] = spread([theirs / ours for theirs, ours in pairs])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure sealed imports and mounts in a guest with fs-verity.")
    parser.add_argument("--runs", type=int, default=5, help="of each tool (default: %(default)s)")
    parser.add_argument("--entries", type=int, default=6000, help="of the image (default: %(default)s)")
    parser.add_argument("--kernel", default="6.12", metavar="SERIES", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="the JSON file (default: .cache/bench/kernel-results/kernel.json)")
    args = parser.parse_args(argv)
    name, shape = shapes.layers_image(_LAYERS, args.entries)
    images.ensure_shapes({name: shape})
    place = images.CACHE / name
    try:
        tools, kernel = ensure_tools(), ensure_kernel(args.kernel)
    except UnavailableError as error:
        print(f"no figures: {error}")
        return 0
    modules = images.CACHE / "kernel-modules" / kernel.release
    modules.mkdir(parents=True, exist_ok=True)
    for number, (module, contents) in enumerate(kernel.load_order(["null_blk"])):
        (modules / f"{number}-{module}.ko").write_bytes(contents)
    # The guest sees the host's files read-only: each process would compile anew what is not compiled.
    subprocess.run([sys.executable, "-m", "compileall", "-q", _ROOT / "composefs"], check=True)
    reference = find_reference(None, "fsverity-sha512-12")
    guest = [sys.executable, Path(__file__).with_name("kernel_guest.py"), place / "layout", "--runs", str(args.runs)]
    guest += ["--ours", Path(sys.executable).with_name("composefs-import")]
    guest += ["--insmod", tools.busybox, "--modules", modules]
    guest += ["--cfsctl", *reference.programs["cfsctl"]] if reference is not None else []
    lab = [sys.executable, "-m", "tests.kernel.lab", "run", "--kernel", args.kernel, "--smp", "2", "--memory", "4096"]
    lab += ["--timeout", str(_TIMEOUT), "--", *map(str, guest)]
    done = subprocess.run(lab, cwd=_ROOT, check=False, stdout=subprocess.PIPE, text=True)
    *lines, last = done.stdout.splitlines() or [""]
    if done.returncode != 0:
        print(*lines, last, sep="\n", file=sys.stderr)
        return 1
    measured = json.loads(last)
    works = summarize(measured["seconds"])
    print(
        f"Linux {measured['kernel']} under {measured['emulator']}, {measured['cpus']} CPUs, {measured['file_system']}"
    )
    print(*table(works).text(), sep="\n")
    stats = json.loads((place / "stats.json").read_text())
    result = {
        **facts.machine(),
        "image": {key: stats[key] for key in ("entries", "objects", "tar_size")} | {"layers": len(stats["layers"])},
        "guest": {key: measured[key] for key in ("kernel", "emulator", "cpus", "file_system")},
        "reference": reference.version if reference is not None else None,
        "runs": args.runs,
        "works": works,
        "raw": measured["seconds"],
    }
    out = args.out or images.CACHE / "kernel-results" / "kernel.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
