"""Fields as text for people, the same in lines and in JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from composefs.diff.compare import TIME_FIELDS, Field, Value
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


def with_whole_times(fields: Sequence[Field]) -> Iterator[Field]:
    """Yield *fields*, with seconds and nanoseconds of the time as one if both differ."""
    parts = {field.name: field for field in fields if field.name in TIME_FIELDS}
    for field in fields:
        if len(parts) < len(TIME_FIELDS) or field.name not in parts:
            yield field
        elif field.name == "mtime":
            part = parts["nanoseconds"]
            yield Field(field.name, _time(field.old, part.old), _time(field.new, part.new))


def _time(seconds: Value, nanoseconds: Value) -> str:
    whole = str(shown("mtime", seconds))
    return f"{whole}.{nanoseconds:09}" if isinstance(nanoseconds, int) and nanoseconds else whole


def _short(name: str, value: Value, limit: int) -> str:
    if value is None:
        return "none"
    text = str(shown(name, value))
    if not text:
        return "empty"
    return text if len(text) <= limit else text[: limit - 3] + "..."
