"""`composefs info COMMAND`, also `composefs-info COMMAND`: look at image files, without a repository.

Output is that of composefs-rs; options are those of both programs of that name, and `--filter` holds for all commands
that read images, as in the C program.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import write_bytes
from composefs.digest import Algorithm, Digest
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.tree import Directory, Leaf

EXAMPLES = """\
examples:
  composefs-info ls --filter=etc image.cfs
  composefs-info dump image.cfs > image.dump
  composefs-info missing-objects --basedir=objects *.cfs
  composefs-info measure-file image.cfs"""

_COMMANDS = {
    "ls": "list the files, with their objects and the targets of links",
    "dump": "describe the files as a dumpfile, see composefs-dump(5)",
    "objects": "list the objects that each image needs",
    "missing-objects": "list the objects of all images that --basedir does not have",
    "measure-file": "print the fs-verity digest (SHA-256) of files",
}
_SPECIAL = re.compile(rb"[^ -\[\]-~]")
_NAMED = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Look at composefs image files."
    parser.epilog = EXAMPLES
    _add_options(parser, "common_", "commands that read images")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="verb", required=True)
    for name, help_text in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        what = "FILE" if name == "measure-file" else "IMAGE"
        command.add_argument("files", nargs="+", metavar=what)
        if what == "IMAGE":
            _add_options(command, "", name)


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for."""
    if arguments.verb == "measure-file":
        for path in arguments.files:
            print(_measure(path).hex)
        return 0
    filters = [os.fsencode(name) for name in arguments.common_filter + arguments.filter]
    for name in filters:
        if b"/" in name:
            raise UsageError(f"--filter takes names in the root, not paths: {os.fsdecode(name)}")
    if arguments.verb == "missing-objects":
        _print_missing(arguments, filters)
        return 0
    for path in arguments.files:
        root = _load(path)
        if arguments.verb == "ls":
            write_bytes(_list(_filtered(root, filters)))
        elif arguments.verb == "dump":
            write_bytes(_dump(root, filters))
        else:
            write_bytes(path + b"\n" for path in sorted(_objects(_filtered(root, filters))))
    return 0


def _add_options(parser: argparse.ArgumentParser, prefix: str, where: str) -> None:
    """Add what may stand before the command, as in the C program, or behind it."""
    parser.add_argument(
        "--filter",
        dest=f"{prefix}filter",
        action="append",
        default=[],
        metavar="NAME",
        help="only this name in the root",
    )
    if where in {"missing-objects", "commands that read images"}:
        parser.add_argument("--basedir", dest=f"{prefix}basedir", metavar="DIR", help="directory of the objects")


def _load(path: str) -> Directory:
    from composefs.erofs.load import load_tree
    from composefs.erofs.superblock import read_image

    with open(path, "rb") as file:
        return load_tree(read_image(file), path)


def _filtered(root: Directory, filters: Sequence[bytes]) -> Directory:
    """Return *root* with the entries named by *filters* only, if there are any."""
    from composefs.tree import Directory

    if not filters:
        return root
    return Directory(root.stat, {name: node for name, node in root.entries.items() if name in filters})


def _list(root: Directory) -> Iterator[bytes]:
    from composefs.tree import Directory, Object, Symlink, object_path, walk

    seen: set[Leaf] = set()
    for path, node in islice(walk(root), 1, None):
        line = _escape(path)
        if isinstance(node, Directory):
            yield line + b"/\t\n"
            continue
        if isinstance(node.content, Symlink):
            line += b"\t-> " + _escape(node.content.target)
        elif isinstance(node.content, Object) and node not in seen:
            seen.add(node)
            line += b"\t@ " + object_path(node.content.digest)
        yield line + b"\n"


def _dump(root: Directory, filters: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the lines of the dump; what is filtered out counts in those of the root and of hard links."""
    from composefs.dumpfile import count_names, format_below, format_dump

    if not filters:
        return format_dump(root)
    lines = format_below(_filtered(root, filters), b"/", count_names(root))
    next(lines)
    return chain(islice(format_dump(root), 1), lines)


def _objects(root: Directory) -> set[bytes]:
    """Return the paths of the objects that fs-verity protects."""
    from composefs.tree import Leaf, Object, nodes, object_path

    leaves = (node for node in nodes(root) if isinstance(node, Leaf))
    return {object_path(leaf.content.digest) for leaf in leaves if isinstance(leaf.content, Object)}


def _print_missing(arguments: argparse.Namespace, filters: Sequence[bytes]) -> None:
    directory = arguments.basedir if arguments.basedir is not None else arguments.common_basedir
    if directory is None:
        raise UsageError("missing-objects needs a --basedir")
    objects: set[bytes] = set()
    for path in arguments.files:
        objects |= _objects(_filtered(_load(path), filters))
    base = os.fsencode(directory)
    write_bytes(path + b"\n" for path in sorted(objects) if not os.path.exists(os.path.join(base, path)))


def _measure(path: str) -> Digest:
    from composefs import verity

    with options.opened(path) as fd:
        return verity.measure(fd, Algorithm.SHA256) or verity.compute_file_digest(fd, Algorithm.SHA256)


def _escape(value: bytes) -> bytes:
    """Return *value* with escapes for what is not printable; blanks are."""
    return _SPECIAL.sub(lambda match: _NAMED.get(match[0]) or b"\\x%02x" % ord(match[0]), value)
