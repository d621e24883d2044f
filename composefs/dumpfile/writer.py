"""Write trees as dumps, line by line, as composefs-rs does.

A line for each name, depth first, siblings by name.  A leaf that stands under several names has its line where it comes
first; the others are hard-link lines, which name that path.

Source: composefs-dump(5), src/dumpfile.rs of composefs-rs.
"""

from __future__ import annotations

import stat
from binascii import hexlify
from collections import Counter
from collections.abc import Iterator, Mapping

from composefs.dumpfile.text import escape_all, escape_field, escape_xattr, object_digest
from composefs.tree import Backed, Content, Directory, Inline, Leaf, Node, Object, Stat, Symlink, nodes

# path, size, mode, links, uid, gid, rdev, mtime; payload, content and digest in one; xattrs
_LINE = b"%b %d %o %d %d %d %d %d.%d %b%b\n"
_HARD_LINK = b"%b 0 @120000 - - - - 0.0 %b - -\n"
_NOTHING = b"- - -"  # neither payload nor content nor digest


def format_dump(root: Directory) -> Iterator[bytes]:
    """Yield the lines of the dump of *root*, each with its newline.

    Args:
        root: the tree; it must not change meanwhile.
    """
    return format_below(root, b"/", count_names(root))


def count_names(root: Directory) -> Mapping[Leaf, int]:
    """Return how many names each leaf has in the tree *root*."""
    return Counter([node for node in nodes(root) if isinstance(node, Leaf)])


def format_below(node: Node, path: bytes, counts: Mapping[Leaf, int]) -> Iterator[bytes]:
    """Yield the line of *node*, and of a directory those of all below it.

    Args:
        node: a directory or leaf of some tree.
        path: what to call it.
        counts: the names of each leaf in the whole tree, from `count_names`.  A hard-link line stands only for a leaf
            whose line was in the output of this very call.
    """
    writer = _Writer(counts)
    if isinstance(node, Directory):
        return writer.directory(node, path)
    return iter([writer.leaf(node, escape_field(path))])


def format_entry(path: bytes, info: Stat, content: Content | None, link_count: int = 1) -> bytes:
    """Return the line of an entry that is in no tree.

    Args:
        path: where it stands.
        info: its metadata.
        content: what it holds; None: it is a directory.
        link_count: the number of its links.
    """
    kind, size, rdev, fields = _content_fields(content)
    mode, uid, gid, seconds, nanoseconds, xattrs = info
    name, text = escape_field(path), xattr_fields(xattrs)
    return _LINE % (name, size, kind | mode, link_count, uid, gid, rdev, seconds, nanoseconds, fields, text)


def format_hard_link(path: bytes, target: bytes) -> bytes:
    """Return the line that makes *path* another name of the leaf at *target*."""
    return _HARD_LINK % (escape_field(path), escape_field(target))


class _Writer:
    """What the lines of one dump share: the paths of leaves, and texts made before."""

    def __init__(self, counts: Mapping[Leaf, int]) -> None:
        self._counts = counts
        self._first: dict[Leaf, bytes] = {}  # escaped path of leaves with several names
        self._xattrs: dict[int, bytes] = {}  # fields by the id of the mapping, which many nodes share

    def directory(self, root: Directory, path: bytes) -> Iterator[bytes]:
        name = escape_field(path)
        yield self._enter(root, name)
        stack = [(name if path.endswith(b"/") else name + b"/", root.entries, _names(root))]
        while stack:
            prefix, entries, names = stack[-1]
            for raw, text in names:
                node = entries[raw]
                name = prefix + text
                if isinstance(node, Leaf):
                    yield self.leaf(node, name)
                else:
                    yield self._enter(node, name)
                    stack.append((name + b"/", node.entries, _names(node)))
                    break
            else:
                stack.pop()

    def leaf(self, leaf: Leaf, name: bytes) -> bytes:
        count = self._counts[leaf]
        if count > 1:
            first = self._first.setdefault(leaf, name)
            if first != name:
                return _HARD_LINK % (name, first)
        if leaf.link_count is not None:
            count = leaf.link_count
        kind, size, rdev, fields = _content_fields(leaf.content)
        mode, uid, gid, seconds, nanoseconds, xattrs = leaf.stat
        text = self._xattr_fields(xattrs) if xattrs else b""
        return _LINE % (name, size, kind | mode, count, uid, gid, rdev, seconds, nanoseconds, fields, text)

    def _enter(self, directory: Directory, name: bytes) -> bytes:
        count = 2
        for node in directory.entries.values():
            if isinstance(node, Directory):
                count += 1
        mode, uid, gid, seconds, nanoseconds, xattrs = directory.stat
        text = self._xattr_fields(xattrs)
        return _LINE % (name, 0, stat.S_IFDIR | mode, count, uid, gid, 0, seconds, nanoseconds, _NOTHING, text)

    def _xattr_fields(self, xattrs: Mapping[bytes, bytes]) -> bytes:
        text = self._xattrs.get(id(xattrs))
        if text is None:
            self._xattrs[id(xattrs)] = text = xattr_fields(xattrs)
        return text


def _names(directory: Directory) -> Iterator[tuple[bytes, bytes]]:
    """Return the names in *directory*, sorted, and how they are written."""
    names = sorted(directory.entries)
    return zip(names, escape_all(names), strict=True)


def xattr_fields(xattrs: Mapping[bytes, bytes]) -> bytes:
    """Return the fields of *xattrs*, by name, each behind a blank."""
    return b"".join([b" " + escape_xattr(name, xattrs[name]) for name in sorted(xattrs)])


def _content_fields(content: Content | None) -> tuple[int, int, int, bytes]:
    """Return type, size and device number of a node with *content*, and its payload, content and digest."""
    if isinstance(content, Object):
        digits = hexlify(content.digest)
        return stat.S_IFREG, content.size, 0, b"%b/%b - %b" % (digits[:2], digits[2:], digits)
    if isinstance(content, Symlink):
        return stat.S_IFLNK, len(content.target), 0, escape_field(content.target) + b" - -"
    if isinstance(content, Inline):
        return stat.S_IFREG, len(content.data), 0, b"- %b -" % escape_field(content.data)
    if isinstance(content, Backed):
        return stat.S_IFREG, content.size, 0, _backed_fields(content)
    if content is None:
        return stat.S_IFDIR, 0, 0, _NOTHING
    return content.type, 0, content.rdev, _NOTHING


def _backed_fields(content: Backed) -> bytes:
    path, digest = content.path, content.digest
    if path is None:
        return _NOTHING if digest is None else b"- - " + hexlify(digest)
    if digest is None:
        digest = object_digest(path)  # composefs-rs does not tell whether fs-verity protects a file
    return b"%b - %b" % (escape_field(path), b"-" if digest is None else hexlify(digest))
