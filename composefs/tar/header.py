"""Headers of tar archives: one block, and the extensions that may stand before it.

Formats: v7, ustar, GNU (long names, base-256 numbers) and pax (extended and global headers), after POSIX.1-2017 "pax"
and GNU tar's manual, "Basic Tar Format".  Sparse members are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from struct import Struct
from typing import Any, NamedTuple

from composefs import _native

BLOCK = 512  # bytes; headers are one block, contents are padded to whole ones

# name; mode, uid and gid; size; mtime; checksum; type; link name; magic and version;
# (user name, group name;) device major and minor; prefix
_HEADER = Struct("<100s24s12s12s8sc100s8s64x16s155s12x")
assert _HEADER.size == BLOCK
unpack_header = _HEADER.unpack
NAME, SIZE, CHECKSUM, KIND, MAGIC = 0, 2, 4, 5, 7  # places among its fields

_USTAR = b"ustar\x0000"
_GNU = b"ustar  \x00"
_MAGICS = frozenset([_USTAR, _GNU])

REGULAR = frozenset([b"0", b"\0", b"7"])  # type flags; 7: contiguous, in practice a regular file
PAX_GLOBAL = b"g"
_PAX_EXTENDED, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"L", b"K", b"S"
EXTENSION_NAMES = {
    _PAX_EXTENDED: "extended header",
    PAX_GLOBAL: "global header",
    _LONG_NAME: "long name",
    _LONG_LINK: "long link target",
}
_XATTR_PREFIX = b"SCHILY.xattr."
_BLANKS = b" \t\n\v\f\r"
OFFSET_LIMIT = 1 << 63  # bytes; offsets of files are signed


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


def is_extension(fields: tuple[bytes, ...]) -> bool:
    """Tell whether a header with these *fields* belongs to the next one, or to all that follow."""
    kind = fields[KIND]
    return kind in EXTENSION_NAMES and (kind == PAX_GLOBAL or fields[MAGIC] in _MAGICS)


def check_sum(block: bytes, field: bytes) -> None:
    """Check the checksum *field* of a header block.

    Raises:
        ValueError: it is wrong.
    """
    got = _native.sum_bytes(block) - sum(field) + len(field) * ord(" ")
    wanted = _octal(field)
    if got != wanted:
        raise ValueError(f"header checksum: wanted {wanted}, got {got}")


def entry_of(offset: int, fields: tuple[bytes, ...], pending: dict[bytes, bytes]) -> Entry:
    """Return the entry of a header with these *fields*.

    Args:
        offset: of the header, bytes from the start of the archive.
        fields: of the header.
        pending: the data of extensions for it, by type flag.

    Raises:
        ValueError: something about it is wrong, or it is sparse.
    """
    name, mode_and_owner, size, mtime, _, kind, link, magic, device, prefix = fields
    if kind == _SPARSE and magic in _MAGICS:
        raise ValueError("sparse entries are not supported")
    path = name.partition(b"\0")[0]
    if magic == _USTAR and prefix[0]:
        prefix = prefix.partition(b"\0")[0]
        path = prefix + b"/" + path if path else prefix
    mode, uid, gid = _mode_and_owner(mode_and_owner)
    numbers = (number(size), mode, uid, gid, number(mtime))
    target = link.partition(b"\0")[0]
    entry = Entry(offset, path, kind, *numbers, 0, target, _device(device) if magic in _MAGICS else None, {})
    if pending:
        entry = _extended(entry, pending)
    if not entry.path:
        raise ValueError("empty name")
    if entry.size >= OFFSET_LIMIT:
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


@functools.lru_cache(maxsize=1024)  # an archive has few
def _mode_and_owner(field: bytes) -> tuple[int, int, int]:
    return number(field[:8]), number(field[8:16]), number(field[16:])


@functools.lru_cache(maxsize=1024)
def _device(field: bytes) -> tuple[int, int]:
    return _octal(field[:8]), _octal(field[8:])


def number(field: bytes) -> int:
    """Return a numeric field: octal, or base-256 modulo 2**64 if its first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value & 0xFFFF_FFFF_FFFF_FFFF
    return _octal(field)


def _octal(field: bytes) -> int:
    text = field.rstrip(b"\0 ")
    if not text.isdigit():  # int() alone would take signs, underscores and a prefix
        text = field.partition(b"\0")[0].strip(_BLANKS)
        if not text:
            return 0
        text = text.removeprefix(b"+")
    try:
        if text.isdigit():
            return int(text, 8)
    except ValueError:  # an 8 or a 9
        pass
    raise ValueError(f"numeric field {field!r} is not octal")
