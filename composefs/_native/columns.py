"""What C does with trees in columns: merging layers, and writing EROFS images.

As everywhere here no buffer is copied or kept, the GIL is released, and a negative errno becomes an exception.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from composefs._native.core import check, ffi, lib

if TYPE_CHECKING:
    from composefs._cfs import ErofsLayout, Merged, MergedSizes

Column: TypeAlias = "bytes | bytearray | memoryview | array[int]"
_INODE_SIZE, _DIRECTORY_SIZE, _NODE_SIZE, _ROW_SIZE, _STAT_SIZE = 80, 16, 32, 32, 24  # bytes of a record
_DUMP_PIECE = 1 << 18  # bytes; a guess: in the caches of the CPU


class Refusal(IntEnum):
    """Why an entry cannot be had: `enum refusal` of csrc/merge.c."""

    DIRECTORY_GOES_UP = 1
    DIRECTORY_IS_MISSING = 2
    DIRECTORY_IS_NONE = 3
    TARGETS_DIRECTORY_GOES_UP = 4
    TARGETS_DIRECTORY_IS_MISSING = 5
    TARGETS_DIRECTORY_IS_NONE = 6
    TARGET_IS_MISSING = 7
    TARGET_IS_DIRECTORY = 8
    ENTRY_IS_REFUSED = 9


class BatchColumns(NamedTuple):
    """Entries of a layer, as `struct cfs_batch` of csrc/cfs_api.h: records and texts of its index."""

    rows: Column
    names: Column
    directories: Column
    directory_ends: Column
    stats: Column
    xattrs: Column  # numbers of sets that the caller knows, by number of the stat; 32 bits
    values: Column


class MergedColumns(NamedTuple):
    """A merged tree, depth first and by name, as `struct cfs_merged` of csrc/cfs_api.h."""

    nodes: memoryview  # records, as `struct merged_node` of csrc/merge.h
    directories: memoryview  # records, as `struct directory_record` of csrc/erofs.h
    children: memoryview  # of the dirents: nodes
    name_ends: memoryview  # of the dirents, in the names
    names: memoryview
    values: memoryview  # of the nodes, back to back
    stats: memoryview  # 24 bytes each, as in the index
    xattrs: memoryview  # numbers of sets, by number of the stat


class Merger:
    """Merges layers; for one thread at a time.

    Methods raise OSError (EINVAL), for batches that lie, or MemoryError.
    """

    def __init__(self) -> None:
        out = ffi.new("struct cfs_merger **")
        check(lib.cfs_merger_new(out))
        self._merger = ffi.gc(out[0], lib.cfs_merger_free)

    def apply(self, batch: BatchColumns) -> tuple[int, Refusal] | None:
        """Put a batch over what there is.

        Returns:
            The first row that cannot be had, and why, if any.
        """
        buffers = [ffi.from_buffer(column) for column in batch]
        records, texts, paths, ends, metadata, sets, data = buffers
        source = ffi.new(
            "struct cfs_batch *",
            (
                records,
                len(records) // _ROW_SIZE,
                ffi.cast("char *", texts),
                len(texts),
                ffi.cast("char *", paths),
                len(paths),
                ffi.cast("uint32_t *", ends),
                len(ends) // 4,
                metadata,
                ffi.cast("uint32_t *", sets),
                len(metadata) // _STAT_SIZE,
                ffi.cast("char *", data),
                len(data),
            ),
        )
        row = ffi.new("size_t *")
        why = check(lib.cfs_merger_apply(self._merger, source, row))
        return (int(row[0]), Refusal(why)) if why else None

    def find(self, path: bytes) -> tuple[int, bytes, int] | None:
        """Return kind, packed stat and number of the xattrs of what is at *path*, if anything is."""
        kind, stat, xattrs = ffi.new("uint8_t *"), bytearray(_STAT_SIZE), ffi.new("uint32_t *")
        ret = lib.cfs_merger_find(self._merger, path, len(path), kind, ffi.from_buffer(stat), xattrs)
        return (int(kind[0]), bytes(stat), int(xattrs[0])) if ret == 0 else None

    def list(self) -> MergedColumns:
        """Return the tree."""
        sizes = cast("MergedSizes", ffi.new("struct cfs_merged_sizes *"))
        lib.cfs_merger_measure(self._merger, sizes)
        nodes = sizes.dirent_count + 1
        # Zeros that nobody writes to take no memory.
        columns = [
            bytearray(size)
            for size in (
                nodes * _NODE_SIZE,
                nodes * _DIRECTORY_SIZE,
                nodes * 4,
                nodes * 4,
                sizes.names_size,
                sizes.values_size,
                sizes.stat_count * _STAT_SIZE,
                sizes.stat_count * 4,
            )
        ]
        out, held = _merged(columns)
        check(lib.cfs_merger_list(self._merger, out))
        del held
        ends = (
            out.node_count * _NODE_SIZE,
            out.directory_count * _DIRECTORY_SIZE,
            out.dirent_count * 4,
            out.dirent_count * 4,
            out.names_size,
            out.values_size,
        )
        views = [memoryview(column) for column in columns]
        return MergedColumns(*(view[:end] for view, end in zip(views, ends, strict=False)), *views[len(ends) :])


def format_dump(columns: MergedColumns, xattrs: Sequence[bytes]) -> Iterator[memoryview]:
    """Yield the dump of a tree in large pieces, each of which the next one overwrites.

    Args:
        columns: the tree.
        xattrs: fields of the sets by number, each behind a blank.

    Raises:
        MemoryError: there is none.
    """
    merged, held = _merged(columns)
    merged.node_count = len(columns.nodes) // _NODE_SIZE
    merged.directory_count = len(columns.directories) // _DIRECTORY_SIZE
    texts = ffi.from_buffer(b"".join(xattrs))
    ends = ffi.from_buffer(array("I", accumulate(map(len, xattrs))))
    out = ffi.new("struct cfs_dumper **")
    source = ffi.cast("char *", texts)
    check(lib.cfs_dumper_new(merged, source, ffi.cast("uint32_t *", ends), len(xattrs), out))
    dumper = ffi.gc(out[0], lib.cfs_dumper_free)
    data = bytearray(_DUMP_PIECE)
    while True:
        size = lib.cfs_dumper_write(dumper, ffi.from_buffer(data), len(data))
        if size == -errno.ENOSPC:
            data = bytearray(2 * len(data))
        elif check(size) == 0:
            break
        else:
            yield memoryview(data)[:size]
    del held


def pack_inodes(columns: MergedColumns, sets: array[int], epoch: int, whiteout_count: int) -> bytearray | None:
    """Return the records of the inodes of an image, as `struct inode_record` of csrc/erofs.h.

    Args:
        columns: the tree.
        sets: the numbers of sets of xattrs in the image, by those of the tree.
        epoch: 1 or 2.
        whiteout_count: of character devices 0, 0 that are to stand there as they are.

    Returns:
        The records, or None if there are more of these, or anything else that an image cannot have as it is.
    """
    merged, held = _merged(columns)
    merged.node_count = len(columns.nodes) // _NODE_SIZE
    merged.dirent_count = len(columns.name_ends) // 4
    records = bytearray(merged.node_count * _INODE_SIZE)
    numbers, target = ffi.from_buffer(sets), ffi.from_buffer(records)
    source = ffi.cast("uint32_t *", numbers)
    ret = check(lib.cfs_erofs_inodes(merged, source, len(sets), epoch, whiteout_count, target))
    del held
    return records if ret == 0 else None


def _merged(columns: Sequence[Column]) -> tuple[Merged, list[object]]:
    """Return *columns* for C, and what that points to."""
    buffers = [ffi.from_buffer(column) for column in columns]
    types = ("void *", "void *", "uint32_t *", "uint32_t *", "char *", "char *", "void *", "uint32_t *")
    pointers = [ffi.cast(name, buffer) for name, buffer in zip(types, buffers, strict=True)]
    return cast("Merged", ffi.new("struct cfs_merged *", pointers)), [*buffers]


class ErofsGroup(NamedTuple):
    """Inodes whose xattrs are the same in the image, as `struct cfs_erofs_group` of csrc/cfs_api.h."""

    first: int  # inode
    size: int  # how many inodes
    xattrs: int  # number of their set
    is_repeated: bool  # they are all the same object
    payload_offset: int  # of the first one


class ErofsPlaces(NamedTuple):
    """What the places of all inodes come to."""

    oldest: tuple[int, int]  # seconds and nanoseconds: the mtime of compact inodes
    inodes_end: int  # bytes from the start of the image
    block_count: int  # of the image


class ErofsColumns(NamedTuple):
    """What an image has beside inodes; the first directory is that of the root."""

    directories: Column  # records, as `struct directory_record` of csrc/erofs.h
    children: Column  # inodes of the dirents: those of a directory by name, and those of all follow each other; 32 bits
    name_ends: Column  # of the dirents, in the names; 32 bits
    names: Column  # of the dirents, back to back
    payloads: Column  # of the inodes, back to back: digest of the object, or data; nothing of a directory


class ErofsTree:
    """A tree as the EROFS writer has it: columns, and what `struct cfs_erofs_tree` of csrc/cfs_api.h says of them.

    Methods raise OSError: EINVAL, for records that lie; EOVERFLOW, for what no image has room for.
    """

    def __init__(self, records: bytearray, columns: ErofsColumns) -> None:
        buffers = [ffi.from_buffer(column) for column in (records, *columns)]
        inodes, folders, numbers, ends, texts, data = self._buffers = buffers
        counts = (len(inodes) // _INODE_SIZE, len(folders) // _DIRECTORY_SIZE, len(ends) // 4)
        self._inode_count = counts[0]
        self._tree = ffi.new(
            "struct cfs_erofs_tree *",
            (
                inodes,
                counts[0],
                folders,
                counts[1],
                ffi.cast("uint32_t *", numbers),
                ffi.cast("uint32_t *", ends),
                counts[2],
                ffi.cast("char *", texts),
                len(texts),
                data,
                len(data),
            ),
        )

    def order(self) -> array[int]:
        """Return the inodes in the order of epoch 1, each where its home is."""
        order = array("I", bytes(4 * self._inode_count))
        target = ffi.from_buffer(order)
        check(lib.cfs_erofs_order(self._tree, ffi.cast("uint32_t *", target)))
        return order

    def group(self) -> list[ErofsGroup]:
        """Return the groups of inodes, whose numbers take the place of those of the sets of xattrs in the records."""
        groups = ffi.new("struct cfs_erofs_group[]", self._inode_count)
        count = check(lib.cfs_erofs_group(self._tree, groups))
        return [
            ErofsGroup(group.first, group.count, group.xattrs, bool(group.is_repeated), group.payload_offset)
            for group in (groups[number] for number in range(count))
        ]

    def place(
        self, epoch: int, order: array[int] | None, areas: Column, area_count: int, shared_size: int, *, is_signed: bool
    ) -> ErofsPlaces:
        """Say of all inodes where they stand.

        Args:
            epoch: 1 or 2.
            order: in which the inodes stand in the image; None: as they are.
            areas: their xattrs, by what the records have for their number: records.
            area_count: how many these are.
            shared_size: bytes of shared xattrs.
            is_signed: whether a time before 1970 is the oldest.
        """
        layout, held = self._layout(order, areas, area_count)
        layout.epoch, layout.is_signed, layout.shared_size = epoch, is_signed, shared_size
        check(lib.cfs_erofs_place(self._tree, layout))
        del held
        return ErofsPlaces((layout.oldest, layout.oldest_nanoseconds), layout.inodes_end, layout.block_count)

    def pack(self, image: bytearray, areas: Column, area_count: int, area_data: Column) -> None:
        """Put all inodes and their data into an *image* of zeros."""
        layout, held = self._layout(None, areas, area_count)
        source, target = ffi.from_buffer(area_data), ffi.from_buffer(image)
        layout.area_data, layout.area_data_size, layout.image, layout.image_size = (
            source,
            len(source),
            target,
            len(target),
        )
        check(lib.cfs_erofs_pack(self._tree, layout))
        del held

    def _layout(
        self, order: array[int] | None, areas: Column, area_count: int
    ) -> tuple[ErofsLayout, tuple[object, ...]]:
        """Return a layout, and what it points to."""
        layout = cast("ErofsLayout", ffi.new("struct cfs_erofs_layout *"))
        source = ffi.from_buffer(areas)
        numbers = None if order is None else ffi.from_buffer(order)
        layout.areas, layout.area_count = source, area_count
        layout.order = ffi.NULL if numbers is None else ffi.cast("uint32_t *", numbers)
        return layout, (source, numbers)
