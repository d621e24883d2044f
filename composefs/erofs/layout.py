"""Where each inode and its data stand: the second step of writing an image, once all sizes are known.

An inode begins at the next slot, unless its tail would cross a block or so would a symbolic link: then later.  The two
epochs differ in what exactly they keep together.  Data blocks follow the shared xattrs, in the order of the inodes.

Source: the images of composefs-rs and libcomposefs, which agree; the kernel asks only that no inline tail crosses a
block.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace

from composefs.erofs import ondisk
from composefs.erofs.inodes import (
    GID,
    LINK_COUNT,
    MTIME,
    NANOSECONDS,
    PLACE,
    PLACE_OFFSET,
    POINTER,
    RECORD,
    SIZE,
    UID,
    Inodes,
    Shape,
    Time,
)

_BLOCK, _SLOT = ondisk.BLOCK, ondisk.SLOT
_COMPACT_SIZE, _EXTENDED_SIZE = ondisk.COMPACT_INODE.size, ondisk.EXTENDED_INODE.size
_U64 = 0xFFFF_FFFF_FFFF_FFFF
_EXTENDED = ondisk.FORMAT_EXTENDED
_LINK = ondisk.FILE_TYPES[stat.S_IFLNK]


def place_inodes(inodes: Inodes, order: Sequence[int], area_sizes: Sequence[int], epoch: int, oldest: Time) -> int:
    """Give each of the inodes its form and place.

    Args:
        inodes: with their sizes and areas.
        order: in which they stand in the image.
        area_sizes: bytes of each area.
        epoch: 1 or 2; inodes are compact in epoch 1 only.
        oldest: seconds and nanoseconds of the mtime that compact inodes have.

    Returns:
        The end of the last inode, bytes from the start of the image.
    """
    fit = _fit1 if epoch == 1 else _fit2
    compact = _find_compact(inodes, oldest) if epoch == 1 else [False] * len(order)
    records, shapes, areas = inodes.records, inodes.shapes, inodes.areas
    inodes.nids = nids = [0] * len(order)
    pack, record_size = PLACE.pack_into, RECORD.size
    position = ondisk.INODES_OFFSET
    for number, index in enumerate(order):
        shape, area = shapes[index], areas[index]
        extended, start = _EXTENDED, _EXTENDED_SIZE
        if compact[index]:
            extended, start = 0, _COMPACT_SIZE
        start += area_sizes[area]
        if position % _BLOCK + start + shape.tail_size >= _BLOCK:  # else it stays within one block
            position, shapes[index] = fit(position, start, shape)
            shape = shapes[index]
        tail = shape.tail_size
        nids[index] = nid = position // _SLOT
        offset = index * record_size + PLACE_OFFSET
        pack(records, offset, shape.layout | extended, nid, number if epoch == 1 else nid, shape.pointer, area, tail)
        position += start + tail
        position += -position % _SLOT
    return position


def find_oldest(inodes: Inodes, *, is_signed: bool) -> Time:
    """Return the smallest mtime of the inodes; without a sign, what is before 1970 comes after all else."""
    seconds = inodes.column(MTIME)
    first = min(seconds)
    if first < 0 and not is_signed:
        first = min(seconds, key=lambda mtime: mtime & _U64)
    times = zip(seconds, inodes.column(NANOSECONDS), strict=True)
    return first, min([nanoseconds for mtime, nanoseconds in times if mtime == first])


def _find_compact(inodes: Inodes, oldest: Time) -> list[bool]:
    """Tell of each inode whether it is compact: it has the oldest mtime, and its other numbers are small."""
    fields = (MTIME, NANOSECONDS, UID, GID, LINK_COUNT, SIZE)
    columns = zip(*map(inodes.column, fields), strict=True)
    return [
        (mtime, nanoseconds) == oldest and not ((uid | gid | count) >> 16 or size >> 32)
        for mtime, nanoseconds, uid, gid, count, size in columns
    ]


def place_blocks(inodes: Inodes, order: Sequence[int], first: int) -> tuple[dict[int, int], int]:
    """Give each of the inodes that has data blocks the next ones, from *first* on.

    Returns:
        The first block of each, and the block behind all.
    """
    shapes, block = inodes.shapes, first
    blocks: dict[int, int] = {}
    for index in order:
        shape = shapes[index]
        if shape.block_count:
            blocks[index] = block
            # Where addresses of chunks have a block, the lower half of its number is lost.
            is_chunked = shape.layout == ondisk.LAYOUT_CHUNKED
            inodes.set(POINTER, index, block & 0xFFFF0000 | shape.pointer if is_chunked else block)
            block += shape.block_count
    return blocks, block


def _fit1(position: int, start: int, shape: Shape) -> tuple[int, Shape]:
    """Return where an inode begins, at *position* or later, whose tail is *start* bytes behind that; and its shape."""
    if shape.file_type == _LINK:
        # It is whole in one block, also where the target then is not there.
        if position // _BLOCK != (position + start + shape.tail_size - 1) // _BLOCK:
            position = _round_up(position, _BLOCK)
        if start + shape.tail_size >= _BLOCK:
            shape = Shape(_LINK, block_count=1)
        return position, shape
    room = _BLOCK - (position + start) % _BLOCK
    if room >= shape.tail_size:
        return position, shape
    padding = _round_up(room, _SLOT)
    if shape.tail_size <= _BLOCK - (position + padding + start) % _BLOCK:
        return position + padding, shape
    # Of many addresses of chunks, which then are a block.
    return _round_up(position, _BLOCK), replace(shape, tail_size=0, block_count=1)


def _fit2(position: int, start: int, shape: Shape) -> tuple[int, Shape]:
    if shape.layout != ondisk.LAYOUT_FLAT_INLINE:
        return position, shape
    last = position + start - 1
    if last // _BLOCK != (last + 1 + shape.tail_size) // _BLOCK:
        position = _round_up(position + _BLOCK - last % _BLOCK, _SLOT)
    return position, shape


def _round_up(number: int, unit: int) -> int:
    return number + -number % unit
