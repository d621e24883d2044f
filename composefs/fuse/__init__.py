"""Images served by FUSE, without root: read-only, every content proved.

serve     until it is unmounted
start     the same, in the background
"""

from composefs.fuse.background import ImageFile, RepositoryImage, start
from composefs.fuse.server import is_available, serve

__all__ = ["ImageFile", "RepositoryImage", "is_available", "serve", "start"]
