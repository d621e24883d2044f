"""Turn raw runs into medians, ratios and tables of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from measure import Usage

REFERENCE, OURS = "cfsctl", "composefs"
WORKER_LIMIT = 150_000_000  # bytes; promise P5: a worker stays below, whatever the size of a layer or a file
P5_WORKS = ("big-layer", "big-file")
TARGETS = {  # times as fast as the reference
    "many-gzip": 1.5,
    "update": 2.5,
    "nothing-new": 2.0,
    "image": 1 / 1.5,
    "dump": 1 / 1.5,
}

Runs = Mapping[str, Sequence[Usage]]  # of one work: by tool
_WIDTH = 80


def ratios(runs: Runs, value: Callable[[Usage], float]) -> list[float]:
    """Return how many times more of *value* the reference took than we, pair by pair; empty if one did not run."""
    pairs = zip(runs.get(REFERENCE, ()), runs.get(OURS, ()), strict=False)
    return [value(theirs) / value(ours) for theirs, ours in pairs if value(ours) > 0]


def summary(runs: Runs) -> dict[str, object]:
    """Return medians by tool and the ratios, for the JSON file."""
    result: dict[str, object] = {}
    values: dict[str, Callable[[Usage], float]] = {
        "wall": lambda usage: usage.wall,
        "wall_synced": lambda usage: usage.wall_synced,
        "cpu": lambda usage: usage.cpu,
        "peak_largest": lambda usage: usage.peak_largest,
        "peak_worker": lambda usage: usage.peak_worker,
        "peak_sum": lambda usage: usage.peak_sum,
    }
    for tool, usages in runs.items():
        if usages:
            result[tool] = {name: median(map(value, usages)) for name, value in values.items()}
    for name, value in values.items():
        if found := ratios(runs, value):
            result.setdefault("ratio", {})[name] = round(median(found), 3)  # type: ignore[index]
    return result


def tables(works: Mapping[str, Runs], versions: Mapping[str, str], scale: str) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "WALL TIME, seconds: median (range)".ljust(49) + f"{REFERENCE} / {OURS}".rjust(_WIDTH - 49)
    tools = "".join(f"{tool} {versions.get(tool, '-')}".rjust(18) for tool in (REFERENCE, OURS))
    yield f"{'':12}{tools}{'wall (range)':>18}{'synced':>8}{'CPU':>6}"
    for work, runs in works.items():
        yield "".join(
            [
                work.ljust(12),
                *(_spread([usage.wall for usage in runs.get(tool, ())]).rjust(18) for tool in (REFERENCE, OURS)),
                _spread(ratios(runs, lambda usage: usage.wall), 2).rjust(18),
                _median(ratios(runs, lambda usage: usage.wall_synced)).rjust(8),
                _median(ratios(runs, lambda usage: usage.cpu)).rjust(6),
            ]
        )
    yield ""
    yield "CPU TIME, seconds, user + system, and PEAK MEMORY, MB: medians"
    yield f"{'':12}{REFERENCE:>22}{'':12}{OURS:>22}"
    yield (
        f"{'':12}" + f"{'CPU s':>14}{'largest':>10}{'sum':>8}" + f"{'CPU s':>14}{'largest':>10}{'worker':>8}{'sum':>6}"
    )
    for work, runs in works.items():
        theirs, ours = runs.get(REFERENCE, ()), runs.get(OURS, ())
        yield "".join(
            [
                work.ljust(12),
                _cpu(theirs).rjust(14),
                _megabytes([usage.peak_largest for usage in theirs]).rjust(10),
                _megabytes([usage.peak_sum for usage in theirs]).rjust(8),
                _cpu(ours).rjust(14),
                _megabytes([usage.peak_largest for usage in ours]).rjust(10),
                _megabytes([usage.peak_worker for usage in ours]).rjust(8),
                _megabytes([usage.peak_sum for usage in ours]).rjust(6),
            ]
        )
    verdicts = list(_verdicts(works, scale))
    if verdicts:
        yield ""
        yield from verdicts


def _verdicts(works: Mapping[str, Runs], scale: str) -> Iterator[str]:
    # Start-up and luck decide small images: what is promised is promised of full ones.
    note = "" if scale == "full" else f" at scale {scale}, which proves little"
    for work, wanted in TARGETS.items():
        if found := ratios(works.get(work, {}), lambda usage: usage.wall):
            word = "reached" if median(found) >= wanted else "MISSED"
            yield f"{work}: {median(found):.2f} times as fast, wanted {wanted:.2f}: {word}{note}"
    for work in P5_WORKS:
        if usages := works.get(work, {}).get(OURS, ()):
            peak = max(usage.peak_largest for usage in usages)  # of all runs: a promise, not a median
            word = "kept" if peak < WORKER_LIMIT else "BROKEN"
            limit = f"promised under {WORKER_LIMIT / 1e6:.0f} (P5)"
            yield f"{work}: largest process {peak / 1e6:.0f} MB, {limit}: {word}{note}"


def _spread(values: Sequence[float], digits: int | None = None) -> str:
    if not values:
        return "-"
    if digits is None:
        digits = 0 if max(values) >= 100 else 1 if max(values) >= 10 else 2
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _median(values: Sequence[float]) -> str:
    return f"{median(values):.2f}" if values else "-"


def _cpu(usages: Sequence[Usage]) -> str:
    if not usages:
        return "-"
    return f"{median(usage.user for usage in usages):.2f}+{median(usage.system for usage in usages):.2f}"


def _megabytes(sizes: Sequence[int]) -> str:
    return f"{median(sizes) / 1e6:.0f}" if sizes else "-"
