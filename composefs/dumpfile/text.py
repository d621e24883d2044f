r"""Escapes of dumps: `\\`, `\n`, `\r`, `\t`, and `\xHH` for all else that is no visible ASCII character.

Source: composefs-dump(5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from composefs.digest import Algorithm

ABSENT = b"-"  # a field without a value
_VISIBLE = bytes(range(0x21, 0x7F))
_PLAIN = _VISIBLE.replace(b"\\", b"")  # what stands for itself
_PLAIN_IN_XATTRS = _PLAIN.replace(b"=", b"")  # which parts name and value
_BACKSLASH = ord("\\")
_HEX = b"0123456789abcdefABCDEF"
_OBJECT_PATH_SIZES = {2 * algorithm.digest_size + 1 for algorithm in Algorithm}

_NAMED = {ord("\\"): b"\\\\", ord("\n"): b"\\n", ord("\r"): b"\\r", ord("\t"): b"\\t"}
_CODES = {code: b"\\x%02x" % code for code in range(256)} | _NAMED
_ESCAPE = re.compile(rb"\\(?:x[0-9A-Fa-f]{2}|[\\nrt]|)")
_ESCAPE_WITH_PLUS = re.compile(rb"\\(?:x[+0-9A-Fa-f][0-9A-Fa-f]|[\\nrt]|)")
_MEANINGS = {
    f"\\x{first}{second}".encode(): bytes([int(first + second, 16)])
    for first in "+0123456789abcdefABCDEF"
    for second in "0123456789abcdefABCDEF"
} | {code: byte.to_bytes() for byte, code in _NAMED.items()}


class BadEscapeError(ValueError):
    """There is no such escape as that at *position*."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def escape_all(names: Sequence[bytes]) -> Sequence[bytes]:
    """Return *names*, parts of paths, with escapes."""
    if not b"".join(names).translate(None, _PLAIN):  # one look for all: mostly there are none
        return names
    return [escape(name) for name in names]


def escape(value: bytes) -> bytes:
    """Return *value* with escapes."""
    special = value.translate(None, _PLAIN)
    return _with_codes(value, special) if special else value


def escape_field(value: bytes) -> bytes:
    """Return *value* as a field: an empty one is `-`, so that a real `-` has an escape."""
    if value == ABSENT:
        return rb"\x2d"
    return escape(value) or ABSENT


def escape_xattr(name: bytes, value: bytes) -> bytes:
    """Return an extended attribute as a field."""
    parts = (_with_codes(part, part.translate(None, _PLAIN_IN_XATTRS)) for part in (name, value))
    return b"=".join(parts)


def unescape(value: bytes, *, plus: bool = False) -> bytes:
    r"""Return what *value* stands for.

    Args:
        value: a field, or a part of one.
        plus: take also `\x+H`, as composefs-rs does.

    Raises:
        BadEscapeError: there is no such escape.
    """
    return (_ESCAPE_WITH_PLUS if plus else _ESCAPE).sub(_byte, value)


def object_digest(path: bytes) -> bytes | None:
    """Return the raw digest of the object at *path* below the object directory, None if it is no such path."""
    if len(path) in _OBJECT_PATH_SIZES and path[2:3] == b"/":
        return raw_digest(path[:2] + path[3:])
    return None


def raw_digest(digits: bytes) -> bytes | None:
    """Return the digest that hexadecimal *digits* of any case and length are, None if they are none."""
    if len(digits) % 2 or digits.translate(None, _HEX):
        return None
    return bytes.fromhex(digits.decode())


def _with_codes(value: bytes, special: bytes) -> bytes:
    """Return *value* with escapes for the bytes in *special*."""
    codes = set(special)
    if _BACKSLASH in codes:  # first: the other escapes have some
        codes.remove(_BACKSLASH)
        value = value.replace(b"\\", b"\\\\")
    for code in codes:
        value = value.replace(code.to_bytes(), _CODES[code])
    return value


def _byte(match: re.Match[bytes]) -> bytes:
    try:
        return _MEANINGS[match[0]]
    except KeyError:  # a backslash alone
        raise BadEscapeError(match.start()) from None
