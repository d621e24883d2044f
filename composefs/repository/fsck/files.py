"""Objects as files, opened by name and not proved: whether their contents are right is found out elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from composefs.digest import Digest
from composefs.repository.objects import DIRECTORY

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever stands there, never wait for it


def open_object(repository_fd: int, digest: Digest) -> BinaryIO:
    """Open the object *digest*, whatever it holds.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    fd = os.open(f"{DIRECTORY}/{digest.object_path}", _FLAGS, dir_fd=repository_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file")
    return open(fd, "rb")
