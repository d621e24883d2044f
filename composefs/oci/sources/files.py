"""Regular files of somebody else."""

from __future__ import annotations

import os
import stat

from composefs.errors import FormatError, NotFoundError


def open_regular(path: str, what: str) -> int:
    """Open the regular file *path* for reading and return its descriptor; nothing else is waited for.

    Raises:
        NotFoundError: *what*, which the file holds, is missing.
        FormatError: it is no regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{what} is missing: no file {path}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(what, 0, f"{path} is no regular file")
    return fd
