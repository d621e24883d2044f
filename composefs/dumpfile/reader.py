"""What reading a dump is in either dialect: line after line, with the place of each mistake."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeVar

from composefs import limits
from composefs.dumpfile.text import BadEscapeError, unescape
from composefs.errors import FormatError, LimitError
from composefs.tree import NO_XATTRS, Directory, Leaf, Stat

FIELDS = ("PATH", "SIZE", "MODE", "NLINK", "UID", "GID", "RDEV", "MTIME", "PAYLOAD", "CONTENT", "DIGEST", "XATTR")
PATH, SIZE, MODE, NLINK, UID, GID, RDEV, MTIME, PAYLOAD, CONTENT, DIGEST, XATTR = range(len(FIELDS))

TYPES = frozenset([stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
DEVICES = frozenset([stat.S_IFCHR, stat.S_IFBLK])

_KNOWN_MAX = 1 << 14  # texts that are remembered; a guess, far more than a root file system has owners and labels
_SHOWN_MAX = 60  # characters of a field in a message

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump holds.

    Attributes:
        root: the tree.
        homes: directory and name where leaves with several names have their line, where that tells something about the
            image: in the dialect of C only.
    """

    root: Directory
    homes: Mapping[Leaf, tuple[Directory, bytes]]


class Inode(NamedTuple):
    """What the fields MODE to MTIME and XATTR say."""

    type: int
    link_count: int
    rdev: int
    stat: Stat


class Mistake(Exception):  # noqa: N818  # of the dump
    """A line is wrong: *what*, *skip* bytes behind the start of the field *index*."""

    def __init__(self, index: int, what: str, skip: int = 0) -> None:
        super().__init__(index, what, skip)
        self.index, self.what, self.skip = index, what, skip


class Position(NamedTuple):
    """A place in the input."""

    line: int  # from 1
    column: int  # from 1, in bytes
    offset: int  # bytes from the start


class DumpReader(ABC):
    """Makes a tree of lines."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._number = 0
        self._offset = 0  # of the line, in bytes
        self._inodes: dict[tuple[bytes, ...], Inode] = {}  # by the text of their fields, which many lines share
        self._xattrs: dict[bytes, Mapping[bytes, bytes]] = {}

    def read(self, lines: Iterable[bytes]) -> Dump:
        """Return what *lines* say, each of which ends in a newline but perhaps the last."""
        most_lines, line_most, most = limits.ENTRIES, limits.DUMP_LINE_SIZE, limits.DUMP_SIZE
        for line in lines:
            self._number += 1
            if self._number > most_lines or len(line) > line_most or self._offset + len(line) > most:
                raise self._too_much(line)
            try:
                self._add(line)
            except Mistake as mistake:
                self._fail(self._position(line, mistake.index, mistake.skip), mistake.what)
            self._offset += len(line)
        return self._finish()

    def _too_much(self, line: bytes) -> LimitError:
        """Return the error that *line*, the last that was read, is too long, or one too many."""
        if self._number > limits.ENTRIES:
            return LimitError(self._source, self._offset, "lines", limits.ENTRIES)
        if len(line) > limits.DUMP_LINE_SIZE:
            return LimitError(self._source, self._offset, f"bytes in line {self._number}", limits.DUMP_LINE_SIZE)
        return LimitError(self._source, self._offset, "bytes of dump", limits.DUMP_SIZE)

    @abstractmethod
    def _add(self, line: bytes) -> None:
        """Take one line, with its newline."""

    @abstractmethod
    def _parse_inode(self, fields: Sequence[bytes], xattrs: Mapping[bytes, bytes]) -> Inode:
        """Return what the fields MODE to MTIME say."""

    @abstractmethod
    def _parse_xattrs(self, text: bytes) -> Mapping[bytes, bytes]:
        """Return the xattrs that *text*, all of a line behind DIGEST, names."""

    @abstractmethod
    def _finish(self) -> Dump:
        """Return all."""

    def _inode(self, fields: list[bytes]) -> Inode:
        """Return what the fields MODE to MTIME and XATTR say."""
        key = (*fields[MODE:PAYLOAD], fields[XATTR])
        inode = self._inodes.get(key)
        if inode is None:
            xattrs = self._xattrs.get(fields[XATTR])
            if xattrs is None:
                xattrs = self._parse_xattrs(fields[XATTR]) if fields[XATTR] else NO_XATTRS
                _remember(self._xattrs, fields[XATTR], xattrs)
            inode = self._parse_inode(fields, xattrs)
            _remember(self._inodes, key, inode)
        return inode

    def _position(self, line: bytes, index: int, skip: int = 0) -> Position:
        """Return where in the input, of which *line* is the last line read, the field *index* is."""
        fields = line.rstrip(b"\r\n").split(b" ", XATTR)
        before = sum(len(field) + 1 for field in fields[:index])
        column = min(before, len(line.rstrip(b"\r\n"))) + skip
        return Position(self._number, column + 1, self._offset + column)

    def _fail(self, position: Position, what: str) -> NoReturn:
        text = f"line {position.line}, column {position.column}: {what}"
        raise FormatError(self._source, position.offset, text) from None


def _remember(known: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(known) == _KNOWN_MAX:
        known.clear()
    known[key] = value


def wanted(index: int, expected: str, got: bytes, skip: int = 0) -> Mistake:
    """Return the mistake that the field *index* is *got* and not as *expected*."""
    return Mistake(index, f"{FIELDS[index]}: wanted {expected}, got {shown(got)}", skip)


def shown(value: bytes) -> str:
    """Return *value* for a message."""
    text = value.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...").replace("\\\\", "\\")


def unescaped(index: int, field: bytes, *, plus: bool = False, skip: int = 0) -> bytes:
    """Return what *field*, or the part of it behind *skip* bytes, stands for."""
    if b"\\" not in field:
        return field
    try:
        return unescape(field, plus=plus)
    except BadEscapeError as error:
        bad = field[error.position : error.position + 4]
        raise wanted(index, r"\\, \n, \r, \t or \xHH", bad, skip + error.position) from None
