"""`composefs create-dumpfile PATH`: a directory as a dumpfile; nothing is stored."""

from __future__ import annotations

import argparse

from composefs.cli import options, scanning
from composefs.cli.output import write_bytes
from composefs.cli.transforms import add_transforms

EXAMPLES = """\
examples:
  composefs create-dumpfile /mnt/rootfs > rootfs.dump
  composefs --hash sha256 create-dumpfile d | mkcomposefs --from-file - d.cfs"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Write the tree that create-image makes an image of to standard output, as composefs-dump(5) has it; nothing "
        "is stored. The algorithm is chosen as for compute-id."
    )
    parser.epilog = EXAMPLES
    scanning.add_directory(parser)
    add_transforms(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    from composefs.dumpfile import format_dump

    write_bytes(format_dump(scanning.compute_tree(arguments, options.algorithm(arguments))))
    return 0
