"""Read dumps, in the dialect of either program that makes images of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from composefs import limits
from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile.c import CReader
from composefs.dumpfile.reader import Dump
from composefs.dumpfile.rust import RustReader
from composefs.errors import UsageError


def parse_dump(
    lines: Iterable[bytes],
    source: str,
    *,
    dialect: Dialect = Dialect.RUST,
    strict: bool = False,
    algorithm: Algorithm | None = None,
) -> Dump:
    """Return the tree that a dump describes.

    Memory is that of the tree: lines are forgotten once they are read.

    Args:
        lines: each with its newline, but perhaps the last; see `read_lines`.
        source: what to call the dump in errors.
        dialect: whose rules hold.
        strict: with that of C, refuse also what nobody should write; that of composefs-rs has no such mode.
        algorithm: of the digests; None: that of the first one.  C knows SHA-256 only.

    Raises:
        FormatError: a line breaks the format; the message has line and column.
        LimitError: it is too large.
        UsageError: no dump of that dialect has such an algorithm, or such a mode.
    """
    if dialect is Dialect.RUST:
        if strict:
            raise UsageError("only the dialect of C has a strict mode")
        return RustReader(source, algorithm).read(lines)
    if algorithm not in {None, Algorithm.SHA256}:
        raise UsageError("the dialect of C has SHA-256 digests only")
    return CReader(source, strict=strict).read(lines)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of *file*, of one that is too long for any dump only so much that `parse_dump` sees it."""
    while line := file.readline(limits.DUMP_LINE_SIZE + 1):
        yield line
