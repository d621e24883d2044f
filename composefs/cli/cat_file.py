"""`composefs cat-file IMAGE PATH...`: the content of files of an image."""

from __future__ import annotations

import argparse
import codecs
import re
import sys
from typing import BinaryIO

from composefs.cli import options
from composefs.cli.output import refuse_terminal

EXAMPLES = """\
examples:
  composefs cat-file os /etc/os-release
  composefs cat-file os /usr/lib/modules/6.12.0/vmlinuz > vmlinuz"""

_PIECE = 1 << 20  # bytes
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]"
)  # what text has none of: all but tab, line ends and form feed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Write the content of files of an image to standard output, one after the other, each proved before. "
        "Symbolic links are followed inside the image. To a terminal only text is written."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="id, ref or OCI tag")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file in it")


def run(arguments: argparse.Namespace) -> int:
    """Write them."""
    import shutil

    from composefs.image import Image

    output = sys.stdout.buffer
    with options.open_repository(arguments) as repository, Image.open(repository, arguments.image) as image:
        for path in arguments.paths:
            with image.open(path) as file:
                if sys.stdout.isatty() and not _is_text(file):
                    refuse_terminal(f"{path}, which is no text,")
                shutil.copyfileobj(file, output, _PIECE)
                output.flush()
    return 0


def _is_text(file: BinaryIO) -> bool:
    """Tell whether *file* is UTF-8 without anything that would control a terminal; its position is the start again."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while piece := file.read(_PIECE):
            if _CONTROL.search(decoder.decode(piece)):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    file.seek(0)
    return True
