"""Walk two trees at once and note every difference.

Hard links are compared as the partition of names that they make: the names which both trees have are taken in walk
order, and each must be linked to the same first name in both.  So a link that is added or removed is one change, and
one more of the link count of the first name; the other names stay silent.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from composefs.text import printable
from composefs.tree import Backed, Content, Directory, Inline, Leaf, Node, Object, Special, Stat, Symlink, object_path

Value: TypeAlias = int | bytes | str | None
Kind: TypeAlias = Literal["added", "removed", "type", "metadata", "content", "links"]

HARD_LINK = "hard link"
LINK_COUNT = "link count"
LABEL = b"security.selinux"
XATTR = "xattr "  # begins the name of a field which is an extended attribute
TIME_FIELDS = ("mtime", "nanoseconds")
STAT_FIELDS = ("mode", "uid", "gid", *TIME_FIELDS)
_STAT_INDICES = range(len(STAT_FIELDS))
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Field(NamedTuple):
    """One field in which two nodes differ; None: that side does not have it."""

    name: str  # mode, uid, ..., `xattr NAME`, size, digest, inline data, backing path, target, device, hard link, ...
    old: Value  # of a
    new: Value  # of b


class Layer(NamedTuple):
    """A layer of an image."""

    number: int  # from 1, the lowest
    diff_id: str


class Change(NamedTuple):
    """What differs at *path*."""

    path: bytes
    kind: Kind  # the weightiest where several things differ: type, content, metadata, links
    node_type: str  # of b, or of a if b has nothing there
    fields: tuple[Field, ...]  # none for added and removed
    below: int = 0  # entries of an added, removed or replaced directory, at any depth
    layer: Layer | None = None  # that brought what is there


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences between a and b, depth first, siblings by name."""

    changes: tuple[Change, ...]
    entries_a: int  # names, the root included
    entries_b: int

    @property
    def equal(self) -> bool:
        """Whether there is no difference, so that both trees give the same image."""
        return not self.changes


def compare(a: Directory, b: Directory, *, layer_of: Callable[[Change], Layer | None] | None = None) -> Comparison:
    """Return all differences between *a* and *b*.

    Args:
        a: the tree that is called old.
        b: the tree that is called new.
        layer_of: tells which layer brought what a change is about.
    """
    walk = _Walk(a, b)
    changes = walk.run()
    if layer_of is not None:
        changes = [change._replace(layer=layer_of(change)) for change in changes]
    return Comparison(tuple(changes), walk.entries_a, walk.entries_b)


class _Walk:
    """One comparison: the state that hard links need."""

    def __init__(self, a: Directory, b: Directory) -> None:
        self._a, self._b = a, b
        self.entries_a, self._links_a = _survey(a)
        self.entries_b, self._links_b = _survey(b)
        self._first_a: dict[int, bytes] = {}  # leaf with several names: the first name that both trees have
        self._first_b: dict[int, bytes] = {}

    def run(self) -> list[Change]:
        """Return the changes in order."""
        a, b = self._a, self._b
        changes: list[Change] = []
        if a.stat != b.stat:
            changes.append(Change(b"/", "metadata", "directory", tuple(stat_fields(a.stat, b.stat))))
        links_a, links_b = self._links_a, self._links_b
        stack = [(b"/", a.entries, b.entries, iter(_names(a.entries, b.entries)))]
        while stack:
            prefix, entries_a, entries_b, names = stack[-1]
            for name in names:
                node_a, node_b = entries_a.get(name), entries_b.get(name)
                if type(node_a) is Leaf and type(node_b) is Leaf:
                    if (
                        (node_a is not node_b and (node_a.stat != node_b.stat or node_a.content != node_b.content))
                        or id(node_a) in links_a
                        or id(node_b) in links_b
                    ):
                        change = self._leaves(prefix + name, node_a, node_b)
                        if change is not None:
                            changes.append(change)
                elif type(node_a) is Directory and type(node_b) is Directory:
                    path = prefix + name
                    if node_a.stat != node_b.stat:
                        fields = tuple(stat_fields(node_a.stat, node_b.stat))
                        changes.append(Change(path, "metadata", "directory", fields))
                    below_a, below_b = node_a.entries, node_b.entries
                    stack.append((path + b"/", below_a, below_b, iter(_names(below_a, below_b))))
                    break
                else:
                    changes.append(_one_sided(prefix + name, node_a, node_b))
            else:
                stack.pop()
        return changes

    def _leaves(self, path: bytes, a: Leaf, b: Leaf) -> Change | None:
        old, new = a.content, b.content
        if old.type != new.type:
            # No link joins names of two types, so there is nothing to say about links here.
            return _one_sided(path, a, b)
        fields = [] if a.stat == b.stat else stat_fields(a.stat, b.stat)
        kind: Kind = "metadata"
        if old != new:
            content = content_fields(old, new)
            if content:
                kind = "content"
                fields += content
        links = self._link_fields(path, a, b)
        if not fields:
            if not links:
                return None
            kind = "links"
        return Change(path, kind, _TYPES[new.type], tuple(fields + links))

    def _link_fields(self, path: bytes, a: Leaf, b: Leaf) -> list[Field]:
        id_a, id_b = id(a), id(b)
        first_a = self._first_a.setdefault(id_a, path) if id_a in self._links_a else path
        first_b = self._first_b.setdefault(id_b, path) if id_b in self._links_b else path
        if first_a != first_b:
            old, new = (None if first == path else first for first in (first_a, first_b))
            return [Field(HARD_LINK, old, new)]
        if first_a == path:
            count_a, count_b = self._links_a.get(id_a, 1), self._links_b.get(id_b, 1)
            if count_a != count_b:
                return [Field(LINK_COUNT, count_a, count_b)]
        return []


def _survey(root: Directory) -> tuple[int, dict[int, int]]:
    """Return the number of names below and at *root*, and the link counts that are not 1, by identity of the leaf."""
    seen: dict[int, int] = {}
    linked: dict[int, int] = {}
    fixed: dict[int, int] = {}
    count = 1
    stack = [root]
    while stack:
        entries = stack.pop().entries
        count += len(entries)
        for node in entries.values():
            if type(node) is Directory:
                stack.append(node)
                continue
            key = id(node)
            if key in seen:
                linked[key] = linked.get(key, 1) + 1
            else:
                seen[key] = 1
                if node.link_count is not None:  # type: ignore[union-attr]  # type() does not narrow here
                    fixed[key] = node.link_count  # type: ignore[union-attr]
    return count, linked | fixed


def _names(a: dict[bytes, Node], b: dict[bytes, Node]) -> list[bytes]:
    return sorted(a) if a.keys() == b.keys() else sorted(a.keys() | b.keys())


def _one_sided(path: bytes, a: Node | None, b: Node | None) -> Change:
    """Return the change where only one side has something, or both have different types."""
    if a is None:
        assert b is not None
        return Change(path, "added", type_name(b), (), _below(b))
    if b is None:
        return Change(path, "removed", type_name(a), (), _below(a))
    fields = [Field("type", type_name(a), type_name(b)), *stat_fields(a.stat, b.stat)]
    return Change(path, "type", type_name(b), tuple(fields), _below(a) + _below(b))


def type_name(node: Node) -> str:
    """Return what people call the type of *node*."""
    return "directory" if isinstance(node, Directory) else _TYPES[node.content.type]


def _below(node: Node) -> int:
    """Return how many entries are below *node*, at any depth."""
    return _survey(node)[0] - 1 if isinstance(node, Directory) else 0


def stat_fields(a: Stat, b: Stat) -> list[Field]:
    """Return the fields in which two stats differ; extended attributes by name, last."""
    fields = [Field(STAT_FIELDS[i], a[i], b[i]) for i in _STAT_INDICES if a[i] != b[i]]  # type: ignore[arg-type]
    old_xattrs, new_xattrs = a.xattrs, b.xattrs
    if old_xattrs != new_xattrs:
        for name in _xattr_names(old_xattrs.keys() | new_xattrs.keys()):
            old_value, new_value = old_xattrs.get(name), new_xattrs.get(name)
            if old_value != new_value:
                fields.append(Field(_xattr_field(name), old_value, new_value))
    return fields


def _xattr_names(names: set[bytes]) -> list[bytes]:
    return sorted(names) if len(names) > 1 else list(names)


@lru_cache(maxsize=4096)
def _xattr_field(name: bytes) -> str:
    return XATTR + printable(name)


def content_fields(a: Content, b: Content) -> list[Field]:
    """Return the fields in which two contents of one type differ; none if a dump shows them the same."""
    if isinstance(a, Symlink):
        assert isinstance(b, Symlink)
        return [Field("target", a.target, b.target)] if a.target != b.target else []
    if isinstance(a, Special):
        assert isinstance(b, Special)
        return [Field("device", a.rdev, b.rdev)] if a.rdev != b.rdev and a.type in _DEVICES else []
    old, new = _file(a), _file(b)
    fields = []
    if old.size != new.size:
        fields.append(Field("size", old.size, new.size))
    if old.digest != new.digest:
        fields.append(Field("digest", old.digest, new.digest))
    if old.data != new.data:
        fields.append(Field("inline data", old.data, new.data))
    if old.path != new.path and not (old.usual and new.usual):
        fields.append(Field("backing path", old.path, new.path))
    return fields


class _File(NamedTuple):
    """A regular file, however it is stored."""

    size: int
    digest: bytes | None = None
    data: bytes | None = None  # None if empty, too
    path: bytes | None = None
    usual: bool = True  # the path follows from the rest


def _file(content: Content) -> _File:
    match content:
        case Inline(data):
            return _File(len(data), data=data or None)
        case Object(size, digest):
            return _File(size, digest, path=object_path(digest))
        case Backed(size, path, digest):
            return _File(size, digest, None, path, path == (digest and object_path(digest)))
    raise AssertionError("symbolic links and special files have no such fields")
