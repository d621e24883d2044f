"""End mounts of composefs images, those of the kernel and those of FUSE, and no others."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

from composefs import kernel
from composefs.errors import MountError, NotFoundError
from composefs.mount.table import is_image
from composefs.mountinfo import find_mount

_HELPERS = ("fusermount3", "fusermount")  # set-uid programs by which users end mounts of theirs


def unmount_image(path: str, *, lazy: bool = False) -> None:
    """End the topmost mount at *path*, also one of FUSE whose server has died.

    Args:
        path: where it is mounted.
        lazy: take it away from there at once, and let it end when nothing uses it any more.

    Raises:
        NotFoundError: no composefs image is mounted there.
        OSError: there is no such path.
        MountError: it is in use, or somebody else's.
    """
    if not path:  # which realpath(3) takes for the current directory
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    target = os.path.realpath(path)  # which does not ask the mount itself: the server of that may be dead
    mount = find_mount(target)
    if mount is None:
        raise NotFoundError(f"{path}: /proc does not tell what is mounted there")
    if mount.path != target:
        raise NotFoundError(f"{path}: nothing is mounted there")
    if target == "/":  # which the kernel would make read-only, or take away with all that is below
        raise MountError("umount /", errno.EBUSY, remedy="it is the root of this process")
    if not is_image(mount):
        what = f"no composefs image is mounted there, but {mount.kind} of {mount.source}, which umount(8) ends"
        raise NotFoundError(f"{path}: {what}")
    try:
        kernel.unmount(target, lazy=lazy)
    except OSError as error:
        if error.errno != errno.EPERM or not mount.is_fuse:
            raise
        _ask_helper(target, lazy=lazy)


def _ask_helper(target: str, *, lazy: bool) -> None:
    """Let the helper of FUSE end the mount at *target*, which it does for the user who made it."""
    helper = next(filter(None, map(shutil.which, _HELPERS)), None)
    if helper is None:
        raise MountError(f"umount {target}", errno.EPERM, remedy=f"install {_HELPERS[0]}, or do it as root")
    options = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run([helper, *options, "--", target], stderr=subprocess.PIPE, check=False)  # noqa: S603  # no shell
    if done.returncode:
        text = done.stderr.decode("utf-8", "backslashreplace").strip()
        number = errno.EBUSY if os.strerror(errno.EBUSY) in text else errno.EPERM
        raise MountError(f"{os.path.basename(helper)} -u {target}", number, messages=tuple(text.splitlines()))
