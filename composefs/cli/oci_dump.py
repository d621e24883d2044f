"""`composefs oci dump IMAGE`: the merged layers of an image as a dumpfile."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.oci_options import add_tree, read_tree
from composefs.cli.output import write_bytes
from composefs.collector import paused_collector
from composefs.dumpfile import format_dump

EXAMPLES = """\
examples:
  composefs oci dump os | grep '^/etc/'
  composefs oci dump os | mkcomposefs --from-file - os.erofs
  diff <(composefs oci dump os:42) <(composefs oci dump os:43)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Merge the layers of an image, and print the file system as a dumpfile: what its
EROFS image holds."""
    parser.epilog = EXAMPLES
    add_tree(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    with paused_collector():
        with options.open_repository(arguments) as repository:
            tree = read_tree(arguments, repository)
        write_bytes(format_dump(tree))
        del tree  # or the collector walks it when it wakes: a tenth of all the time
    return 0
