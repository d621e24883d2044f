"""Trees of the golden dumps, also of those that composefs-rs wrote and does not read again."""

import stat

from composefs.digest import Algorithm
from composefs.dumpfile import parse_dump
from composefs.dumpfile.text import unescape
from composefs.errors import FormatError
from composefs.tree import Directory, Inline, Leaf, Object, Special, Stat, Symlink


def split(text: bytes) -> list[list[bytes]]:
    """Return the lines of each of the dumps that *text* has one after another."""
    dumps: list[list[bytes]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(b"/ "):
            dumps.append([])
        dumps[-1].append(line)
    return dumps


def read(lines: list[bytes], algorithm: Algorithm = Algorithm.SHA256) -> Directory:
    """Return the tree that a dump describes."""
    try:
        return parse_dump(lines, "the dump", algorithm=algorithm).root
    except FormatError:  # negative times, long link targets or none
        return _read_leniently(lines)


def _read_leniently(lines: list[bytes]) -> Directory:
    nodes: dict[bytes, Directory | Leaf] = {}
    for line in lines:
        fields = line.rstrip(b"\n").split(b" ")
        path = unescape(fields[0])
        node = nodes[unescape(fields[8])] if fields[2].startswith(b"@") else _node(fields)
        nodes[path] = node
        above, _, name = path.rpartition(b"/")
        if name:
            parent = nodes[above or b"/"]
            assert isinstance(parent, Directory)
            parent.entries[name] = node
    root = nodes[b"/"]
    assert isinstance(root, Directory)
    return root


def _node(fields: list[bytes]) -> Directory | Leaf:
    mode, rdev = int(fields[2], 8), int(fields[6])
    seconds, _, nanoseconds = fields[7].partition(b".")
    xattrs = {unescape(name): unescape(value) for name, _, value in (x.partition(b"=") for x in fields[11:])}
    info = Stat(mode & 0o7777, int(fields[4]), int(fields[5]), int(seconds), int(nanoseconds), xattrs)
    payload, data = (b"" if field == b"-" else unescape(field) for field in fields[8:10])
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        return Directory(info)
    if kind == stat.S_IFLNK:
        return Leaf(info, Symlink(payload))
    if kind != stat.S_IFREG:
        return Leaf(info, Special(kind, rdev))
    if fields[10] != b"-":
        return Leaf(info, Object(int(fields[1]), bytes.fromhex(fields[10].decode())))
    return Leaf(info, Inline(data))
