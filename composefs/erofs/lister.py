"""Make the inodes of a tree: the first step of writing an image.

They are made in the order of epoch 2: depth first and by name.

Source: doc/erofs.md of composefs-rs.
"""

from __future__ import annotations

import stat
from bisect import insort
from collections.abc import Iterator, Mapping

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import LINK_COUNT, RECORD, Inodes, Listing, Shape
from composefs.erofs.limits import UnfitError, check_names, check_node
from composefs.erofs.xattrs import NO_XATTR_SET, XattrSets, external_xattrs
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

_STUB_MODE = 0o644
_LABEL = b"security.selinux"
_BLOCK_BITS = ondisk.BLOCK.bit_length() - 1
_ADDRESS_SIZE = len(ondisk.NULL_CHUNK)
_USUAL_SIZES = range(1, 1 << 31)  # bytes
_FILE, _LINK = ondisk.FILE_TYPES[stat.S_IFREG], ondisk.FILE_TYPES[stat.S_IFLNK]
_DIRECTORY = Shape(ondisk.FILE_TYPES[stat.S_IFDIR])


class Lister:
    """Makes the inodes of a tree.

    Attributes:
        inodes: all, each once, where it comes first.
        listings: those of all directories, likewise; at the beginning that of the root.
        linked: inodes with several names.
        homes: index of the listing in which an inode comes first.
        whiteouts: inodes of whiteouts of the tree.

    Raises:
        UnfitError: no image can hold a node.
    """

    def __init__(self, root: Directory, epoch: int, dialect: Dialect) -> None:
        self._epoch, self._dialect = epoch, dialect
        self._sets = XattrSets(epoch)
        self._object_shapes = [_external_shape(1 << bits, epoch, is_object=True) for bits in range(32)]
        self._link_shapes: dict[int, Shape] = {}  # by size
        self._file_shapes: dict[int, Shape] = {}
        self._leaves: dict[Leaf, int] = {}
        self._directories: set[Directory] = set()
        self.inodes = Inodes()
        self.listings: list[Listing] = []
        self.linked: set[int] = set()
        self.homes: list[int] = []
        self.whiteouts: list[int] = []
        stack = [self._open(root, None)]
        while stack:
            below = self._go_on(*stack[-1])
            if below is None:
                stack.pop()
            else:
                stack.append(below)

    def _go_on(self, listing: Listing, names: Iterator[bytes]) -> tuple[Listing, Iterator[bytes]] | None:
        """Make the inodes of the next *names* of a directory; return the next directory below, or None at the end."""
        entries, children, home = listing.entries, listing.children, listing.index
        leaves, homes, object_shapes = self._leaves, self.homes, self._object_shapes
        for name in names:
            node = entries[name]
            if isinstance(node, Directory):
                return self._open(node, listing)
            inode = leaves.get(node)
            if inode is None:
                content = node.content
                if isinstance(content, Object) and content.size in _USUAL_SIZES:
                    size = content.size
                    inode = self._add(node, stat.S_IFREG, size, content.digest, object_shapes[(size - 1).bit_length()])
                else:
                    inode = self._add_other(node, content, name, listing)
                if node.link_count is not None:
                    self._check(node)
                    self.inodes.set(LINK_COUNT, inode, node.link_count)
                leaves[node] = inode
                homes.append(home)
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
        all_names = names.copy()
        insort(all_names, b".")
        insort(all_names, b"..")
        joined = b"".join(all_names)
        check_names(directory, joined)
        inode = self._add(directory, stat.S_IFDIR, 0, b"", _DIRECTORY)
        parent = inode if above is None else above.inode
        listing = Listing(
            len(self.listings), directory, inode, parent, entries, names, joined, bytes(map(len, all_names))
        )
        if above is not None:
            above.children.append(inode)
            above.below.append(listing)
        self.listings.append(listing)
        self.homes.append(listing.index)
        return listing, iter(names)

    def _is_whiteout(self, leaf: Leaf, name: bytes, listing: Listing) -> bool:
        """Tell whether a leaf is a whiteout of the tree, and neither a stub nor what composefs-rs takes for one."""
        if not is_whiteout(leaf.content):
            return False
        if listing.index > 0 or name not in ondisk.STUB_NAMES:
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
        if isinstance(content, Symlink):
            target = content.target
            shape = self._link_shapes.get(len(target)) or self._new_data_shape(leaf, len(target))
            return self._add(leaf, stat.S_IFLNK, len(target), target, shape)
        if isinstance(content, Inline) or (self._dialect is Dialect.C and _is_empty(content)):
            data = content.data if isinstance(content, Inline) else b""
            shape = self._file_shapes.get(len(data)) or self._new_data_shape(leaf, len(data))
            return self._add(leaf, stat.S_IFREG, len(data), data, shape)
        self._check(leaf)
        if isinstance(content, Object):
            shape = _external_shape(content.size, self._epoch, is_object=True)
            return self._add(leaf, stat.S_IFREG, content.size, content.digest, shape)
        if isinstance(content, Backed):
            shape = _external_shape(content.size, self._epoch, has_digest=content.digest is not None)
            inode = self._add(leaf, stat.S_IFREG, content.size, b"", shape)
            own = self.inodes.xattrs[inode]
            self.inodes.xattrs[inode] = external_xattrs(own, content.digest, content.path, self._epoch)
            return inode
        shape = Shape(ondisk.FILE_TYPES[content.type], pointer=content.rdev)
        inode = self._add(leaf, content.type, 0, b"", shape)
        if self._is_whiteout(leaf, name, listing):
            self.whiteouts.append(inode)
        return inode

    def _new_data_shape(self, leaf: Leaf, size: int) -> Shape:
        """Return the shape of inodes with *size* bytes of data, if such can be."""
        self._check(leaf)
        if isinstance(leaf.content, Symlink):
            self._link_shapes[size] = shape = Shape(_LINK, ondisk.LAYOUT_FLAT_INLINE, size)
            return shape
        blocks, tail = (0, size) if self._epoch == 2 else divmod(size, ondisk.BLOCK)
        if self._epoch == 1 and tail > ondisk.TAIL_MAX:
            blocks, tail = blocks + 1, 0
        layout = ondisk.LAYOUT_FLAT_INLINE if tail else ondisk.LAYOUT_FLAT_PLAIN
        self._file_shapes[size] = shape = Shape(_FILE, layout, tail, blocks)
        return shape

    def _add(self, node: Node, kind: int, size: int, payload: bytes, shape: Shape) -> int:
        # This runs for 240,000 nodes, so that only what is large at first sight is looked at closely.
        info, inodes = node.stat, self.inodes
        permissions, uid, gid, mtime, nanoseconds, xattrs = info
        if (uid | gid | mtime | nanoseconds) >> 31:
            self._check(node)
        if self._epoch == 2:
            nanoseconds = 0
        inodes.records += RECORD.pack(
            size, mtime, nanoseconds, uid, gid, 1, len(payload), kind | permissions & PERMISSIONS
        )
        inodes.nodes.append(node)
        inodes.shapes.append(shape)
        inodes.xattrs.append(self._sets.of_tree(xattrs) if xattrs else NO_XATTR_SET)
        inodes.payloads.append(payload)
        return len(inodes.nodes) - 1

    def _check(self, node: Node) -> None:
        check_node(node, self._epoch, self._dialect)


def _is_empty(content: Content) -> bool:
    return isinstance(content, Object | Backed) and content.size == 0


def _external_shape(size: int, epoch: int, *, is_object: bool = False, has_digest: bool = False) -> Shape:
    """Return the shape of files of *size* bytes whose content is elsewhere."""
    if epoch == 2:
        tail = _ADDRESS_SIZE if is_object or has_digest else 0
        return Shape(
            _FILE, ondisk.LAYOUT_CHUNKED, tail, pointer=ondisk.CHUNK_BITS_MAX - _BLOCK_BITS, is_object=is_object
        )
    bits = min(max((size - 1).bit_length() if size else 0, _BLOCK_BITS), ondisk.CHUNK_BITS_MAX)
    tail = -(-size >> bits) * _ADDRESS_SIZE  # of huge files more than any block holds; the others are left out there
    return Shape(_FILE, ondisk.LAYOUT_CHUNKED, tail, pointer=bits - _BLOCK_BITS, is_object=is_object)


def _new_stubs(root: Stat) -> dict[bytes, Node]:
    """Return whiteouts that hide the object directories below the image: each as the root, but for mode and xattrs."""
    info = _stub_stat(root)
    return {name: Leaf(info, Special(stat.S_IFCHR)) for name in ondisk.STUB_NAMES}


def _stub_stat(root: Stat) -> Stat:
    xattrs = {_LABEL: root.xattrs[_LABEL]} if _LABEL in root.xattrs else NO_XATTRS
    return root._replace(mode=_STUB_MODE, xattrs=xattrs)
