"""The xattrs of all inodes of an image: which are stored once, and what stands behind each inode.

Most inodes are files whose content is an object.  Those of them that have the same xattrs in the tree differ in two
places only, so that one area serves all: the digest and the path of the object are filled in later.

Source: the kernel's fs/erofs/xattr.c; composefs-rs and libcomposefs, whose images agree in what is shared and in which
order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import Inodes
from composefs.erofs.limits import UnfitError
from composefs.erofs.xattrs import (
    NO_XATTR_SET,
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

# struct area_record of csrc/erofs.c: offset in the data of all areas, size, offsets of digest and path in the area
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


class XattrTable:
    """The xattrs of *inodes*, each of which it gives its area.

    Attributes:
        shared: those that occur more than once, as they stand in the image.
        has_acl: whether any is an access control list.
        areas: by the numbers that the inodes have.

    Raises:
        UnfitError: an inode has too many, or too large ones.
    """

    def __init__(self, inodes: Inodes, epoch: int, dialect: Dialect) -> None:
        self._inodes, self._epoch, self._dialect = inodes, epoch, dialect
        self._encode = NameEncoder(epoch).encode
        counts = self._count()
        self._offsets: dict[Xattr, int] = {}
        self.shared = bytearray()
        for xattr in self._sorted(xattr for xattr, count in counts.items() if count > 1):
            self._offsets[xattr] = len(self.shared)
            self.shared += pack_entry(self._encode(xattr[0]), xattr[1])
        self.has_acl = any(self._is_acl(name) for name, _ in counts)
        self.areas = [Area(bytearray(), ())]
        self._models: dict[XattrSet, tuple[Area, list[int]]] = {}  # and where their references to an object are
        self._give_areas()

    def refer(self, base: int) -> None:
        """Complete the areas: references count from *base*, bytes before the shared xattrs."""
        for area in self.areas:
            if area.shared:
                references = [(base + offset) // ondisk.XATTR_UNIT for offset in area.shared]
                Struct(f"<{len(references)}I").pack_into(area.data, ondisk.XATTR_HEADER.size, *references)

    def pack(self) -> tuple[bytes, bytes]:
        """Return records of the areas, and their data."""
        records, offset = [], 0
        for area in self.areas:
            records.append(RECORD.pack(offset, len(area.data), area.digest_offset, area.path_offset))
            offset += len(area.data)
        return b"".join(records), b"".join(area.data for area in self.areas)

    def _count(self) -> Counter[Xattr]:
        """Return how often each xattr occurs, of those of objects only those which occur more than once."""
        inodes = self._inodes
        counts: Counter[Xattr] = Counter()
        for xattrs, count in Counter(inodes.xattrs).items():
            for xattr in xattrs.pairs:
                self._check(xattr, xattrs)
                counts[xattr] += count
        objects = zip(inodes.shapes, inodes.payloads, strict=True)
        digests = Counter([payload for shape, payload in objects if shape.is_object])
        self._check_digests(digests)
        self._repeated = {digest for digest, count in digests.items() if count > 1}
        if any(name in _OBJECT_NAMES for name, _ in counts):  # of files that are no plain objects
            self._repeated.update(digest for digest in digests if not counts.keys().isdisjoint(_named(digest)))
        for digest in self._repeated:
            for xattr in _named(digest):
                counts[xattr] += digests[digest]
        return counts

    def _check_digests(self, digests: Iterable[bytes]) -> None:
        if ondisk.KERNEL_IDS.keys() >= set(map(len, digests)):
            return
        inodes = self._inodes
        for node, shape, payload in zip(inodes.nodes, inodes.shapes, inodes.payloads, strict=True):
            if shape.is_object and len(payload) not in ondisk.KERNEL_IDS:
                raise UnfitError(node, f"has a digest of {len(payload)} bytes, wanted 32 or 64")

    def _check(self, xattr: Xattr, xattrs: XattrSet) -> None:
        name, value = xattr
        if len(value) > VALUE_MAX:
            what = f"has an xattr {_shown(name)} of {len(value)} bytes, more than {VALUE_MAX}"
        elif len(self._encode(name).suffix) > SUFFIX_MAX:
            what = f"has an xattr with a name of {len(name)} bytes, more than an image can hold: {_shown(name)}"
        else:
            return
        raise UnfitError(self._inodes.nodes[self._inodes.xattrs.index(xattrs)], what)

    def _sorted(self, xattrs: Iterable[Xattr]) -> list[Xattr]:
        if self._epoch == 1:
            return sorted(xattrs, key=xattr_order, reverse=True)
        return sorted(xattrs, key=lambda xattr: (*self._encode(xattr[0])[:2], xattr[1]))

    def _is_acl(self, name: bytes) -> bool:
        if self._dialect is Dialect.C:
            return name in {ondisk.XATTR_PREFIXES[index] for index in ondisk.ACL_PREFIXES}
        return self._encode(name).prefix in ondisk.ACL_PREFIXES

    def _give_areas(self) -> None:
        inodes, repeated = self._inodes, self._repeated
        known: dict[tuple[XattrSet, bytes | int], int] = {(NO_XATTR_SET, 0): 0}
        for xattrs, shape, payload in zip(inodes.xattrs, inodes.shapes, inodes.payloads, strict=True):
            kind: bytes | int = 0
            if shape.is_object:
                kind = payload if payload in repeated else len(payload)
            number = known.get((xattrs, kind))
            if number is None:
                known[xattrs, kind] = number = len(self.areas)
                self.areas.append(self._new_area(len(inodes.areas), xattrs, kind))
            inodes.areas.append(number)

    def _new_area(self, inode: int, xattrs: XattrSet, kind: bytes | int) -> Area:
        """Return the area of an object that is repeated, of those with a digest of *kind* bytes, or (0) of others."""
        if kind == 0:
            return self._pack_area(inode, xattrs.pairs)
        if isinstance(kind, int):
            pairs = external_xattrs(xattrs, bytes(kind), object_path(bytes(kind)), self._epoch).pairs
            return self._pack_area(inode, pairs, is_template=True)
        return self._new_repeated_area(inode, xattrs, kind)

    def _new_repeated_area(self, inode: int, xattrs: XattrSet, digest: bytes) -> Area:
        """Return the area of an object that others name, too: mostly that of another one, but for two references."""
        offsets = [self._offsets.get(xattr, -1) for xattr in _named(digest)]
        model = self._models.get(xattrs)
        if model is None or -1 in offsets:
            pairs = external_xattrs(xattrs, digest, object_path(digest), self._epoch).pairs
            area = self._pack_area(inode, pairs)
            if set(offsets) <= set(area.shared):
                self._models[xattrs] = area, [area.shared.index(offset) for offset in offsets]
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
            raise UnfitError(self._inodes.nodes[inode], what)
        return area

    def _may_share(self, shared: Sequence[int], inode: int) -> bool:
        if len(shared) < _SHARED_MAX[self._dialect]:
            return True
        if self._dialect is Dialect.RUST:  # which writes a broken image
            what = f"has more than {len(shared)} xattrs that other nodes have, too"
            raise UnfitError(self._inodes.nodes[inode], what)
        return False


def _named(digest: bytes) -> tuple[Xattr, Xattr]:
    """Return the xattrs by which a file says that it is the object *digest*."""
    return (ondisk.METACOPY, metacopy_value(digest)), (ondisk.REDIRECT, b"/" + object_path(digest))


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return text if len(text) <= _NAME_SHOWN else text[:_NAME_SHOWN] + "..."
