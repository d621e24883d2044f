"""`composefs cat STREAM`: the bytes that a stream stands for."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import write_bytes
from composefs.errors import UsageError

EXAMPLES = """\
examples:
  composefs cat refs/oci/os                    # the manifest of the tag os
  composefs cat oci-layer-sha256:9f86... | tar t"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Write the content of a stream to standard output: a layer's tar archive, a manifest's JSON."
    parser.epilog = EXAMPLES
    parser.add_argument("stream", metavar="STREAM", help="an entry of streams/: oci-layer-sha256:..., refs/oci/TAG")


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    if not arguments.stream:
        raise UsageError("STREAM is empty")
    with options.open_repository(arguments) as repository, repository.streams.open(arguments.stream) as stream:
        write_bytes(stream.merged())
    return 0
