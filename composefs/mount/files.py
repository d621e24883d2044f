"""Mount an image that is a file, with directories of objects: what mount.composefs does."""

from __future__ import annotations

import os
from contextlib import ExitStack

from composefs import verity
from composefs.digest import Digest
from composefs.errors import IntegrityError, MountError
from composefs.kernel import Features, Mount, MountOptions
from composefs.kernel import mount_image as mount_by_kernel
from composefs.mount.images import check_image
from composefs.mount.options import FileOptions
from composefs.mount.table import NAMELESS

_FAILED = "Failed to mount composefs"


def mount_file(path: str, options: FileOptions, features: Features | None = None) -> Mount:
    """Mount the image in the file *path*, detached.

    Args:
        path: the image.
        options: how, and where its objects are.
        features: use no more than these of the kernel; None: all that it has.

    Returns:
        The mount; close it when it is attached, or to be given up.

    Raises:
        FormatError: the file is no composefs image.
        IntegrityError: the image has not the digest that the options want, or no fs-verity to tell.
        MountError: a file or directory cannot be opened; or the kernel cannot do it, which is said before anything is
            mounted, or refuses to.
    """
    with ExitStack() as stack:

        def opened(what: str, name: str, flags: int) -> int:
            try:
                fd = os.open(name, flags | os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise MountError(f"Failed to open {what}{name}", error.errno or 0) from None
            stack.callback(os.close, fd)
            return fd

        objects = [opened("basedir ", basedir, os.O_DIRECTORY) for basedir in options.basedirs]
        image = opened("", path, os.O_NONBLOCK)  # which would wait for somebody to write into a fifo
        check_image(image, path)
        if options.digest is not None:
            _check_digest(image, path, options.digest)
        upper, work, idmap = options.upper, options.work, options.idmap
        how = MountOptions(
            source=NAMELESS,
            verity=options.verity,
            read_only=options.read_only or upper is None,
            upper_fd=None if upper is None else opened("upperdir ", upper, os.O_PATH | os.O_DIRECTORY),
            work_fd=None if work is None else opened("workdir ", work, os.O_PATH | os.O_DIRECTORY),
            idmap_fd=None if idmap is None else opened("idmap ", idmap, os.O_NOCTTY),
            attributes=options.attributes,
        )
        try:
            return mount_by_kernel(image, objects, how, features)
        except MountError as error:
            error.step = f"{_FAILED} {path}: {error.step}"
            raise


def _check_digest(fd: int, path: str, wanted: Digest) -> None:
    """Check that the kernel measures the digest *wanted* of the image *fd*."""
    failed = f"{_FAILED} {path}"
    try:
        got = verity.measure(fd, wanted.algorithm)
    except IntegrityError as error:  # sealed with another algorithm
        raise IntegrityError(f"{failed}: Image has wrong fs-verity", error.wanted, error.got) from None
    if got is None:
        raise IntegrityError(f"{failed}: Image has no fs-verity", wanted.hex, "none")
    if got != wanted:
        raise IntegrityError(f"{failed}: Image has wrong fs-verity", wanted.hex, got.hex)
