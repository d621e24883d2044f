"""`composefs cat STREAM`: the bytes that a stream stands for."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import write_bytes
from composefs.repository import Repository


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cat",
        help="write the content of a stream",
        description="Write the content of a stream to standard output: a layer's tar archive, a manifest's JSON.",
    )
    parser.add_argument("stream", metavar="STREAM", help="an entry of streams/: oci-layer-sha256:..., refs/oci/TAG")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    with (
        Repository.open(options.repository_path(arguments)) as repository,
        repository.streams.open(arguments.stream) as stream,
    ):
        write_bytes(stream.merged())
    return 0
