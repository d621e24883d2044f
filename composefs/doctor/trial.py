"""What the file system of a directory can do, tried with files that have no name: nothing in the directory changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from composefs import _native
from composefs.digest import BLOCK_SIZE, Algorithm
from composefs.kernel.descriptors import closing, path_of

WORKS = 0  # in the place of an errno


@dataclass(frozen=True, slots=True)
class Trial:
    """How attempts ended: `WORKS`, an errno, or None for what was not tried."""

    unnamed_files: int | None = None  # O_TMPFILE
    reflinks: int | None = None
    verity: Mapping[Algorithm, int] = field(default_factory=dict)  # empty: not tried


def try_directory(dir_fd: int) -> Trial:
    """Try what files in the directory *dir_fd* can do; all that is made is gone afterwards."""
    try:
        source = _native.store_file(dir_fd, bytes(BLOCK_SIZE))
    except OSError as error:
        return Trial(_number(error))
    with closing(source):
        reflinks = _try_reflink(dir_fd, source)
    return Trial(WORKS, reflinks, {algorithm: _try_verity(dir_fd, algorithm) for algorithm in Algorithm})


def reopen(fd: int) -> int:
    """Return another descriptor of the file behind *fd*, for reading only: what is written to cannot be sealed."""
    return os.open(path_of(fd), os.O_RDONLY | os.O_CLOEXEC)


def _try_reflink(dir_fd: int, source: int) -> int:
    try:
        with closing(_native.store_file(dir_fd, b"")) as target:
            _native.reflink(source, target)
    except OSError as error:
        return _number(error)
    return WORKS


def _try_verity(dir_fd: int, algorithm: Algorithm) -> int:
    try:
        with closing(_native.store_file(dir_fd, bytes(BLOCK_SIZE))) as writable:
            fd = reopen(writable)
        with closing(fd):
            _native.enable_verity(fd, algorithm.kernel_id)
    except OSError as error:
        return _number(error)
    return WORKS


def _number(error: OSError) -> int:
    assert error.errno is not None
    return error.errno
