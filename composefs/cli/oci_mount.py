"""`composefs oci mount IMAGE MOUNTPOINT`: show the files of an OCI image in a directory."""

from __future__ import annotations

import argparse

from composefs.cli import mounting, options
from composefs.cli.oci_options import add_image, erofs_version

EXAMPLES = """\
examples:
  composefs oci mount os /mnt
  composefs oci mount --bootable os:42 /mnt
  composefs umount /mnt"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Mount the EROFS image that was made of an OCI image when it was imported, of
the format that the repository, or --erofs-version, is set to. More about
options: composefs mount."""
    parser.epilog = EXAMPLES
    add_image(parser)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="the directory")
    parser.add_argument("--bootable", action="store_true", help="the image for booting")
    mounting.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Mount it."""
    from composefs.errors import NotFoundError
    from composefs.oci.images import open_image

    mounting.check_options(arguments)
    target = mounting.find_mountpoint(arguments.mountpoint)
    with options.open_repository(arguments) as repository:
        image = open_image(repository, arguments.image)
        digest = image.erofs_image(erofs_version(arguments, repository), bootable=arguments.bootable)
        if digest is None:
            what = "No composefs EROFS image linked — try re-pulling the image"
            if arguments.bootable:
                what = "No boot EROFS image linked — try pulling with --bootable"
            raise NotFoundError(f"{arguments.image}: {what}")
        mounting.mount(arguments, repository, digest.hex, target)
    return 0
