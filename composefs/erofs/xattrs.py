"""What the xattrs of an image are: those of the tree and those for overlayfs, in order, and how each is encoded.

Source: the kernel's fs/erofs/erofs_fs.h and xattr.c (encoding, filter) and Documentation/filesystems/overlayfs.rst;
the order is that in the images of composefs-rs and libcomposefs, which agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from composefs.erofs import ondisk

SUFFIX_MAX = 255  # bytes of a name without its prefix, as the entry counts them
VALUE_MAX = 65535  # bytes

Xattr = tuple[bytes, bytes]  # name, value

_PREFIXES_BY_EPOCH = {1: (1, 2, 3, 4, 6), 2: (1, 2, 3, 4, 5, 6)}  # indices that are used; others are whole, at index 0
_METACOPY_HEADS = {
    size: ondisk.METACOPY_VALUE.pack(0, ondisk.METACOPY_VALUE.size + size, 0, kernel_id)
    for size, kernel_id in ondisk.KERNEL_IDS.items()
}


@dataclass(frozen=True, slots=True, eq=False)
class XattrSet:
    """The xattrs of an inode, which others may have, too; compared by identity."""

    pairs: tuple[Xattr, ...]  # in the order of the image


NO_XATTR_SET = XattrSet(())


class XattrSets:
    """The sets of xattrs in a tree, each once."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._by_mapping: dict[int, XattrSet] = {}  # by id; the tree keeps the mappings alive
        self._by_items: dict[tuple[Xattr, ...], XattrSet] = {}

    def of_tree(self, xattrs: Mapping[bytes, bytes]) -> XattrSet:
        """Return the set of *xattrs*, in which what overlayfs would act upon is escaped."""
        if not xattrs:
            return NO_XATTR_SET
        known = self._by_mapping.get(id(xattrs))
        if known is None:
            items = tuple(sorted(xattrs.items()))
            known = self._by_items.get(items)
            if known is None:
                pairs = [(_escaped(name), value) for name, value in items]
                known = XattrSet(tuple(pairs) if self._epoch == 2 else ordered(pairs))
                self._by_items[items] = known
            self._by_mapping[id(xattrs)] = known
        return known


def external_xattrs(own: XattrSet, digest: bytes | None, path: bytes | None, epoch: int) -> XattrSet:
    """Return the xattrs of a file whose content is outside the image.

    Args:
        own: those of the tree.
        digest: raw; what fs-verity must find, or None for whatever there is.
        path: of the content, below the object directory; None: there is none, the file is sparse.
        epoch: 1 or 2.
    """
    pairs = [(ondisk.METACOPY, metacopy_value(digest))]
    if path is not None:
        pairs.append((ondisk.REDIRECT, b"/" + path))
    pairs += own.pairs
    return XattrSet(tuple(pairs) if epoch == 2 else ordered(pairs))


def ordered(pairs: Iterable[Xattr]) -> tuple[Xattr, ...]:
    """Return *pairs* in the order of epoch 1."""
    return tuple(sorted(pairs, key=xattr_order))


def xattr_order(xattr: Xattr) -> tuple[bytes, int, bytes]:
    """Return what epoch 1 sorts by."""
    name, value = xattr
    return name, len(value), value


def metacopy_value(digest: bytes | None) -> bytes:
    """Return what `trusted.overlay.metacopy` says of a file with, or without, a fs-verity *digest*."""
    return b"" if digest is None else _METACOPY_HEADS[len(digest)] + digest


def _escaped(name: bytes) -> bytes:
    return ondisk.ESCAPED + name[len(ondisk.OVERLAY) :] if name.startswith(ondisk.OVERLAY) else name


class EncodedName(NamedTuple):
    """The name of an xattr as an image has it."""

    prefix: int  # index
    suffix: bytes
    filter_bit: int


class NameEncoder:
    """Encodes names, each once."""

    def __init__(self, epoch: int) -> None:
        self._prefixes = _PREFIXES_BY_EPOCH[epoch]
        self._known: dict[bytes, EncodedName] = {}

    def encode(self, name: bytes) -> EncodedName:
        """Return prefix and suffix of *name*, of whatever length, and the bit that stands for it in the name filter."""
        known = self._known.get(name)
        if known is None:
            prefix = next((index for index in self._prefixes if name.startswith(ondisk.XATTR_PREFIXES[index])), 0)
            suffix = name[len(ondisk.XATTR_PREFIXES[prefix]) :]
            bit = 1 << xxh32(suffix, ondisk.XATTR_FILTER_SEED + prefix) % 32
            self._known[name] = known = EncodedName(prefix, suffix, bit)
        return known


def pack_entry(name: EncodedName, value: bytes) -> bytes:
    """Return one xattr as it stands in an inode or among the shared ones."""
    head = ondisk.XATTR_ENTRY.pack(len(name.suffix), name.prefix, len(value))
    return b"".join((head, name.suffix, value, bytes(-(len(name.suffix) + len(value)) % ondisk.XATTR_UNIT)))


_PRIMES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
_MASK = 0xFFFFFFFF


def xxh32(data: bytes, seed: int) -> int:
    """Return the 32-bit xxHash of *data*; names are short and few, so that this need not be fast.

    Source: xxHash's doc/xxhash_spec.md.
    """
    p1, p2, p3, p4, p5 = _PRIMES
    position, size = 0, len(data)
    if size >= 16:
        lanes = [seed + p1 + p2, seed + p2, seed, seed - p1]
        while position + 16 <= size:
            for lane in range(4):
                word = int.from_bytes(data[position : position + 4], "little")
                lanes[lane] = _rotate(lanes[lane] + word * p2, 13) * p1
                position += 4
        total = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        total = seed + p5
    total += size
    while position + 4 <= size:
        total = _rotate(total + int.from_bytes(data[position : position + 4], "little") * p3, 17) * p4
        position += 4
    for byte in data[position:]:
        total = _rotate(total + byte * p5, 11) * p1
    total &= _MASK
    total = (total ^ total >> 15) * p2 & _MASK
    total = (total ^ total >> 13) * p3 & _MASK
    return total ^ total >> 16


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> 32 - bits) & _MASK
