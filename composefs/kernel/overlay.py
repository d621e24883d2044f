"""The overlay that gives the files of an EROFS mount their contents.

Its layers are, from the top: an upper one, if there is one; the EROFS mount; and the directories of objects, which only
serve what the xattrs in EROFS point to.

Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up", "Data-only lower layers", "fs-verity support".
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import chain
from typing import TYPE_CHECKING

from composefs.errors import MountError
from composefs.kernel.contexts import Context, lacking
from composefs.kernel.descriptors import list_directory, path_of
from composefs.kernel.mounts import attached
from composefs.kernel.options import MountOptions, Verity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from composefs.kernel.features import Features

# What is said of an upper layer or a work directory that is not where it must be, the details only in the log.
_MISPLACED = frozenset([errno.EINVAL, errno.ELOOP])
_PLACES = "upper and work directory must be on one file system, one not within the other, and apart from the objects"
_OBJECT_DIRECTORIES = tuple(f"{number:02x}" for number in range(256))


def check_features(options: MountOptions, features: Features) -> None:
    """See that the kernel can do what *options* ask for.

    Raises:
        MountError: it cannot.
    """
    if options.verity is Verity.REQUIRED and features.overlay_verity is False:
        feature = "verity=require of overlayfs (Linux 6.6)"
        raise lacking(
            "mount overlay", feature, "without, it would serve objects that nobody checks: use a newer kernel"
        )


def mount_overlay(lower_fd: int, object_fds: Sequence[int], options: MountOptions, features: Features) -> int:
    """Mount the overlay over the EROFS mount *lower_fd*.

    Args:
        lower_fd: the mount, which is attached nowhere; is not needed afterwards.
        object_fds: directories of objects.
        options: how.
        features: what to use of the kernel.

    Returns:
        A descriptor of the mount, which is attached nowhere; the caller closes it.

    Raises:
        MountError: it cannot be had.
    """
    if features.data_only_layers is False:
        _check_stubs(lower_fd, object_fds)
    if features.detached_layers:
        return _mount_layers(lower_fd, object_fds, options, features)
    fd = -1
    try:
        with attached(lower_fd) as attached_fd:
            fd = _mount_layers(attached_fd, object_fds, options, features)
    except BaseException:  # perhaps of the end of that
        if fd >= 0:
            os.close(fd)
        raise
    return fd


def _mount_layers(lower_fd: int, object_fds: Sequence[int], options: MountOptions, features: Features) -> int:
    with Context("overlay") as context:
        context.set_string("source", options.source)
        context.set_string("metacopy", "on")
        context.set_string("redirect_dir", "on")
        if options.verity is Verity.REQUIRED or (options.verity is Verity.TRY and features.overlay_verity):
            context.set_string("verity", "require")
        if options.upper_fd is not None and options.work_fd is not None:
            _set_directory(context, "upperdir", options.upper_fd, features)
            _set_directory(context, "workdir", options.work_fd, features)
        if features.layer_options:
            _set_directory(context, "lowerdir+", lower_fd, features)
            for fd in object_fds:
                _set_directory(context, "datadir+", fd, features)
        else:
            separator = ":" if features.data_only_layers is False else "::"
            context.set_string("lowerdir", separator.join(map(path_of, (lower_fd, *object_fds))))
        try:
            context.create()
        except MountError as error:
            if options.upper_fd is not None and error.errno in _MISPLACED:
                error.remedy = _PLACES
            raise
        return context.mount(read_only=options.read_only, attributes=options.attributes)


def _set_directory(context: Context, key: str, fd: int, features: Features) -> None:
    if features.layer_descriptors:
        context.set_fd(key, fd)
    else:
        context.set_string(key, path_of(fd))


def _check_stubs(lower_fd: int, object_fds: Sequence[int]) -> None:
    """See that the image hides what is in directories of objects, which otherwise appear in its root.

    Raises:
        MountError: it does not.
        OSError: a directory of objects cannot be read.
    """
    # All that there may be soon, and all that there is.
    for name in chain(_OBJECT_DIRECTORIES, *map(list_directory, object_fds)):
        if not _hides(lower_fd, name):
            feature = "data-only layers of overlayfs (Linux 6.5)"
            remedy = f"without, an image has to hide the directories of objects, and this one does not hide {name}"
            raise lacking("mount overlay", feature, f"{remedy}: use a newer kernel, or an image of the format V1")


def _hides(lower_fd: int, name: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(name, dir_fd=lower_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
