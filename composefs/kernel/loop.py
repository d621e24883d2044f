"""Loop devices: regular files as block devices, for kernels whose EROFS wants one.

Source: loop(4), `LOOP_CONFIGURE`; /dev/loop-control is there, too.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs._native import mounts
from composefs.errors import MountError
from composefs.kernel.contexts import failure
from composefs.kernel.descriptors import closing

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL = "/dev/loop-control"
_ATTEMPTS = 64  # a guess: so many others would have to take the device between two calls of ours


def has_loop_devices() -> bool:
    """Return whether there are loop devices that we may use."""
    return os.access(_CONTROL, os.R_OK | os.W_OK)


@contextmanager
def loop_device(file_fd: int) -> Iterator[int]:
    """Give a loop device that shows the file behind *file_fd*: a descriptor of it, for the length of the context.

    The device ends by itself when the last who uses it, such as a mount, is gone.

    Raises:
        MountError: there is no device to be had, or it refuses the file.
    """
    with closing(_open_device(file_fd)) as fd:
        yield fd


def _open_device(file_fd: int) -> int:
    try:
        with closing(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)) as control_fd:
            for _ in range(_ATTEMPTS):
                path = f"/dev/loop{mounts.find_loop_device(control_fd)}"
                fd = _configure(path, file_fd)
                if fd is not None:
                    return fd
    except OSError as error:
        raise failure(f"loop device {error.filename or ''}".rstrip(), error) from error
    raise MountError("loop device", errno.EBUSY, remedy="others take every device that is free: try it again")


def _configure(path: str, file_fd: int) -> int | None:
    """Return a descriptor of the device at *path*, showing the file; None if somebody else took it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mounts.configure_loop_device(fd, file_fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            return None
        raise
    return fd
