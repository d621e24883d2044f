"""Bytes, numbers and failures of the system as text for people."""

from __future__ import annotations

import os
from collections.abc import Sequence


def printable(data: bytes) -> str:
    r"""Return *data* as one line of text, unambiguous: UTF-8 as it is, `\xHH` for what cannot be shown, `\\`."""
    text = data.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode())
        for character in text
    )


def counted(count: int, noun: str) -> str:
    """Return *count* with its noun in the right number: `5,267 directories`."""
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"


def describe_failure(error: OSError) -> str:
    """Return what the system said, with the path if there is one: `/srv/x: No such file or directory`."""
    name = error.filename
    where = "" if name is None or isinstance(name, int) else f"{os.fsdecode(name) or repr('')}: "  # not a descriptor
    return f"{where}{error.strerror or error}"


def listed(prefix: str, things: Sequence[str], most: int = 10) -> str:
    """Return *prefix* and the first of *things*, or none: `it has a, b and 3 more`."""
    if not things:
        return f"{prefix} none".strip()
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return f"{prefix} {', '.join(things[:most])}{more}".strip()
