"""Bytes on standard input and output, and tables that fit the terminal."""

from __future__ import annotations

import sys

from composefs.errors import UsageError

TYPE_CHECKING = False  # as in __init__.py, which imports this early
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

SHORT_DIGEST = 12  # hexadecimal digits of a digest in a table
_GAP = "  "
_CUT = "…"


def refuse_terminal(what: str) -> None:
    """Refuse to write *what* to standard output if that is a terminal.

    Raises:
        UsageError: it is one.
    """
    if sys.stdout.isatty():
        raise UsageError(f"{what} is not for a terminal: redirect it to a file or a pipe")


def standard_input() -> BinaryIO:
    """Return standard input.

    Raises:
        UsageError: whoever started us has closed it.
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed: redirect it from a file or a pipe")
    return sys.stdin.buffer


def write_bytes(pieces: Iterable[bytes | memoryview]) -> None:
    """Write *pieces* to standard output."""
    output = sys.stdout.buffer
    for piece in pieces:
        output.write(piece)
    output.flush()


def printable(text: str) -> str:
    """Return *text* with escapes for all that would move the cursor or begin a line: names in images may be hostile."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* below *header*; on a terminal that is too narrow, the first column gives way."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sys.stdout.isatty():
        import shutil

        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
        if excess > 0:
            widths[0] = max(widths[0] - excess, len(header[0]))
    for row in (header, *rows):
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        print(_GAP.join(cells).rstrip())


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + _CUT
