"""The kernel's interface for mounts: composefs images as file systems, and what this kernel can do.

A composefs mount is two: EROFS of the image, which has names and metadata, and over it an overlay that takes the
contents of files from directories of objects.  Only the overlay becomes visible.

Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up", "Data-only lower layers", "fs-verity support".
"""

from composefs.errors import MountError
from composefs.kernel.features import Features, probe
from composefs.kernel.images import mount_image
from composefs.kernel.mounts import Mount, unmount
from composefs.kernel.options import Attribute, MountOptions, Verity

__all__ = ["Attribute", "Features", "Mount", "MountError", "MountOptions", "Verity", "mount_image", "probe", "unmount"]
