"""Small files that say something of a repository, beside what it is: written whole, and on disk before they count."""

from __future__ import annotations

import os
from collections.abc import Iterable

from composefs import _native
from composefs._native import Buffer

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def write_note(dir_fd: int, name: str, pieces: Iterable[Buffer], mode: int) -> None:
    """Write the new file *name* and wait until its contents are on disk; that its name is, is the caller's to see to.

    Args:
        dir_fd: where.
        name: of what is not there.
        pieces: its contents.
        mode: permissions, whatever the umask.

    Raises:
        OSError: it could not be written, and is not there; FileExistsError: it was there.
    """
    fd = os.open(name, _FLAGS, mode, dir_fd=dir_fd)
    try:
        with open(fd, "wb") as file:
            _native.set_mode(fd, dir_fd, mode)
            file.writelines(pieces)
            file.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(name, dir_fd=dir_fd)
        raise
