"""What epoch 1 (versions 0 and 1) does to the inodes of a tree: it numbers them breadth first, and adapts them.

The image is a layer of an overlay, above that of the objects, so that whiteouts of the tree itself must not act: they
become files that overlayfs shows as whiteouts.

Source: doc/erofs.md of composefs-rs; which names a hard link has first is seen from the images of both programs.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import replace

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import MODE, Inodes, Listing
from composefs.erofs.limits import UnfitError
from composefs.erofs.lister import Lister
from composefs.erofs.xattrs import XattrSet, ordered
from composefs.tree import PERMISSIONS, Directory, Leaf

Homes = Mapping[Leaf, tuple[Directory, bytes]]  # where leaves with several names are numbered


def breadth_first(lister: Lister, homes: Homes) -> list[int]:
    """Return all inodes in the order of epoch 1, those with several names where their homes are.

    Raises:
        UnfitError: a leaf is not at its home.
    """
    order = [0]
    queue = lister.listings[:1]
    at_home: set[int] = set()
    for listing in queue:  # which grows meanwhile
        queue += listing.below
        if lister.linked.isdisjoint(listing.children):
            order += listing.children
            continue
        for name, child in zip(listing.names, listing.children, strict=True):
            if child not in lister.linked:
                order.append(child)
            elif child not in at_home and _is_home(lister, child, listing, name, homes):
                order.append(child)
                at_home.add(child)
    if len(at_home) < len(lister.linked):
        node = lister.inodes.nodes[min(lister.linked - at_home)]
        raise UnfitError(node, "is not in the directory, or not by the name, that is its home")
    return order


def _is_home(lister: Lister, inode: int, listing: Listing, name: bytes, homes: Homes) -> bool:
    leaf = lister.inodes.nodes[inode]
    if isinstance(leaf, Leaf) and leaf in homes:
        return homes[leaf] == (listing.directory, name)
    return lister.homes[inode] == listing.index


def adapt_to_overlayfs(lister: Lister, version: int, dialect: Dialect, homes: Homes) -> None:
    """Make the root opaque, and of each whiteout a file that overlayfs shows as one."""
    inodes = lister.inodes
    _mark(inodes, 0, {ondisk.OPAQUE: b"y"}, dialect)
    above = set()
    for whiteout in lister.whiteouts:
        node = inodes.nodes[whiteout]
        inodes.set(MODE, whiteout, stat.S_IFREG | node.stat.mode & PERMISSIONS)
        inodes.shapes[whiteout] = replace(inodes.shapes[whiteout], file_type=ondisk.FILE_TYPES[stat.S_IFREG])
        _mark(inodes, whiteout, dict.fromkeys(ondisk.WHITEOUT_XATTRS, b""), dialect)
        if isinstance(node, Leaf) and node in homes:
            above.add(homes[node][0])
        else:
            above.add(lister.listings[lister.homes[whiteout]].directory)
    marks = dict.fromkeys(ondisk.WHITEOUTS_XATTRS, b"")
    if version == 1:
        marks |= dict.fromkeys(ondisk.OPAQUE_XATTRS, b"x")
    for listing in lister.listings:
        if listing.directory in above:
            _mark(inodes, listing.inode, marks, dialect)


def _mark(inodes: Inodes, inode: int, marks: Mapping[bytes, bytes], dialect: Dialect) -> None:
    """Add xattrs; where the tree has one of such a name, composefs-rs writes both, and C replaces it."""
    kept = [xattr for xattr in inodes.xattrs[inode].pairs if dialect is Dialect.RUST or xattr[0] not in marks]
    inodes.xattrs[inode] = XattrSet(ordered([*kept, *marks.items()]))
