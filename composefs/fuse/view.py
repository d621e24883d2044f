"""An image as overlayfs would show it to whoever mounts it, by paths.

What overlayfs acts upon is not to be seen: its xattrs, and whiteouts, which are character devices 0/0.  Escaped xattrs
are unescaped, so that a whiteout of the tree is an empty file with an xattr, as below a mount by the kernel.  Only
there a whiteout that composefs-rs wrote unescaped (version 2) is listed, and cannot be looked at; here it is neither.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

from composefs.erofs import ondisk
from composefs.erofs.reader import DirEntry, Inode
from composefs.image import Image
from composefs.tree import Backed, Inline, Object

_ENTRIES = 1 << 19  # of directories, that are kept; a guess: 240,000 take 50 MB
_PATHS = 16384  # of directories
_FILES = 1024  # that are read
_TYPES = {number: kind for kind, number in ondisk.FILE_TYPES.items()}
_BLOCK = 512  # bytes; what st_blocks counts
_SELF, _PARENT = b".", b".."
_NAMESPACES = (b"user.", b"trusted.", b"security.", *(ondisk.XATTR_PREFIXES[index] for index in ondisk.ACL_PREFIXES))

Attributes = dict[str, int]  # as os.stat calls them, times in nanoseconds


class View:
    """The files of *image*, by their paths; several threads may use it.

    Paths begin with a slash and have no `.` or `..`; links are not followed.

    Attributes:
        content: returns where the content of a regular file, called by its path, is.

    Errors are those of the system calls: FileNotFoundError, NotADirectoryError, and OSError with EINVAL or ENODATA.
    FormatError, from any method, means that the image is broken there.
    """

    def __init__(self, image: Image) -> None:
        self._reader = image.reader
        self._tables = _Tables(self._read_entries)
        self._directory = lru_cache(_PATHS)(self._find_directory)
        self.content = lru_cache(_FILES)(self._find_content)

    def find(self, path: bytes) -> Inode:
        """Return the inode of *path*."""
        parent, _, name = path.rpartition(b"/")
        if not name:
            return self._reader.root
        entry = self._tables.get(self._directory(parent)).by_name.get(name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        inode = self._reader.inode(entry.nid)
        if _is_whiteout(inode):  # though the directory does not say that it is a device
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode

    def listing(self, path: bytes) -> Listing:
        """Return what stands in the directory *path*, with `.` and `..`."""
        parent = path.rpartition(b"/")[0]
        own, above = self._directory(path.rstrip(b"/")), self._directory(parent)
        dots = [DirEntry(name, nid, ondisk.FILE_TYPES[stat.S_IFDIR]) for name, nid in ((_SELF, own), (_PARENT, above))]
        return Listing(self, dots, self._tables.get(own).entries)

    def inode(self, nid: int) -> Inode:
        """Return the inode *nid*."""
        return self._reader.inode(nid)

    def target(self, path: bytes) -> bytes:
        """Return where the symbolic link *path* leads to."""
        inode = self.find(path)
        if inode.type != stat.S_IFLNK:
            raise OSError(errno.EINVAL, "is no symbolic link", path)
        return self._reader.data(inode)

    def xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        """Return the extended attributes of *path*, in all namespaces that the kernel knows of an image."""
        found = {}
        for name, value in self._reader.xattrs(self.find(path)):
            if name.startswith(ondisk.ESCAPED):
                found[ondisk.OVERLAY + name[len(ondisk.ESCAPED) :]] = value
            elif name.startswith(_NAMESPACES) and not name.startswith(ondisk.OVERLAY):
                found[name] = value
        return found

    def _read_entries(self, nid: int) -> _Table:
        found = {}
        for entry in self._reader.entries(self._directory_inode(nid)):
            kind = _TYPES.get(entry.type)
            if kind == stat.S_IFCHR and _is_whiteout(self._reader.inode(entry.nid)):
                continue
            if entry.name not in (_SELF, _PARENT):
                found[entry.name] = entry
        return _Table(list(found.values()), found)

    def _find_content(self, path: bytes) -> Inline | Object | Backed:
        """Return where the content of the regular file *path* is."""
        inode = self.find(path)
        if inode.type != stat.S_IFREG:
            raise OSError(errno.EINVAL, "is no regular file", path)
        content = self._reader.content(inode)
        if isinstance(content, Inline | Object | Backed):
            return content
        return Inline(self._reader.data(inode))  # what marks a whiteout of the tree

    def _directory_inode(self, nid: int) -> Inode:
        inode = self._reader.inode(nid)
        if inode.type != stat.S_IFDIR:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def _find_directory(self, path: bytes) -> int:
        """Return the nid of the directory *path*, which ends without a slash."""
        nid = self._reader.root.nid
        for name in path.split(b"/")[1:]:
            entry = self._tables.get(nid).by_name.get(name)
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            nid = entry.nid
        self._directory_inode(nid)
        return nid


class _Table(NamedTuple):
    """The entries of a directory, but for `.` and `..`, in stored order; nobody changes them."""

    entries: list[DirEntry]
    by_name: dict[bytes, DirEntry]


class _Tables:
    """Those of directories that were used last, by nid; not more than the memory has room for.

    In a hostile image many directories have one content: their number says nothing.
    """

    def __init__(self, read: Callable[[int], _Table]) -> None:
        self._read = read
        self._kept: OrderedDict[int, _Table] = OrderedDict()  # the one used last is the last
        self._room = _ENTRIES
        self._lock = Lock()

    def get(self, nid: int) -> _Table:
        """Return the entries of the directory *nid*."""
        with self._lock:
            table = self._kept.get(nid)
            if table is not None:
                self._kept.move_to_end(nid)
                return table
        table = self._read(nid)
        with self._lock:
            if nid not in self._kept:  # else another thread has read it, too
                self._kept[nid] = table
                self._room -= len(table.entries) + 1
            while self._room < 0 and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._room += len(oldest.entries) + 1
        return table


class Listing:
    """The entries of a directory, first the two *dots*, from any of them on."""

    def __init__(self, view: View, dots: list[DirEntry], entries: list[DirEntry]) -> None:
        self._view, self._dots, self._entries = view, dots, entries

    def __len__(self) -> int:
        return len(self._dots) + len(self._entries)

    def __getitem__(self, index: int) -> DirEntry:
        count = len(self._dots)
        return self._dots[index] if index < count else self._entries[index - count]

    def name(self, index: int) -> bytes:
        """Return the name of the entry *index*."""
        return self[index].name

    def type_and_number(self, index: int) -> Attributes:
        """Return what stands in the directory of the entry *index*: `st_mode`, of which only the type, and `st_ino`."""
        _, nid, kind = self[index]
        return {"st_mode": _TYPES.get(kind, 0), "st_ino": nid}

    def attributes(self, index: int) -> Attributes:
        """Return all that `attributes` does of the entry *index*."""
        return attributes(self._view.inode(self[index].nid))


def attributes(inode: Inode) -> Attributes:
    """Return the metadata of *inode*; images have one time, the mtime, and it stands for all."""
    time = inode.mtime * 1_000_000_000 + inode.nanoseconds
    size = inode.size
    return {
        "st_ino": inode.nid,
        "st_mode": inode.mode,
        "st_nlink": inode.link_count,
        "st_uid": inode.uid,
        "st_gid": inode.gid,
        "st_rdev": inode.rdev,
        "st_size": size,
        "st_blocks": -(-size // ondisk.BLOCK) * (ondisk.BLOCK // _BLOCK),
        "st_blksize": ondisk.BLOCK,
        "st_atime": time,
        "st_mtime": time,
        "st_ctime": time,
    }


def _is_whiteout(inode: Inode) -> bool:
    return inode.type == stat.S_IFCHR and inode.rdev == 0
