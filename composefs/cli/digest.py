"""`composefs digest FILE...`: the fs-verity digests of files, computed, not measured."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.cli.output import printable
from composefs.digest import Algorithm

EXAMPLES = """\
examples:
  composefs digest /usr/bin/env /usr/lib/os-release
  composefs digest --algorithm fsverity-sha256-12 image.erofs"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the fs-verity digest of files, as a repository names them. It is computed, not measured."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        default=Algorithm.SHA512.value,
        help="default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each file."""
    from composefs import verity

    algorithm = Algorithm.parse(arguments.algorithm)
    for path in arguments.files:
        with options.opened(path) as fd:
            digest = verity.compute_file_digest(fd, algorithm)
        print(f"{digest}  {printable(path)}")
    return 0
