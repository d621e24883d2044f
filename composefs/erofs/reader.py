"""What an image means: the nodes of the tree that its inodes are.

Writers adapt a tree to overlayfs; here that is undone.  Where the object of a file is, and which files are whiteouts,
is said by xattrs that the tree does not have, and those that overlayfs would act upon are escaped.

Source: doc/erofs.md of composefs-rs; what its version 0.9.4 reads.
"""

from __future__ import annotations

import stat
from binascii import Error as NotHexError
from binascii import unhexlify
from collections.abc import Mapping
from typing import NamedTuple, Self

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.raw import Buffer, DirEntry, Inode, RawImage, Xattr
from composefs.tree import (
    NO_XATTRS,
    PERMISSIONS,
    Backed,
    Content,
    Inline,
    Object,
    Special,
    Stat,
    Symlink,
    object_path,
)

__all__ = ["DirEntry", "ErofsReader", "Inode", "metacopy_digest", "redirect_digest"]

# What composefs-rs 0.9.4 reads of version 2.
_INLINE_MAX = 512  # bytes
_TARGET_MAX = 1024  # bytes

_NAMES_MAX = 4096  # names of xattrs that are kept
_MAPPINGS_SIZE_MAX = 1 << 20  # bytes in the image of xattrs that are kept, so that many nodes share one mapping

_WHITEOUT = ondisk.WHITEOUT_XATTRS[0]
_MARKS = frozenset(ondisk.WHITEOUT_XATTRS + ondisk.WHITEOUTS_XATTRS + ondisk.OPAQUE_XATTRS)
_METACOPY_SIZE = ondisk.METACOPY_VALUE.size
_METACOPY_HEADS = {  # by size of the whole
    _METACOPY_SIZE + size: ondisk.METACOPY_VALUE.pack(0, _METACOPY_SIZE + size, 0, kernel_id)
    for size, kernel_id in ondisk.KERNEL_IDS.items()
}
_SPECIAL = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


class _Attributes(NamedTuple):
    """What the xattrs of an inode say."""

    xattrs: Mapping[bytes, bytes]  # those of the tree; equal ones may be one mapping, which nobody changes
    metacopy: bytes = b""  # the value that has the digest of a file's content, raw
    redirect: bytes | None = None  # and the one that has its place
    is_whiteout: bool = False  # of a regular file


_NO_ATTRIBUTES = _Attributes(NO_XATTRS)


class ErofsReader(RawImage):
    """Access to the inodes of an image, and to the nodes that they stand for.

    By composefs-rs, a file whose digest is known is that object, wherever the image says that it lies, and places that
    are no object's do not count.  By C they are kept as they are, also such that lead out of the object directory.

    Args:
        data: the image, of at most 1 GiB; what is neither bytes nor mmap is copied.
        source: what to call it in errors.
        dialect: whose rules hold where the two differ.

    Raises:
        FormatError: it is no composefs image.
    """

    def __init__(self, data: Buffer, source: str = "image", dialect: Dialect = Dialect.RUST) -> None:
        super().__init__(data, source)
        self._dialect = dialect
        self._unescaped: dict[bytes, bytes] = {}  # names of xattrs
        self._mappings: dict[tuple[Xattr, ...], Mapping[bytes, bytes]] = {}
        self._mappings_room = _MAPPINGS_SIZE_MAX

    def in_memory(self) -> tuple[Self, bytes]:
        """Return access to a copy of the image, and the copy."""
        data = self._data[:]
        return type(self)(data, self.source, self._dialect), data

    def node_stat(self, inode: Inode) -> Stat:
        """Return the metadata of the node that *inode* stands for.

        Raises:
            FormatError: its xattrs are broken.
        """
        return _stat(inode, self._attributes(inode).xattrs)

    def content(self, inode: Inode) -> Content:
        """Return the content of the leaf that *inode* stands for.

        Raises:
            FormatError: it is broken, or of no type that a leaf has.
        """
        return self._content(inode, self._attributes(inode))

    def leaf(self, inode: Inode) -> tuple[Stat, Content]:
        """Return metadata and content of the leaf that *inode* stands for, as `node_stat` and `content` do."""
        attributes = self._attributes(inode)
        return _stat(inode, attributes.xattrs), self._content(inode, attributes)

    def _attributes(self, inode: Inode) -> _Attributes:
        """Return what the xattrs of *inode* say."""
        found = self.xattrs(inode)
        if not found:
            return _NO_ATTRIBUTES
        metacopy, redirect, is_whiteout = b"", None, False
        kept = {}
        for name, value in found:
            if name in _MARKS:
                is_whiteout |= name == _WHITEOUT
            elif not name.startswith(ondisk.OVERLAY):
                kept[name] = value
            elif name == ondisk.METACOPY:
                metacopy = metacopy or value
            elif name == ondisk.REDIRECT:
                if redirect is None or not self._counts(redirect):
                    redirect = value
            elif name.startswith(ondisk.ESCAPED):
                kept[self._unescaped.get(name) or self._unescape(name)] = value
        return _Attributes(self._share(kept, inode), metacopy, redirect, is_whiteout)

    def _unescape(self, name: bytes) -> bytes:
        """Return the *name* of an xattr as the tree has it."""
        unescaped = ondisk.OVERLAY + name[len(ondisk.ESCAPED) :]
        if len(self._unescaped) < _NAMES_MAX:
            self._unescaped[name] = unescaped
        return unescaped

    def _share(self, xattrs: dict[bytes, bytes], inode: Inode) -> Mapping[bytes, bytes]:
        """Return one mapping for all equal *xattrs*: they are what most nodes of a tree have in common."""
        if not xattrs:
            return NO_XATTRS
        key = tuple(xattrs.items())
        known = self._mappings.get(key)
        if known is None:
            self._mappings_room -= inode.tail_offset - inode.xattrs_offset
            if self._mappings_room < 0:
                return xattrs
            self._mappings[key] = known = xattrs
        return known

    def _content(self, inode: Inode, attributes: _Attributes) -> Content:
        kind = inode.type
        if kind == stat.S_IFREG:
            return self._regular(inode, attributes)
        if kind == stat.S_IFLNK:
            target = self.data(inode)
            if self.version == 2 and len(target) > _TARGET_MAX:
                raise self.error(inode.offset, f"a link target has {len(target)} bytes, more than {_TARGET_MAX}")
            return Symlink(target)
        if kind not in _SPECIAL:
            raise self.error(inode.offset, f"inode {inode.nid} has mode {inode.mode:o}, which is of no type of leaf")
        return Special(kind, inode.rdev)

    def _regular(self, inode: Inode, attributes: _Attributes) -> Content:
        _, metacopy, redirect, is_whiteout = attributes
        if is_whiteout:
            return Special(stat.S_IFCHR)
        if metacopy:
            digest = self._digest(inode, metacopy)
            if self._dialect is Dialect.RUST or redirect == b"/" + object_path(digest):
                return Object(inode.size, digest)
            return Backed(inode.size, self._place(redirect), digest)
        place = self._place(redirect)
        if place is not None or inode.layout == ondisk.LAYOUT_CHUNKED:
            return Backed(inode.size, place)
        if self.version == 2 and inode.size > _INLINE_MAX:
            raise self.error(inode.offset, f"a file has {inode.size} bytes in the image, more than {_INLINE_MAX}")
        return Inline(self.data(inode))

    def _counts(self, redirect: bytes) -> bool:
        """Tell whether *redirect* says where the content of a file is."""
        return self._dialect is Dialect.C or redirect_digest(redirect) is not None

    def _place(self, redirect: bytes | None) -> bytes | None:
        """Return what is below the object directory the content of a file, by the value that says it."""
        if redirect is None:
            return None
        if self._dialect is Dialect.C:
            return redirect.removeprefix(b"/") or None
        digest = redirect_digest(redirect)
        return None if digest is None else object_path(digest)

    def _digest(self, inode: Inode, metacopy: bytes) -> bytes:
        head = metacopy[:_METACOPY_SIZE]
        wanted = _METACOPY_HEADS.get(len(metacopy))
        if wanted is None:
            sizes = " or ".join(map(str, _METACOPY_HEADS))
            what = f"{ondisk.METACOPY.decode()} has {len(metacopy)} bytes instead of {sizes}"
            raise self.error(inode.xattrs_offset, what)
        if head != wanted:
            what = f"{ondisk.METACOPY.decode()} begins with {head.hex()} instead of {wanted.hex()}"
            raise self.error(inode.xattrs_offset, what)
        return metacopy[_METACOPY_SIZE:]


def metacopy_digest(value: bytes) -> bytes | None:
    """Return the digest in the *value* of `trusted.overlay.metacopy`, if it is a good one."""
    digest = value[_METACOPY_SIZE:]
    return digest if value[:_METACOPY_SIZE] == _METACOPY_HEADS.get(len(value)) else None


def redirect_digest(value: bytes) -> bytes | None:
    """Return the digest of the object whose path ends the *value* of `trusted.overlay.redirect`, if one does."""
    for size in ondisk.KERNEL_IDS:
        path = value[-2 * size - 1 :]
        if len(path) == 2 * size + 1 and path[2:3] == b"/":
            try:
                return unhexlify(path[:2] + path[3:])
            except NotHexError:
                continue
    return None


def _stat(inode: Inode, xattrs: Mapping[bytes, bytes]) -> Stat:
    return Stat(inode.mode & PERMISSIONS, inode.uid, inode.gid, inode.mtime, inode.nanoseconds, xattrs)
