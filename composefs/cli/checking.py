"""What the commands that check a repository have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from composefs.cli import options
from composefs.cli.output import printable
from composefs.errors import (
    ComposefsError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RepositoryError,
    UsageError,
)
from composefs.text import describe_failure

if TYPE_CHECKING:
    from composefs.repository import Repository
    from composefs.repository.fsck import Progress, Report
    from composefs.repository.fsck.quarantine import WrongName
    from composefs.repository.fsck.record import Record
    from composefs.repository.fsck.repair import Healing, Source

_PATHS_MAX = 8  # paths that are told
_OCI = "oci:"  # how the reference of an image begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--fast",
        "--metadata-only",
        action="store_true",
        help="do not look into objects: names, references and structures only",
    )
    much.add_argument(
        "--since-last",
        action="store_true",
        help="do not look into objects whose inode, size and times are those that the last clean check saw; "
        "that does not see a disk that gives other bytes than were written, which changes none of these",
    )
    parser.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="threads that read and hash (default: one for each CPU, but at least four)",
    )
    parser.add_argument(
        "--repair-from",
        metavar="SOURCE",
        help="fetch what is broken or missing from another repository, or an image: oci:PATH[:TAG], docker://..., ...",
    )
    parser.add_argument(
        "--quarantine",
        action="store_true",
        help="move what is itself broken, and was not mended, to quarantine/ in the repository; nothing is removed",
    )
    options.add_wait(parser, "with --quarantine: ")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


class Options(TypedDict):
    """What every check of a command is given."""

    workers: int | None
    on_progress: Progress | None


class Check(NamedTuple):
    """What a command that checks begins with."""

    repository: Repository
    source: Source | None  # to mend it from
    last: Record | None  # what the last clean check saw
    options: Options


@contextmanager
def begun(arguments: argparse.Namespace) -> Iterator[Check]:
    """Yield what the check that *arguments* want begins with; a bar is drawn meanwhile."""
    if arguments.wait is not None and not arguments.quarantine:
        raise UsageError("--wait is for --quarantine: all else waits for nobody")
    with (
        _opened(arguments) as repository,
        _bar() as on_progress,
        _source(arguments, repository, on_progress) as source,
    ):
        options: Options = {"workers": arguments.workers, "on_progress": on_progress}
        yield Check(repository, source, _last_record(arguments, repository), options)


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[Repository]:
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


def _last_record(arguments: argparse.Namespace, repository: Repository) -> Record | None:
    """Return what the last clean check of *repository* saw; if that cannot be believed, that is told."""
    from composefs.repository.fsck import record

    if not arguments.since_last:
        return None
    try:
        return record.load(repository)
    except FileNotFoundError:
        why = "no clean check has been recorded"
    except FormatError as error:
        why = f"{record.NAME} is not believed: {error.what}"
    except OSError as error:
        why = f"{record.NAME} cannot be read: {error.strerror}"
    _say(f"{why}; so all objects are looked into")
    return None


def keep_record(repository: Repository, seen: Record | None, *, is_clean: bool) -> bool:
    """Record what was *seen* if all is right, and return whether that was done; if it cannot be, that is told."""
    from composefs.repository.fsck import record

    if seen is None or not is_clean:
        return False
    try:
        record.save(repository, seen)
    except RepositoryError as error:
        why = error.what
    except OSError as error:
        why = describe_failure(error)
    else:
        return True
    _say(f"nothing was recorded for --since-last: {why}")
    return False


def _say(text: str) -> None:
    print(f"composefs: {printable(text)}", file=sys.stderr)


def heal(
    arguments: argparse.Namespace,
    check: Check,
    report: Report,
    *,
    wrong: Collection[WrongName] = (),
    stale: Collection[str] = (),
) -> tuple[Healing | None, Exception | None]:
    """Do about what was found what *arguments* say, if anything.

    Args:
        arguments: of the command.
        check: what it began with.
        report: of that.
        wrong: as of `composefs.repository.fsck.repair.heal`, as is the next.
        stale: see *wrong*.

    Returns:
        What became of it; and what ended it, to be raised once what was found is printed.
    """
    from composefs.repository.fsck import repair

    if check.source is None and not arguments.quarantine:
        return None, None
    try:
        healing = repair.heal(
            check.repository,
            report,
            source=check.source,
            quarantine=arguments.quarantine,
            wrong=wrong,
            stale=stale,
            wait=arguments.wait or 0,
            **check.options,
        )
    except (ComposefsError, OSError) as error:
        return None, error
    return healing, None


@contextmanager
def _source(
    arguments: argparse.Namespace, repository: Repository, on_progress: Progress | None
) -> Iterator[Source | None]:
    """Yield where to get what *repository* lacks, if that is told."""
    from composefs.reference import names_transport

    where = arguments.repair_from
    if where is None:
        yield None
    elif not where:
        raise UsageError("--repair-from needs a path or a reference")
    elif names_transport(where):
        from composefs.cli.access import host_access
        from composefs.oci.repair import ImageSource
        from composefs.oci.sources.opening import open_source

        with open_source(where, host_access()) as source:
            yield ImageSource(source, repository, on_progress=on_progress)
    else:
        from composefs.repository.fsck.other import OtherRepository

        with _open_other(where) as other:
            yield OtherRepository(other, repository)


def _open_other(where: str) -> Repository:
    """Open the repository *where*; who means an image is told how to call it."""
    from composefs.repository import Repository

    try:
        return Repository.open(where, upgrade=False)
    except NotFoundError:
        if os.path.exists(os.path.join(where, "index.json")):
            what = f"{where} is no repository, but an OCI layout: its images are called {_OCI}{where}[:TAG]"
        else:
            what = f"no repository at {where}; images are called by their transport, such as {_OCI}PATH[:TAG]"
        raise NotFoundError(what) from None


@contextmanager
def _bar() -> Iterator[Progress | None]:
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
            bars.update(tasks[what], completed=done, total=total)  # which is another one after a repair

        yield on_progress


def as_json(healing: Healing | None, after: list[str], *, recorded: bool) -> dict[str, object]:
    """Return what stands in the value of a check behind what was found.

    Args:
        healing: what became of that, if something was to be done about it.
        after: what is wrong still.
        recorded: whether the next check may be one since this one.
    """
    found: dict[str, object] = {"clean": not after, "recorded": recorded}
    found |= dict.fromkeys(("repair", "quarantine", "after"))
    if healing is not None:
        found["repair"] = healing.repair.as_json() if healing.repair is not None else None
        found["quarantine"] = healing.quarantine.as_json() if healing.quarantine is not None else None
        found["after"] = {"ok": not after, "errors": after}
    return found


def print_healing(healing: Healing, after: list[str]) -> None:
    """Print what became of what was found; *after* is what is wrong still."""
    if (repair := healing.repair) is not None:
        _print_list(f"mended from {repair.source}", repair.mended)
        _print_list("not mended", [f"{path}: {why}" for path, why in repair.failed.items()])
    if (quarantine := healing.quarantine) is not None:
        _print_list("set aside", [f"{each.path} -> {each.to}" for each in quarantine.moved])
        _print_list("not set aside", [f"{path}: {why}" for path, why in quarantine.failed.items()])
        if quarantine.hurt:
            named = [path for path in quarantine.hurt if path.split("/")[1] == "refs"] or quarantine.hurt
            print(f"kept, but not whole: {_some(named, len(quarantine.hurt))}")
            print("  to make them whole: import their images again, or use --repair-from")
    _print_list("now", after)
    if not after:
        print("now: ok")


def _print_list(what: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"{what}: {len(lines)}")
    for line in lines:
        print(f"  - {printable(line)}")


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
        how = _how(report) if what == "objects" else ""
        print(f"{what}: {checked - corrupted}/{checked} ok{how}")
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


def _how(report: Report) -> str:
    """Return how objects were looked at, if not all contents were."""
    if not report.contents:
        return " (names only)"
    return f" ({report.objects_unchanged} unchanged)" if report.objects_unchanged else ""


def _some(paths: Sequence[str], count: int) -> str:
    """Return the first of *paths*, and how many more of *count* there are."""
    more = count - len(paths[:_PATHS_MAX])
    return ", ".join(map(printable, paths[:_PATHS_MAX])) + (f", and {more} more" if more else "")
