"""Read dumps as the C implementation does, `mkcomposefs --from-file`.

Its numbers are those of strtoull(3), escaped NULs end names and paths, columns at the end of a line may be missing, and
hard links are resolved when all is read.  Where it would use memory that it never wrote, or hang, or make an image in
which a directory has two names, the dump is refused instead.

Source: composefs-dump(5); what is not there, such as all the limits, is seen from what mkcomposefs takes and refuses.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from composefs import limits
from composefs.dumpfile.reader import (
    CONTENT,
    DEVICES,
    DIGEST,
    GID,
    MODE,
    MTIME,
    NLINK,
    PATH,
    PAYLOAD,
    RDEV,
    SIZE,
    TYPES,
    UID,
    XATTR,
    Dump,
    DumpReader,
    Inode,
    Mistake,
    Position,
    shown,
    unescaped,
    wanted,
)
from composefs.dumpfile.text import ABSENT, raw_digest
from composefs.errors import FormatError, LimitError
from composefs.tree import (
    PERMISSIONS,
    Backed,
    Content,
    Directory,
    Inline,
    Leaf,
    Node,
    Object,
    Special,
    Stat,
    Symlink,
    object_path,
)

NAME_MAX = 255  # bytes
PAYLOAD_MAX = 4095  # bytes
INLINE_MAX = 5000  # bytes of content
XATTR_NAME_MAX = 255  # bytes
XATTR_VALUE_MAX = 65535  # bytes
XATTR_TEXT_MAX = 65535  # bytes of a line behind its fixed fields
XATTR_BUDGET = 32767  # bytes of all xattrs of an inode, by this count:
XATTR_BASE_COST, XATTR_COST = 12, 7  # for there being any, and for each beside its name and value
DIGEST_SIZE = 32  # bytes; SHA-256 is all it knows

_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
_NUMBERS = {  # by base; `*+` never looks at a zero twice, of which a line may have millions
    10: re.compile(rb"[\t\v\f\r]*+([+-]?)0*+([0-9]*+)"),
    8: re.compile(rb"[\t\v\f\r]*+([+-]?)0*+([0-7]*+)"),
}
_DIGITS_MAX = 30  # more than any number below the maximum has
_PLACEHOLDER_STAT = Stat(0, 0, 0, 0, 0)


Home = tuple[Directory, bytes]


class Link(NamedTuple):
    """A hard link that is yet to be resolved."""

    parent: Directory
    name: bytes
    target: bytes
    position: Position  # of the target, in the input


class CReader(DumpReader):
    """Reads the dialect of the C implementation."""

    def __init__(self, source: str, *, strict: bool) -> None:
        super().__init__(source)
        self._strict = strict
        self._root: Directory | None = None
        self._directories: dict[bytes, Directory] = {}  # by path as it was spelled
        self._links: dict[Leaf, Link] = {}  # by the leaf that stands there until all is read

    def _add(self, line: bytes) -> None:
        text = line.removesuffix(b"\n")
        if self._strict and len(text) == len(line):
            raise Mistake(PATH, "wanted a newline at the end", len(text))
        if b"\0" in text:
            raise Mistake(PATH, r"wanted \x00, got a NUL", text.index(b"\0"))
        fields = text.split(b" ", XATTR)
        fields += [b""] * (XATTR + 1 - len(fields))
        path = _text(PATH, fields[PATH])
        if not path:
            raise Mistake(PATH, "PATH: wanted a path, got none")
        if fields[MODE].startswith(b"@"):
            self._add_hard_link(path, fields, text)
            return
        inode = self._inode(fields)
        content = self._content(inode, fields)
        if content is not None:
            parent, name = self._place(path)
            parent.entries[name] = Leaf(inode.stat, content, inode.link_count)
        elif path != b"/":
            parent, name = self._place(path)
            parent.entries[name] = self._directories[path] = Directory(inode.stat)
        elif self._root is None:
            self._root = Directory(inode.stat)
            self._directories[b""] = self._root
        else:
            raise Mistake(PATH, "PATH: wanted one line of /, got another")

    def _finish(self) -> Dump:
        if self._root is None:
            raise FormatError(self._source, 0, "wanted the line of / first, got none at all")
        homes: dict[Leaf, Home] = {}
        ends: dict[Leaf, tuple[Leaf, Home]] = {}
        for placeholder in self._links:
            self._follow(placeholder, ends)
        for placeholder, link in self._links.items():
            leaf, homes[leaf] = ends[placeholder]
            link.parent.entries[link.name] = leaf
        return Dump(self._root, homes)

    def _place(self, path: bytes) -> tuple[Directory, bytes]:
        """Return where *path* is to stand: a directory, and a name that is free there."""
        if self._root is None:
            raise wanted(PATH, "the line of / first", path)
        if path.count(b"/") >= limits.DIRECTORY_DEPTH:
            what = f"levels of directories in line {self._number}"
            raise LimitError(self._source, self._offset, what, limits.DIRECTORY_DEPTH)
        above, _, name = path.rpartition(b"/")
        parent = self._directories.get(above)
        if parent is None:
            self._directories[above] = parent = self._find_directory(above)
        if not name or name in {b".", b".."} or len(name) > NAME_MAX:
            raise wanted(PATH, f"a name of 1 to {NAME_MAX} bytes, not . or ..", name)
        if name in parent.entries:
            raise wanted(PATH, "a path that no earlier line has", path)
        return parent, name

    def _find_directory(self, path: bytes) -> Directory:
        node = self._root
        for part in filter(None, path.split(b"/")):
            child = node.entries.get(part) if node is not None else None
            if not isinstance(child, Directory):
                raise Mistake(PATH, f"PATH: there is no directory {shown(path)}")
            node = child
        assert node is not None
        return node

    def _add_hard_link(self, path: bytes, fields: list[bytes], text: bytes) -> None:
        kind = stat.S_IFMT(_number(MODE, fields[MODE][1:], 8) & _U16)
        if kind not in TYPES or kind == stat.S_IFDIR:
            raise wanted(MODE, "the type of a file that is no directory", fields[MODE])
        if path == b"/":
            raise wanted(MODE, "a directory at /", fields[MODE])
        if fields[PAYLOAD] == ABSENT:
            raise Mistake(PAYLOAD, "PAYLOAD: wanted the target of the hard link, got none")
        target = _text(PAYLOAD, fields[PAYLOAD])
        parent, name = self._place(path)
        placeholder = Leaf(_PLACEHOLDER_STAT, Special(kind))
        parent.entries[name] = placeholder
        self._links[placeholder] = Link(parent, name, target, self._position(text, PAYLOAD))

    def _follow(self, placeholder: Leaf, ends: dict[Leaf, tuple[Leaf, Home]]) -> None:
        """Find the leaf that the link *placeholder*, and all links on the way to it, stand for."""
        leaf, end = placeholder, ends.get(placeholder)
        passed: dict[Leaf, None] = {}
        while end is None:
            passed[leaf] = None
            link = self._links[leaf]
            leaf, home = self._find_leaf(link)
            if leaf in passed:
                self._fail(link.position, f"PAYLOAD: hard links in a circle, from {shown(link.target)}")
            end = ends.get(leaf) if leaf in self._links else (leaf, home)
        ends.update(dict.fromkeys(passed, end))

    def _find_leaf(self, link: Link) -> tuple[Leaf, Home]:
        """Return what stands at the target of *link*, and where that is."""
        node: Node = self._directories[b""]
        home = None
        for name in filter(None, link.target.split(b"/")):
            child = node.entries.get(name) if isinstance(node, Directory) else None
            if child is None:
                self._fail(link.position, f"PAYLOAD: there is no target {shown(link.target)}")
            assert isinstance(node, Directory)
            home, node = (node, name), child
        if home is None or isinstance(node, Directory):
            self._fail(link.position, f"PAYLOAD: wanted a hard link to a file, {shown(link.target)} is a directory")
        return node, home

    def _parse_inode(self, fields: Sequence[bytes], xattrs: Mapping[bytes, bytes]) -> Inode:
        mode = _number(MODE, fields[MODE], 8)
        kind = stat.S_IFMT(mode & _U16)
        if kind not in TYPES:
            raise wanted(MODE, "a mode with the type of a file", fields[MODE])
        link_count, uid = _number(NLINK, fields[NLINK]), _number(UID, fields[UID])
        gid, rdev = (_number_or_zero(index, fields[index], lenient=uid != 0) for index in (GID, RDEV))
        if self._strict and rdev and kind not in DEVICES:
            raise wanted(RDEV, "0 for what is no device", fields[RDEV])
        seconds_text, _, nanoseconds_text = fields[MTIME].partition(b".")
        seconds, nanoseconds = _number(MTIME, seconds_text), _number(MTIME, nanoseconds_text)
        if seconds > _U64 >> 1:
            seconds -= _U64 + 1
        info = Stat(mode & PERMISSIONS, uid & _U32, gid & _U32, seconds, nanoseconds & _U32, xattrs)
        return Inode(kind, link_count & _U32, rdev & _U32 if kind in DEVICES else 0, info)

    def _parse_xattrs(self, text: bytes) -> dict[bytes, bytes]:
        if len(text) > XATTR_TEXT_MAX:
            raise Mistake(XATTR, f"XATTR: wanted at most {XATTR_TEXT_MAX} bytes of them, got {len(text)}")
        xattrs: dict[bytes, bytes] = {}
        skip, cost = 0, XATTR_BASE_COST
        for field in text.split(b" "):
            raw, equals, value = field.partition(b"=")
            if not equals and skip + len(field) == len(text) and not field:
                break  # one blank at the end
            if not equals:
                raise wanted(XATTR, "name=value", field, skip)
            name = unescaped(XATTR, raw, skip=skip).partition(b"\0")[0]
            value = unescaped(XATTR, value, skip=skip + len(raw) + 1)
            if not 0 < len(name) <= XATTR_NAME_MAX:
                raise wanted(XATTR, f"a name of 1 to {XATTR_NAME_MAX} bytes", raw, skip)
            if len(value) > XATTR_VALUE_MAX:
                raise Mistake(XATTR, f"XATTR: wanted values of at most {XATTR_VALUE_MAX} bytes, got {len(value)}", skip)
            former = xattrs.get(name)
            cost += len(value) - len(former) if former is not None else XATTR_COST + len(name) + len(value)
            if cost > XATTR_BUDGET:
                raise Mistake(XATTR, f"XATTR: wanted at most {XATTR_BUDGET} bytes with overhead, got more", skip)
            xattrs[name] = value
            skip += len(field) + 1
        return xattrs

    def _content(self, inode: Inode, fields: list[bytes]) -> Content | None:
        """Return what a leaf holds, None for a directory."""
        size = _number(SIZE, fields[SIZE])
        payload, data = _optional(PAYLOAD, fields[PAYLOAD]), None
        if fields[CONTENT] != ABSENT:
            data = unescaped(CONTENT, fields[CONTENT])
            if len(data) != size:
                raise Mistake(CONTENT, f"CONTENT: wanted {size} bytes, as SIZE says, got {len(data)}")
        digest = _optional(DIGEST, fields[DIGEST])
        if payload is not None and len(payload) > PAYLOAD_MAX:
            raise Mistake(PAYLOAD, f"PAYLOAD: wanted at most {PAYLOAD_MAX} bytes, got {len(payload)}")
        if inode.type == stat.S_IFLNK:
            return self._symlink(payload, size, data)
        if data is not None and len(data) > INLINE_MAX:
            raise Mistake(CONTENT, f"CONTENT: wanted at most {INLINE_MAX} bytes, got {len(data)}")
        if inode.type == stat.S_IFDIR:
            return None
        if inode.type == stat.S_IFREG:
            return Inline(data or b"") if data or not size else _external(size, payload, digest)
        if size > _U32 and (inode.type != stat.S_IFCHR or inode.rdev):
            raise wanted(SIZE, "less than 4 GiB for what is no regular file", fields[SIZE])
        return Special(inode.type, inode.rdev)

    def _symlink(self, target: bytes | None, size: int, data: bytes | None) -> Symlink:
        if not target:
            raise Mistake(PAYLOAD, "PAYLOAD: wanted the target of the symbolic link, got none")
        if self._strict and size != len(target):
            raise Mistake(SIZE, f"SIZE: wanted {len(target)}, the size of the target, got {size}")
        if self._strict and data:
            raise Mistake(CONTENT, "CONTENT: wanted none for a symbolic link")
        return Symlink(target)


def _number(index: int, field: bytes, base: int = 10) -> int:
    """Return the number that strtoull(3) makes of *field*, of which it must take all."""
    match = _NUMBERS[base].fullmatch(field)
    if match is None or not field[-1:].isdigit():
        raise wanted(index, "a number" if base == 10 else "octal digits", field)
    number = int(match[2][:_DIGITS_MAX] or b"0", base)
    if number > _U64:
        return _U64
    return -number & _U64 if match[1] == b"-" else number


def _text(index: int, field: bytes) -> bytes:
    """Return what *field* stands for, which ends where a NUL does."""
    return unescaped(index, field).partition(b"\0")[0]


def _optional(index: int, field: bytes) -> bytes | None:
    return _text(index, field) if field != ABSENT else None


def _number_or_zero(index: int, field: bytes, *, lenient: bool) -> int:
    """Return the number that *field* is; the C program looks for mistakes only where the owner is root."""
    try:
        return _number(index, field)
    except Mistake:
        if lenient:
            return 0
        raise


def _external(size: int, payload: bytes | None, digest: bytes | None) -> Content:
    """Return a file whose content is elsewhere; the digest is as much of it as C looks at."""
    raw = None
    if digest is not None:
        raw = raw_digest(digest[: 2 * DIGEST_SIZE])
        if raw is None or len(raw) < DIGEST_SIZE:
            raise wanted(DIGEST, f"{2 * DIGEST_SIZE} hexadecimal digits", digest)
        if payload == object_path(raw):
            return Object(size, raw)
    return Backed(size, payload or None, raw)
