"""`composefs oci pull REF [NAME]`: import an image into a repository that exists, as `cfsctl` does."""

from __future__ import annotations

import argparse

from composefs.cli import importing, options
from composefs.cli.oci_options import parse_id
from composefs.errors import UsageError

DESCRIPTION = """\
Import an OCI image into the repository, every digest checked, and make its
EROFS image. `composefs import` does the same, and makes the repository, too."""

EXAMPLES = """\
examples:
  composefs --repo /var/lib/repo oci pull oci:/srv/fedora:42 os
  composefs oci pull oci:/srv/fedora:42 os --bootable
  composefs oci pull oci:/srv/app app --json | jq -r .image"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("reference", metavar="REF", help=importing.REFERENCE)
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to call it in the repository (default: REF)")
    importing.add_options(parser)
    parser.add_argument(
        "--expected-digest",
        metavar="HEX",
        help="with --bootable: find out which format and xattrs give the image this id, and make that one",
    )


def run(arguments: argparse.Namespace) -> int:
    """Import, and print what became of it."""
    if arguments.expected_digest is not None and not arguments.bootable:
        raise UsageError("--expected-digest needs --bootable")
    with options.open_repository(arguments) as repository, importing.opened_source(arguments) as source:
        expected = parse_id(repository, arguments.expected_digest) if arguments.expected_digest is not None else None
        result = importing.run(arguments, repository, source, expected)
    boot = result.boot_image
    if arguments.json:
        importing.print_json(result)
    elif not arguments.quiet:
        importing.print_result(result)
        if boot is not None:
            about = f" (xattr-mode={boot.xattrs.value}, format-version=V{boot.version})" if expected is not None else ""
            print(f"Boot image: {boot.digest.hex}{about}")
    importing.check_bootable(arguments, result)
    return 0
