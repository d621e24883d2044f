"""`composefs oci compute-id IMAGE`: the id of the EROFS image that the layers of an image make."""

from __future__ import annotations

import argparse
import json

from composefs import verity
from composefs.cli import options
from composefs.cli.oci_options import add_tree, erofs_version, read_tree
from composefs.collector import paused_collector
from composefs.erofs.writer import write_image

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
    with paused_collector(), options.open_repository(arguments) as repository:
        tree = read_tree(arguments, repository)
        version = erofs_version(arguments, repository)
        digest = verity.compute_digest(write_image(tree, version), repository.algorithm)
        del tree  # or the collector walks it when it wakes
    if arguments.json:
        value = {"id": digest.hex, "algorithm": digest.algorithm.value, "erofs_version": version}
        print(json.dumps(value, indent=2))
    else:
        print(digest.hex)
    return 0
