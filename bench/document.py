"""Fill docs/performance.md with the tables and plots of measurements, so that no figure is copied by hand.

    python bench/document.py RESULTS [DOCS]

RESULTS has macro.json, scaling.json, slow.json, kernels.json, kernel.json and pull.json, or some of them.  The filled
document and its plots are written to DOCS, by default RESULTS.  Only what stands between lines `<!-- NAME -->` and
`<!-- end -->` changes; a block whose results are missing stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kernel
import report
import scaling
import slow
from plot import Axis, Line, chart
from tools import OURS, REFERENCE
from works import WANTED_ONE_LAYER, WANTED_OVER_LIMIT

_TEMPLATE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- (?!end)([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Result = Mapping[str, Any]  # a JSON file
Lines = Iterator[str]


def blocks(results: Mapping[str, Result]) -> dict[str, list[str]]:
    """Return the lines of every block for which there are *results*, which are by name of their file."""
    makers: dict[str, Callable[[Result], Iterator[tuple[str, Lines]]]] = {
        "macro": _macro_blocks,
        "scaling": _scaling_blocks,
        "slow": _slow_blocks,
        "kernels": _hash_blocks,
        "kernel": _lab_blocks,
        "pull": _pull_blocks,
    }
    return {name: list(lines) for file, result in results.items() for name, lines in makers[file](result)}


def plots(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG of each plot of scaling.json."""
    sweeps = result["sweeps"]
    seconds = Axis("seconds", logarithmic=True)
    for name, title, x_axis in (
        ("entries", "Time by number of entries", Axis("entries", logarithmic=True, format="{:,.0f}".format)),
        ("layers", "Time by number of layers, the same entries in all", _powers("layers", sweeps.get("layers"))),
        ("sizes", "Time by size of the files, the same bytes in all", _powers("bytes a file", sweeps.get("sizes"))),
    ):
        if name not in sweeps:
            continue
        sweep = sweeps[name]
        fitted = [sweep["start"] + sweep["slope"] * units for units in sweep["units"]]
        lines = [_line("wall", sweep, "wall"), _line("CPU", sweep, "cpu")]
        xs = [point["x"] for point in sweep["points"]]
        lines.append(Line("wall, fitted", list(zip(xs, fitted, strict=True)), dashed=True))
        y_axis = Axis("seconds") if name == "layers" else seconds
        yield name, chart(title, x_axis, y_axis, lines)
    if "entries" in sweeps:
        memory = Line("all processes", [(p["x"], p["peak_sum"]["median"] / 1e6) for p in sweeps["entries"]["points"]])
        x_axis = Axis("entries", logarithmic=True, format="{:,.0f}".format)
        yield "memory", chart("Peak memory by number of entries", x_axis, Axis("MB", format="{:,.0f}".format), [memory])
    workers = {name.removeprefix("workers-"): sweep for name, sweep in sweeps.items() if name.startswith("workers-")}
    if workers:
        lines = [_line(name, sweep, "wall") for name, sweep in workers.items()]
        x_axis = _powers("--workers", next(iter(workers.values())))
        yield "workers", chart("Time by number of workers", x_axis, Axis("seconds"), lines)


def _powers(label: str, sweep: Result | None) -> Axis:
    """Return a logarithmic axis with a tick at each x of *sweep*."""
    ticks = [point["x"] for point in sweep["points"]] if sweep else []
    return Axis(label, logarithmic=True, format=_short, ticks=ticks)


def _short(value: float) -> str:
    """Return a power of two with its binary prefix."""
    for power, prefix in ((20, "Mi"), (10, "Ki")):
        if value >= 1 << power and value % (1 << power) == 0:
            return f"{value / (1 << power):g} {prefix}"
    return f"{value:g}"


def _line(name: str, sweep: Result, value: str) -> Line:
    return Line(name, [(point["x"], point[value]["median"]) for point in sweep["points"]])


def _macro_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    yield "machine", _machine(result)
    for algorithm, works in result["algorithms"].items():
        short = algorithm.split("-")[1]
        summaries = {name: work["summary"] for name, work in works.items()}
        yield f"{short}-speed", report.speed_table(summaries).markdown()
        yield f"{short}-cost", report.cost_table(summaries).markdown()
        yield f"{short}-rest", _rest(summaries)


def _machine(result: Result) -> Lines:
    version = result["tools"].get(REFERENCE, {}).get("version", "not here")
    yield f"{result['cpu']}, {result['cpus']} CPUs, {result['memory'] / 1e9:.0f} GB, Linux {result['kernel']};"
    yield f"{result['file_system']};"
    yield f"Python {result['python']}, {REFERENCE} {version}; {result['date'][:10]}, commit {result['commit'][:12]}"
    runs = ", ".join(
        f"{algorithm.split('-')[1]} {max(len(raw) for work in works.values() for raw in work['raw'].values())} rounds"
        for algorithm, works in result["algorithms"].items()
    )
    yield f"{'and changes on top of it, ' if result['changed'] else ''}scale {result['scale']}; {runs}."


def _rest(summaries: Mapping[str, report.Summary]) -> Lines:
    if rate := report.one_layer_rate(summaries):
        yield f"One gzip layer comes in at {rate:.2f} of the rate of twenty; wanted: {WANTED_ONE_LAYER:.2f}."
    over = [summary["over_limit"]["wall"]["median"] for summary in summaries.values() if summary["over_limit"]["wall"]]
    if over:
        yield f"We take {min(over):.2f} to {max(over):.2f} times as long as the limit; wanted: {WANTED_OVER_LIMIT:.1f}."
    peaks = [
        f"{name} {summary['tools'][OURS]['peak_largest']['max'] / 1e6:.0f} MB"
        for name, summary in summaries.items()
        if name.startswith("big-")
    ]
    if peaks:
        yield f"Peak of the largest process: {', '.join(peaks)}."


def _scaling_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    for name, table in scaling.tables(result["sweeps"]):
        sweep = result["sweeps"][name]
        yield name, iter([*table.markdown(), *(["", scaling.line(sweep)] if "slope" in sweep else [])])


def _slow_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    yield "slow", slow.table(result["rows"]).markdown()


def _hash_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    rows = [
        [row["hash"], row["implementation"], row["what"], f"{row['gb_per_second']:.2f}", f"{row['ratio']:.2f}"]
        for row in result["rows"]
    ]
    yield "kernels", report.Table(("hash", "implementation", "what", "GB/s", "over OpenSSL"), rows).markdown()


def _lab_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    guest, image, works = result["guest"], result["image"], result["works"]
    sealing = {
        tool: works["import"][tool]["median"] / works["import, not sealed"][tool]["median"]
        for tool in (OURS, REFERENCE)
        if tool in works["import"]
    }
    costs = ", ".join(f"{tool} {cost:.2f}" for tool, cost in sealing.items())
    where = f"Linux {guest['kernel']} under {guest['emulator']}, {guest['cpus']} CPUs; {guest['file_system']}"
    yield (
        "lab",
        iter(
            [
                *kernel.table(works).markdown(),
                "",
                f"{where}; {image['layers']} layers, {image['entries']} entries, {image['tar_size'] / 1e6:.0f} MB;",
                f"{result['runs']} rounds; {result['date'][:10]}, commit {result['commit'][:12]}.",
                "",
                f"An import into a repository that is sealed, over one into a repository that is not: {costs}.",
            ]
        ),
    )


def _pull_blocks(result: Result) -> Iterator[tuple[str, Lines]]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        *report.Table(**result["table"]).markdown(),
        "",
        f"Scale {result['scale']}, until all was written, medians of {result['runs']}, ratios of runs next to each",
        f"other; {versions}; {result['date'][:10]}, commit {result['commit'][:12]}.",
    ]
    yield "pull", iter(lines)


def fill(text: str, found: Mapping[str, Sequence[str]]) -> str:
    """Return *text* with new contents in the blocks of *found*."""

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{chr(10).join(found[name])}\n\n{end}" if name in found else match[0]

    return _BLOCK.sub(replace, text)


def main(argv: Sequence[str]) -> int:
    """Write the document and its plots."""
    if len(argv) not in (1, 2):
        print("usage: document.py RESULTS [DOCS]", file=sys.stderr)
        return 2
    source = Path(argv[0])
    docs = Path(argv[-1])
    names = ("macro", "scaling", "slow", "kernels", "kernel", "pull")
    files = {name: source / f"{name}.json" for name in names}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    for name in files.keys() - results.keys():
        print(f"without {files[name]}: its blocks stay as they are", file=sys.stderr)
    found = blocks(results)
    text = _TEMPLATE.read_text()
    for name in sorted(found.keys() - {match[2] for match in _BLOCK.finditer(text)}):
        print(f"no place for {name} in {_TEMPLATE.name}", file=sys.stderr)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / _TEMPLATE.name).write_text(fill(text, found))
    if "scaling" in results:
        (docs / "performance").mkdir(exist_ok=True)
        for name, svg in plots(results["scaling"]):
            (docs / "performance" / f"{name}.svg").write_text(svg)
    print(docs / _TEMPLATE.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
