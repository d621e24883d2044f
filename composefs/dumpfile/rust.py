"""Read dumps as composefs-rs does.

Paths are absolute and in their simplest form, parents and the targets of hard links stand above what needs them, and
the number of links is counted, whatever the dump says.

Source: composefs-dump(5), src/dumpfile_parse.rs and src/dumpfile.rs of composefs-rs; docs/compatibility.md has the
places where this is stricter.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from typing import NoReturn

from composefs.digest import Algorithm
from composefs.dumpfile.reader import (
    CONTENT,
    DEVICES,
    DIGEST,
    FIELDS,
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
from composefs.dumpfile.text import ABSENT, object_digest, raw_digest
from composefs.dumpfile.writer import count_names
from composefs.errors import FormatError
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
    is_whiteout,
)

PATH_MAX = 4096  # bytes
TARGET_MAX = 1024  # bytes of a link target
INLINE_MAX = 512  # bytes of content
XATTR_NAME_MAX = 255  # bytes
XATTR_VALUE_MAX = 65535  # bytes
XATTR_NAMES_MAX = 65535  # bytes of all names of an inode

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_NANOSECONDS = 10**9  # in a second
_BAD_NAMES = frozenset([b"", b".", b".."])
_NO_STAT = Stat(0, 0, 0, 0, 0)  # of a root that is a hard-link line


class RustReader(DumpReader):
    """Reads the dialect of composefs-rs."""

    def __init__(self, source: str, algorithm: Algorithm | None) -> None:
        super().__init__(source)
        self._digest_size = algorithm.digest_size if algorithm is not None else 0  # 0: that of the first one
        self._root: Directory | None = None
        self._directories: dict[bytes, Directory] = {}  # by path; the root is empty
        self._leaf_count = 0
        self._replaced: Position | None = None  # where a line first took the place of an earlier one

    def _add(self, line: bytes) -> None:
        text = line[:-1].removesuffix(b"\r") if line.endswith(b"\n") else line
        if not (text.strip() if text.isascii() else _decoded(text).strip()):
            return
        fields = text.split(b" ", XATTR)
        if len(fields) < XATTR and (len(fields) <= PAYLOAD or b"@" not in fields[MODE]):
            raise Mistake(len(fields), f"{FIELDS[len(fields)]} is missing")
        path = self._path(PATH, fields[PATH])
        size = _number(SIZE, fields[SIZE], _U64)
        if b"@" in fields[MODE]:
            self._add_hard_link(path, fields)
            return
        if len(fields) == XATTR:
            fields.append(b"")
        elif not fields[XATTR]:
            raise wanted(XATTR, "name=value", b"")
        inode = self._inode(fields)
        content = self._content(inode, size, fields)
        if path == b"/":
            self._set_root(inode.stat)
        elif content is None:
            self._directories[path] = directory = Directory(inode.stat)
            self._place(path, directory)
        else:
            if inode.link_count > 1 and is_whiteout(content):
                raise wanted(NLINK, "1 for a whiteout", fields[NLINK])
            self._leaf_count += 1
            self._place(path, Leaf(inode.stat, content))

    def _finish(self) -> Dump:
        if self._root is None:
            raise FormatError(self._source, 0, "wanted the line of / first, got none at all")
        if self._replaced is not None and self._leaf_count != len(count_names(self._root)):
            self._fail(self._replaced, "PATH: wanted one line for each file, got another of this path or one above")
        return Dump(self._root, {})

    def _path(self, index: int, field: bytes) -> bytes:
        path = unescaped(index, field, plus=True)
        parent, slash, name = path.rpartition(b"/")
        is_known = slash and parent in self._directories and name not in _BAD_NAMES and b"\0" not in name
        if (is_known or path == b"/") and len(path) <= PATH_MAX:
            return path
        if not path.startswith(b"/"):
            raise wanted(index, "an absolute path", field)
        if b"\0" in path:
            raise wanted(index, "a path without NUL", field)
        if len(path) > PATH_MAX:
            raise Mistake(index, f"{FIELDS[index]}: wanted at most {PATH_MAX} bytes, got {len(path)}")
        for part in path[1:].split(b"/"):
            if part in _BAD_NAMES and path != b"/":
                raise wanted(index, "a path without empty parts, . and ..", field)
        return path

    def _set_root(self, info: Stat) -> None:
        if self._root is None:
            self._directories[b""] = self._root = Directory(info)
        else:
            self._root.stat = info

    def _place(self, path: bytes, node: Node) -> None:
        if self._root is None:
            raise wanted(PATH, "the line of / first", path)
        parent, _, name = path.rpartition(b"/")
        directory = self._directories.get(parent)
        if directory is None:
            raise Mistake(PATH, f"PATH: there is no directory {shown(parent)}")
        former = directory.entries.get(name)
        if former is not None:
            self._replaced = self._replaced or Position(self._number, 1, self._offset)
            if isinstance(former, Directory):
                self._forget(path, former, node)
        directory.entries[name] = node

    def _forget(self, path: bytes, former: Directory, node: Node) -> None:
        """Forget the paths of the directory *former* and of all below: *node* is there now."""
        pending = [(path, former)]
        while pending:
            gone, directory = pending.pop()
            del self._directories[gone]
            pending += [(gone + b"/" + name, n) for name, n in directory.entries.items() if isinstance(n, Directory)]
        if isinstance(node, Directory):
            self._directories[path] = node

    def _add_hard_link(self, path: bytes, fields: list[bytes]) -> None:
        mode = _number(MODE, fields[MODE].partition(b"@")[2], _U32, 8)
        if stat.S_IFMT(mode) == stat.S_IFDIR:
            raise wanted(MODE, "a hard link to a file", fields[MODE])
        if fields[PAYLOAD] == ABSENT:
            raise Mistake(PAYLOAD, "PAYLOAD: wanted the target of the hard link, got none")
        target = self._path(PAYLOAD, fields[PAYLOAD])
        if path == b"/":
            self._set_root(_NO_STAT)
            return
        parent, _, name = target.rpartition(b"/")
        directory = self._directories.get(parent)
        leaf = directory.entries.get(name) if directory is not None else None
        if not isinstance(leaf, Leaf):
            raise wanted(PAYLOAD, "a file of an earlier line", fields[PAYLOAD])
        self._place(path, leaf)

    def _parse_inode(self, fields: Sequence[bytes], xattrs: Mapping[bytes, bytes]) -> Inode:
        mode = _number(MODE, fields[MODE], _U32, 8)
        kind = stat.S_IFMT(mode)
        if kind not in TYPES:
            raise wanted(MODE, "a mode with the type of a file", fields[MODE])
        link_count = _number(NLINK, fields[NLINK], _U32)
        uid, gid = _number(UID, fields[UID], _U32), _number(GID, fields[GID], _U32)
        rdev = _number(RDEV, fields[RDEV], _U32)
        if rdev and kind not in DEVICES:
            raise wanted(RDEV, "0 for what is no device", fields[RDEV])
        seconds_text, point, nanoseconds_text = fields[MTIME].partition(b".")
        if not point:
            raise wanted(MTIME, "seconds.nanoseconds", fields[MTIME])
        seconds = _number(MTIME, seconds_text, _U64)
        if seconds > _U64 >> 1:
            seconds -= _U64 + 1
        nanoseconds = _number(MTIME, nanoseconds_text, _U64)
        if nanoseconds >= _NANOSECONDS:
            raise wanted(MTIME, f"less than {_NANOSECONDS} nanoseconds", nanoseconds_text, len(seconds_text) + 1)
        return Inode(kind, link_count, rdev, Stat(mode & PERMISSIONS, uid, gid, seconds, nanoseconds, xattrs))

    def _parse_xattrs(self, text: bytes) -> dict[bytes, bytes]:
        xattrs: dict[bytes, bytes] = {}
        skip = names_size = 0
        for field in text.split(b" "):
            raw, equals, value = field.partition(b"=")
            if not equals:
                raise wanted(XATTR, "name=value", field, skip)
            name = unescaped(XATTR, raw, plus=True, skip=skip)
            value = unescaped(XATTR, value, plus=True, skip=skip + len(raw) + 1)
            names_size += len(name)
            if b"\0" in name or not 0 < len(name) <= XATTR_NAME_MAX:
                raise wanted(XATTR, f"a name of 1 to {XATTR_NAME_MAX} bytes without NUL", raw, skip)
            if len(value) > XATTR_VALUE_MAX:
                raise Mistake(XATTR, f"XATTR: wanted values of at most {XATTR_VALUE_MAX} bytes, got {len(value)}", skip)
            if names_size > XATTR_NAMES_MAX:
                raise Mistake(XATTR, f"XATTR: wanted names of at most {XATTR_NAMES_MAX} bytes in all", skip)
            xattrs[name] = max(value, xattrs.get(name, b""))  # composefs-rs keeps the greatest
            skip += len(field) + 1
        return xattrs

    def _content(self, inode: Inode, size: int, fields: list[bytes]) -> Content | None:
        """Return what a leaf holds, None for a directory."""
        payload, content, digest = fields[PAYLOAD:XATTR]
        if inode.type == stat.S_IFREG:
            if payload != ABSENT:
                return self._external(size, payload, digest)
            if digest != ABSENT:
                raise wanted(DIGEST, "none for an inline file", digest)
            data = unescaped(CONTENT, content, plus=True) if content != ABSENT else b""
            if len(data) > INLINE_MAX:
                raise Mistake(CONTENT, f"CONTENT: wanted at most {INLINE_MAX} bytes, got {len(data)}")
            return Backed(size) if size > 0 and not data else Inline(data)
        if content != ABSENT:
            raise wanted(CONTENT, "none for what is no regular file", content)
        if digest != ABSENT:
            raise wanted(DIGEST, "none for what is no regular file", digest)
        if inode.type == stat.S_IFDIR:
            return None
        if inode.type == stat.S_IFLNK:
            if payload == ABSENT:
                raise Mistake(PAYLOAD, "PAYLOAD: wanted the target of the symbolic link, got none")
            return Symlink(_payload(payload, TARGET_MAX))
        return Special(inode.type, inode.rdev)

    def _external(self, size: int, payload: bytes, digest: bytes) -> Content:
        path = _payload(payload, PATH_MAX)
        if digest != ABSENT:
            raw = raw_digest(digest)
            if raw is None or not self._is_digest_size(len(raw)):
                self._wrong_digest(DIGEST, digest)
            return Object(size, raw)
        sizes = [algorithm.digest_size for algorithm in Algorithm]
        for digest_size in reversed(sizes):
            tail = path[-2 * digest_size - 1 :]
            raw = object_digest(tail)
            if raw is not None and self._is_digest_size(len(raw)):
                return Backed(size, tail.lower())
        raise wanted(PAYLOAD, "a path that ends in that of an object, as there is no digest", payload)

    def _is_digest_size(self, size: int) -> bool:
        """Tell whether digests have *size* bytes here: all of them have that of the first one."""
        if self._digest_size == 0 and size in {algorithm.digest_size for algorithm in Algorithm}:
            self._digest_size = size
        return size == self._digest_size

    def _wrong_digest(self, index: int, digest: bytes) -> NoReturn:
        sizes = [self._digest_size] if self._digest_size else [algorithm.digest_size for algorithm in Algorithm]
        counts = " or ".join(str(2 * size) for size in sizes)
        raise wanted(index, f"{counts} hexadecimal digits", digest)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Mistake(PATH, r"wanted UTF-8, or \xHH for other bytes", error.start) from None


def _number(index: int, field: bytes, most: int, base: int = 10) -> int:
    """Return the number that *field* is: digits, perhaps behind a plus sign."""
    if field.isdigit() and len(field) < 20:
        digits = field
    else:
        digits = field.removeprefix(b"+")
        if not digits.isdigit():
            raise wanted(index, "a number" if base == 10 else "octal digits", field)
        digits = digits.lstrip(b"0")[:30] or b"0"
    try:
        number = int(digits, base)
    except ValueError:  # 8 or 9
        raise wanted(index, "octal digits", field) from None
    if number > most:
        raise wanted(index, f"a number up to {most}", field)
    return number


def _payload(field: bytes, most: int) -> bytes:
    payload = unescaped(PAYLOAD, field, plus=True)
    if b"\0" in payload or not 0 < len(payload) <= most:
        raise wanted(PAYLOAD, f"1 to {most} bytes without NUL", field)
    return payload
