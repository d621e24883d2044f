"""A merged file system in columns: what the layers of an image come to, as a tree, or at once as an EROFS image."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from struct import Struct

from composefs._native import columns as _columns
from composefs.collector import paused_collector
from composefs.dialect import Dialect
from composefs.dumpfile.writer import xattr_fields
from composefs.erofs.epoch1 import make_opaque
from composefs.erofs.inodes import Inodes
from composefs.erofs.limits import UnfitError
from composefs.erofs.writer import epoch_of, write_columns
from composefs.erofs.xattrs import XattrSets
from composefs.oci.index import Kind, content_of, unpack_stats
from composefs.tree import Directory, Inline, Leaf, Node, Object

# struct merged_node of csrc/merge.h: number, size of the value, stat, count and place of names, kind
_NODE = Struct("=QIIIIB7x")
# struct directory_record of csrc/erofs.h: node, that of the parent, first dirent, count
_DIRECTORY = Struct("=IIII")
assert (_NODE.size, _DIRECTORY.size) == (32, 16)
# Comparing numbers takes a third of the time of looking up the members of an enumeration.
_OBJECT, _INLINE, _DIRECTORY_KIND = int(Kind.OBJECT), int(Kind.INLINE), int(Kind.DIRECTORY)


class MergedTree:
    """A file system.

    Args:
        columns: all of it, depth first and by name.
        sets: of xattrs, by number.
    """

    def __init__(self, columns: _columns.MergedColumns, sets: Sequence[Mapping[bytes, bytes]]) -> None:
        self._columns, self._sets = columns, sets

    def tree(self) -> Directory:
        """Return it as a tree, a new one each time."""
        columns = self._columns
        with paused_collector():
            nodes, joined = self._nodes(), bytes(columns.names)
            ends = columns.name_ends.cast("I").tolist()
            names = [joined[start:end] for start, end in pairwise((0, *ends))]
            children = [nodes[child] for child in columns.children.cast("I")]
            for inode, _, first, count in _DIRECTORY.iter_unpack(columns.directories):
                directory = nodes[inode]
                assert isinstance(directory, Directory)
                end = first + count
                directory.entries = dict(zip(names[first:end], children[first:end], strict=True))
        root = nodes[0]
        assert isinstance(root, Directory)
        return root

    def dump(self, keeps: Callable[[bytes], bool]) -> Iterator[memoryview]:
        """Yield the dump in large pieces, each of which the next one overwrites.

        Args:
            keeps: tells of the name of an extended attribute whether it is kept.
        """
        return _columns.format_dump(self._columns, [xattr_fields(xattrs) for xattrs in self._kept(keeps)])

    def image(self, version: int, keeps: Callable[[bytes], bool], *, whiteout_count: int = 0) -> bytearray | None:
        """Return the EROFS image, or None if that asks for more than C knows: then it is to be made of the tree.

        Args:
            version: the format.
            keeps: tells of the name of an extended attribute whether it is kept.
            whiteout_count: of whiteouts that are to stand there as they are.
        """
        columns, epoch = self._columns, epoch_of(version)
        inodes = Inodes.new(())
        known = XattrSets(epoch)
        kept = self._kept(keeps)
        numbers = array("I", [inodes.number_of(known.of_tree(xattrs)) for xattrs in kept])
        records = _columns.pack_inodes(columns, numbers, epoch, whiteout_count)
        if records is None:
            return None
        inodes.records = records
        if epoch == 1:
            make_opaque(inodes, Dialect.RUST)
        try:
            return write_columns(
                inodes,
                _columns.ErofsColumns(*columns[1:6]),
                version,
                Dialect.RUST,
            )
        except UnfitError:
            return None

    def _kept(self, keeps: Callable[[bytes], bool]) -> list[dict[bytes, bytes]]:
        return [{name: value for name, value in xattrs.items() if keeps(name)} for xattrs in self._sets]

    def _nodes(self) -> list[Node]:
        columns = self._columns
        stats, values = unpack_stats(columns.stats), bytes(columns.values)
        for number, xattrs in enumerate(columns.xattrs.cast("I")):
            if xattrs:
                stats[number] = stats[number]._replace(xattrs=self._sets[xattrs])
        nodes: list[Node] = []
        start = 0
        for number, size, stat, _, _, kind in _NODE.iter_unpack(columns.nodes):
            value = values[start : start + size]
            start += size
            if kind == _OBJECT:
                nodes.append(Leaf(stats[stat], Object(number, value)))
            elif kind == _INLINE:
                nodes.append(Leaf(stats[stat], Inline(value)))
            elif kind == _DIRECTORY_KIND:
                nodes.append(Directory(stats[stat]))
            else:
                nodes.append(Leaf(stats[stat], content_of(Kind(kind), value, number)))
        return nodes
