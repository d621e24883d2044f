"""`composefs oci compute-id IMAGE`: the id of the EROFS image that the layers of an image make."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.oci_options import add_tree, erofs_version, merge

EXAMPLES = """\
examples:
  composefs oci compute-id os
  composefs --erofs-version 2 oci compute-id os --bootable
  composefs oci compute-id os --json | jq -r .id"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Merge the layers of an image, and print the id that its EROFS image must have,
of the format that the repository is set to. Nothing is stored."""
    parser.epilog = EXAMPLES
    add_tree(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from composefs import verity
    from composefs.collector import paused_collector
    from composefs.erofs.writer import write_image
    from composefs.oci.erofs import bootable_tree
    from composefs.oci.plain import plain_image
    from composefs.xattrs import XattrFilter

    with paused_collector(), options.open_repository(arguments) as repository:
        merger, xattrs = merge(arguments, repository), XattrFilter(arguments.xattrs)
        version = erofs_version(arguments, repository)
        if arguments.bootable:
            image = write_image(bootable_tree(repository, merger, xattrs), version)
        else:
            image = plain_image(merger, version, xattrs)
        digest = verity.compute_digest(image, repository.algorithm)
    if arguments.json:
        value = {"id": digest.hex, "algorithm": digest.algorithm.value, "erofs_version": version}
        print(json.dumps(value, indent=2))
    else:
        print(digest.hex)
    return 0
