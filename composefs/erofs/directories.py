"""How directories are stored: entries in blocks, in each block first the numbers and then the names.

Source: the kernel's fs/erofs/erofs_fs.h; how entries are divided is seen from the images of composefs-rs and
libcomposefs, which agree.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from composefs.erofs import ondisk
from composefs.erofs.inodes import LINK_COUNT, SIZE, Inodes, Listing, Shape

_TYPE = ondisk.FILE_TYPES[stat.S_IFDIR]


def measure_directories(inodes: Inodes, listings: Sequence[Listing]) -> None:
    """Give the inodes of the *listings* size and shape."""
    for listing in listings:
        starts, tail = _divide(listing)
        blocks = len(starts) - (tail > 0)
        layout = ondisk.LAYOUT_FLAT_INLINE if tail else ondisk.LAYOUT_FLAT_PLAIN
        inodes.shapes[listing.inode] = Shape(_TYPE, layout, tail, blocks)
        inodes.set(SIZE, listing.inode, ondisk.BLOCK * blocks + tail)
        inodes.set(LINK_COUNT, listing.inode, 2 + len(listing.below))


def _divide(listing: Listing) -> tuple[list[int], int]:
    """Return with which entries blocks begin, and the bytes of the last ones if they are the tail."""
    used = ondisk.DIRENT.size * len(listing.sizes) + len(listing.joined)
    starts = [0]
    if used > ondisk.BLOCK:
        used = 0
        for index, size in enumerate(listing.sizes):
            used += ondisk.DIRENT.size + size
            if used > ondisk.BLOCK:
                starts.append(index)
                used = ondisk.DIRENT.size + size
    return starts, used if used <= ondisk.TAIL_MAX else 0


def pack_directories(image: bytearray, inodes: Inodes, listings: Sequence[Listing], blocks: Mapping[int, int]) -> None:
    """Put the blocks of the directories into the *image*, and give their inodes the tails.

    Args:
        image: large enough.
        inodes: with their nids.
        listings: all.
        blocks: the first block of those inodes that have any.
    """
    shapes, nids = inodes.shapes, inodes.nids
    for listing in listings:
        children = listing.children.copy()
        children.insert(bisect_left(listing.names, b"."), listing.inode)
        children.insert(bisect_left(listing.names, b"..") + 1, listing.parent)
        starts, tail = _divide(listing)
        block = blocks.get(listing.inode, 0) * ondisk.BLOCK
        names_start = 0
        for start, end in pairwise([*starts, len(children)]):
            group, sizes = children[start:end], listing.sizes[start:end]
            names_end = names_start + sum(sizes)
            # Within a block names follow the entries, whose offsets say where.
            offsets = accumulate(sizes, initial=ondisk.DIRENT.size * len(sizes))
            entries = map(ondisk.DIRENT.pack, [nids[i] for i in group], offsets, [shapes[i].file_type for i in group])
            data = b"".join([*entries, listing.joined[names_start:names_end]])
            names_start = names_end
            if tail and end == len(children):
                inodes.set_payload(listing.inode, data)
            else:
                image[block : block + len(data)] = data
                block += ondisk.BLOCK
