"""What epoch 1 (versions 0 and 1) does to the inodes of a tree: it numbers them breadth first, and adapts them.

The image is a layer of an overlay, above that of the objects, so that whiteouts of the tree itself must not act: they
become files that overlayfs shows as whiteouts.

Source: doc/erofs.md of composefs-rs; which names a hard link has first is seen from the images of both programs.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Mapping

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import HOME, MODE, XATTRS, Inodes
from composefs.erofs.limits import UnfitError
from composefs.erofs.lister import Lister
from composefs.erofs.xattrs import XattrSet, ordered
from composefs.tree import PERMISSIONS, Directory, Leaf

Homes = Mapping[Leaf, tuple[Directory, bytes]]  # where leaves with several names are numbered


def set_homes(lister: Lister, homes: Homes) -> None:
    """Say of the leaves in *homes* that these are where they are numbered.

    Raises:
        UnfitError: a leaf is not at its home.
    """
    if not homes:
        return
    listings = {listing.directory: listing for listing in lister.listings}
    for inode in sorted(lister.linked):
        leaf = lister.inodes.node(inode)
        if isinstance(leaf, Leaf) and leaf in homes:
            directory, name = homes[leaf]
            listing = listings.get(directory)
            place = bisect_left(listing.names, name) if listing is not None else 0
            if listing is None or listing.names[place : place + 1] != [name] or listing.children[place] != inode:
                raise UnfitError(leaf, "is not in the directory, or not by the name, that is its home")
            lister.inodes.set(HOME, inode, listing.first + place)


def adapt_to_overlayfs(lister: Lister, version: int, dialect: Dialect, homes: Homes) -> None:
    """Make the root opaque, and of each whiteout a file that overlayfs shows as one."""
    inodes = lister.inodes
    make_opaque(inodes, dialect)
    above = set()
    for whiteout, first in lister.whiteouts:
        node = inodes.node(whiteout)
        assert isinstance(node, Leaf)
        inodes.set(MODE, whiteout, stat.S_IFREG | node.stat.mode & PERMISSIONS)
        _mark(inodes, whiteout, dict.fromkeys(ondisk.WHITEOUT_XATTRS, b""), dialect)
        above.add(homes[node][0] if node in homes else first.directory)
    marks = dict.fromkeys(ondisk.WHITEOUTS_XATTRS, b"")
    if version == 1:
        marks |= dict.fromkeys(ondisk.OPAQUE_XATTRS, b"x")
    for listing in lister.listings:
        if listing.directory in above:
            _mark(inodes, listing.inode, marks, dialect)


def make_opaque(inodes: Inodes, dialect: Dialect) -> None:
    """Let the root hide what there is below it: the object directories."""
    _mark(inodes, 0, {ondisk.OPAQUE: b"y"}, dialect)


def _mark(inodes: Inodes, inode: int, marks: Mapping[bytes, bytes], dialect: Dialect) -> None:
    """Add xattrs; where the tree has one of such a name, composefs-rs writes both, and C replaces it."""
    before = inodes.sets[inodes.get(XATTRS, inode)].pairs
    kept = [xattr for xattr in before if dialect is Dialect.RUST or xattr[0] not in marks]
    inodes.set(XATTRS, inode, inodes.number_of(XattrSet(ordered([*kept, *marks.items()]))))
