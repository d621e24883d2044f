"""A mount namespace of one's own, in which tests mount what nobody else sees."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNS = 0x20000  # <linux/sched.h>
MS_REC, MS_PRIVATE = 0x4000, 0x40000  # <linux/mount.h>

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_mounts() -> Iterator[None]:
    """Let this thread, and what it starts, see and make mounts of its own; all are gone at the end."""
    directory = os.getcwd()
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWNS))
        try:
            _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNS))
            os.chdir(directory)  # setns(2) goes to the root
    finally:
        os.close(home)


def mounted() -> list[str]:
    """Return the lines of /proc/thread-self/mountinfo."""
    with open("/proc/thread-self/mountinfo", encoding="utf-8") as table:
        return table.read().splitlines()


def _check(ret: int) -> None:
    if ret < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
