"""Files of configuration, of which most need not be there."""

from __future__ import annotations

import os
from collections.abc import Iterable

from composefs import limits
from composefs.errors import LimitError


def read_file(path: str) -> bytes | None:
    """Return what the file *path* holds; None: there is no such file.

    Raises:
        LimitError: it is larger than any that is meant for this.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = _read(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
    if len(data) > limits.HOST_FILE_SIZE:
        raise LimitError(path, 0, "bytes of configuration", limits.HOST_FILE_SIZE)
    return data


def first_existing(paths: Iterable[str]) -> str | None:
    """Return the first of *paths* that leads somewhere, as far as can be seen."""
    return next(filter(os.path.exists, paths), None)


def _read(fd: int) -> bytes:
    pieces: list[bytes] = []
    left = limits.HOST_FILE_SIZE + 1
    while left and (piece := os.read(fd, left)):  # a pipe gives what is in it
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
