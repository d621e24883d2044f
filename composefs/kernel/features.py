"""What this kernel can do about composefs images, found by trying.

Versions mislead: distributions bring features to old kernels, and leave out others when they configure new ones.
What is tried is mounted nowhere, of directories that are there anyway, and ends with its descriptor.

Source: Documentation/filesystems/overlayfs.rst; the versions are those of Linux that have a feature first.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

from composefs._native import mounts
from composefs.errors import MountError
from composefs.kernel.contexts import Context
from composefs.kernel.descriptors import closing, open_directory, path_of
from composefs.kernel.loop import has_loop_devices
from composefs.mountinfo import find_mount_of

_NO_PRIVILEGES = frozenset([errno.EPERM, errno.EACCES, errno.ENOSYS])  # of a sandbox, too
_HERE = os.path.dirname(os.path.abspath(__file__))
_DIRECTORIES = (_HERE, os.path.join(os.path.dirname(_HERE), "_native"))  # neither below the other
_FILE = os.path.join(_HERE, "features.py")


@dataclass(frozen=True, slots=True)
class Features:
    """What this kernel can do; None: not to be found out here, for want of privileges or of a file to try with.

    Attributes:
        kernel: its release, as uname(2) has it.
        erofs: there is EROFS.
        file_backed_erofs: EROFS mounts regular files (Linux 6.12), not only devices; none in tmpfs or overlays.
        loop_devices: there are loop devices, and they are ours to use.
        overlay: there is overlayfs.
        data_only_layers: overlayfs has layers that only contents are taken from (6.5): `lowerdir=A::B`.
        layer_options: overlayfs takes layers one by one (6.8): `lowerdir+`, `datadir+`.
        layer_descriptors: and as descriptors, also of `O_PATH` (6.15; others 6.13).
        detached_layers: a layer may be a mount that is attached nowhere (6.15).
        overlay_verity: overlayfs demands that objects have the digests that the image promises (6.6): `verity=require`.
        idmap: mounts take a mapping of ids (5.12); those of EROFS, and as layers, since 5.19.
    """

    kernel: str
    erofs: bool | None = None
    file_backed_erofs: bool | None = None
    loop_devices: bool | None = None
    overlay: bool | None = None
    data_only_layers: bool | None = None
    layer_options: bool | None = None
    layer_descriptors: bool | None = None
    detached_layers: bool | None = None
    overlay_verity: bool | None = None
    idmap: bool | None = None


@cache
def probe() -> Features:
    """Return what this kernel can do, asked once a process; nothing is mounted then, nor ever visible.

    It takes the privileges of a mount; without, what needs them is None.  The kernel's log gets a line where EROFS sees
    that a file is no image.
    """
    return replace(
        probe_layers(),
        erofs=_has_type("erofs"),
        file_backed_erofs=_mounts_files(),
        loop_devices=has_loop_devices(),
        idmap=_maps_ids(),
    )


@cache
def probe_layers() -> Features:
    """Return what overlayfs can do, which is what the way to mount depends on; the rest is None.

    The log of kernels before 6.8 gets a line for each option that they do not know.
    """
    found = Features(os.uname().release, overlay=_has_type("overlay"))
    if not found.overlay:
        return found
    with ExitStack() as stack:
        fds = [stack.enter_context(open_directory(path)) for path in _DIRECTORIES]
        lower, data = map(path_of, fds)
        if not _makes_overlay(lowerdir=f"{lower}:{data}"):
            return found  # the file system of these directories does not do as a layer
        layer_options = _makes_overlay(lower, data)
        layer_descriptors = layer_options and _makes_overlay(*fds)
        return replace(
            found,
            # What would fail for certain is not tried, since that leaves a line in the kernel's log.
            data_only_layers=layer_options or _makes_overlay(lowerdir=f"{lower}::{data}"),
            layer_options=layer_options,
            layer_descriptors=layer_descriptors,
            detached_layers=layer_descriptors and _takes_detached(*fds),
            overlay_verity=_makes_overlay(lowerdir=f"{lower}:{data}", verity="require"),
        )


def _makes_overlay(lower: int | str | None = None, data: int | str | None = None, **options: str) -> bool:
    """Return whether there can be an overlay of these layers, given one by one, and with these options."""
    try:
        with Context("overlay") as context:
            context.set_string("metacopy", "on")
            for key, value in options.items():
                context.set_string(key, value)
            for key, layer in (("lowerdir+", lower), ("datadir+", data)):
                if isinstance(layer, str):
                    context.set_string(key, layer)
                elif layer is not None:
                    context.set_fd(key, layer)
            context.create()
    except MountError:
        return False
    return True


def _takes_detached(lower_fd: int, data_fd: int) -> bool:
    try:
        clone_fd = mounts.clone_mount(lower_fd)
    except OSError:
        return False
    with closing(clone_fd):
        return _makes_overlay(clone_fd, data_fd)


def _has_type(kind: str) -> bool | None:
    try:
        with Context(kind):
            return True
    except MountError as error:
        return None if error.errno in _NO_PRIVILEGES else False


def _maps_ids() -> bool | None:
    try:
        mounts.idmap_mount(-1, -1)
    except OSError as error:
        return None if error.errno in {errno.EPERM, errno.EACCES} else error.errno != errno.ENOSYS
    return True


def _mounts_files() -> bool | None:
    """Return whether EROFS looks into a regular file for an image, instead of asking for a block device."""
    with closing(os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        try:
            with Context("erofs") as context:
                context.set_flag("ro")
                context.set_string("source", path_of(fd))
                context.create()
        except MountError as error:
            if error.errno == errno.EINVAL:
                return True  # only that this file is no image
            return False if error.errno == errno.ENOTBLK and not _is_never_mounted(fd) else None
    return True


def _is_never_mounted(fd: int) -> bool:
    """Return whether the file is where EROFS mounts none, whatever the kernel: in tmpfs or an overlay."""
    mount = find_mount_of(fd)
    return mount is None or mount.kind in {"tmpfs", "overlay"}  # None: in no mount of ours
