"""What the entries of a layer mean to a tree: noted where the archive is split, taken in where layers are merged.

An index is a series of batches, each some columns with a row for each entry: small to keep, cheap to send from a worker
and to go through, and never all in memory where a layer has too many entries.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, count, islice, pairwise
from struct import Struct
from typing import NamedTuple

from composefs._native.columns import Column
from composefs.oci.rows import RowReader, Rows
from composefs.splitstream import External, SplitstreamReader
from composefs.splitstream import Inline as InlineChunk
from composefs.tar import INLINE_MAX, REGULAR, Entry, TarSplitter
from composefs.tree import NO_XATTRS, Content, Inline, Object, Special, Stat, Symlink

BATCH_SIZE = 4096  # rows, less than 1 << 16; a guess: smaller ones share less, larger ones hold more memory
_BATCH_WEIGHT = 1 << 22  # bytes; a guess: only what has huge names or xattrs gets there
_KEPT_WEIGHT = 1 << 28  # bytes; a guess: eight times what a large image has in all its layers
_PIECE = 1 << 11  # bytes of inline data between two looks for plain entries: an extended header, and what it is for
_PAUSE_MAX = 64  # pieces; a guess, then a look costs less than a tenth
_WHITEOUT_PREFIX = b".wh."
_OPAQUE_NAME = b".wh..wh..opq"

_ROW_WEIGHT = 64  # bytes of a row beside what differs in size
_XATTR_WEIGHT = 128  # bytes of an extended attribute beside its name and value
_PLAIN_WEIGHT_MAX = 1024  # of an entry whose name and directory stand in its header, and whose value is short
_STAT = Struct("<IIIqI")  # mode, uid, gid, mtime in seconds and nanoseconds
# struct index_row of csrc/index.h: number, offset, end of the value, directory, stat, kind
_ROW = Struct("=QQIHHB7x")
assert _ROW.size == 32
_MTIME_END = 1 << 63
_U32 = 0xFFFF_FFFF
_NO_NAMES = frozenset([b"", b".", b".."])


class Kind(IntEnum):
    """What becomes of the name of an entry; *value* and *number* are those of its row.  Those of csrc/index.h."""

    OBJECT = 0  # a file: value is the digest of its object, number its size in bytes
    INLINE = 1  # a file: value is what it holds
    DIRECTORY = 2
    SYMLINK = 3  # value is the target
    CHARACTER_DEVICE = 4  # number is that of the device, as the kernel packs it; so with the next
    BLOCK_DEVICE = 5
    FIFO = 6
    HARD_LINK = 7  # value is the path of the target
    ROOT = 8  # the root directory, which has no name
    WHITEOUT = 9  # what has this name goes
    OPAQUE = 10  # all that is in the directory goes
    TARGET = 11  # a leaf must be at the path that is the value, no more
    REFUSED = 12  # no tree can hold it: value says why


_KINDS = {  # by type flag, of all but regular files
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_SPECIAL_TYPES = {
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class Row(NamedTuple):
    """An entry, as a batch has it."""

    kind: int
    directory: int  # number of the directory that it is in
    name: bytes
    stat: int  # number
    value: bytes = b""
    number: int = 0
    offset: int = 0  # of the entry, bytes from the start of the archive


class Batch(NamedTuple):
    """Rows of an index, in the order of the archive: a few long texts, which C reads where they are."""

    rows: bytes  # records, as struct index_row of csrc/index.h
    names: bytes  # of the rows, with a slash behind each
    directories: bytes  # paths such as `usr/bin` by number, back to back; that of the root is empty
    directory_ends: bytes  # where each ends: 32 bits
    packed_stats: bytes  # by number
    xattrs: dict[int, dict[bytes, bytes]]  # by number of the stat, where there are any
    values: bytes  # of the rows, back to back
    weight: int  # bytes of memory, about

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        directories: Sequence[bytes],
        stats: Sequence[bytes],
        xattrs: dict[int, dict[bytes, bytes]],
    ) -> Batch:
        """Return the batch of *rows*, which weighs nothing; the other arguments are by number."""
        ends = accumulate(len(row.value) for row in rows)
        return cls(
            b"".join(
                _ROW.pack(row.number, row.offset, end, row.directory, row.stat, row.kind)
                for row, end in zip(rows, ends, strict=True)
            ),
            b"".join(row.name + b"/" for row in rows),
            b"".join(directories),
            array("I", accumulate(map(len, directories))).tobytes(),
            b"".join(stats),
            xattrs,
            b"".join(row.value for row in rows),
            0,
        )

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.rows) // _ROW.size

    @property
    def stat_count(self) -> int:
        """The number of stats."""
        return len(self.packed_stats) // _STAT.size

    @property
    def first_offset(self) -> int:
        """The offset of the first entry."""
        return int(_ROW.unpack_from(self.rows)[1])

    def each(self) -> Iterator[Row]:
        """Yield the rows."""
        value_start = 0
        for fields, name in zip(_ROW.iter_unpack(self.rows), self.names[:-1].split(b"/"), strict=True):
            number, offset, value_end, directory, number_of_stat, kind = fields
            value = self.values[value_start:value_end]
            value_start = value_end
            yield Row(kind, directory, name, number_of_stat, value, number, offset)

    def paths_of_directories(self) -> list[bytes]:
        """Return the paths of the directories by number."""
        ends = memoryview(self.directory_ends).cast("I")
        return [self.directories[start:end] for start, end in pairwise((0, *ends))]

    def stats(self) -> list[Stat]:
        """Return the stats by number; entries of the batch with equal ones share them."""
        found = unpack_stats(self.packed_stats)
        for number, xattrs in self.xattrs.items():
            found[number] = found[number]._replace(xattrs=xattrs)
        return found

    def row(self, number: int) -> Row:
        """Return the row *number*."""
        return next(islice(self.each(), number, None))

    def path(self, row: Row) -> bytes:
        """Return the path of an entry, without a slash before it."""
        return b"/".join(filter(None, (self.paths_of_directories()[row.directory], row.name)))


def unpack_stats(packed: Column) -> list[Stat]:
    """Return what the packed stats of a batch are, without xattrs."""
    return [Stat(*fields) for fields in _STAT.iter_unpack(packed)]


class LayerIndex(NamedTuple):
    """The index of a layer, which messages call *label*."""

    label: str
    batches: Iterable[Batch]


class Indexer:
    """Make the index of a layer: each batch goes to *sink* when it is full, the last one when all is added."""

    def __init__(self, sink: Callable[[Batch], None]) -> None:
        self._sink = sink
        self._begin()

    def add(self, entry: Entry, content: bytes) -> None:
        """Add the next entry.

        Args:
            entry: that of the archive.
            content: of a file: what it holds, or the digest of its object if it has more than 64 bytes.
        """
        path, xattrs = entry.path, entry.xattrs
        kind, value, number = meaning_of(entry, content)
        directory, _, name = path.strip(b"/").rpartition(b"/")
        if name in _NO_NAMES:
            directory, name = split_path(path)
            if not name:
                kind, value = _root(kind, value)
        place = self._places.get(directory)
        if place is None:
            place = self._add_place(directory)
        packed = _pack_stat(entry)
        key = (packed, *sorted(xattrs.items())) if xattrs else packed
        number_of_stat = self._stats.get(key)
        if number_of_stat is None:
            number_of_stat = self._stats[key] = len(self._stats)
            self._packed_stats += packed
            if xattrs:
                self._xattrs[number_of_stat] = xattrs
                self._weight += sum(_XATTR_WEIGHT + len(name) + len(value) for name, value in xattrs.items())
        if name.startswith(_WHITEOUT_PREFIX) and kind != Kind.REFUSED:
            if kind == Kind.HARD_LINK:  # its target must exist all the same
                self._append((Kind.TARGET, place, name, number_of_stat, value, 0, entry.offset))
            kind = Kind.OPAQUE if name == _OPAQUE_NAME else Kind.WHITEOUT
            name, value = name.removeprefix(_WHITEOUT_PREFIX), b""
        self._append((kind, place, name, number_of_stat, value, number, entry.offset))
        self._weight += _ROW_WEIGHT + len(name) + len(value)
        if len(self._kinds) >= BATCH_SIZE or self._weight > _BATCH_WEIGHT:
            self.flush()

    @property
    def room(self) -> int:
        """How many plain entries, whatever they are called and hold, the batch has room for."""
        return min(BATCH_SIZE - len(self._kinds), (_BATCH_WEIGHT - self._weight) // _PLAIN_WEIGHT_MAX)

    def add_rows(self, rows: Rows) -> None:
        """Add the next entries, at most `room` of them; the index is the one that `add` gives of each."""
        known = self._stats
        new_stats = [packed for packed in dict.fromkeys(rows.stats) if packed not in known]
        known.update(zip(new_stats, count(len(known))))
        self._packed_stats += b"".join(new_stats)
        places = [
            self._add_place(directory) if (place := self._places.get(directory)) is None else place
            for directory in rows.directories
        ]
        values = rows.joined_values
        self._kinds += bytes(rows.kinds)
        self._directory_numbers.extend([places[number] for number in rows.directory_numbers])
        self._names += rows.names
        self._stat_numbers.extend([known[packed] for packed in rows.stats])
        self._values += [values[start:end] for start, end in pairwise((0, *rows.value_ends))]
        self._numbers.extend(rows.numbers)
        self._offsets.extend(rows.offsets)
        self._weight += _ROW_WEIGHT * len(rows.kinds) + sum(map(len, rows.names)) + len(values)
        if len(self._kinds) >= BATCH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Hand over what was added."""
        if self._kinds:
            ends = accumulate(map(len, self._values))
            columns = (self._directory_numbers, self._stat_numbers, self._kinds)
            self._sink(
                Batch(
                    b"".join(map(_ROW.pack, self._numbers, self._offsets, ends, *columns)),
                    b"/".join([*self._names, b""]),
                    b"".join(self._directories),
                    array("I", accumulate(map(len, self._directories))).tobytes(),
                    bytes(self._packed_stats),
                    self._xattrs,
                    b"".join(self._values),
                    self._weight,
                )
            )
            self._begin()

    def _append(self, row: tuple[int, int, bytes, int, bytes, int, int]) -> None:
        kind, place, name, number_of_stat, value, number, offset = row
        self._kinds.append(kind)
        self._directory_numbers.append(place)
        self._names.append(name)
        self._stat_numbers.append(number_of_stat)
        self._values.append(value)
        self._numbers.append(number)
        self._offsets.append(offset)

    def _add_place(self, directory: bytes) -> int:
        number = self._places[directory] = len(self._directories)
        self._directories.append(_clean(directory))
        self._weight += len(directory)
        return number

    def _begin(self) -> None:
        self._kinds = bytearray()
        self._places: dict[bytes, int] = {}  # of directories, as they are spelled -> their numbers
        self._directories: list[bytes] = []
        self._stats: dict[object, int] = {}  # numbers by what is packed, with the xattrs where there are any
        self._packed_stats = bytearray()
        self._xattrs: dict[int, dict[bytes, bytes]] = {}
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._directory_numbers, self._stat_numbers = array("H"), array("H")
        self._numbers, self._offsets = array("Q"), array("Q")
        self._weight = 0


class KeptIndex:
    """An index that is kept whole, unless it grows too large for that."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._weight = 0

    def add(self, batch: Batch) -> None:
        """Append *batch*."""
        self._weight += batch.weight
        if self._weight <= _KEPT_WEIGHT:
            self._batches.append(batch)
        else:
            self._batches.clear()

    def batches(self) -> tuple[Batch, ...] | None:
        """Return all batches, or None: they were too many, and are to be read from the stream of the layer."""
        return tuple(self._batches) if self._weight <= _KEPT_WEIGHT else None


def read_entries(reader: SplitstreamReader, label: str) -> Iterator[tuple[Entry, bytes]]:
    """Yield the entries in the stream of a layer, each with what `Indexer.add` wants; no object is read.

    Raises:
        FormatError: the archive is broken, or files are not kept as those of a layer are.
    """
    found: list[tuple[Entry, bytes]] = []

    def on_entry(entry: Entry, content: bytes) -> None:
        found.append((entry, content))

    splitter = TarSplitter(label, on_entry)
    for chunk in reader.chunks():
        _feed(splitter, on_entry, chunk)
        yield from found
        found.clear()
    splitter.close()


def read_index(reader: SplitstreamReader, label: str) -> Iterator[Batch]:
    """Yield the index of a layer from its stream; errors are those of `read_entries`."""
    full: list[Batch] = []
    indexer = Indexer(full.append)
    splitter, chunks = TarSplitter(label, indexer.add), reader.open_chunks()
    row_reader = RowReader(chunks, splitter)
    pause, next_pause = 0, 1  # pieces to feed before a look for plain entries: longer, where there are none
    while True:
        if pause <= 0 and (place := splitter.boundary) is not None:
            if (rows := row_reader.read(place, indexer.room)) is not None:
                indexer.add_rows(rows)
                next_pause = 1
            pause, next_pause = next_pause, min(2 * next_pause, _PAUSE_MAX)
        chunk = chunks.next(_PIECE)
        if chunk is None:
            break
        _feed(splitter, indexer.add, chunk)
        pause -= 1
        yield from full
        full.clear()
    splitter.close()
    indexer.flush()
    yield from full


def _feed(splitter: TarSplitter, on_entry: Callable[[Entry, bytes], None], chunk: InlineChunk | External) -> None:
    if isinstance(chunk, External):
        on_entry(splitter.skip_contents(), chunk.digest.raw)
    else:
        splitter.feed_inline(chunk.data)


def meaning_of(entry: Entry, content: bytes) -> tuple[Kind, bytes, int]:
    """Return kind, value and number of an entry, whatever its name; *content* is as `Indexer.add` has it."""
    flag = entry.kind
    if flag in REGULAR:
        return (Kind.OBJECT, content, entry.size) if entry.size > INLINE_MAX else (Kind.INLINE, content, 0)
    kind, value, number = _KINDS.get(flag), b"", 0
    if kind is None:
        return Kind.REFUSED, b"is of an unsupported type, %a" % flag, 0
    if kind in (Kind.SYMLINK, Kind.HARD_LINK):
        value = entry.link_target
        if kind == Kind.HARD_LINK and not value:
            return Kind.REFUSED, b"is a hard link to nothing", 0
    elif kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        if entry.device is None:
            return Kind.REFUSED, b"is a device without a number", 0
        number = _device_number(*entry.device)
    return kind, value, number


def content_of(kind: Kind, value: bytes, number: int) -> Content:
    """Return the content of a leaf of *kind*, which is no hard link."""
    match kind:
        case Kind.OBJECT:
            return Object(number, value)
        case Kind.INLINE:
            return Inline(value)
        case Kind.SYMLINK:
            return Symlink(value)
    return Special(_SPECIAL_TYPES[kind], number)


def stat_of(entry: Entry) -> Stat:
    """Return what a tree has of an entry's metadata."""
    mode, uid, gid, mtime, nanoseconds = _STAT.unpack(_pack_stat(entry))
    return Stat(mode, uid, gid, mtime, nanoseconds, entry.xattrs or NO_XATTRS)


def _root(kind: Kind, value: bytes) -> tuple[Kind, bytes]:
    """Return kind and value of an entry that is called as the root."""
    if kind == Kind.DIRECTORY:
        return Kind.ROOT, b""
    return Kind.REFUSED, value if kind == Kind.REFUSED else b"is called as the root, but is no directory"


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Return directory and name of *path*; those of the root are empty, also where it is called `a/..`."""
    directory, _, name = _clean(path).rpartition(b"/")
    return (b"", b"") if name == b".." else (directory, name)


def _clean(path: bytes) -> bytes:
    """Return *path* without what has no effect in it; what goes up stays, for the merge to refuse."""
    return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def _pack_stat(entry: Entry) -> bytes:
    mtime = entry.mtime if entry.mtime < _MTIME_END else entry.mtime - (1 << 64)
    return _STAT.pack(entry.mode & _U32, entry.uid & _U32, entry.gid & _U32, mtime, entry.nanoseconds)


def _device_number(major: int, minor: int) -> int:
    """Return the number of a device as glibc's makedev(3) packs it, of which the kernel has the lower half."""
    major, minor = major & _U32, minor & _U32
    return (major & ~0xFFF) << 32 | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12 | minor & 0xFF
