"""EROFS mounts of image files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from composefs._native import mounts
from composefs.errors import MountError
from composefs.kernel.contexts import Context, failure, lacking
from composefs.kernel.descriptors import path_of
from composefs.kernel.loop import has_loop_devices, loop_device

if TYPE_CHECKING:
    from composefs.kernel.features import Features


def mount_erofs(image_fd: int, features: Features, idmap_fd: int | None = None) -> int:
    """Mount the image behind *image_fd*, read-only; what files contain is missing, and reads as zeros.

    Args:
        image_fd: open for reading.
        features: what to use of the kernel.
        idmap_fd: user namespace whose mapping of ids it appears with, or None.

    Returns:
        A descriptor of the mount, which is attached nowhere; the caller closes it.

    Raises:
        MountError: it cannot be had.
    """
    fd = _mount_file(image_fd, features)
    try:
        if idmap_fd is not None:
            _map_ids(fd, idmap_fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount_file(image_fd: int, features: Features) -> int:
    if features.file_backed_erofs is not False:
        try:
            return _mount_source(image_fd)
        except MountError as error:
            if error.errno != errno.ENOTBLK:  # what it says of a file that it could not use without a device
                raise
    if features.loop_devices is False or not has_loop_devices():
        feature = "EROFS of regular files (Linux 6.12, on file systems other than tmpfs and overlayfs) and loop devices"
        raise lacking("mount erofs", feature, "load the module of loop devices: modprobe loop")
    with loop_device(image_fd) as device_fd:
        return _mount_source(device_fd)


def _mount_source(fd: int) -> int:
    with Context("erofs") as context:
        context.set_flag("ro")
        context.set_string("source", path_of(fd))
        context.create()
        return context.mount()


def _map_ids(fd: int, namespace_fd: int) -> None:
    try:
        mounts.idmap_mount(fd, namespace_fd)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOSYS, errno.EPERM}:  # the last for the initial namespace
            remedy = "give a user namespace with a mapping of ids, other than the initial one, or use a newer kernel"
            raise MountError(
                "mount_setattr idmap", error.errno, remedy=f"EROFS maps ids since Linux 5.19: {remedy}"
            ) from error
        raise failure("mount_setattr idmap", error) from error
