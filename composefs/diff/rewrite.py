"""Copies of a tree with something changed; what stays the same is shared with the original, which stays as it is."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from composefs.diff.compare import LABEL
from composefs.digest import Algorithm
from composefs.transform import transform_for_oci
from composefs.tree import NO_XATTRS, Backed, Content, Directory, Inline, Leaf, Object, Stat, is_whiteout
from composefs.verity import compute_digest
from composefs.xattrs import XattrFilter

Rewrite: TypeAlias = Callable[[Directory], Directory]
StatRewrite: TypeAlias = Callable[[Stat], Stat]

_HEX_NAME = re.compile(rb"[0-9a-f]{2}")


def rebuild(
    root: Directory, directory: StatRewrite | None = None, leaf: Callable[[Leaf], Leaf | None] | None = None
) -> Directory:
    """Return a copy of *root*, hard links kept.

    Args:
        root: what to copy.
        directory: gives the stat of each directory.
        leaf: gives the new leaf of an old one, perhaps the same, or None to drop it; called once for each.
    """
    top = Directory(directory(root.stat) if directory else root.stat)
    stack = [(root, top)]
    made: dict[int, Leaf | None] = {}
    while stack:
        source, target = stack.pop()
        entries = target.entries
        for name, node in source.entries.items():
            if isinstance(node, Directory):
                copy = Directory(directory(node.stat) if directory else node.stat)
                entries[name] = copy
                stack.append((node, copy))
            elif leaf is None:
                entries[name] = node
            else:
                key = id(node)
                if key not in made:
                    made[key] = leaf(node)
                new = made[key]
                if new is not None:
                    entries[name] = new
    return top


def with_stats(change: StatRewrite, root: Directory, types: frozenset[int] | None = None) -> Directory:
    """Return *root* with every stat changed, or only those of nodes of *types*, which are some of `stat.S_IF...`."""

    def leaf(node: Leaf) -> Leaf:
        if types is not None and node.content.type not in types:
            return node
        new = change(node.stat)
        return node if new is node.stat else Leaf(new, node.content, node.link_count)

    return rebuild(root, change if types is None or stat.S_IFDIR in types else None, leaf)


def with_contents(change: Callable[[Content], Content], root: Directory) -> Directory:
    """Return *root* with every content changed."""

    def leaf(node: Leaf) -> Leaf:
        new = change(node.content)
        return node if new is node.content else Leaf(node.stat, new, node.link_count)

    return rebuild(root, None, leaf)


def without(drop: Callable[[Content], bool], root: Directory) -> Directory:
    """Return *root* without the leaves that *drop* tells."""
    return rebuild(root, None, lambda node: None if drop(node.content) else node)


def without_links(root: Directory) -> Directory:
    """Return *root* with a leaf for every name."""
    top = Directory(root.stat)
    stack = [(root, top)]
    while stack:
        source, target = stack.pop()
        for name, node in source.entries.items():
            if isinstance(node, Directory):
                copy = Directory(node.stat)
                stack.append((node, copy))
                target.entries[name] = copy
            else:
                target.entries[name] = Leaf(node.stat, node.content)
    return top


def without_stubs(root: Directory) -> Directory:
    """Return *root* without whiteouts named `00` to `ff` directly in it, which an image cannot tell from its own."""
    entries = {name: node for name, node in root.entries.items() if not is_stub(name, node)}
    return Directory(root.stat, entries)


def is_stub(name: bytes, node: Directory | Leaf | None) -> bool:
    """Tell whether *node*, called *name* in the root, looks like a whiteout that the image itself needs."""
    return isinstance(node, Leaf) and is_whiteout(node.content) and _HEX_NAME.fullmatch(name) is not None


def as_container(mode: XattrFilter, root: Directory) -> Directory:
    """Return *root* after the transform for containers.

    Raises:
        NotFoundError, TreeError: it has nothing that could be transformed.
    """
    copy = rebuild(root, None, lambda node: Leaf(node.stat, node.content, node.link_count))
    transform_for_oci(copy, mode)
    return copy


def with_emptied(names: tuple[bytes, ...], root: Directory) -> Directory:
    """Return *root* with the directories *names* emptied, their mtime that of `/usr`."""
    usr = root.entries[b"usr"].stat
    entries = dict(root.entries)
    for name in names:
        old = entries.get(name)
        if isinstance(old, Directory):
            entries[name] = Directory(old.stat._replace(mtime=usr.mtime, nanoseconds=usr.nanoseconds))
    return Directory(root.stat, entries)


def set_mtime(seconds: int | None, nanoseconds: int | None, old: Stat) -> Stat:
    """Return *old* with another mtime; None keeps that part."""
    mtime = old.mtime if seconds is None else seconds
    part = old.nanoseconds if nanoseconds is None else nanoseconds
    if old.mtime == mtime and old.nanoseconds == part:
        return old
    return Stat(old.mode, old.uid, old.gid, mtime, part, old.xattrs)


def clamp_mtime(seconds: int, old: Stat) -> Stat:
    """Return *old* with an mtime of at most *seconds*."""
    return set_mtime(seconds, 0, old) if old.mtime >= seconds else old


def set_owner(uid: int | None, gid: int | None, old: Stat) -> Stat:
    """Return *old* with another owner; None keeps that part."""
    uid, gid = old.uid if uid is None else uid, old.gid if gid is None else gid
    return old if (uid, gid) == old[1:3] else Stat(old.mode, uid, gid, old.mtime, old.nanoseconds, old.xattrs)


def shift_owner(uid: int, gid: int, old: Stat) -> Stat:
    """Return *old* with *uid* and *gid* added to its owner."""
    return Stat(old.mode, old.uid + uid, old.gid + gid, old.mtime, old.nanoseconds, old.xattrs)


def mask_mode(mask: int, old: Stat) -> Stat:
    """Return *old* without the mode bits *mask*."""
    return old._replace(mode=old.mode & ~mask) if old.mode & mask else old


def no_xattrs(old: Stat) -> Stat:
    """Return *old* without extended attributes."""
    return old._replace(xattrs=NO_XATTRS) if old.xattrs else old


def filtered_xattrs(keeps: Callable[[bytes], bool], old: Stat) -> Stat:
    """Return *old* with those extended attributes whose names *keeps* accepts."""
    if all(map(keeps, old.xattrs)):
        return old
    return old._replace(xattrs={name: value for name, value in old.xattrs.items() if keeps(name)})


def no_label(old: Stat) -> Stat:
    """Return *old* without its SELinux label."""
    if LABEL not in old.xattrs:
        return old
    return old._replace(xattrs={name: value for name, value in old.xattrs.items() if name != LABEL})


def trimmed_label(old: Stat) -> Stat:
    """Return *old* with its SELinux label without the NUL at its end."""
    label = old.xattrs.get(LABEL)
    return old._replace(xattrs={**old.xattrs, LABEL: label[:-1]}) if label and label[-1] == 0 else old


def as_object(algorithm: Algorithm, smallest: int, old: Content) -> Content:
    """Return inline data of *smallest* bytes and more as an object."""
    if not isinstance(old, Inline) or len(old.data) < smallest:
        return old
    return Object(len(old.data), compute_digest(old.data, algorithm).raw)


def no_digest(old: Content) -> Content:
    """Return an object as one that only its size tells from others."""
    if isinstance(old, Object) or (isinstance(old, Backed) and old.digest is not None):
        return Object(old.size, b"")
    return old


def stats(change: Callable[..., Stat], *arguments: object, types: frozenset[int] | None = None) -> Rewrite:
    """Return the rewrite of a tree that changes each stat by *change*, called with *arguments* first."""
    return partial(with_stats, partial(change, *arguments), types=types)
