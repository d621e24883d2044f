"""The locks of container storage, which those who write to it have for themselves, and we share while we read.

They are record locks, which fcntl(2) calls open file description locks here: they are the descriptor's, as traditional
ones are not, and both keep each other out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct

_FLOCK = Struct("hhqqi0q")  # struct flock: type, whence, start, length, process
_PAUSE = 0.05  # seconds between two attempts: so long is nothing compared with what locks are held for
WAIT = 600.0  # seconds; podman keeps a lock while it unpacks a layer
_TAKEN = frozenset([errno.EAGAIN, errno.EACCES])


@contextmanager
def locked(path: str, checkpoint: Callable[[], object], wait: float = WAIT) -> Iterator[None]:
    """Share the lock that is the file *path*; where there is none, nobody writes: a store that is read only.

    Args:
        path: of the file, which is never made.
        checkpoint: called now and then; what it raises ends the waiting.
        wait: seconds, at most.

    Raises:
        OSError: ETIMEDOUT if somebody writes all the time; or the file cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield
        return
    try:
        end = time.monotonic() + wait
        while not _try(fd, path):
            checkpoint()
            if time.monotonic() >= end:
                raise OSError(errno.ETIMEDOUT, f"is locked by a writer for {wait:.0f} s", path)
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(fd)


def _try(fd: int, path: str) -> bool:
    request = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise OSError(error.errno, error.strerror, path) from None
    return True
