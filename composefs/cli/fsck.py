"""`composefs fsck`: check a repository."""

from __future__ import annotations

import argparse
import json

from composefs.cli import checking
from composefs.cli.failure import DONE, FAILED

EXAMPLES = """\
examples:
  composefs fsck
  composefs fsck --fast || composefs fsck --json | jq '.findings[].kind'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Check every object against its name, and streams, images, references and
meta.json. Nothing is changed. The exit status is 1 if anything is wrong.
Whether layers and images are what their OCI digests say: oci fsck."""
    parser.epilog = EXAMPLES
    checking.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check it."""
    from composefs.repository.fsck import check_repository

    with checking.opened(arguments) as repository, checking.bar() as on_progress:
        report = check_repository(
            repository, contents=not arguments.fast, workers=arguments.workers, on_progress=on_progress
        )
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        checking.print_report(report)
    return DONE if report.ok else FAILED
