"""Descriptors that are closed in time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Give *fd*, and close it at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_directory(path: str, dir_fd: int | None = None) -> Iterator[int]:
    """Give a descriptor, for reading, of the directory at *path*, relative to *dir_fd*."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    with closing(fd):
        yield fd


def list_directory(fd: int) -> list[str]:
    """Return the names in the directory *fd*, which may be open as `O_PATH` only."""
    with open_directory(".", fd) as readable_fd:
        return os.listdir(readable_fd)


def path_of(fd: int) -> str:
    """Return a path that leads to what *fd* does, in this process; see proc_pid_fd(5)."""
    return f"/proc/self/fd/{fd}"
