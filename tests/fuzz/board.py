"""A few numbers that two processes share in a file: how far a worker is, for when it can no longer say so."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple, Self

_FIELDS = struct.Struct("=4Q")


class Progress(NamedTuple):
    """What a worker has done."""

    inputs: int
    taken: int
    failures: int
    number: int  # of the input that it is at


class Board:
    """The numbers in the file *path*, which is made if it does not exist."""

    def __init__(self, path: str) -> None:
        with open(path, "a+b") as file:
            file.truncate(_FIELDS.size)
            self._map = mmap.mmap(file.fileno(), _FIELDS.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def write(self, *numbers: int) -> None:
        """Write all of `Progress`."""
        _FIELDS.pack_into(self._map, 0, *numbers)

    def read(self) -> Progress:
        """Return what was written last."""
        return Progress(*_FIELDS.unpack_from(self._map))
