"""How `composefs ls` shows what it lists: long lines, and JSON."""

from __future__ import annotations

import json
import os
import stat
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from composefs.erofs.reader import Inode
from composefs.image import Image
from composefs.image.contents import digest_of
from composefs.text import printable
from composefs.tree import Backed, Object, Symlink

Found: TypeAlias = tuple[bytes, Inode]  # path from the root

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def line(image: Image, inode: Inode, name: bytes) -> str:
    """Return the long line of *inode*."""
    info = image.stat_inode(inode)
    size = _device(info.st_rdev) if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else str(info.st_size)
    text = printable(name)
    if stat.S_ISLNK(info.st_mode):
        text += f" -> {printable(image.readlink_inode(inode))}"
    mode, time = stat.filemode(info.st_mode), _time(info.st_mtime_ns // 1_000_000_000)
    return f"{mode} {info.st_nlink:>3} {info.st_uid:>5} {info.st_gid:>5} {size:>11} {time} {text}"


def print_json(image: Image, found: Iterable[Found]) -> None:
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
