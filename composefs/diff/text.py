"""Fields as text for people, the same in lines and in JSON."""

from __future__ import annotations

import os

from composefs.diff.compare import Field, Value
from composefs.text import printable

_HASHES = {32: "sha256", 64: "sha512"}  # by size of a raw digest


def shown(name: str, value: Value) -> int | str | None:
    """Return *value* of the field called *name* as JSON has it."""
    if isinstance(value, bytes):
        if name == "digest":
            return f"{_HASHES.get(len(value), 'digest')}:{value.hex()}"
        return printable(value)
    if isinstance(value, int):
        if name == "mode":
            return f"{value:04o}"
        if name == "device":
            return f"{os.major(value)}:{os.minor(value)}"
    return value


def sides(field: Field, limit: int) -> tuple[str, str]:
    """Return old and new of *field*; what is longer than *limit* characters is cut."""
    return _short(field.name, field.old, limit), _short(field.name, field.new, limit)


def _short(name: str, value: Value, limit: int) -> str:
    if value is None:
        return "none"
    text = str(shown(name, value))
    if not text:
        return "empty"
    return text if len(text) <= limit else text[: limit - 3] + "..."
