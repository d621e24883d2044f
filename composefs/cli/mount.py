"""`composefs mount IMAGE MOUNTPOINT`: show the files of an image in a directory; without arguments: what is mounted."""

from __future__ import annotations

import argparse
import json

from composefs.cli import mounting, options
from composefs.cli.booting import add_cmdline, open_selected
from composefs.cli.output import print_table
from composefs.errors import UsageError

EXAMPLES = """\
examples:
  composefs mount os /mnt
  composefs mount --upperdir up --workdir work --read-write os /mnt
  composefs mount --fuse os ~/mnt         # without root
  composefs mount                         # what is mounted
  composefs mount --from-cmdline /sysroot # what the kernel was told to boot
  composefs umount /mnt"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Mount an image. Its contents are proved first, and where it is sealed by
fs-verity the kernel demands that of every file that is opened, too. By FUSE
every file is proved when it is opened. Without arguments the images that are
mounted are listed."""
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="id, ref or OCI tag; not with --from-cmdline")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="the directory")
    parser.add_argument("--json", action="store_true", help="print what is mounted as a JSON object")
    mounting.add_options(parser)
    group = parser.add_argument_group("kernel arguments")
    group.add_argument("--from-cmdline", action="store_true", help="the image that the kernel arguments select")
    add_cmdline(group)


def run(arguments: argparse.Namespace) -> int:
    """Mount it, or list what is mounted."""
    mounting.check_options(arguments)
    if arguments.json and (arguments.from_cmdline or arguments.image is not None):
        raise UsageError("--json is for the list of what is mounted")
    if arguments.from_cmdline:
        _mount_selected(arguments)
    elif arguments.cmdline is not None or arguments.sysroot is not None:
        raise UsageError("--cmdline and --sysroot are for --from-cmdline")
    elif arguments.image is None:
        _list(as_json=arguments.json)
    elif arguments.mountpoint is None:
        raise UsageError("MOUNTPOINT is missing")
    else:
        target = mounting.find_mountpoint(arguments.mountpoint)
        with options.open_repository(arguments) as repository:
            mounting.mount(arguments, repository, arguments.image, target)
    return 0


def _mount_selected(arguments: argparse.Namespace) -> None:
    if arguments.image is None or arguments.mountpoint is not None:
        raise UsageError("--from-cmdline wants one argument, MOUNTPOINT")
    target = mounting.find_mountpoint(arguments.image)
    with open_selected(arguments) as (repository, argument):
        mounting.mount(arguments, repository, argument.digest.hex, target)


def _list(*, as_json: bool) -> None:
    from composefs.mount.table import image_of, mounted_images, requires_verity

    mounts = mounted_images()
    if as_json:
        found = [
            {
                "mountpoint": mount.path,
                "image": image_of(mount),
                "fuse": mount.is_fuse,
                "read_only": mount.read_only,
                "verity": requires_verity(mount),
            }
            for mount in mounts
        ]
        print(json.dumps({"mounts": found}, indent=2))
    elif not mounts:
        print("No images mounted")
    else:
        rows = [
            (
                mount.path,
                "FUSE" if mount.is_fuse else "kernel",
                "ro" if mount.read_only else "rw",
                image_of(mount) or "-",
            )
            for mount in mounts
        ]
        print_table(("MOUNTPOINT", "BY", "ACCESS", "IMAGE"), rows)
