"""`composefs dump-files IMAGE PATH...`: files of an image, described as in a dumpfile."""

from __future__ import annotations

import argparse
import os
import stat
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import write_bytes
from composefs.dialect import Dialect
from composefs.errors import NotFoundError, TreeError

if TYPE_CHECKING:
    from composefs.erofs.reader import Inode
    from composefs.image import Image

EXAMPLES = """\
examples:
  composefs dump-files os /etc /usr/bin/bash
  composefs dump-files --backing-path-only os /usr/bin/bash  # below objects/

Links on the way are not followed; paths are printed as they were given."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Describe files of an image as composefs-dump(5) has it; directories with all below them."
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="id, ref or OCI tag")
    parser.add_argument("paths", metavar="PATH", nargs="*", default=[], help="what to describe, in this order")
    parser.add_argument(
        "--backing-path-only",
        action="store_true",
        help="print PATH and the path of its object, or `inline`; takes no directories",
    )


def run(arguments: argparse.Namespace) -> int:
    """Describe them."""
    from composefs.dumpfile import format_below
    from composefs.image import Image
    from composefs.image.subtree import load_subtree

    with (
        options.open_repository(arguments) as repository,
        Image.open(repository, arguments.image, dialect=Dialect.RUST) as image,
    ):
        paths = [os.fsencode(path) for path in arguments.paths]
        found = [(path, _find(image, path)) for path in paths]  # before anything is written, as cfsctl does
        if arguments.backing_path_only:
            write_bytes([b"%b %b\n" % (path, _backing_path(image, path, inode)) for path, inode in found])
        else:
            for path, inode in found:
                node, counts = load_subtree(image, inode)
                write_bytes(format_below(node, path, counts))
    return 0


def _find(image: Image, path: bytes) -> Inode:
    """Return what stands at *path*, where links are not followed."""
    inode = image.root
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        if name == b"..":
            raise TreeError(path, "goes up, which paths here may not")
        if inode.type != stat.S_IFDIR:
            raise TreeError(path, "goes through something that is no directory")
        found = image.lookup(inode, name)
        if found is None:
            raise NotFoundError(f"{os.fsdecode(path)} not found")
        inode = found
    return inode


def _backing_path(image: Image, path: bytes, inode: Inode) -> bytes:
    from composefs.tree import Backed, Object, object_path

    if inode.type == stat.S_IFDIR:
        raise TreeError(path, "is a directory")
    content = image.reader.content(inode)
    if isinstance(content, Object):
        return object_path(content.digest)
    if isinstance(content, Backed) and content.path is not None:
        return content.path
    return b"inline"
