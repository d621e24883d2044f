"""Make the inodes of a tree: the first step of writing an image.

They are made in the order of epoch 2: depth first and by name.

Source: doc/erofs.md of composefs-rs.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from composefs._native.columns import ErofsColumns
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import DIRECTORY_RECORD, LINK_COUNT, RECORD, XATTRS, Inodes, Storage
from composefs.erofs.limits import INLINE_MAX, TARGET_MAX, UnfitError, check_names, check_node
from composefs.erofs.xattrs import XattrSets, external_xattrs
from composefs.tree import (
    NO_XATTRS,
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

STUB_MODE = 0o644  # of whiteouts in the root that hide the object directories
_LABEL = b"security.selinux"
_USUAL_SIZES = range(1, 1 << 31)  # bytes
_HERE, _OBJECT = int(Storage.HERE), int(Storage.OBJECT)


@dataclass(slots=True, eq=False)
class Listing:
    """The entries of a directory."""

    directory: Directory
    inode: int
    parent: int
    first: int  # the number of the first dirent
    entries: Mapping[bytes, Node]
    names: list[bytes]  # sorted
    children: list[int] = field(default_factory=list)  # by names


class Lister:
    """Makes the inodes of a tree.

    Attributes:
        inodes: all, each once, where it comes first.
        listings: those of all directories, likewise; at the beginning that of the root.
        linked: inodes with several names.
        whiteouts: inodes of whiteouts of the tree, each with the listing in which it comes first.

    Raises:
        UnfitError: no image can hold a node.
    """

    def __init__(self, root: Directory, epoch: int, dialect: Dialect) -> None:
        self._epoch, self._dialect = epoch, dialect
        self._sets = XattrSets(epoch)
        self._leaves: dict[Leaf, int] = {}
        self._directories: set[Directory] = set()
        self._dirent_count = 0
        self._nodes: list[Node] = []
        self._payloads: list[bytes] = []
        self.inodes = Inodes.new(self._nodes)
        self.listings: list[Listing] = []
        self.linked: set[int] = set()
        self.whiteouts: list[tuple[int, Listing]] = []
        stack = [self._open(root, None)]
        while stack:
            below = self._go_on(*stack[-1])
            if below is None:
                stack.pop()
            else:
                stack.append(below)

    def columns(self) -> ErofsColumns:
        """Return all that C has to know beside the records."""
        listings = self.listings
        names = [name for listing in listings for name in listing.names]
        children = array("I")
        for listing in listings:
            children.extend(listing.children)
        directories = [
            DIRECTORY_RECORD.pack(listing.inode, listing.parent, listing.first, len(listing.names))
            for listing in listings
        ]
        return ErofsColumns(
            b"".join(directories),
            children,
            array("I", accumulate(map(len, names))),
            b"".join(names),
            b"".join(self._payloads),
        )

    def _go_on(self, listing: Listing, names: Iterator[bytes]) -> tuple[Listing, Iterator[bytes]] | None:
        """Make the inodes of the next *names* of a directory; return the next directory below, or None at the end."""
        entries, children = listing.entries, listing.children
        leaves = self._leaves
        for name in names:
            node = entries[name]
            if isinstance(node, Directory):
                return self._open(node, listing)
            inode = leaves.get(node)
            if inode is None:
                content, home = node.content, listing.first + len(children)
                if isinstance(content, Object) and content.size in _USUAL_SIZES:
                    inode = self._add(node, stat.S_IFREG, content.size, content.digest, home, _OBJECT)
                else:
                    inode = self._add_other(node, content, name, listing)
                if node.link_count is not None:
                    self._check(node)
                    self.inodes.set(LINK_COUNT, inode, node.link_count)
                leaves[node] = inode
            else:
                self._link(inode, node)
            children.append(inode)
        return None

    def _open(self, directory: Directory, above: Listing | None) -> tuple[Listing, Iterator[bytes]]:
        """Begin with another directory."""
        if directory in self._directories:
            raise UnfitError(directory, "is a directory with several names")
        self._directories.add(directory)
        entries: Mapping[bytes, Node] = directory.entries
        if above is None and self._epoch == 1:
            entries = {**_new_stubs(directory.stat), **entries}
        names = sorted(entries)
        check_names(directory, b"".join(names))
        home = 0 if above is None else above.first + len(above.children)
        inode = self._add(directory, stat.S_IFDIR, 0, b"", home)
        parent = inode if above is None else above.inode
        listing = Listing(directory, inode, parent, self._dirent_count, entries, names)
        self._dirent_count += len(names)
        if above is not None:
            above.children.append(inode)
        self.listings.append(listing)
        return listing, iter(names)

    def _is_whiteout(self, leaf: Leaf, name: bytes, listing: Listing) -> bool:
        """Tell whether a leaf is a whiteout of the tree, and neither a stub nor what composefs-rs takes for one."""
        if not is_whiteout(leaf.content):
            return False
        if listing is not self.listings[0] or name not in ondisk.STUB_NAMES:
            return True
        root = listing.directory
        if name not in root.entries:
            return False
        info, stub = leaf.stat, _stub_stat(root.stat)
        return self._dialect is Dialect.C or info[:-1] != stub[:-1] or dict(info.xattrs) != dict(stub.xattrs)

    def _link(self, inode: int, leaf: Leaf) -> None:
        """Count another name of *leaf*."""
        if self._dialect is Dialect.RUST and is_whiteout(leaf.content):
            raise UnfitError(leaf, "is a whiteout with several names, which no image can hold")
        self.linked.add(inode)
        if leaf.link_count is None:
            self.inodes.set(LINK_COUNT, inode, self.inodes.get(LINK_COUNT, inode) + 1)

    def _add_other(self, leaf: Leaf, content: Content, name: bytes, listing: Listing) -> int:
        """Make the inode of a leaf that is no object of usual size."""
        home = listing.first + len(listing.children)
        if isinstance(content, Symlink):
            if len(content.target) > TARGET_MAX:
                self._check(leaf)
            return self._add(leaf, stat.S_IFLNK, len(content.target), content.target, home)
        if isinstance(content, Inline) or (self._dialect is Dialect.C and _is_empty(content)):
            data = content.data if isinstance(content, Inline) else b""
            if len(data) > INLINE_MAX[self._epoch]:
                self._check(leaf)
            return self._add(leaf, stat.S_IFREG, len(data), data, home)
        self._check(leaf)
        if isinstance(content, Object):
            return self._add(leaf, stat.S_IFREG, content.size, content.digest, home, _OBJECT)
        if isinstance(content, Backed):
            storage = Storage.ELSEWHERE if content.digest is None else Storage.DIGESTED
            inode = self._add(leaf, stat.S_IFREG, content.size, b"", home, storage)
            own = self.inodes.sets[self.inodes.get(XATTRS, inode)]
            xattrs = external_xattrs(own, content.digest, content.path, self._epoch)
            self.inodes.set(XATTRS, inode, self.inodes.number_of(xattrs))
            return inode
        inode = self._add(leaf, content.type, 0, b"", home, pointer=content.rdev)
        if self._is_whiteout(leaf, name, listing):
            self.whiteouts.append((inode, listing))
        return inode

    def _add(  # noqa: PLR0917  # keywords take time
        self, node: Node, kind: int, size: int, payload: bytes, home: int, storage: int = _HERE, pointer: int = 0
    ) -> int:
        # This runs for 240,000 nodes, so that only what is large at first sight is looked at closely.
        info, nodes = node.stat, self._nodes
        permissions, uid, gid, mtime, nanoseconds, xattrs = info
        if (uid | gid | mtime | nanoseconds) >> 31:
            self._check(node)
        if self._epoch == 2:
            nanoseconds = 0
        number = self.inodes.number_of(self._sets.of_tree(xattrs)) if xattrs else 0
        mode, payload_size = kind | permissions & PERMISSIONS, len(payload)
        self.inodes.records += RECORD.pack(
            size, mtime, nanoseconds, uid, gid, 1, payload_size, number, home, pointer, mode, storage
        )
        nodes.append(node)
        self._payloads.append(payload)
        return len(nodes) - 1

    def _check(self, node: Node) -> None:
        check_node(node, self._epoch, self._dialect)


def _is_empty(content: Content) -> bool:
    return isinstance(content, Object | Backed) and content.size == 0


def _new_stubs(root: Stat) -> dict[bytes, Node]:
    """Return whiteouts that hide the object directories below the image: each as the root, but for mode and xattrs."""
    info = _stub_stat(root)
    return {name: Leaf(info, Special(stat.S_IFCHR)) for name in ondisk.STUB_NAMES}


def _stub_stat(root: Stat) -> Stat:
    xattrs = {_LABEL: root.xattrs[_LABEL]} if _LABEL in root.xattrs else NO_XATTRS
    return root._replace(mode=STUB_MODE, xattrs=xattrs)
