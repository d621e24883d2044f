"""Turn raw runs into medians and ratios, and these into tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from measure import Usage
from tools import LIMIT, OURS, REFERENCE
from works import (
    WANTED_CPU,
    WANTED_MEMORY,
    WANTED_ONE_LAYER,
    WANTED_OVER_LIMIT,
    WANTED_WALL,
    WORKER_LIMIT,
    WORKS,
)

Runs = Mapping[str, Sequence[Usage]]  # of one work: by tool
Spread = Mapping[str, float]  # median, min and max
Summary = Mapping[str, Any]  # as `summarize` makes it, and as the JSON file has it

_VALUES: dict[str, Callable[[Usage], float]] = {
    "wall": lambda usage: usage.wall,
    "wall_synced": lambda usage: usage.wall_synced,
    "cpu": lambda usage: usage.cpu,
    "user": lambda usage: usage.user,
    "system": lambda usage: usage.system,
    "peak_largest": lambda usage: usage.peak_largest,
    "peak_worker": lambda usage: usage.peak_worker,
    "peak_sum": lambda usage: usage.peak_sum,
}


class Table(NamedTuple):
    """A table of texts; the first column is flush left, the others flush right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> Iterator[str]:
        """Yield its lines for a terminal."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        for row in (self.header, *self.rows):
            first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()

    def markdown(self) -> Iterator[str]:
        """Yield its lines in Markdown."""
        yield f"| {' | '.join(self.header)} |"
        yield f"|---|{'---:|' * (len(self.header) - 1)}"
        for row in self.rows:
            yield f"| {' | '.join(row)} |"


def summarize(runs: Runs) -> dict[str, object]:
    """Return, for one work, medians and ranges by tool, and ratios of runs next to each other."""
    return {
        "tools": {
            tool: {name: spread([value(usage) for usage in usages]) for name, value in _VALUES.items()}
            for tool, usages in runs.items()
            if usages
        },
        "over_ours": {name: spread(_ratios(runs, REFERENCE, OURS, value)) for name, value in _VALUES.items()},
        "over_limit": {name: spread(_ratios(runs, OURS, LIMIT, value)) for name, value in _VALUES.items()},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum; of nothing, nothing."""
    if not values:
        return {}
    return {"median": median(values), "min": min(values), "max": max(values)}


def _ratios(runs: Runs, above: str, below: str, value: Callable[[Usage], float]) -> list[float]:
    """Return how many times more of *value* one tool took than another, pair by pair."""
    pairs = zip(runs.get(above, ()), runs.get(below, ()), strict=False)
    return [value(one) / value(other) for one, other in pairs if value(other) > 0]


def one_layer_rate(works: Mapping[str, Summary]) -> float | None:
    """Return the rate of our import of one gzip layer over that of many, which have the same bytes."""
    walls = [works.get(name, {}).get("tools", {}).get(OURS, {}).get("wall") for name in ("many-gzip", "one-gzip")]
    return walls[0]["median"] / walls[1]["median"] if all(walls) else None


def speed_table(works: Mapping[str, Summary]) -> Table:
    """Return wall times: ours, those of the others, and the ratios beside those wanted."""
    rows = []
    for name, summary in works.items():
        wall = {tool: found["wall"] for tool, found in summary["tools"].items()}
        over_ours, over_limit = summary["over_ours"], summary["over_limit"]
        rows.append(
            [
                name,
                _spread(wall.get(REFERENCE)),
                _spread(wall.get(OURS)),
                _spread(wall.get(LIMIT)),
                _spread(over_ours["wall"], 2),
                _number(WANTED_WALL.get(name)),
                _middle(over_ours["wall_synced"]),
                _middle(over_limit["wall"]),
            ]
        )
    heads = ("work", f"{REFERENCE}, s", f"{OURS}, s", f"{LIMIT}, s")
    ratios = (f"{REFERENCE} / {OURS}", "wanted", "synced", f"{OURS} / {LIMIT}")
    return Table((*heads, *ratios), rows)


def cost_table(works: Mapping[str, Summary]) -> Table:
    """Return CPU time and memory, and the ratios beside those wanted."""
    rows = []
    for name, summary in works.items():
        theirs, ours = (summary["tools"].get(tool, {}) for tool in (REFERENCE, OURS))
        rows.append(
            [
                name,
                _cpu(theirs),
                _cpu(ours),
                _middle(summary["over_ours"]["cpu"]),
                _number(WANTED_CPU.get(name)),
                _megabytes(theirs.get("peak_sum")),
                _megabytes(ours.get("peak_sum")),
                _middle(summary["over_ours"]["peak_sum"]),
                _number(WANTED_MEMORY.get(name)),
                _megabytes(ours.get("peak_largest")),
                _megabytes(ours.get("peak_worker")),
            ]
        )
    cpu = (f"CPU s, {REFERENCE}", OURS, "ratio", "wanted")
    memory = (f"peak MB, {REFERENCE}", OURS, "ratio", "wanted", "largest", "worker")
    return Table(("work", *cpu, *memory), rows)


def verdicts(works: Mapping[str, Summary]) -> Iterator[str]:
    """Yield what was wanted and what came out, a line each."""
    for value, wanted, what in (
        ("wall", WANTED_WALL, "times our time"),
        ("cpu", WANTED_CPU, "times our CPU time"),
        ("peak_sum", WANTED_MEMORY, "times our memory"),
    ):
        for name, least in wanted.items():
            if found := works.get(name, {}).get("over_ours", {}).get(value):
                text = f"{name}: {REFERENCE} takes {found['median']:.2f} {what}"
                yield _verdict(text, found["median"] >= least, f"{least:.2f}")
    for name, summary in works.items():
        if found := summary["over_limit"]["wall"]:
            text = f"{name}: {found['median']:.2f} times the limit"
            yield _verdict(text, found["median"] < WANTED_OVER_LIMIT, f"under {WANTED_OVER_LIMIT:.2f}")
    if rate := one_layer_rate(works):
        text = f"one-gzip: {rate:.2f} of the rate of many-gzip"
        yield _verdict(text, rate >= WANTED_ONE_LAYER, f"{WANTED_ONE_LAYER:.2f}")
    for name, summary in works.items():
        if WORKS[name].ours_alone:
            peak = summary["tools"][OURS]["peak_largest"]["max"]  # of all runs: a promise, not a median
            limit = f"under {WORKER_LIMIT / 1e6:.0f}"
            yield _verdict(f"{name}: largest process {peak / 1e6:.0f} MB", peak < WORKER_LIMIT, limit)


def _verdict(text: str, reached: bool, wanted: str) -> str:  # noqa: FBT001 - it is what the line says
    return f"{text}, wanted {wanted}: {'reached' if reached else 'MISSED'}"


def _spread(found: Spread | None, digits: int | None = None) -> str:
    if not found:
        return "-"
    if digits is None:
        digits = 0 if found["max"] >= 100 else 1 if found["max"] >= 10 else 2
    low, middle, high = (f"{found[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle} ({low}-{high})"


def _middle(found: Spread | None) -> str:
    return _number(found["median"] if found else None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cpu(found: Mapping[str, Spread]) -> str:
    return f"{found['user']['median']:.2f}+{found['system']['median']:.2f}" if found else "-"


def _megabytes(found: Spread | None) -> str:
    return f"{found['median'] / 1e6:.0f}" if found else "-"
