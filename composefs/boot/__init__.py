"""Trees of bootable images."""

from composefs.boot.entries import ReadContent
from composefs.boot.transform import transform_for_boot, transform_for_boot_from_directory

__all__ = ["ReadContent", "transform_for_boot", "transform_for_boot_from_directory"]
