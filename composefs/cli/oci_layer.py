"""`composefs oci layer DIFF_ID`: a layer's tar archive, bit for bit."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import refuse_terminal, write_bytes
from composefs.oci.names import layer_name
from composefs.splitstream import ContentType

EXAMPLES = """\
examples:
  composefs oci layer sha256:9f86... | tar t"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Write the tar archive of a layer to standard output, bit for bit the one that was imported."
    parser.epilog = EXAMPLES
    parser.add_argument("diff_id", metavar="DIFF_ID", help="digest of the archive: sha256:...")


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    refuse_terminal("a tar archive")
    name = layer_name(arguments.diff_id)
    with (
        options.open_repository(arguments) as repository,
        repository.streams.open(name, ContentType.LAYER) as stream,
    ):
        write_bytes(stream.merged())
    return 0
