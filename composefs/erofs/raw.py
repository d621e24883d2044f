"""What the bytes of an image say: inodes, directories, xattrs and data, as they are stored.

Nothing in an image is believed.  Rule 1: whatever the bytes, only `FormatError` comes out.  Rule 2: a call reads no
more than what one inode may own: its xattrs (at most 256 KiB), or its directory or data (at most the image).  Rule 3:
who walks over inodes counts what they occupy, by `occupied`: those of an honest image do not overlap, so that together
they are no larger than the image.  A walk that stops where they are is linear in the size of the image.

Names that no file can have are refused: empty ones, and such with a slash or zero in them.  Longer ones than Linux
allows are read, since composefs-rs writes them.

Source: the kernel's Documentation/filesystems/erofs.rst and fs/erofs/; what composefs-rs 0.9.4 reads and refuses.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from mmap import mmap
from struct import Struct
from threading import Lock
from typing import NamedTuple, TypeAlias

from composefs.erofs import ondisk
from composefs.erofs.superblock import read_superblock
from composefs.errors import FormatError

_BLOCK = ondisk.BLOCK
_DIRENT_SIZE = ondisk.DIRENT.size
_XATTR_HEADER_SIZE = ondisk.XATTR_HEADER.size
_XATTR_ENTRY_SIZE = ondisk.XATTR_ENTRY.size
_REFERENCES = [Struct(f"<{count}I") for count in range(256)]  # to shared xattrs, by their number
_REFERENCE_SIZE = 4  # bytes; references count such units, too
_NAMES_MAX = 4096  # names of xattrs that are kept; more differ only in hostile images
_LAYOUTS = (ondisk.LAYOUT_FLAT_PLAIN, ondisk.LAYOUT_FLAT_INLINE, ondisk.LAYOUT_CHUNKED)

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap
Xattr: TypeAlias = tuple[bytes, bytes]


class Inode(NamedTuple):
    """An inode as it is stored; offsets are bytes from the start of the image."""

    nid: int
    mode: int  # with the type
    uid: int
    gid: int
    mtime: int  # seconds, signed; compact inodes have that of the image
    nanoseconds: int  # of the mtime
    link_count: int
    size: int  # bytes; of a file whose content is elsewhere, that content's
    address: int  # the first data block, a device number, or a chunk format
    layout: int  # one of ondisk.LAYOUT_...
    xattrs_offset: int
    tail_offset: int  # where the xattrs end, and data begin that follow the inode

    @property
    def offset(self) -> int:
        """Where the inode begins."""
        return self.nid * ondisk.SLOT

    @property
    def type(self) -> int:
        """One of the `stat.S_IF...`, if it is any."""
        return stat.S_IFMT(self.mode)

    @property
    def rdev(self) -> int:
        """The device number as the kernel packs it; of what is no device, 0."""
        return self.address if self.type in (stat.S_IFCHR, stat.S_IFBLK) else 0


class DirEntry(NamedTuple):
    """An entry of a directory as it is stored."""

    name: bytes
    nid: int
    type: int  # as in ondisk.FILE_TYPES; nothing but the kernel's readdir depends on it


class RawImage:
    """Access to the structures of an image.

    Attributes:
        version: the composefs version: 0, 1 or 2.
        may_have_acls: whether xattrs can be access control lists, as far as the image says.
        root: the inode of the root, a directory.
        source: what to call the image in errors.
        size: that of the image, in bytes.

    Args:
        data: the image.  What is neither bytes nor mmap is copied.
        source: what to call it in errors.

    Raises:
        FormatError: it is no composefs image.
    """

    def __init__(self, data: Buffer, source: str = "image") -> None:
        self.source = source
        self._data = data if isinstance(data, (bytes, mmap)) else bytes(data)
        self.size = len(self._data)
        self._names: dict[tuple[int, bytes], bytes] = {}  # of xattrs, by index of the prefix and suffix
        self._shared: dict[int, Xattr] = {}  # by reference
        self._shared_room = self.size  # bytes that others may still take, since they do not overlap
        self._shared_lock = Lock()
        superblock = read_superblock(self._data, source)
        self.version = superblock.version
        self.may_have_acls = superblock.has_acls or superblock.version == 2
        self._mtime, self._nanoseconds = superblock.mtime, superblock.nanoseconds
        self._shared_base = superblock.xattrs_offset
        self.root = self.inode(superblock.root_nid)
        if self.root.type != stat.S_IFDIR:
            raise self.error(self.root.offset, f"the root has mode {self.root.mode:o}, which is no directory's")

    def error(self, offset: int, what: str) -> FormatError:
        """Return the error that *what* is wrong at byte *offset*."""
        return FormatError(self.source, offset, what)

    def inode(self, nid: int) -> Inode:
        """Return the inode *nid*; its xattrs and what follows it lie in the image.

        Raises:
            FormatError: there is none.
        """
        data, offset = self._data, nid * ondisk.SLOT
        start = offset + 32
        if start > self.size or nid < 0:
            raise self.error(offset, f"inode {nid} lies behind the end of the image, {self.size}")
        if data[offset] & ondisk.FORMAT_EXTENDED:
            start = offset + 64
            if start > self.size:
                raise self.error(offset, f"inode {nid} is cut off by the end of the image, {self.size}")
            fields = ondisk.EXTENDED_INODE.unpack_from(data, offset)
            form, words, mode, size, address, _, uid, gid, mtime, nanoseconds, links = fields
        else:
            form, words, mode, links, size, address, _, uid, gid = ondisk.COMPACT_INODE.unpack_from(data, offset)
            mtime, nanoseconds = self._mtime, self._nanoseconds
        # Of the xattrs, the first of the words stands for the whole header.
        tail = start + _XATTR_HEADER_SIZE + 4 * (words - 1) if words else start
        layout = form & ondisk.LAYOUT_MASK
        if layout not in _LAYOUTS:
            raise self.error(offset, f"inode {nid} has the data layout {layout >> 1}, which no composefs image has")
        if tail + (size % _BLOCK if layout == ondisk.LAYOUT_FLAT_INLINE else 0) > self.size:
            raise self.error(offset, f"inode {nid} goes beyond the end of the image, {self.size}")
        return Inode(nid, mode, uid, gid, mtime, nanoseconds, links, size, address, layout, start, tail)

    def occupied(self, inode: Inode) -> int:
        """Return how many bytes header and xattrs of *inode* take, and of a directory, its entries.

        Raises:
            FormatError: those go beyond the image.
        """
        size = inode.tail_offset - inode.offset
        if inode.type == stat.S_IFDIR:
            size += sum(size for _, size in self._pieces(inode))
        return size

    def data(self, inode: Inode) -> bytes:
        """Return the data that *inode* has in the image: content of a file, or target of a link.

        Raises:
            FormatError: they go beyond the image, or lie elsewhere.
        """
        pieces = [self._data[offset : offset + size] for offset, size in self._pieces(inode)]
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces))[: inode.size]

    def _pieces(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the blocks of *inode*, as one, and of its tail."""
        size = inode.size
        if inode.layout == ondisk.LAYOUT_CHUNKED:
            raise self.error(inode.offset, f"inode {inode.nid} of mode {inode.mode:o} has its data elsewhere")
        if size > self.size:
            raise self.error(inode.offset, f"inode {inode.nid} has {size} bytes of data, more than the image")
        is_plain = inode.layout == ondisk.LAYOUT_FLAT_PLAIN
        if count := -(-size // _BLOCK) if is_plain else size // _BLOCK:
            if inode.address + count > self.size // _BLOCK:
                blocks = f"blocks {inode.address} to {inode.address + count - 1}"
                raise self.error(inode.offset, f"inode {inode.nid} has {blocks} of {self.size // _BLOCK}")
            yield inode.address * _BLOCK, count * _BLOCK
        if not is_plain and size % _BLOCK:
            yield inode.tail_offset, size % _BLOCK

    def entries(self, inode: Inode) -> list[DirEntry]:
        """Return what stands in the directory *inode*, `.` and `..` too, in stored order.

        Raises:
            FormatError: it is broken, or no directory.
        """
        entries: list[DirEntry] = []
        for offset, size in self.directory_blocks(inode):
            entries += map(DirEntry._make, zip(*self._parse_block(offset, size), strict=True))
        return entries

    def names(self, inode: Inode) -> dict[bytes, int]:
        """Return the nids by name in the directory *inode*, `.` and `..` too, in stored order.

        Raises:
            FormatError: it is broken, no directory, or has a name twice.
        """
        found: dict[bytes, int] = {}
        for offset, size in self.directory_blocks(inode):
            names, nids, _ = self._parse_block(offset, size)
            before = len(found)
            found.update(zip(names, nids, strict=True))
            if len(found) != before + len(names):
                raise self._repeated(inode)
        return found

    def _repeated(self, inode: Inode) -> FormatError:
        seen = set()
        for offset, size in self.directory_blocks(inode):
            for index, name in enumerate(self._parse_block(offset, size)[0]):
                if name in seen:
                    return self.error(offset + index * _DIRENT_SIZE, f"name {name!r} stands in the directory twice")
                seen.add(name)
        raise AssertionError

    def lookup(self, inode: Inode, name: bytes) -> int | None:
        """Return the nid of *name* in the directory *inode*, or None.

        Raises:
            FormatError: where it looked, the directory is broken.
        """
        blocks = list(self.directory_blocks(inode))
        low, high = 0, len(blocks)  # as the kernel does: the last block whose first name is not greater
        while high - low > 1:
            middle = (low + high) // 2
            if self._first_name(*blocks[middle]) <= name:
                low = middle
            else:
                high = middle
        # Nobody promised that the names are in order: the others follow.
        for offset, size in blocks[low:high] + blocks:
            if name in self._data[offset : offset + size]:
                names, nids, _ = self._parse_block(offset, size)
                if name in names:
                    return nids[names.index(name)]
        return None

    def _first_name(self, offset: int, size: int) -> bytes:
        """Return the first name of a block, or if that is broken, some bytes."""
        block = self._data[offset : offset + size]
        if size < _DIRENT_SIZE:
            return b""
        _, start, _ = ondisk.DIRENT.unpack_from(block)
        if start > _DIRENT_SIZE and size >= 2 * _DIRENT_SIZE:
            _, end, _ = ondisk.DIRENT.unpack_from(block, _DIRENT_SIZE)
            return block[start:end]
        return block[start:].partition(b"\0")[0]

    def directory_blocks(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each block of the directory *inode*, and of its tail.

        Raises:
            FormatError: they go beyond the image, or it is no directory.
        """
        if inode.type != stat.S_IFDIR:
            raise self.error(inode.offset, f"inode {inode.nid} of mode {inode.mode:o} is no directory")
        for start, size in self._pieces(inode):
            for offset in range(start, start + size, _BLOCK):
                yield offset, min(_BLOCK, start + size - offset)

    def _parse_block(self, offset: int, size: int) -> tuple[list[bytes], tuple[int, ...], tuple[int, ...]]:
        """Return names, nids and types of the entries in a directory block of *size* bytes, or in a tail."""
        block = self._data[offset : offset + size]
        if size < _DIRENT_SIZE:
            raise self.error(offset, f"the tail of a directory has {size} bytes, less than an entry")
        _, first, _ = ondisk.DIRENT.unpack_from(block)
        if first == 0 or first % _DIRENT_SIZE or first > size:
            raise self.error(offset + 8, f"the first name of a directory block of {size} bytes lies at {first}")
        nids, starts, types = zip(*ondisk.DIRENT.iter_unpack(block[:first]), strict=True)
        last = starts[-1]
        end = block.find(b"\0", last)
        ends = (*starts[1:], size if end < 0 else end)
        names = [block[start:end] for start, end in zip(starts, ends, strict=True)]
        # A name that goes beyond the block or back has no bytes, or the next one has not.
        if not all(names):
            index = names.index(b"")
            where = f"bytes {starts[index]} to {ends[index]} of the block's {size}"
            raise self.error(offset + index * _DIRENT_SIZE, f"a directory entry has no name: {where}")
        if b"/" in block[first : ends[-1]] or b"\0" in block[first:last]:
            index = next(index for index, name in enumerate(names) if b"/" in name or b"\0" in name)
            what = f"a directory entry has the name {names[index]!r}, which no file can have"
            raise self.error(offset + index * _DIRENT_SIZE, what)
        return names, nids, types

    def xattrs(self, inode: Inode) -> list[Xattr]:
        """Return the xattrs of *inode* as they are stored, shared ones first.

        Raises:
            FormatError: they are broken.
        """
        offset, end = inode.xattrs_offset, inode.tail_offset
        if offset == end:
            return []
        data = self._data
        _, count = ondisk.XATTR_HEADER.unpack_from(data, offset)
        references = offset + _XATTR_HEADER_SIZE
        offset = references + _REFERENCE_SIZE * count
        if offset > end:
            raise self.error(references, f"{count} references to shared xattrs, in {end - references} bytes")
        found = []
        if count:
            shared = self._shared
            found += [
                shared.get(reference) or self._shared_xattr(reference, references)
                for reference in _REFERENCES[count].unpack_from(data, references)
            ]
        names = self._names
        unpack = ondisk.XATTR_ENTRY.unpack_from
        while offset < end:
            suffix_size, index, value_size = unpack(data, offset)
            start = offset + _XATTR_ENTRY_SIZE
            middle = start + suffix_size
            stop = middle + value_size
            after = stop + 3 & ~3
            if after > end:
                raise self.error(offset, f"an xattr of {after - offset} bytes, in {end - offset} bytes")
            suffix = data[start:middle]
            name = names.get((index, suffix)) or self._xattr_name(index, suffix, offset)
            found.append((name, data[middle:stop]))
            offset = after
        return found

    def _shared_xattr(self, reference: int, where: int) -> Xattr:
        data, offset = self._data, self._shared_base + reference * _REFERENCE_SIZE
        start = offset + _XATTR_ENTRY_SIZE
        if start > self.size:
            raise self.error(where, f"a shared xattr at {offset}, behind the end of the image, {self.size}")
        suffix_size, index, value_size = ondisk.XATTR_ENTRY.unpack_from(data, offset)
        middle = start + suffix_size
        stop = middle + value_size
        if stop + 3 & ~3 > self.size:
            raise self.error(offset, f"a shared xattr goes beyond the end of the image, {self.size}")
        name = self._xattr_name(index, data[start:middle], offset)
        with self._shared_lock:
            if reference not in self._shared:
                self._shared_room -= stop - offset
                if self._shared_room < 0:
                    raise self.error(offset, "shared xattrs overlap: together they are larger than the image")
                self._shared[reference] = (name, data[middle:stop])
        return self._shared[reference]

    def _xattr_name(self, index: int, suffix: bytes, offset: int) -> bytes:
        if index >= len(ondisk.XATTR_PREFIXES):
            raise self.error(offset, f"an xattr has the prefix {index}, of {len(ondisk.XATTR_PREFIXES)}")
        name = ondisk.XATTR_PREFIXES[index] + suffix
        if len(self._names) < _NAMES_MAX:
            self._names[index, suffix] = name
        return name
