"""Make a tree of an image.

Every directory is read once, wherever it stands, and every inode once; `..` must lead back, and link counts must be the
numbers of names.  What directories and inodes occupy is counted: more than the image means that they overlap.  So the
work is linear in the size of the image.  Hostile trees took up to 43 times the size of their images in memory, honest
ones take three times that.

Source: the checks of composefs-rs 0.9.4, which these include.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import NamedTuple

from composefs import limits
from composefs.collector import paused_collector
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.raw import Buffer, Inode
from composefs.erofs.reader import ErofsReader
from composefs.errors import FormatError, LimitError
from composefs.text import printable
from composefs.tree import Directory, Inline, Leaf, Symlink, is_whiteout

_PATH_SHOWN = 4096  # bytes of a path in an error
_TYPE = 0o170000  # in a mode
_DIGITS = b"0123456789abcdefABCDEF"
_STUB_NAMES = frozenset(bytes([high, low]) for high in _DIGITS for low in _DIGITS)


def load_tree(data: Buffer, source: str = "image", *, dialect: Dialect = Dialect.RUST) -> Directory:
    """Return the tree that the image *data* was made of.

    Stubs of the root are not in it, and whiteouts are character devices again.  Names of one inode are one `Leaf`; not
    so by composefs-rs, if the inode counts one link only.  By C, which writes whatever link counts a dump has, these
    are kept where they are wrong.

    Args:
        data: the image, of at most 1 GiB.
        source: what to call it in errors.
        dialect: whose rules hold where the two differ, here and in `ErofsReader`.

    Raises:
        FormatError: the image is broken, or no composefs image.
        LimitError: it is too large or too deep.
    """
    loader = _Loader(ErofsReader(data, source, dialect), dialect)
    with paused_collector():
        return loader.load()


class _Place(NamedTuple):
    """Where a node stands.  Paths are made for errors only: those of all deep directories are larger than the image."""

    parent: _Place | None  # None: the root
    name: bytes


class _Pending(NamedTuple):
    """A directory whose entries are to be read."""

    directory: Directory
    inode: Inode
    parent: int  # the nid of the directory in which it stands
    place: _Place | None
    depth: int


@dataclass(slots=True)
class _Links:
    """The links of a leaf."""

    leaf: Leaf
    stored: int  # as the inode says
    names: int  # as found
    place: _Place  # of the first of these


class _Loader:
    """One pass over an image."""

    def __init__(self, reader: ErofsReader, dialect: Dialect) -> None:
        self._reader, self._dialect = reader, dialect
        self._room = reader.size  # bytes that inodes not read yet may occupy
        self._count = 0  # of entries so far
        self._pending: list[_Pending] = []
        self._directories: set[int] = set()  # nids
        self._leaves: dict[int, Leaf] = {}  # by nid
        self._links: dict[int, _Links] = {}  # by nid, of leaves with more than one link or name

    def load(self) -> Directory:
        """Return the tree."""
        try:
            root = self._new_directory(self._reader.root, self._reader.root.nid, None, 0)
        except FormatError as error:
            raise _located(error, None) from None
        while self._pending:
            self._fill(self._pending.pop())
        for nid, links in self._links.items():
            if links.names != links.stored:
                if self._dialect is Dialect.RUST:
                    what = f"inode {nid} has {links.stored} links, but {links.names} names"
                    raise _located(self._reader.error(nid * ondisk.SLOT, what), links.place)
                links.leaf.link_count = links.stored
        return root

    def _new_directory(self, inode: Inode, parent: int, place: _Place | None, depth: int) -> Directory:
        """Return a directory, and remember to read its entries."""
        if inode.nid in self._directories:
            raise self._reader.error(inode.offset, f"inode {inode.nid} is a directory with two names")
        if depth >= limits.DIRECTORY_DEPTH:
            raise self._too_much(inode, "levels of directories", limits.DIRECTORY_DEPTH)
        self._claim(inode, self._reader.occupied(inode))
        self._directories.add(inode.nid)
        directory = Directory(self._reader.node_stat(inode))
        self._pending.append(_Pending(directory, inode, parent, place, depth))
        return directory

    def _fill(self, pending: _Pending) -> None:
        """Read the entries of a directory."""
        directory, inode, parent, place, depth = pending
        reader, leaves, entries = self._reader, self._leaves, directory.entries
        here = place
        subdirectories = 0
        try:
            names = reader.names(inode)
            self._check_dots(inode, names, parent)
            self._count += len(names)
            if self._count > limits.ENTRIES:
                raise self._too_much(inode, "entries", limits.ENTRIES)
            for name, nid in names.items():
                here = _Place(place, name)
                leaf = leaves.get(nid)
                if leaf is not None:
                    leaf = self._another_name(nid, leaf, here)
                else:
                    child = reader.inode(nid)
                    if child.mode & _TYPE == stat.S_IFDIR:
                        entries[name] = self._new_directory(child, inode.nid, here, depth + 1)
                        subdirectories += 1
                        continue
                    leaf = self._new_leaf(child, here)
                if place is None and name in _STUB_NAMES and is_whiteout(leaf.content):
                    continue
                entries[name] = leaf
            here = place
            if inode.link_count != 2 + subdirectories:
                what = f"a directory with {subdirectories} directories in it has {inode.link_count} links"
                raise reader.error(inode.offset, what)
        except FormatError as error:
            raise _located(error, here) from None

    def _check_dots(self, inode: Inode, names: dict[bytes, int], parent: int) -> None:
        """Take `.` and `..` out of the *names* of a directory."""
        for name, wanted in ((b".", inode.nid), (b"..", parent)):
            nid = names.pop(name, None)
            if nid != wanted:
                what = f"entry {name.decode()} of directory {inode.nid} is inode {nid} instead of {wanted}"
                raise self._reader.error(inode.offset, what)

    def _new_leaf(self, inode: Inode, place: _Place) -> Leaf:
        self._claim(inode, self._reader.occupied(inode))
        leaf = Leaf(*self._reader.leaf(inode))
        content = leaf.content
        if isinstance(content, Inline):
            self._claim(inode, len(content.data))
        elif isinstance(content, Symlink):
            self._claim(inode, len(content.target))
        self._leaves[inode.nid] = leaf
        if inode.link_count != 1:
            if is_whiteout(content) and self._dialect is Dialect.RUST:
                raise self._reader.error(inode.offset, f"a whiteout has {inode.link_count} links")
            self._links[inode.nid] = _Links(leaf, inode.link_count, 1, place)
        return leaf

    def _another_name(self, nid: int, leaf: Leaf, place: _Place) -> Leaf:
        """Return what stands at *place*, another name of *leaf*, the inode *nid*."""
        links = self._links.get(nid)
        if links is None:  # which counts one link only
            if self._dialect is Dialect.RUST:
                return Leaf(leaf.stat, leaf.content)
            self._links[nid] = links = _Links(leaf, 1, 1, place)
        links.names += 1
        return leaf

    def _too_much(self, inode: Inode, what: str, limit: int) -> LimitError:
        return LimitError(self._reader.source, inode.offset, what, limit)

    def _claim(self, inode: Inode, size: int) -> None:
        """Count *size* bytes as those of *inode*."""
        self._room -= size
        if self._room < 0:
            raise self._reader.error(inode.offset, "inodes overlap: together they are larger than the image")


def _located(error: FormatError, place: _Place | None) -> FormatError:
    """Return *error* as that of the entry at *place*."""
    names = []
    while place is not None:
        names.append(place.name)
        place = place.parent
    path = b"/" + b"/".join(reversed(names))
    if len(path) > _PATH_SHOWN:
        path = b"..." + path[-_PATH_SHOWN:]
    error.entry = printable(path)
    return error
