"""Run one target in Python in processes of its own, and say how it went."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import registry
from tests.fuzz.board import Board

_DEATHS_MAX = 5  # of a target's processes: then nothing more is learnt
COVERAGE = re.compile(r"\bcov: ([0-9]+)\b")
PEAK = re.compile(r"stat::peak_rss_mb: +([0-9]+)")


@dataclass(frozen=True)
class Figures:
    """What came of one target.

    Attributes:
        inputs: that were checked.
        taken: those that were not refused; None if nobody counts.
        failures: those of which something came that must not.
        covered: places in the code that were reached; None if nobody looks.
        added: inputs that reached something new.
        peak: megabytes of memory.
    """

    name: str
    inputs: int
    failures: int
    seconds: float
    taken: int | None = None
    covered: int | None = None
    added: int | None = None
    peak: int | None = None

    def __str__(self) -> str:
        about = [f"{self.failures} failures"]
        if self.taken is not None:
            about.insert(0, f"{100 * self.taken // max(self.inputs, 1)} % taken")
        if self.covered is not None:
            about.append(f"{self.covered} places reached, {self.added} new inputs kept")
        rate = self.inputs / max(self.seconds, 0.001)
        speed = f"{self.seconds:.0f} s, {rate:,.0f} a second"
        peak = f", {self.peak} MB" if self.peak is not None else ""
        return f"{self.name:<11} {self.inputs:>9,} inputs, {', '.join(about)}; {speed}{peak}"


def run(name: str, count: int, options: argparse.Namespace) -> Figures:
    """Check *count* inputs of the target *name*."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="composefs-fuzz-") as directory, Board(f"{directory}/board") as board:
        command = [sys.executable, "-m", "tests.fuzz.worker", options.engine, name, str(options.seed)]
        where = [f"{directory}/board", str(options.findings), str(options.cache)]
        if options.engine == "guided":
            return _guided(name, [*command, "0", str(count), *where], board, options.cache / "corpus" / name, begin)
        return _seeded(name, command, count, where[:2], board, begin)


def _guided(name: str, command: list[str], board: Board, new: Path, begin: float) -> Figures:
    before = count_files(new)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
    progress = board.read()
    covered, peak = (last_number(pattern, done.stderr) for pattern in (COVERAGE, PEAK))
    failures = 1 if done.returncode else 0
    seconds = time.monotonic() - begin
    return Figures(name, progress.inputs, failures, seconds, progress.taken, covered, count_files(new) - before, peak)


def _seeded(name: str, command: list[str], count: int, where: list[str], board: Board, begin: float) -> Figures:
    first = inputs = taken = failures = deaths = 0
    while first < count and deaths < _DEATHS_MAX:
        done = subprocess.run([*command, str(first), str(count - first), *where], stderr=subprocess.PIPE, check=False)
        sys.stderr.write(done.stderr.decode("utf-8", "replace"))
        progress = board.read()
        inputs, taken, failures = inputs + progress.inputs, taken + progress.taken, failures + progress.failures
        if done.returncode in (0, 1) and progress.number == count:
            break
        failures, deaths = failures + 1, deaths + 1
        _save(name, int(command[-1]), progress.number, Path(where[1]), done.returncode)
        first = progress.number + 1
    return Figures(name, inputs, failures, time.monotonic() - begin, taken)


def _save(name: str, seed: int, number: int, findings: Path, status: int) -> None:
    """Save the input at which a process died."""
    findings.mkdir(exist_ok=True)
    path = findings / f"{name}-{seed}-{number}"
    path.write_bytes(registry.load(name).input(seed, number))
    print(f"{path}: a process ended with status {status}", file=sys.stderr)


def count_files(directory: Path) -> int:
    """Return how many files are in *directory*."""
    return sum(1 for _ in directory.glob("*"))


def last_number(pattern: re.Pattern[str], text: str) -> int | None:
    """Return the number that *pattern* finds last, if it finds any."""
    found = pattern.findall(text)
    return int(found[-1]) if found else None
