"""What the commands that check a repository have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import printable
from composefs.errors import FormatError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from composefs.repository import Repository
    from composefs.repository.fsck import Progress, Report

_PATHS_MAX = 8  # paths that are told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--fast",
        "--metadata-only",
        action="store_true",
        help="do not look into objects: names, references and structures only",
    )
    parser.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="threads that read and hash (default: one for each CPU, but at least four)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Repository]:
    """Yield the repository that *arguments* choose, also if its `meta.json` is broken; nothing is written there."""
    arguments.no_upgrade = True
    try:
        repository = options.open_repository(arguments)
    except (FormatError, IntegrityError, NotFoundError):
        found = _open_damaged(arguments)
        if found is None:
            raise
        repository = found
    with repository:
        yield repository


def _open_damaged(arguments: argparse.Namespace) -> Repository | None:
    """Return a repository whose `meta.json` says nothing; None: there is none, or it could not be as it is wanted."""
    from composefs.repository.fsck import open_damaged

    path = options.repository_path(arguments)
    if arguments.require_verity or arguments.hash is not None or not os.path.isdir(path):
        return None
    try:
        return open_damaged(path)
    except NotFoundError:
        return None


@contextmanager
def bar() -> Iterator[Progress | None]:
    """Yield what draws a bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import console, progress

    with progress.Progress(
        progress.TextColumn("{task.description:<12}"),
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console.Console(stderr=True),
        transient=True,
    ) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield on_progress


def print_report(report: Report) -> None:
    """Print what a check came to, as `cfsctl fsck` does, and what a finding hurts."""
    counts = report.counts
    is_wrong = any(finding.path == "meta.json" for finding in report.findings)
    print(f"meta.json: {'error' if is_wrong else 'ok' if report.has_metadata else 'absent'}")
    for what, checked, corrupted in (
        ("objects", counts.objects_checked, counts.objects_corrupted),
        ("streams", counts.streams_checked, counts.streams_corrupted),
        ("images", counts.images_checked, counts.images_corrupted),
    ):
        names_only = " (names only)" if what == "objects" and not report.contents else ""
        print(f"{what}: {checked - corrupted}/{checked} ok{names_only}")
    if counts.broken_links:
        print(f"broken symlinks: {counts.broken_links}")
    if counts.missing_objects:
        print(f"missing objects: {counts.missing_objects}")
    print(f"status: {f'{len(report.findings)} error(s)' if report.findings else 'ok'}")
    for finding in report.findings:
        print(f"  - {printable(str(finding))}")
        if finding.hurts:
            # A person wants to know the references, or else what there is.
            named = [path for path in finding.hurts if path.split("/")[1] == "refs"]
            print(f"      hurts {_some(named or finding.hurts, len(finding.hurts))}")
        if finding.files:
            print(f"      files {_some(finding.files, len(finding.files))}")


def _some(paths: Sequence[str], count: int) -> str:
    """Return the first of *paths*, and how many more of *count* there are."""
    more = count - len(paths[:_PATHS_MAX])
    return ", ".join(map(printable, paths[:_PATHS_MAX])) + (f", and {more} more" if more else "")
