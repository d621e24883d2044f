"""`composefs fsck`: check a repository."""

from __future__ import annotations

import argparse
import json

from composefs.cli import checking
from composefs.cli.failure import DONE, FAILED

EXAMPLES = """\
examples:
  composefs fsck
  composefs fsck --fast || composefs fsck --json | jq '.findings[].kind'
  composefs fsck --since-last
  composefs fsck --repair-from /mnt/backup/composefs
  composefs fsck --repair-from oci:./fedora:42 --quarantine"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Check every object against its name, and streams, images, references and
meta.json. Nothing is changed, unless that is asked for; what a clean check
has seen is recorded for --since-last. The exit status is 1 if anything is
wrong, and was not mended.
Whether layers and images are what their OCI digests say: oci fsck."""
    parser.epilog = EXAMPLES
    checking.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check it."""
    from composefs.repository.fsck import check_repository

    contents = not arguments.fast
    with checking.begun(arguments) as check:
        repository = check.repository
        report = check_repository(repository, contents=contents, last=check.last, records=contents, **check.options)
        healing, failure = checking.heal(arguments, check, report)
        after = [str(finding) for finding in (healing.after if healing is not None else report).findings]
        recorded = checking.keep_record(repository, report.record, is_clean=not after)
    if arguments.json:
        print(json.dumps(report.as_json() | checking.as_json(healing, after, recorded=recorded), indent=2))
    else:
        checking.print_report(report)
        if healing is not None:
            checking.print_healing(healing, after)
    if failure is not None:
        raise failure
    return FAILED if after else DONE
