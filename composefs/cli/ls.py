"""`composefs ls IMAGE [PATH]`: the files of an image."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from composefs.cli import options
from composefs.erofs.reader import Inode
from composefs.image import Image
from composefs.image.contents import digest_of
from composefs.image.walking import walk_inodes
from composefs.text import printable
from composefs.tree import Backed, Object, Symlink

EXAMPLES = """\
examples:
  composefs ls os                 # the root of the image called or tagged os
  composefs ls -l os /usr/bin
  composefs ls -R --json os | jq -r '.entries[] | select(.links > 1).path'

Times are UTC. Names are shown as UTF-8, with escapes for what cannot be:
\\xHH, and \\\\ for a backslash."""

Found: TypeAlias = tuple[bytes, Inode]  # path from the root

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GAP = 2  # blanks between columns
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


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
    with options.open_repository(arguments) as repository, Image.open(repository, arguments.image) as image:
        found = _find(image, arguments.path, recursive=arguments.recursive)
        if arguments.json:
            _print_json(image, found)
        elif arguments.long:
            for path, inode in found:
                print(_line(image, inode, path if arguments.recursive else os.path.basename(path) or path))
        elif arguments.recursive:
            for path, _ in found:
                print(printable(path))
        else:
            _print_names([printable(os.path.basename(path) or path) for path, _ in found])
    return 0


def _find(image: Image, path: str, *, recursive: bool) -> Iterator[Found]:
    """Yield what is to be listed: what is in the directory *path*, a link to one included, or just what it is."""
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
    width = max(map(len, names), default=0) + _GAP
    columns = max(1, (shutil.get_terminal_size().columns + _GAP) // width) if sys.stdout.isatty() else 1
    rows = -(-len(names) // columns)
    for row in range(rows):
        print("".join(name.ljust(width) for name in names[row::rows]).rstrip())


def _line(image: Image, inode: Inode, name: bytes) -> str:
    """Return the long line of *inode*."""
    info = image.stat_inode(inode)
    size = _device(info.st_rdev) if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else str(info.st_size)
    text = printable(name)
    if stat.S_ISLNK(info.st_mode):
        text += f" -> {printable(image.readlink_inode(inode))}"
    mode, time = stat.filemode(info.st_mode), _time(info.st_mtime_ns // 1_000_000_000)
    return f"{mode} {info.st_nlink:>3} {info.st_uid:>5} {info.st_gid:>5} {size:>11} {time} {text}"


def _print_json(image: Image, found: Iterator[Found]) -> None:
    """Print an object of all *found*, one by one, since there may be many."""
    print("{")
    print(f'  "image": "{image.id}",')
    print('  "entries": [', end="")
    separator = "\n"
    for path, inode in found:
        print(separator + textwrap.indent(json.dumps(_as_json(image, path, inode), indent=2), "    "), end="")
        separator = ",\n"
    print("\n  ]\n}" if separator == ",\n" else "]\n}")


def _as_json(image: Image, path: bytes, inode: Inode) -> dict[str, object]:
    info = image.stat_inode(inode)
    xattrs = image.reader.node_stat(inode).xattrs
    entry: dict[str, object] = {
        "path": printable(path),
        "type": _TYPES[stat.S_IFMT(info.st_mode)],
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "links": info.st_nlink,
        "inode": info.st_ino,
        "uid": info.st_uid,
        "gid": info.st_gid,
        "size": info.st_size,
        "mtime": info.st_mtime_ns // 1_000_000_000,
        "nanoseconds": info.st_mtime_ns % 1_000_000_000,
        "xattrs": {printable(name): printable(xattrs[name]) for name in sorted(xattrs)},
    }
    if inode.type == stat.S_IFDIR:
        return entry
    content = image.reader.content(inode)
    if isinstance(content, Symlink):
        entry["target"] = printable(content.target)
    elif isinstance(content, Object | Backed):
        digest = digest_of(content)
        entry["digest"] = None if digest is None else str(digest)
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        entry["device"] = _device(info.st_rdev)
    return entry


def _device(rdev: int) -> str:
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def _time(seconds: int) -> str:
    """Return the time *seconds* after the epoch, as text of always the same width if it is in one of our years."""
    try:
        return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"@{seconds}"
