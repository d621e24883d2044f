"""`composefs gc`: remove what no reference keeps."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.failure import DONE
from composefs.cli.output import printable
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.repository import Repository
    from composefs.repository.gc import Explanation, Report, Restored

EXAMPLES = """\
examples:
  composefs gc --dry-run
  composefs gc --trash 14 --wait 60
  composefs gc --undo
  composefs gc --explain sha512:3f4e..."""

_CHAINS_MAX = 8  # that are told


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Remove the objects that no reference keeps, and the names that led to them:
what was untagged or replaced, or left by an import that failed. Nobody else may
have the repository open meanwhile: an import that runs loses nothing. A mount by
the kernel keeps nothing: untag no image that is in use, or name it by --root."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--dry-run",
        "-n",
        action="store_true",
        help="remove nothing, and tell what would be; what an import has stored so far counts, too",
    )
    parser.add_argument(
        "--root",
        "-r",
        action="append",
        default=[],
        metavar="NAME",
        help="keep this entry of images/ or streams/, too, and what it needs; may be given several times",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--trash", type=options.positive, metavar="DAYS", help="move it into REPO/trash, and delete it after DAYS days"
    )
    what.add_argument("--undo", action="store_true", help="bring back what the last run with --trash has moved there")
    what.add_argument(
        "--explain",
        metavar="WHAT",
        help="tell what keeps an object, stream, image, tag or reference, or what is known about when that ended",
    )
    options.add_wait(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Remove it."""
    if arguments.dry_run and arguments.undo:
        raise UsageError("--dry-run is not for --undo")
    if arguments.root and arguments.undo:
        raise UsageError("--root is not for --undo")
    arguments.wait = arguments.wait or 0
    with options.open_repository(arguments, wait=arguments.wait) as repository:
        result = _do(repository, arguments)
    if arguments.json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        for line in _describe(result):
            print(printable(line))
    return DONE


def _do(repository: Repository, arguments: argparse.Namespace) -> Report | Restored | Explanation:
    from composefs.repository.gc import collect_garbage, explain, undo_collection

    if arguments.explain is not None:
        return explain(repository, arguments.explain, roots=arguments.root)
    if arguments.undo:
        return undo_collection(repository, wait=arguments.wait)
    return collect_garbage(
        repository,
        roots=arguments.root,
        dry_run=arguments.dry_run,
        trash_days=arguments.trash,
        wait=arguments.wait,
    )


def _describe(result: Report | Restored | Explanation) -> list[str]:
    from composefs.repository.gc import Report, Restored

    if isinstance(result, Report):
        return _describe_report(result)
    return _describe_restored(result) if isinstance(result, Restored) else _describe_explanation(result)


def _describe_report(report: Report) -> list[str]:
    """Return what `cfsctl gc` prints, and what it does not have."""
    from composefs.repository.gc.report import as_date
    from composefs.repository.gc.trash import DIRECTORY as TRASH

    lines = ["Dry run (no files deleted):"] if report.dry_run else []
    lines.append(f"Objects: {report.objects_removed} removed ({report.objects_bytes} bytes)")
    if report.images_pruned or report.streams_pruned:
        lines.append(f"Pruned symlinks: {report.images_pruned} images, {report.streams_pruned} streams")
    if report.leftovers_removed:
        lines.append(f"Leftovers: {report.leftovers_removed} removed")
    if report.expires is not None:
        until = as_date(report.expires)
        lines.append(f"Trash: batch {report.batch}, kept until {until}; `composefs gc --undo` brings it back")
    if report.expired:
        what = f"{report.expired_objects} objects ({report.expired_bytes} bytes)"
        lines.append(f"Trash: deleted batch {', '.join(report.expired)} with {what}")
    if report.from_future:
        names = ", ".join(report.from_future)
        lines.append(f"Trash: batch {names} lies in the future, for the clock was set back: it is kept for longer")
    for path in report.strays:
        what = "batch of the trash" if path.startswith(f"{TRASH}/") else "object"
        lines.append(f"Left alone, since it is no {what}: {path}")
    return lines


def _describe_restored(restored: Restored) -> list[str]:
    names = len(restored.names_restored)
    return [
        f"Restored: {restored.objects_restored} objects, {names} names of batch {restored.batch}",
        *[f"Not restored, since it leads to something else by now: {path}" for path in restored.names_taken],
        *[f"Not restored, since an object that it needs is gone: {path}" for path in restored.names_lost],
        *(["No reference keeps them: tag what you want to keep before garbage is collected again"] if names else []),
    ]


def _describe_explanation(found: Explanation) -> list[str]:
    from composefs.repository.gc.report import as_date

    if found.is_alive:
        more = len(found.chains) - _CHAINS_MAX
        lines = [f"{found.subject}: is kept"]
        lines += [f"  {' -> '.join(chain)}" for chain in found.chains[:_CHAINS_MAX]]
        return [*lines, f"  and by {more} more references"] if more > 0 else lines
    since = "since when is not recorded" if found.trashed is None else f"since {as_date(found.trashed)} at the latest"
    lines = [f"{found.subject}: nothing keeps it, {since}"]
    if found.stored is not None:
        lines.append(f"  its object is there, written {as_date(found.stored)}")
    if found.expires is not None:
        lines.append(f"  it is in the trash, in batch {found.batch}, until {as_date(found.expires)}")
    return [*lines, *[f"  {path} refers to it, and nothing keeps that" for path in found.held_by]]
