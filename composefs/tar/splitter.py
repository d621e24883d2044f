"""Split a tar archive into what a splitstream keeps inline and the contents that become objects; no I/O.

Rule 1: this module opens nothing; the caller moves the bytes.
Rule 2: every byte fed comes out in exactly one event, in order: joined, the events are the archive, bit for bit.
        A splitstream rests on that.
Rule 3: what composefs-rs refuses is refused here, with entry and offset; what it passes over is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from composefs import limits
from composefs.errors import FormatError, LimitError
from composefs.tar.header import (
    BLOCK,
    CHECKSUM,
    EXTENSION_NAMES,
    KIND,
    NAME,
    OFFSET_LIMIT,
    PAX_GLOBAL,
    REGULAR,
    SIZE,
    Entry,
    check_sum,
    entry_of,
    is_extension,
    number,
    unpack_header,
)

INLINE_MAX = 64  # bytes; larger contents of regular files become objects
_ZEROS = bytes(BLOCK)
_SHOWN_MAX = 100  # characters of a path that is too long


class Inline(NamedTuple):
    """Bytes to keep inline: headers, padding, small contents, whatever follows the end marker."""

    data: memoryview


class Content(NamedTuple):
    """Bytes *position* to *position* + len(*data*) of the contents of *entry*, which become an object."""

    entry: Entry
    position: int
    data: memoryview


OnEntry = Callable[[Entry, bytes], None]


class TarSplitter:
    """Split the archive called *source* in messages, which is fed piece by piece, cut anywhere.

    Args:
        source: for messages.
        on_entry: called with each entry of which no `Content` comes out, in order with the others; and with its
            contents, if it is a regular file.
    """

    def __init__(self, source: str = "tar archive", on_entry: OnEntry | None = None) -> None:
        self._source, self._on_entry = source, on_entry
        self._offset = 0  # of the first byte not yet fed
        self._base = 0  # offset of the piece being fed
        self._block = bytearray()  # the part of a header block seen so far
        self._small = bytearray()  # the part of small contents seen so far, ...
        self._small_left = 0  # ... and the bytes missing
        self._inline_left = 0  # bytes to pass over: padding, contents of what is no regular file
        self._entry: Entry | None = None  # the last one
        self._content_left = 0  # bytes of contents that are to come out
        self._extension: bytes | None = None  # type of the extension header whose data is coming in
        self._extension_left = 0
        self._extension_data = bytearray()
        self._pending: dict[bytes, bytes] = {}  # extension data waiting for their entry, by type
        self._after_zeros = False  # the last header block was all zeros
        self._ended = False  # the end marker was seen
        self._entries_left = -1  # entries until `feed` stops; negative: it does not
        self._count = 0  # of entries so far
        self._skipped: tuple[int, bytes] | None = None  # offset and header of the last entry, if that was skipped

    def feed(
        self, data: bytes | bytearray | memoryview, start: int = 0, entries: int = -1
    ) -> Iterator[Inline | Content]:
        """Yield the events of *data*, as views of it: consume them all before the next call.

        Args:
            data: a piece of the archive.
            start: where in it what comes next begins.
            entries: stop behind so many of them; `boundary` then says where that is.

        Raises:
            FormatError: the archive is broken, or of a kind that is refused.
        """
        view = memoryview(data)
        size, position, inline_start = len(view), start, start
        self._base = self._offset - start
        self._entries_left = entries
        while position < size and self._entries_left:
            if self._content_left:
                entry = self._entry
                assert entry is not None
                take = min(self._content_left, size - position)
                yield Content(entry, entry.size - self._content_left, view[position : position + take])
                position += take
                self._content_left -= take
                inline_start = position
                if not self._content_left:
                    self._inline_left = -entry.size % BLOCK
                    self._entries_left -= 1
            else:
                position = self._pass(view, position)
                if self._content_left:
                    yield Inline(view[inline_start:position])
                    inline_start = position
        if inline_start < position:
            yield Inline(view[inline_start:position])
        self._offset = self._base + position

    def feed_inline(self, data: bytes | bytearray | memoryview) -> None:
        """Feed *data* in which no contents are that would come out: those are skipped, as by `skip_contents`.

        Raises:
            FormatError: the archive is broken, or contents begin before the end of *data*.
        """
        view = memoryview(data)
        self._base = self._offset
        self._offset += len(view)
        self._entries_left = -1
        if self._pass(view, 0) < len(view):
            assert self._entry is not None
            what = f"{self._content_left} bytes of contents, where an object is due"
            raise FormatError(self._source, self._entry.offset, what, self._entry.name)

    def skip_contents(self) -> Entry:
        """Take the contents that are due now, all of them, for fed, and return whose they are.

        Raises:
            FormatError: no contents begin here.
        """
        entry = self._entry
        if entry is None or not self._content_left or self._content_left != entry.size:
            raise FormatError(self._source, self._offset, "an object, where no contents are due")
        if self._offset + entry.size >= OFFSET_LIMIT:
            raise FormatError(self._source, entry.offset, f"contents of {entry.size} bytes", entry.name)
        self._offset += entry.size
        self._content_left = 0
        self._inline_left = -entry.size % BLOCK
        return entry

    @property
    def offset(self) -> int:
        """Of the first byte not yet fed."""
        return self._offset

    @property
    def boundary(self) -> tuple[int, int] | None:
        """Where the next entry is due: the offset of the first byte not yet fed, and how many to pass over.

        None: something else is due, or something is known that the next entry depends on.
        """
        if (
            self._content_left
            or self._small_left
            or self._block
            or self._extension is not None
            or self._pending
            or self._after_zeros
        ):
            return None
        return self._offset, self._inline_left

    def skip_entries(self, count: int, offset: int, padding: int, last: tuple[int, bytes] | None = None) -> None:
        """Take what is before *offset* for fed: whole entries, after which *padding* bytes are still to be passed over.

        Args:
            count: how many entries.
            offset: bytes from the start of the archive.
            padding: bytes.
            last: offset and header of the last of the entries; without it errors of `close` name the right entry only
                once another one was fed.

        Raises:
            LimitError: they are too many.
        """
        self._offset, self._inline_left, self._skipped = offset, padding, last
        self._count += count
        if self._count > limits.ENTRIES:
            raise self._too_many(offset)

    def close(self) -> None:
        """Say that no more data comes.

        Raises:
            FormatError: the archive ends where it must not.
        """
        if self._ended:
            return
        if self._skipped is not None:
            offset, block = self._skipped
            self._entry = entry_of(offset, unpack_header(block), {})
        entry = self._entry.name if self._entry is not None else None
        if self._content_left:
            what = f"archive ends {self._content_left} bytes before the contents do"
        elif self._small_left or self._inline_left:
            what = f"archive ends {self._small_left + self._inline_left} bytes before the contents and their padding do"
        elif self._extension is not None:
            what = f"archive ends inside {EXTENSION_NAMES[self._extension]} data"
        elif self._block:
            what = f"archive ends {len(self._block)} bytes into a header block"
        elif self._after_zeros:
            what = "archive ends after a single zero block"
        elif self._pending:
            what = "archive ends between an extension header and its entry"
        else:
            return
        raise FormatError(self._source, self._offset, what, entry)

    def _pass(self, view: memoryview, position: int) -> int:
        """Go over inline bytes from *position* on, to the end or to contents that are to come out; return where."""
        size = len(view)
        while position < size and not self._content_left and self._entries_left:
            start = position
            if self._small_left:
                position = min(start + self._small_left, size)
                self._small += view[start:position]
                self._small_left -= position - start
                if not self._small_left:
                    self._end_small()
            elif self._inline_left:
                position = min(start + self._inline_left, size)
                self._inline_left -= position - start
            elif self._ended:
                position = size
            elif self._extension is not None:
                position = min(start + self._extension_left, size)
                self._extension_data += view[start:position]
                self._extension_left -= position - start
                if not self._extension_left:
                    self._end_extension()
            elif not self._block and start + BLOCK <= size:
                position = start + BLOCK
                self._header(bytes(view[start:position]), self._base + start)
            else:
                position = min(start + BLOCK - len(self._block), size)
                self._block += view[start:position]
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._header(block, self._base + position - BLOCK)
        return position

    def _header(self, block: bytes, offset: int) -> None:
        """Take one block at a place where a header is due."""
        if block == _ZEROS:
            if self._after_zeros:
                if self._pending:
                    raise FormatError(self._source, offset, "archive ends between an extension header and its entry")
                self._ended = True
            self._after_zeros = True
            return
        self._after_zeros = False
        fields = unpack_header(block)
        kind = fields[KIND]
        try:
            check_sum(block, fields[CHECKSUM])
            if is_extension(fields):
                self._begin_extension(fields, offset)
                return
            entry = entry_of(offset, fields, self._pending)
        except ValueError as error:
            raise FormatError(self._source, offset, str(error), _name(fields)) from None
        if self._pending:
            self._pending = {}
            self._check_sizes(entry)
        self._count += 1
        if self._count > limits.ENTRIES:
            raise self._too_many(offset)
        self._entry, self._skipped = entry, None
        size = entry.size
        if kind not in REGULAR:
            self._inline_left = size + -size % BLOCK
        elif size > INLINE_MAX:
            self._content_left = size
            return
        elif size:
            self._small_left, self._inline_left = size, -size % BLOCK
            return
        self._entries_left -= 1
        if self._on_entry is not None:
            self._on_entry(entry, b"")

    def _end_small(self) -> None:
        assert self._entry is not None
        self._entries_left -= 1
        if self._on_entry is not None:
            self._on_entry(self._entry, bytes(self._small))
        self._small.clear()

    def _too_many(self, offset: int) -> LimitError:
        return LimitError(self._source, offset, "entries", limits.ENTRIES)

    def _check_sizes(self, entry: Entry) -> None:
        """Check what extension headers can make large."""
        names_size = sum(map(len, entry.xattrs)) + len(entry.xattrs)
        for what, limit, got in (
            ("bytes of path", limits.PATH_SIZE, len(entry.path)),
            ("bytes of names of extended attributes", limits.XATTR_NAMES_SIZE, names_size),
        ):
            if got > limit:
                shown = entry.name if len(entry.name) <= _SHOWN_MAX else f"{entry.name[:_SHOWN_MAX]}..."
                raise LimitError(self._source, entry.offset, what, limit, got, entry=shown)

    def _begin_extension(self, fields: tuple[bytes, ...], offset: int) -> None:
        kind, size = fields[KIND], number(fields[SIZE])
        if kind == PAX_GLOBAL:
            self._pending = {}  # as the reference does: what stands before a global header is lost
        elif kind in self._pending:
            raise ValueError(f"second {EXTENSION_NAMES[kind]} for one entry")
        total = size + sum(map(len, self._pending.values()))
        if total > limits.TAR_METADATA_SIZE:
            what = "bytes of extension headers"
            raise LimitError(self._source, offset, what, limits.TAR_METADATA_SIZE, total, entry=_name(fields))
        self._extension, self._extension_left = kind, size
        self._extension_data.clear()
        if size == 0:
            self._end_extension()

    def _end_extension(self) -> None:
        kind, data = self._extension, bytes(self._extension_data)
        assert kind is not None
        if kind != PAX_GLOBAL:
            self._pending[kind] = data
        self._inline_left = -len(data) % BLOCK
        self._extension = None


def _name(fields: tuple[bytes, ...]) -> str:
    """Return what a header itself calls its entry."""
    return fields[NAME].partition(b"\0")[0].decode("utf-8", "backslashreplace")
