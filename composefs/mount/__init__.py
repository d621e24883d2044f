"""Images of a repository, mounted by the kernel.

repository, name  ->  the image, proved, and what the kernel must demand of its objects  ->  a detached mount
"""

from composefs.mount.images import OpenImage, mount_image, open_image, source_of

__all__ = ["OpenImage", "mount_image", "open_image", "source_of"]
