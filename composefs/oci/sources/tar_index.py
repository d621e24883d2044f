"""Where the files of a tar archive are: found by reading its headers, and none of the contents.

Names are cleaned: `./index.json` is `index.json`.  What stands later in an archive replaces what stood earlier under
the same name, as when it is unpacked.  Links are followed inside the archive; a name that leads out of it, or through
a directory that is a link, leads nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError
from composefs.tar.header import (
    BLOCK,
    CHECKSUM,
    EXTENSION_NAMES,
    KIND,
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

_ZEROS = bytes(BLOCK)
_HARD_LINK, _SYMLINK = b"1", b"2"
BEGIN_SIZE = 2 * BLOCK  # bytes by which an archive is known
_LINKS = 8  # that are followed one after the other; archives have one


class Extent(NamedTuple):
    """Where the contents of a file are."""

    offset: int  # bytes from the start of the archive
    size: int  # bytes


class _Link(NamedTuple):
    offset: int  # of its header
    target: bytes | None  # cleaned; None: it leads out of the archive


class _Other(NamedTuple):
    offset: int  # of the header of what is neither a file nor a link


class TarIndex:
    """The files of the archive behind *fd*, a regular file that holds nothing else; messages call it *source*.

    Raises:
        FormatError: it is no archive, or it is cut.
        LimitError: it has more headers than are taken.
    """

    def __init__(self, fd: int, source: str) -> None:
        self._source = source
        self._found: dict[bytes, Extent | _Link | _Other] = {}
        found = self._found
        for entry, start in _entries(fd, source):
            name = _clean(entry.path)
            if name is None:
                continue
            if entry.kind in REGULAR:
                found[name] = Extent(start, entry.size)
            elif entry.kind == _HARD_LINK:
                found[name] = _Link(entry.offset, _clean(entry.link_target))
            elif entry.kind == _SYMLINK:
                found[name] = _Link(entry.offset, _resolve(name, entry.link_target))
            else:
                found[name] = _Other(entry.offset)

    def __contains__(self, name: str) -> bool:
        """Tell whether anything is called *name*."""
        return _clean(name.encode()) in self._found

    def find(self, name: str) -> Extent:
        """Return where the contents of the file *name* are.

        Raises:
            NotFoundError: there is no such file, or it is a link that leads nowhere.
            FormatError: it is something else than a file, or one of too many links.
        """
        cleaned = _clean(name.encode())
        place = self._found.get(cleaned) if cleaned is not None else None
        if place is None:
            raise NotFoundError(f"{self._source} has no {name}")
        for _ in range(_LINKS + 1):
            if isinstance(place, Extent):
                return place
            if isinstance(place, _Other):
                raise FormatError(self._source, place.offset, "no regular file", name)
            offset = place.offset
            place = self._found.get(place.target) if place.target is not None else None
            if place is None:
                raise NotFoundError(f"{self._source} has {name} as a link only, whose target is not there")
        raise FormatError(self._source, offset, f"more than {_LINKS} links, one after the other", name)


def check_begin(data: bytes, source: str) -> None:
    """See that what begins with *data*, `BEGIN_SIZE` bytes or all there are, may be an archive.

    Raises:
        FormatError: it is none, or one of nothing.
    """
    block = data[:BLOCK]
    if len(block) < BLOCK:
        return  # who reads all of it says more
    if block == _ZEROS:
        if data[BLOCK:] == _ZEROS:
            raise FormatError(source, 0, "no tar archive: it begins with its end")
        return
    try:
        check_sum(block, unpack_header(block)[CHECKSUM])
    except ValueError as error:
        raise FormatError(source, 0, f"no tar archive: {error}") from None


def _entries(fd: int, source: str) -> Iterator[tuple[Entry, int]]:
    """Yield each entry of an archive, and where its contents begin; the rules are those of `composefs.tar`."""
    end = os.fstat(fd).st_size
    offset, headers = 0, 0
    pending: dict[bytes, bytes] = {}  # data of extensions for the next entry, by type
    while (header := _next_header(fd, source, offset, end)) is not None:
        offset, block = header
        headers += 1
        if headers > limits.ARCHIVE_HEADERS:
            raise LimitError(source, offset, "headers in an archive of images", limits.ARCHIVE_HEADERS)
        fields = unpack_header(block)
        try:
            check_sum(block, fields[CHECKSUM])
            if is_extension(fields):
                offset = _take_extension(fd, source, offset, fields, pending)
                continue
            entry = entry_of(offset, fields, pending)
        except ValueError as error:
            what = str(error) if offset else f"no tar archive: {error}"
            raise FormatError(source, offset, what) from None
        pending.clear()
        start = offset + BLOCK
        missing = start + entry.size - end
        if missing > 0:
            raise FormatError(source, end, f"archive ends {missing} bytes before the contents do", entry.name)
        yield entry, start
        offset = _padded(start + entry.size)
    if pending:
        raise FormatError(source, offset, "archive ends between an extension header and its entry")


def _next_header(fd: int, source: str, offset: int, end: int) -> tuple[int, bytes] | None:
    """Return the header that is due at *offset*, and where it is; None: the archive ends here.

    Two blocks of zeros are its end, or the end of the file behind an entry; one such block alone means nothing.
    """
    after_zeros = False
    while offset < end:
        block = os.pread(fd, BLOCK, offset)
        if len(block) < BLOCK:
            raise FormatError(source, offset, f"archive ends {len(block)} bytes into a header block")
        if block != _ZEROS:
            return offset, block
        if after_zeros:
            return None
        offset, after_zeros = offset + BLOCK, True
    if not end:
        raise FormatError(source, 0, "archive is empty")
    if offset > end:
        raise FormatError(source, end, f"archive ends {offset - end} bytes before the padding does")
    if after_zeros:
        raise FormatError(source, end, "archive ends after a single zero block")
    return None


def _take_extension(fd: int, source: str, offset: int, fields: tuple[bytes, ...], pending: dict[bytes, bytes]) -> int:
    """Put the data of the extension header at *offset* into *pending*, and return where the next header is.

    Raises:
        ValueError: there are two of a kind for one entry.
    """
    kind, size = fields[KIND], number(fields[SIZE])
    if kind == PAX_GLOBAL:
        pending.clear()
    elif kind in pending:
        raise ValueError(f"second {EXTENSION_NAMES[kind]} for one entry")
    total = size + sum(map(len, pending.values()))
    if total > limits.TAR_METADATA_SIZE:
        raise LimitError(source, offset, "bytes of extension headers", limits.TAR_METADATA_SIZE, total)
    start = offset + BLOCK
    data = os.pread(fd, size, start)
    if len(data) < size:
        raise FormatError(source, start + len(data), f"archive ends inside {EXTENSION_NAMES[kind]} data")
    if kind != PAX_GLOBAL:
        pending[kind] = data
    return _padded(start + size)


def _padded(offset: int) -> int:
    return offset + -offset % BLOCK


def _clean(path: bytes) -> bytes | None:
    """Return *path* without what says nothing; None: it has `..`, or nothing is left."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    return b"/".join(parts) if parts and b".." not in parts else None


def _resolve(name: bytes, target: bytes) -> bytes | None:
    """Return what the symbolic link *name* means; None: something outside of the archive."""
    if target.startswith(b"/"):
        return None
    parts = name.split(b"/")[:-1]
    for part in target.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts) or None
