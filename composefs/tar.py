"""Split a tar archive into what a splitstream keeps inline and the contents that become objects; no I/O.

Rule 1: this module opens nothing; the caller moves the bytes.
Rule 2: every byte fed comes out in exactly one event, in order: joined, the events are the archive, bit for bit.
        A splitstream rests on that.
Rule 3: what composefs-rs refuses is refused here, with entry and offset; what it passes over is passed over.

Formats: v7, ustar, GNU (long names, base-256 numbers) and pax (extended and global headers), after POSIX.1-2017 "pax"
and GNU tar's manual, "Basic Tar Format".  Sparse members are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from struct import Struct
from typing import Any, NamedTuple

from composefs import _native
from composefs.errors import FormatError

BLOCK = 512  # bytes; headers are one block, contents are padded to whole ones
INLINE_MAX = 64  # bytes; larger contents of regular files become objects
METADATA_MAX = 1 << 20  # bytes of extension data that one entry, or one global header, may have

# name, mode, uid, gid, size, mtime, checksum, type, link name, magic and version,
# user name, group name, device major, minor, prefix
_HEADER = Struct("<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
assert _HEADER.size == BLOCK
_ZEROS = bytes(BLOCK)

_USTAR = b"ustar\x0000"
_GNU = b"ustar  \x00"

_REGULAR = frozenset([b"0", b"\0", b"7"])  # 7: contiguous, in practice a regular file
_PAX_EXTENDED, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_EXTENSION_NAMES = {
    _PAX_EXTENDED: "extended header",
    _PAX_GLOBAL: "global header",
    _LONG_NAME: "long name",
    _LONG_LINK: "long link target",
}
_XATTR_PREFIX = b"SCHILY.xattr."
_BLANKS = b" \t\n\v\f\r"
_SIZE_LIMIT = 1 << 63  # bytes; offsets of files are signed


class Entry(NamedTuple):
    """One member of an archive, extensions applied; numbers as written, up to 64 bits."""

    offset: int  # of its header block, bytes from the start of the archive
    path: bytes
    kind: bytes  # type flag, one byte
    size: int  # bytes of contents
    mode: int
    uid: int
    gid: int
    mtime: int  # seconds, modulo 2**64
    nanoseconds: int  # of the mtime
    link_target: bytes
    device: tuple[int, int] | None  # major, minor; None in headers that have no such fields
    xattrs: dict[bytes, bytes]

    @property
    def name(self) -> str:
        """The path as text for people."""
        return self.path.decode("utf-8", "backslashreplace")


class Inline(NamedTuple):
    """Bytes to keep inline: headers, padding, small contents, whatever follows the end marker."""

    data: memoryview


class Content(NamedTuple):
    """Bytes *position* to *position* + len(*data*) of the contents of *entry*, which become an object."""

    entry: Entry
    position: int
    data: memoryview


class TarSplitter:
    """Split the archive called *source* in messages, which is fed piece by piece, cut anywhere."""

    def __init__(self, source: str = "tar archive") -> None:
        self._source = source
        self._offset = 0  # of the first byte not yet fed
        self._block = bytearray()  # the part of a header block seen so far
        self._inline_left = 0  # bytes to pass over: small contents, padding
        self._entry: Entry | None = None  # whose contents are coming out
        self._content_left = 0
        self._extension: bytes | None = None  # type of the extension header whose data is coming in
        self._extension_left = 0
        self._extension_data = bytearray()
        self._pending: dict[bytes, bytes] = {}  # extension data waiting for their entry, by type
        self._after_zeros = False  # the last header block was all zeros
        self._ended = False  # the end marker was seen

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Inline | Content]:
        """Yield the events of *data*, as views of it: consume them all before the next call.

        Raises:
            FormatError: the archive is broken, or of a kind that is refused.
        """
        view = memoryview(data)
        size, position, inline_start = len(view), 0, 0
        base = self._offset
        self._offset += size
        while position < size:
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
            elif self._inline_left:
                take = min(self._inline_left, size - position)
                position += take
                self._inline_left -= take
            elif self._ended:
                position = size
            elif self._extension is not None:
                take = min(self._extension_left, size - position)
                self._extension_data += view[position : position + take]
                position += take
                self._extension_left -= take
                if not self._extension_left:
                    self._end_extension()
            else:
                take = min(BLOCK - len(self._block), size - position)
                self._block += view[position : position + take]
                position += take
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._header(block, base + position - BLOCK)
                    if self._content_left:
                        yield Inline(view[inline_start:position])
                        inline_start = position
        if inline_start < size:
            yield Inline(view[inline_start:])

    def close(self) -> None:
        """Say that no more data comes.

        Raises:
            FormatError: the archive ends where it must not.
        """
        if self._ended:
            return
        entry = self._entry.name if self._entry is not None else None
        if self._content_left:
            what = f"archive ends {self._content_left} bytes before the contents do"
        elif self._inline_left:
            what = f"archive ends {self._inline_left} bytes before the contents and their padding do"
        elif self._extension is not None:
            what = f"archive ends inside {_EXTENSION_NAMES[self._extension]} data"
        elif self._block:
            what = f"archive ends {len(self._block)} bytes into a header block"
        elif self._after_zeros:
            what = "archive ends after a single zero block"
        elif self._pending:
            what = "archive ends between an extension header and its entry"
        else:
            return
        raise FormatError(self._source, self._offset, what, entry)

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
        fields = _HEADER.unpack(block)
        kind, magic = fields[7], fields[9]
        try:
            _check_sum(block, fields[6])
            if kind in _EXTENSION_NAMES and (kind == _PAX_GLOBAL or magic in (_USTAR, _GNU)):
                self._begin_extension(kind, _number(fields[4]))
                return
            entry = _entry(offset, fields, self._pending)
        except ValueError as error:
            name = fields[0].partition(b"\0")[0].decode("utf-8", "backslashreplace")
            raise FormatError(self._source, offset, str(error), name) from None
        self._pending = {}
        self._entry = entry
        if entry.kind in _REGULAR and entry.size > INLINE_MAX:
            self._content_left = entry.size
        else:
            self._inline_left = entry.size + -entry.size % BLOCK

    def _begin_extension(self, kind: bytes, size: int) -> None:
        if kind == _PAX_GLOBAL:
            self._pending = {}  # as the reference does: what stands before a global header is lost
        elif kind in self._pending:
            raise ValueError(f"second {_EXTENSION_NAMES[kind]} for one entry")
        total = size + sum(map(len, self._pending.values()))
        if total > METADATA_MAX:
            raise ValueError(f"extension data of {total} bytes, more than {METADATA_MAX}")
        self._extension, self._extension_left = kind, size
        self._extension_data.clear()
        if size == 0:
            self._end_extension()

    def _end_extension(self) -> None:
        kind, data = self._extension, bytes(self._extension_data)
        assert kind is not None
        if kind != _PAX_GLOBAL:
            self._pending[kind] = data
        self._inline_left = -len(data) % BLOCK
        self._extension = None


def _check_sum(block: bytes, field: bytes) -> None:
    got = _native.sum_bytes(block) - sum(field) + len(field) * ord(" ")
    wanted = _octal(field)
    if got != wanted:
        raise ValueError(f"header checksum: wanted {wanted}, got {got}")


def _entry(offset: int, fields: tuple[bytes, ...], pending: dict[bytes, bytes]) -> Entry:
    """Return the entry of a header block's *fields*, with the extensions *pending* for it."""
    name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix = fields
    if kind == _SPARSE and magic in (_USTAR, _GNU):
        raise ValueError("sparse entries are not supported")
    path = name.partition(b"\0")[0]
    if magic == _USTAR and prefix[0]:
        prefix = prefix.partition(b"\0")[0]
        path = prefix + b"/" + path if path else prefix
    device = (_octal(major), _octal(minor)) if magic in (_USTAR, _GNU) else None
    numbers = (_number(size), _number(mode), _number(uid), _number(gid), _number(mtime))
    entry = Entry(offset, path, kind, *numbers, 0, link.partition(b"\0")[0], device, {})
    if pending:
        entry = _extended(entry, pending)
    if not entry.path:
        raise ValueError("empty name")
    if entry.size >= _SIZE_LIMIT:
        raise ValueError(f"size of {entry.size} bytes")
    return entry


def _extended(entry: Entry, pending: dict[bytes, bytes]) -> Entry:
    """Return *entry* with its extensions applied: pax records go over GNU's long names."""
    changes: dict[str, Any] = {}
    if _LONG_NAME in pending:
        changes["path"] = pending[_LONG_NAME].removesuffix(b"\0")
    if _LONG_LINK in pending:
        changes["link_target"] = pending[_LONG_LINK].removesuffix(b"\0")
    if _PAX_EXTENDED in pending:
        changes |= _pax_changes(pending[_PAX_EXTENDED])
    return entry._replace(**changes)


def _pax_changes(data: bytes) -> dict[str, Any]:
    """Return the fields of an entry that the pax records in *data* set."""
    changes: dict[str, Any] = {}
    xattrs: dict[bytes, bytes] = {}
    sparse: dict[bytes, bytes] = {}
    sparse_name = None
    for key, value in _pax_records(data):
        if key == b"path":
            changes["path"] = value
        elif key == b"linkpath":
            changes["link_target"] = value
        elif key in (b"size", b"uid", b"gid"):
            changes[key.decode()] = _decimal(key, value)
        elif key == b"mtime":
            seconds, _, fraction = value.partition(b".")
            changes["mtime"] = _decimal(key, seconds)
            changes.setdefault("nanoseconds", _nanoseconds(fraction))  # the reference keeps the first
        elif key.startswith(_XATTR_PREFIX):
            xattrs[key.removeprefix(_XATTR_PREFIX)] = value
        elif key == b"GNU.sparse.name":
            sparse_name = value
        elif key.startswith(b"GNU.sparse."):
            sparse[key.removeprefix(b"GNU.sparse.")] = value
    if (
        b"map" in sparse
        or {b"offset", b"numbytes"} <= sparse.keys()
        or (sparse.get(b"major"), sparse.get(b"minor")) == (b"1", b"0")
    ):
        raise ValueError("sparse entries are not supported")
    if sparse_name is not None:
        changes["path"] = sparse_name
    if xattrs:
        changes["xattrs"] = xattrs
    return changes


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the records `LENGTH KEY=VALUE` and newline; LENGTH counts the whole record."""
    position = 0
    while position < len(data):
        space = data.find(b" ", position)
        length = data[position:space].removeprefix(b"+") if space >= 0 else b""
        if not length.isdigit() or len(length) > 20:
            return  # what does not look like a record ends the list, as in the reference
        end = position + int(length)
        record = data[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or not equals or record[-1:] != b"\n":
            raise ValueError("malformed pax record")
        try:
            key.decode()
        except UnicodeDecodeError:
            raise ValueError(f"pax keyword {key!r} is not UTF-8") from None
        yield key, value[:-1]
        position = end


def _decimal(key: bytes, value: bytes) -> int:
    digits = value.removeprefix(b"+")
    if not digits.isdigit() or len(digits) > 1000 or int(digits) >= 1 << 64:
        raise ValueError(f"pax {key.decode()} of {value!r}")
    return int(digits)


def _nanoseconds(fraction: bytes) -> int:
    digits = fraction[:9]
    return int(digits.ljust(9, b"0")) if digits.isdigit() else 0


@functools.lru_cache(maxsize=4096)  # modes, owners, sizes and times repeat
def _number(field: bytes) -> int:
    """Return a numeric field: octal, or base-256 modulo 2**64 if its first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value & 0xFFFF_FFFF_FFFF_FFFF
    return _octal(field)


@functools.lru_cache(maxsize=4096)
def _octal(field: bytes) -> int:
    text = field.partition(b"\0")[0].strip(_BLANKS)
    if not text:
        return 0
    digits = text.removeprefix(b"+")
    try:
        if digits.isdigit():  # int() alone would take signs, underscores and a prefix
            return int(digits, 8)
    except ValueError:
        pass
    raise ValueError(f"numeric field {field!r} is not octal")
