"""`composefs oci dump IMAGE`: the merged layers of an image as a dumpfile."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.oci_options import add_tree, merge
from composefs.cli.output import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    from composefs.collector import paused_collector
    from composefs.dumpfile import format_dump
    from composefs.oci.erofs import bootable_tree
    from composefs.oci.plain import plain_dump
    from composefs.xattrs import XattrFilter

    with paused_collector():
        with options.open_repository(arguments) as repository:
            merger, xattrs = merge(arguments, repository), XattrFilter(arguments.xattrs)
            if arguments.bootable:
                pieces: Iterator[bytes | memoryview] = format_dump(bootable_tree(repository, merger, xattrs))
            else:
                pieces = plain_dump(merger, xattrs)
        write_bytes(pieces)
    return 0
