"""`composefs import-image NAME`: store an EROFS image that comes on standard input."""

from __future__ import annotations

import argparse
import sys

from composefs.cli import options
from composefs.errors import FormatError, UsageError

EXAMPLES = """\
examples:
  composefs import-image base < base.erofs
  mkcomposefs dir - | composefs --hash sha256 import-image dir"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.set_defaults(stores=True)
    parser.description = (
        "Store the EROFS image on standard input, name it, and print its id. What it refers to is not looked for."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("name", metavar="NAME", help="what to call it: the ref is images/refs/NAME")


def run(arguments: argparse.Namespace) -> int:
    """Store it."""
    from composefs.erofs.reader import ErofsReader
    from composefs.erofs.superblock import read_image
    from composefs.repository.refs import check_ref

    check_ref(arguments.name)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("the image comes on standard input: redirect it from a file or a pipe")
    with options.open_repository(arguments) as repository:
        repository.check_writable()
        data = read_image(sys.stdin.buffer)
        if not data:
            raise FormatError("standard input", 0, "is empty, where an EROFS image is wanted")
        ErofsReader(data, "standard input")  # the reference takes anything, and finds out when it mounts
        digest = repository.images.store(data)
        repository.name({}, [digest])
        repository.images.set_ref(arguments.name, digest)
    print(digest)
    return 0
