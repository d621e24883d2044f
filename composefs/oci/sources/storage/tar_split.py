"""What is no contents in the archive of a layer, and where contents go between: the format `tar-split`.

A gzip file of lines, each a JSON object: `type` 2 has bytes of the archive in base64 as `payload`; `type` 1 names a
file, of which the next `size` bytes are the contents, and whose CRC-64 is not looked at: the diff_id proves all.

Source: what podman 4.3 writes.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from composefs import limits
from composefs.errors import FormatError, LimitError

_LINE_MAX = 16 << 20  # bytes; writers put at most about 1 MiB of an archive in one
_FILE, _BYTES = 1, 2  # types


class FileContents(NamedTuple):
    """The contents of a file, *size* bytes, which is at *path* among those of the layer."""

    path: bytes
    size: int


def read_tar_split(file: BinaryIO, source: str) -> Iterator[bytes | FileContents]:
    """Yield the parts of the archive in order: bytes, and contents of files that are not empty.

    Args:
        file: the gzip file; stays the caller's to close.
        source: for messages.

    Raises:
        FormatError: it is cut, or broken in another way.
        LimitError: it is more than a layer may have.
    """
    # Of each entry there are bytes before it and, if it has any, contents.
    lines_max, number, size = 2 * limits.ENTRIES + limits.ARCHIVE_SIZE // _LINE_MAX, 0, 0
    lines = gzip.GzipFile(fileobj=file, mode="rb")
    while line := _next_line(lines, source, number):
        number += 1
        if number > lines_max:
            raise LimitError(source, 0, "lines", lines_max)
        part = _part(line, source, number)
        size += len(part) if isinstance(part, bytes) else part.size
        if size > limits.ARCHIVE_SIZE:
            raise LimitError(source, 0, "bytes of archive", limits.ARCHIVE_SIZE)
        if not isinstance(part, FileContents) or part.size:
            yield part


def _next_line(lines: gzip.GzipFile, source: str, number: int) -> bytes:
    """Return the line behind line *number*, none at the end."""
    try:
        line = lines.readline(_LINE_MAX)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(source, 0, f"broken gzip data behind line {number}: {error}") from None
    if line and not line.endswith(b"\n"):
        if len(line) == _LINE_MAX:
            raise LimitError(source, 0, f"bytes in line {number + 1}", _LINE_MAX)
        raise FormatError(source, 0, f"line {number + 1} is cut")
    return line


def _part(line: bytes, source: str, number: int) -> bytes | FileContents:
    try:
        value = json.loads(line)
        kind = value["type"]
        if kind == _BYTES:
            return base64.b64decode(value["payload"] or "", validate=True)
        if kind == _FILE:
            return FileContents(_path(value), _size(value.get("size", 0)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise FormatError(source, 0, f"line {number} is broken: {type(error).__name__}: {error}") from None
    raise FormatError(source, 0, f"line {number} is of the unknown type {kind!r}")


def _path(value: dict[str, object]) -> bytes:
    raw, name = value.get("name_raw"), value.get("name")
    if isinstance(raw, str) and raw:  # what is no UTF-8
        return base64.b64decode(raw, validate=True)
    if not isinstance(name, str):
        raise ValueError(f"name {name!r} is no text")
    return name.encode()


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"size {value!r} is no number of bytes")
    return value
