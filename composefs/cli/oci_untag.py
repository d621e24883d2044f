"""`composefs oci untag TAG`: take a name away."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import printable

EXAMPLES = """\
examples:
  composefs oci untag os:42"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Remove a name of an image. An image without any goes when garbage is collected, and not before."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("name", metavar="TAG", help="the name to remove")


def run(arguments: argparse.Namespace) -> int:
    """Remove it."""
    from composefs.oci.tags import untag_image

    with options.open_repository(arguments) as repository:
        untag_image(repository, arguments.name)
    print(f"Removed tag {printable(arguments.name)}")
    return 0
