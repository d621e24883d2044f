"""The xattrs of all inodes of an image: which are stored once, and what stands behind each inode.

Most inodes are files whose content is an object.  Those of them that have the same xattrs in the tree differ in two
places only, so that one area serves all: the digest and the path of the object are filled in later.

Source: the kernel's fs/erofs/xattr.c; composefs-rs and libcomposefs, whose images agree in what is shared and in which
order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from composefs._native import columns as _columns
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import PAYLOAD_SIZE, STORAGE, XATTRS, Inodes, Storage
from composefs.erofs.limits import UnfitError
from composefs.erofs.xattrs import (
    SUFFIX_MAX,
    VALUE_MAX,
    NameEncoder,
    Xattr,
    XattrSet,
    external_xattrs,
    metacopy_value,
    pack_entry,
    xattr_order,
)
from composefs.tree import object_path

# struct area_record of csrc/erofs.h: offset in the data of all areas, size, offsets of digest and path in the area
RECORD = Struct("=QIII4x")
assert RECORD.size == 24

_NAME_SHOWN = 60  # characters of a name in a message
_SHARED_MAX = {Dialect.RUST: 255, Dialect.C: 128}  # of one inode; the header counts them in a byte
_AREA_MAX = ondisk.XATTR_HEADER.size + ondisk.XATTR_UNIT * 65534  # bytes; the inode counts units, in two bytes
_OBJECT_NAMES = (ondisk.METACOPY, ondisk.REDIRECT)  # of the xattrs that name an object


@dataclass(slots=True, eq=False)
class Area:
    """What stands behind the header of all inodes with the same xattrs."""

    data: bytearray  # zeros where the references to shared xattrs go
    shared: Sequence[int]  # what these refer to: bytes from the start of the shared ones
    digest_offset: int = 0  # bytes from the start of the area, where each object has its digest
    path_offset: int = 0  # and the path; 0: the area is complete


@dataclass(slots=True, eq=False)
class _Group:
    """Inodes that have one area."""

    first: int  # inode
    count: int
    xattrs: XattrSet  # but for those that name an object
    digest_size: int  # bytes; 0: they are no objects
    digest: bytes | None  # if they are all one object, which is more than once in the image


class XattrTable:
    """The xattrs of *inodes*, each of which it gives the number of its area.

    Attributes:
        shared: those that occur more than once, as they stand in the image.
        has_acl: whether any is an access control list.
        areas: by the numbers that the inodes now have.

    Raises:
        UnfitError: an inode has too many, or too large ones.
    """

    def __init__(
        self, inodes: Inodes, tree: _columns.ErofsTree, payloads: _columns.Column, epoch: int, dialect: Dialect
    ) -> None:
        self._inodes, self._epoch, self._dialect = inodes, epoch, dialect
        self._encode = NameEncoder(epoch).encode
        self._payloads = payloads
        self._groups = [self._group(group) for group in tree.group()]
        counts = self._count()
        self._offsets: dict[Xattr, int] = {}
        self.shared = bytearray()
        for xattr in self._sorted(xattr for xattr, count in counts.items() if count > 1):
            self._offsets[xattr] = len(self.shared)
            self.shared += pack_entry(self._encode(xattr[0]), xattr[1])
        self.has_acl = any(self._is_acl(name) for name, _ in counts)
        self._models: dict[XattrSet, tuple[Area, list[int]]] = {}  # and where their references to an object are
        self.areas = [self._new_area(group) for group in self._groups]

    def refer(self, base: int) -> None:
        """Complete the areas: references count from *base*, bytes before the shared xattrs."""
        for area in self.areas:
            if area.shared:
                references = [(base + offset) // ondisk.XATTR_UNIT for offset in area.shared]
                Struct(f"<{len(references)}I").pack_into(area.data, ondisk.XATTR_HEADER.size, *references)

    def records(self) -> bytes:
        """Return the records of the areas."""
        records, offset = [], 0
        for area in self.areas:
            records.append(RECORD.pack(offset, len(area.data), area.digest_offset, area.path_offset))
            offset += len(area.data)
        return b"".join(records)

    def data(self) -> bytes:
        """Return the data of the areas, complete."""
        return b"".join(area.data for area in self.areas)

    def _group(self, group: _columns.ErofsGroup) -> _Group:
        inodes = self._inodes
        is_object = inodes.get(STORAGE, group.first) == Storage.OBJECT
        size = inodes.get(PAYLOAD_SIZE, group.first) if is_object else 0
        digest = (
            bytes(self._payloads[group.payload_offset : group.payload_offset + size]) if group.is_repeated else None
        )
        return _Group(group.first, group.size, inodes.sets[group.xattrs], size, digest)

    def _count(self) -> Counter[Xattr]:
        """Return how often each xattr occurs, of those of objects only those which occur more than once."""
        counts: Counter[Xattr] = Counter()
        for group in self._groups:
            for xattr in group.xattrs.pairs:
                self._check(xattr, group)
                counts[xattr] += group.count
        self._check_digests()
        if any(name in _OBJECT_NAMES for name, _ in counts):  # of files that are no plain objects
            self._split_groups(
                {digest for _, digest in self._objects() if not counts.keys().isdisjoint(_named(digest))}
            )
        for group in self._groups:
            if group.digest is not None:
                for xattr in _named(group.digest):
                    counts[xattr] += group.count
        return counts

    def _check_digests(self) -> None:
        for group in self._groups:
            if group.digest_size and group.digest_size not in ondisk.KERNEL_IDS:
                what = f"has a digest of {group.digest_size} bytes, wanted 32 or 64"
                raise UnfitError(self._inodes.node(group.first), what)

    def _check(self, xattr: Xattr, group: _Group) -> None:
        name, value = xattr
        if len(value) > VALUE_MAX:
            what = f"has an xattr {_shown(name)} of {len(value)} bytes, more than {VALUE_MAX}"
        elif len(self._encode(name).suffix) > SUFFIX_MAX:
            what = f"has an xattr with a name of {len(name)} bytes, more than an image can hold: {_shown(name)}"
        else:
            return
        raise UnfitError(self._inodes.node(group.first), what)

    def _sorted(self, xattrs: Iterable[Xattr]) -> list[Xattr]:
        if self._epoch == 1:
            return sorted(xattrs, key=xattr_order, reverse=True)
        return sorted(xattrs, key=lambda xattr: (*self._encode(xattr[0])[:2], xattr[1]))

    def _is_acl(self, name: bytes) -> bool:
        if self._dialect is Dialect.C:
            return name in {ondisk.XATTR_PREFIXES[index] for index in ondisk.ACL_PREFIXES}
        return self._encode(name).prefix in ondisk.ACL_PREFIXES

    def _split_groups(self, named: set[bytes]) -> None:
        """Give the objects whose digests are *named* by other files, too, groups of their own."""
        groups, inodes = self._groups, self._inodes
        known: dict[tuple[XattrSet, bytes], int] = {}
        for inode, digest in self._objects():
            before = groups[inodes.get(XATTRS, inode)]
            if before.digest is None and digest in named:
                number = known.get((before.xattrs, digest))
                if number is None:
                    known[before.xattrs, digest] = number = len(groups)
                    groups.append(_Group(inode, 0, before.xattrs, len(digest), digest))
                inodes.set(XATTRS, inode, number)
                groups[number].count += 1
                before.count -= 1

    def _objects(self) -> Iterator[tuple[int, bytes]]:
        """Yield the inodes of all objects, and their digests."""
        columns = zip(self._inodes.column(PAYLOAD_SIZE), self._inodes.column(STORAGE), strict=True)
        offset = 0
        for inode, (size, storage) in enumerate(columns):
            if storage == Storage.OBJECT:
                yield inode, bytes(self._payloads[offset : offset + size])
            offset += size

    def _new_area(self, group: _Group) -> Area:
        if group.count == 0:
            return Area(bytearray(), ())
        if group.digest is not None:
            return self._new_repeated_area(group, group.digest)
        pairs = group.xattrs.pairs
        if group.digest_size:
            digest = bytes(group.digest_size)
            pairs = external_xattrs(group.xattrs, digest, object_path(digest), self._epoch).pairs
        elif not pairs:
            return Area(bytearray(), ())
        return self._pack_area(group.first, pairs, is_template=group.digest_size > 0)

    def _new_repeated_area(self, group: _Group, digest: bytes) -> Area:
        """Return the area of an object that others name, too: mostly that of another one, but for two references."""
        offsets = [self._offsets.get(xattr, -1) for xattr in _named(digest)]
        model = self._models.get(group.xattrs)
        if model is None or -1 in offsets:
            pairs = external_xattrs(group.xattrs, digest, object_path(digest), self._epoch).pairs
            area = self._pack_area(group.first, pairs)
            if set(offsets) <= set(area.shared):
                self._models[group.xattrs] = area, [area.shared.index(offset) for offset in offsets]
            return area
        shared = list(model[0].shared)
        for place, offset in zip(model[1], offsets, strict=True):
            shared[place] = offset
        return Area(bytearray(model[0].data), shared)

    def _pack_area(self, inode: int, pairs: Sequence[Xattr], *, is_template: bool = False) -> Area:
        """Return the area of *pairs*; *inode* is the first that has them."""
        shared: list[int] = []
        local = bytearray()
        values: dict[bytes, int] = {}  # where those of the local ones begin in these
        filter_bits = 0
        for xattr in pairs:
            name, value = xattr
            encoded = self._encode(name)
            filter_bits |= encoded.filter_bit
            offset = self._offsets.get(xattr)
            if is_template and name in _OBJECT_NAMES:
                offset = None  # the value is to be filled in
            if offset is not None and self._may_share(shared, inode):
                shared.append(offset)
            else:
                values[name] = len(local) + ondisk.XATTR_ENTRY.size + len(encoded.suffix)
                local += pack_entry(encoded, value)
        data = bytearray(ondisk.XATTR_HEADER.pack(~filter_bits & 0xFFFFFFFF, len(shared)))
        data += bytes(ondisk.XATTR_UNIT * len(shared))
        area = Area(data, shared)
        if is_template:
            area.digest_offset = len(data) + values[ondisk.METACOPY] + ondisk.METACOPY_VALUE.size
            area.path_offset = len(data) + values[ondisk.REDIRECT] + len(b"/")
        data += local
        if len(data) > _AREA_MAX:
            what = f"has xattrs of {len(data)} bytes in all, more than {_AREA_MAX}"
            raise UnfitError(self._inodes.node(inode), what)
        return area

    def _may_share(self, shared: Sequence[int], inode: int) -> bool:
        if len(shared) < _SHARED_MAX[self._dialect]:
            return True
        if self._dialect is Dialect.RUST:  # which writes a broken image
            what = f"has more than {len(shared)} xattrs that other nodes have, too"
            raise UnfitError(self._inodes.node(inode), what)
        return False


def _named(digest: bytes) -> tuple[Xattr, Xattr]:
    """Return the xattrs by which a file says that it is the object *digest*."""
    return (ondisk.METACOPY, metacopy_value(digest)), (ondisk.REDIRECT, b"/" + object_path(digest))


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return text if len(text) <= _NAME_SHOWN else text[:_NAME_SHOWN] + "..."
