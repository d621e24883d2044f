"""A part of an image as a tree of values, without a reading of the rest."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from composefs.erofs.reader import Inode
from composefs.image.files import Image
from composefs.image.walking import Guard
from composefs.tree import Directory, Leaf, Node


def load_subtree(image: Image, inode: Inode) -> tuple[Node, Mapping[Leaf, int]]:
    """Return the node that *inode* of *image* stands for, with all below it, and how many names each leaf has.

    Names outside of the subtree count.  Whether there are as many as the image says is not checked; `load_tree` does.

    Raises:
        FormatError: the image is broken there.
    """
    reader, guard = image.reader, Guard(image.reader)
    leaves: dict[int, Leaf] = {}  # by nid
    counts: dict[Leaf, int] = {}

    def node(inode: Inode, depth: int) -> Node:
        if inode.type == stat.S_IFDIR:
            guard.enter(inode, depth)
            directory = Directory(reader.node_stat(inode))
            pending.append((directory, inode, depth + 1))
            return directory
        leaf = leaves.get(inode.nid)
        if leaf is None or inode.link_count == 1:  # which makes of two names two files, as in composefs-rs
            leaf = Leaf(*reader.leaf(inode))
            leaves[inode.nid], counts[leaf] = leaf, inode.link_count
        return leaf

    pending: list[tuple[Directory, Inode, int]] = []
    top = node(inode, 0)
    while pending:
        directory, inode, depth = pending.pop()
        for name, child in image.children(inode):
            directory.entries[name] = node(child, depth)
    return top, counts
