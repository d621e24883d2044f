"""`composefs umount MOUNTPOINT`: end the mount of an image."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  composefs umount /mnt
  composefs umount --lazy /mnt            # also if something is open there"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
End mounts of images, by whichever tool and means they were made: by the
kernel, or by FUSE, also if its server has died. Other file systems are left
alone."""
    parser.epilog = EXAMPLES
    parser.add_argument("mountpoints", metavar="MOUNTPOINT", nargs="+", help="a directory where an image is mounted")
    parser.add_argument(
        "--lazy", "-l", action="store_true", help="take it away at once; it ends when nothing uses it any more"
    )


def run(arguments: argparse.Namespace) -> int:
    """End them."""
    from composefs.mount.unmounting import unmount_image

    for mountpoint in arguments.mountpoints:
        unmount_image(mountpoint, lazy=arguments.lazy)
    return 0
