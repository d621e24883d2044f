"""Which composefs images are mounted.

A mount is taken for one of composefs by its source: `composefs` or `composefs:NAME` on an overlay, as we, composefs-rs
and the C tools call it, or by a FUSE file system that calls itself so.
"""

from __future__ import annotations

import re

from composefs.mountinfo import MountPoint, read_mounts

NAMELESS = "composefs:composefs"  # source of an image that is a file, as composefs-rs calls it

_NAME = "composefs"
_SOURCE = re.compile(rf"{_NAME}(-fuse)?(:.*)?", re.DOTALL)


def mounted_images() -> list[MountPoint]:
    """Return the mounts of composefs images.

    Raises:
        OSError: /proc does not tell what is mounted.
    """
    return list(filter(is_image, read_mounts()))


def is_image(mount: MountPoint) -> bool:
    """Tell whether *mount* shows a composefs image."""
    if mount.kind == f"fuse.{_NAME}":
        return True
    return (mount.kind == "overlay" or mount.is_fuse) and _SOURCE.fullmatch(mount.source) is not None


def requires_verity(mount: MountPoint) -> bool:
    """Tell whether the kernel demands fs-verity of every file of *mount* that is opened."""
    return "verity=require" in mount.options


def image_of(mount: MountPoint) -> str | None:
    """Return the name of the image of *mount*; None of one that is a file, or where the mount does not tell."""
    return None if mount.source == NAMELESS else mount.source.partition(":")[2] or None
