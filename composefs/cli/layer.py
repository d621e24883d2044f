"""`composefs oci layer DIFF_ID`: a layer's tar archive, bit for bit."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import refuse_terminal, write_bytes
from composefs.oci.names import layer_name
from composefs.repository import Repository
from composefs.splitstream import ContentType


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "layer",
        help="write the tar archive of a layer",
        description="Write the tar archive of a layer to standard output, bit for bit the one that was imported.",
    )
    parser.add_argument("diff_id", metavar="DIFF_ID", help="digest of the archive: sha256:...")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    refuse_terminal("a tar archive")
    name = layer_name(arguments.diff_id)
    with (
        Repository.open(options.repository_path(arguments)) as repository,
        repository.streams.open(name, ContentType.LAYER) as stream,
    ):
        write_bytes(stream.merged())
    return 0
