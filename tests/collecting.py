"""Garbage collected by `cfsctl` and by us in copies of one repository, to compare what is left."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from composefs import ComposefsError, Repository
from composefs.repository.gc import Report, collect_garbage
from tests.garbage import contents


class Outcome(Enum):
    """How both compare."""

    SAME = "both leave the same, and count the same"
    BOTH_REFUSE = "neither removes anything of what the other could want"
    OTHER_SIZE = "both leave the same, and count other bytes"
    WE_REFUSE = "only cfsctl goes on"
    IT_REFUSES = "only we go on"
    WE_KEEP_MORE = "both go on, and what we leave is more"


@dataclass
class Run:
    """A collection: whether it went on, what it said before in a dry run and then, and what is left."""

    went_on: bool
    planned: str
    said: str
    left: dict[str, str]


def run_both(cfsctl: str, path: Path, tmp_path: Path, roots: Sequence[str] = ()) -> tuple[Run, Run]:
    """Collect in two copies of the repository *path* below *tmp_path*: cfsctl, and we."""
    found = []
    for collect in (_collect_theirs, _collect_ours):
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", path, copy], check=True)  # sockets and fifos, too
        found.append(collect(cfsctl, path, copy, roots))
        shutil.rmtree(copy)
    return found[0], found[1]


def _collect_theirs(cfsctl: str, path: Path, copy: Path, roots: Sequence[str]) -> Run:
    options = [word for root in roots for word in ("--root", root)]
    planned = run_cfsctl(cfsctl, path, "gc", "--dry-run", *options).stdout.partition("\n")[2]
    done = run_cfsctl(cfsctl, copy, "gc", *options)
    return Run(done.returncode == 0, planned, done.stdout, contents(copy))


def _collect_ours(_: str, path: Path, copy: Path, roots: Sequence[str]) -> Run:
    try:
        with Repository.open(path, upgrade=False) as repository:
            planned = _text_of(collect_garbage(repository, roots=roots, dry_run=True))
        with Repository.open(copy, upgrade=False) as repository:
            said = _text_of(collect_garbage(repository, roots=roots))
    except (ComposefsError, OSError):
        assert contents(copy) == contents(path)
        return Run(False, "", "", contents(copy))
    return Run(True, planned, said, contents(copy))


def run_cfsctl(cfsctl: str, path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `cfsctl` on the repository *path*."""
    command = [cfsctl, "--repo", str(path), *arguments]
    environment = {**os.environ, "RUST_BACKTRACE": "0"}  # which takes most of the time where it refuses
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _text_of(report: Report) -> str:
    text = f"Objects: {report.objects_removed} removed ({report.objects_bytes} bytes)\n"
    if report.images_pruned or report.streams_pruned:
        text += f"Pruned symlinks: {report.images_pruned} images, {report.streams_pruned} streams\n"
    return text


def compare(theirs: Run, ours: Run) -> Outcome:
    """Return how both compare; that we remove more than cfsctl must not be."""
    if not theirs.went_on or not ours.went_on:
        if theirs.went_on:
            return Outcome.WE_REFUSE
        return Outcome.IT_REFUSES if ours.went_on else Outcome.BOTH_REFUSE
    if theirs.left != ours.left:
        assert theirs.left.items() < ours.left.items(), "we removed more"
        return Outcome.WE_KEEP_MORE
    # Names that break only by this run are not in its dry run.
    is_same = theirs.said == ours.said == ours.planned and _first_line(theirs.planned) == _first_line(ours.planned)
    return Outcome.SAME if is_same else Outcome.OTHER_SIZE


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
