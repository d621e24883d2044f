"""`composefs ls IMAGE [PATH]`: the files of an image."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.text import printable

if TYPE_CHECKING:
    from composefs.cli.listing import Found
    from composefs.image import Image

EXAMPLES = """\
examples:
  composefs ls os                 # the root of the image called or tagged os
  composefs ls -l os /usr/bin
  composefs ls -R --json os | jq -r '.entries[] | select(.links > 1).path'

Times are UTC. Names are shown as UTF-8, with escapes for what cannot be:
\\xHH, and \\\\ for a backslash."""

_GAP = 2  # blanks between columns


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List the files of an image."
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="id, ref or OCI tag")
    parser.add_argument("path", metavar="PATH", nargs="?", default="/", help="a directory or file in it (default: /)")
    parser.add_argument("--long", "-l", action="store_true", help="with mode, links, owner, size and time")
    parser.add_argument("--recursive", "-R", action="store_true", help="all that is below, by paths from the root")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all that the image knows")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from composefs.cli.listing import line, print_json
    from composefs.image import Image

    with options.open_repository(arguments) as repository, Image.open(repository, arguments.image) as image:
        found = _find(image, arguments.path, recursive=arguments.recursive)
        if arguments.json:
            print_json(image, found)
        elif arguments.long:
            for path, inode in found:
                print(line(image, inode, path if arguments.recursive else os.path.basename(path) or path))
        elif arguments.recursive:
            for path, _ in found:
                print(printable(path))
        else:
            _print_names([printable(os.path.basename(path) or path) for path, _ in found])
    return 0


def _find(image: Image, path: str, *, recursive: bool) -> Iterator[Found]:
    """Yield what is to be listed: what is in the directory *path*, a link to one included, or just what it is."""
    from composefs.image.walking import walk_inodes

    place = image.find(path, follow_symlinks=False)
    if place.inode.type == stat.S_IFLNK:
        with suppress(OSError):  # a link that leads nowhere can be listed, too
            target = image.find(path)
            place = target if target.inode.type == stat.S_IFDIR else place
    if place.inode.type != stat.S_IFDIR:
        yield place.path, place.inode
    elif recursive:
        yield from walk_inodes(image, place.path, place.inode)
    else:
        for name, child in image.children(place.inode):
            yield os.path.join(place.path, name), child


def _print_names(names: Sequence[str]) -> None:
    """Print *names*: a line each, or on a terminal in columns, from the top downwards."""
    import shutil

    width = max(map(len, names), default=0) + _GAP
    columns = max(1, (shutil.get_terminal_size().columns + _GAP) // width) if sys.stdout.isatty() else 1
    rows = -(-len(names) // columns)
    for row in range(rows):
        print("".join(name.ljust(width) for name in names[row::rows]).rstrip())
