"""`composefs oci fsck [TAG]`: check a repository and the OCI images in it."""

from __future__ import annotations

import argparse
import json

from composefs.cli import checking
from composefs.cli.failure import DONE, FAILED
from composefs.cli.output import printable

EXAMPLES = """\
examples:
  composefs oci fsck
  composefs oci fsck os --json | jq '.findings[] | {kind, name, digest}'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Check what fsck does, and the OCI images: manifests and configs by their
digests, what they refer to, and every layer by its diff_id, for which its
archive is joined again. The exit status is 1 if anything is wrong."""
    parser.epilog = EXAMPLES
    parser.add_argument("tag", metavar="TAG", nargs="?", help="the one image to check (default: all, and all layers)")
    checking.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check them."""
    from composefs.oci.fsck import check_images

    with checking.opened(arguments) as repository, checking.bar() as on_progress:
        report = check_images(
            repository,
            arguments.tag,
            contents=not arguments.fast,
            workers=arguments.workers,
            on_progress=on_progress,
        )
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
        return DONE if report.ok else FAILED
    checking.print_report(report.repository)
    print(f"oci images: {report.images_checked - report.images_corrupted}/{report.images_checked} ok")
    if not arguments.fast:
        print(f"oci layers: {report.layers_checked - report.layers_corrupted}/{report.layers_checked} ok")
    if report.findings:
        print(f"oci errors: {len(report.findings)}")
        for finding in report.findings:
            print(f"  - {printable(str(finding))}")
    return DONE if report.ok else FAILED
