"""`composefs oci fsck [TAG]`: check a repository and the OCI images in it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from composefs.cli import checking
from composefs.cli.failure import DONE, FAILED
from composefs.cli.output import printable

if TYPE_CHECKING:
    from composefs.oci.fsck import OciReport

EXAMPLES = """\
examples:
  composefs oci fsck
  composefs oci fsck --since-last
  composefs oci fsck os --json | jq '.findings[] | {kind, name, digest}'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Check what fsck does, and the OCI images: manifests and configs by their
digests, what they refer to, and every layer by its diff_id, for which its
archive is joined again. Images without tags and referrers are looked at, too.
Nothing is changed, unless that is asked for; what a clean check has seen is
recorded for --since-last. The exit status is 1 if anything is wrong, and was
not mended."""
    parser.epilog = EXAMPLES
    parser.add_argument("tag", metavar="TAG", nargs="?", help="the one image to check (default: all, and all layers)")
    checking.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check them."""
    from composefs.oci.fsck import check_images
    from composefs.repository.fsck.damage import Damage

    tag, contents = arguments.tag, not arguments.fast
    with checking.begun(arguments) as check:
        repository, last, options = check.repository, check.last, check.options
        found = final = check_images(repository, tag, contents=contents, last=last, records=contents, **options)
        healing, failure = checking.heal(arguments, check, found.repository, wrong=found.wrong, stale=found.stale)
        if healing is not None:
            broken = [*found.repository.findings, *healing.after.findings]
            objects = Damage.of(repository, broken).objects
            final = check_images(repository, tag, contents=contents, only=objects, proved=found.proved, **options)
        after = [str(finding) for finding in (*final.repository.findings, *final.findings)]
        recorded = checking.keep_record(repository, found.repository.record, is_clean=not after)
    if arguments.json:
        print(json.dumps(found.as_json() | checking.as_json(healing, after, recorded=recorded), indent=2))
    else:
        checking.print_report(found.repository)
        _print(found, contents=contents)
        if healing is not None:
            checking.print_healing(healing, after)
    if failure is not None:
        raise failure
    return FAILED if after else DONE


def _print(report: OciReport, *, contents: bool) -> None:
    """Print what a check of images came to, as `cfsctl oci fsck` does, and what that does not look at."""
    print(f"oci images: {report.images_checked - report.images_corrupted}/{report.images_checked} ok")
    if contents:
        unchanged = f" ({report.layers_unchanged} unchanged)" if report.layers_unchanged else ""
        print(f"oci layers: {report.layers_checked - report.layers_corrupted}/{report.layers_checked} ok{unchanged}")
    if report.untagged_checked:
        print(f"oci untagged: {report.untagged_checked - report.untagged_corrupted}/{report.untagged_checked} ok")
    if report.findings:
        print(f"oci errors: {len(report.findings)}")
        for finding in report.findings:
            print(f"  - {printable(str(finding))}")
