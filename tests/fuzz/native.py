"""The targets in C, of csrc/fuzz, built with the sanitizers: by clang with libFuzzer, or by gcc with a driver of ours.

Their inputs are in `tests/corpus`, too, under `c-NAME`; those of `tar` and `zstd` serve both.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.runs import COVERAGE, PEAK, Figures, count_files, last_number
from tests.fuzz.target import CORPUS
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable

from generator.tar import Archive  # isort: skip

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc/fuzz"
_CORPORA = {"c-tar": "tar", "c-zstd": "zstd"}  # others have one of their own
NAMES = tuple(sorted(f"c-{path.stem.removeprefix('fuzz_')}" for path in SOURCES.glob("fuzz_*.c")))
_LIMITS = ["-timeout=30", "-rss_limit_mb=1024"]
_INPUTS = re.compile(r"stat::number_of_executed_units: +([0-9]+)")


@functools.cache
def build() -> Path:
    """Build all, and return the directory."""
    done = subprocess.run([SOURCES / "build.sh"], check=True, stdout=subprocess.PIPE, text=True)
    return ROOT / done.stdout.strip()


def make_seeds(name: str) -> dict[str, bytes]:
    """Return the inputs of the corpus of a target by file name; none if it has that of another."""
    chance = random.Random(name)
    if name == "c-chunks":
        archive = Archive().directory("usr").file("usr/a", b"a" * 700).file("usr/b", b"b" * 20).symlink("c", "t").end()
        objects = b"".join(struct.pack("<q", number) for number in (0, 1, -3)) + b"xyz"
        return {"archive": b"\0" + _chunks(archive), "objects": b"\6" + objects, "inline": b"\1\2\0" + bytes(600)}
    if name == "c-spans":
        spans = b"".join(struct.pack(">HH", at, size) for at, size in ((0, 5000), (5000, 1), (0, 0), (100, 9000)))
        return {f"blocks-of-{1024 << code}": bytes([1, code, 4]) + spans + bytes(9500) for code in (0, 2, 4)}
    if name == "c-trees":
        kinds = {"plain": 0, "second-epoch": 1, "changed-early": 4, "changed-late": 6, "changed-batch": 12}
        return {kind: bytes([odd, 1]) + chance.randbytes(260) for kind, odd in kinds.items()}
    return {}


def _chunks(archive: bytes) -> bytes:
    """Return *archive* as chunks, with the number of an object in place of its only large file."""
    at = archive.index(b"a" * 700)
    parts = archive[:at], archive[at + 700 :]
    first, last = (struct.pack("<q", -len(part)) + part for part in parts)
    return first + struct.pack("<q", 0) + last


def corpus_of(name: str) -> Path:
    """Return the directory of the corpus of a target."""
    return CORPUS / _CORPORA.get(name, name)


def run(name: str, count: int, options: argparse.Namespace) -> Figures:
    """Check *count* inputs of the target *name*."""
    begin = time.monotonic()
    new = options.cache / "corpus" / name
    new.mkdir(parents=True, exist_ok=True)
    options.findings.mkdir(exist_ok=True)
    before = count_files(new)
    limits = [*_LIMITS, f"-runs={count}", f"-seed={options.seed}", f"-artifact_prefix={options.findings}/{name}-"]
    command = [build() / name, *limits, "-print_final_stats=1", "-max_len=65536", new, corpus_of(name)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
    inputs, covered, peak = (last_number(pattern, done.stderr) for pattern in (_INPUTS, COVERAGE, PEAK))
    added = count_files(new) - before if covered is not None else None
    failures = 1 if done.returncode else 0
    return Figures(name, inputs or 0, failures, time.monotonic() - begin, None, covered, added, peak)


def again(name: str, file: Path) -> int:
    """Check one input, and return the exit status."""
    return subprocess.run([build() / name, *_LIMITS, file], check=False).returncode
