"""Mount an image: EROFS of it, and the overlay of that and the objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from composefs.errors import UsageError
from composefs.kernel.erofs import mount_erofs
from composefs.kernel.evidence import check_contents
from composefs.kernel.features import probe_layers
from composefs.kernel.mounts import Mount
from composefs.kernel.overlay import check_features, mount_overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from composefs.kernel.features import Features
    from composefs.kernel.options import MountOptions


def mount_image(
    image_fd: int, object_fds: Sequence[int], options: MountOptions, features: Features | None = None
) -> Mount:
    """Mount the image behind *image_fd*, detached.

    Args:
        image_fd: a composefs image, open for reading.
        object_fds: directories of objects, at least one; what is in an earlier one hides what is in a later one.
        options: how.
        features: use no more than these of the kernel; None: all that it has.

    Returns:
        The overlay; the caller attaches or closes it.  It needs none of the descriptors given any more.

    Raises:
        UsageError: no objects.
        MountError: what this kernel cannot do, said before anything is mounted, or which step failed.  Nothing stays
            mounted.
        OSError: there is no place for a temporary directory, which kernels before 6.15 need.
    """
    if not object_fds:
        raise UsageError("without objects all files would read as zeros")
    if features is None:
        features = probe_layers()
    check_features(options, features)
    erofs_fd = mount_erofs(image_fd, features, options.idmap_fd)
    try:
        mount = Mount(mount_overlay(erofs_fd, object_fds, options, features))
        try:
            check_contents(mount.fd, erofs_fd, object_fds, options.upper_fd)
        except BaseException:
            mount.close()
            raise
        return mount
    finally:
        os.close(erofs_fd)
