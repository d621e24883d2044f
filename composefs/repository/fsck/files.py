"""Objects as files, opened by name and not proved: whether their contents are right is found out elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from composefs import _native
from composefs.digest import Digest
from composefs.repository.objects import DIRECTORY

_FLAGS = os.O_RDONLY | os.O_NONBLOCK  # whatever stands there, never wait for it


def open_object(repository_fd: int, digest: Digest) -> BinaryIO:
    """Open the object *digest*, whatever it holds.

    Raises:
        OSError: it cannot be opened, or is no regular file; ENOTDIR or ELOOP if a link is on the way.
    """
    objects = _native.open_below(repository_fd, DIRECTORY, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = _native.open_below(objects, digest.object_path, _FLAGS)
    finally:
        os.close(objects)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file")
    return open(fd, "rb")
