"""Open a repository whose `meta.json` is missing or says nothing, to see what else is wrong with it."""

from __future__ import annotations

import fcntl
import os

from composefs.repository import Repository, create
from composefs.repository.meta import Meta


def open_damaged(path: str) -> Repository:
    """Open the repository at *path* by what its objects look like; waits while garbage is collected there.

    Nothing is written, whatever the repository lacks, and nothing but a check should be done with it.

    Raises:
        NotFoundError: it has no object that would tell what it is.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        algorithm, is_sealed = create.infer(fd, path)
        return Repository(path, fd, Meta.new(algorithm), verity=is_sealed)
    except BaseException:
        os.close(fd)
        raise
