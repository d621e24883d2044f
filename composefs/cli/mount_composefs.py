"""`mount.composefs IMAGE MOUNTPOINT -o OPTIONS`: mount an image file, also as `mount -t composefs`."""

from __future__ import annotations

import argparse

from composefs.cli.mounting import find_mountpoint
from composefs.errors import UsageError

EXAMPLES = """\
options, with commas between them and \\ before a comma in a path:
  basedir=A[:B...]      directories of the files' contents; must be given
  digest=HEX            fs-verity must have this digest for the image
  verity                and for each file its own; implied by digest
  tryverity             the same, where the kernel knows how
  upperdir=U,workdir=W  directory for changes, and one for the kernel's use
  ro, rw                whether it can be written to (default: rw)
  idmap=FILE            show owners as a user namespace has them
  nosuid, nodev, noexec, noatime, ...    as of any mount

examples:
  mount.composefs -o basedir=objects image.cfs /mnt
  mount -t composefs -o basedir=/srv/objects,verity /srv/image.cfs /mnt

For the second this program must be /sbin/mount.composefs, or a link there."""

TYPE = "composefs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Mount a composefs image that is a file, as mkcomposefs writes it."
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="the file")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="the directory")
    parser.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[], help="see below")
    parser.add_argument("-t", dest="type", metavar="TYPE", default=TYPE, help=f"must be {TYPE}")
    group = parser.add_argument_group("as mount(8) gives them to its helpers")
    group.add_argument("-f", dest="fake", action="store_true", help="check the options, and mount nothing")
    group.add_argument("-s", dest="sloppy", action="store_true", help="pass over unknown options")
    group.add_argument("-N", dest="namespace", metavar="NS", help="refused: nsenter(1) enters the namespace NS")
    group.add_argument("-n", "-v", dest="ignored", action="store_true", help="nothing")


def run(arguments: argparse.Namespace) -> int:
    """Mount it."""
    from composefs.mount.files import mount_file
    from composefs.mount.options import parse_options

    if arguments.type != TYPE:
        raise UsageError(f"Unsupported fs type '{arguments.type}'")
    if arguments.namespace is not None:
        raise UsageError(
            f"-N is not known here: enter the namespace by nsenter --mount={arguments.namespace} mount ..."
        )
    chosen = parse_options(",".join(filter(None, arguments.options)), sloppy=arguments.sloppy)
    target = find_mountpoint(arguments.mountpoint)
    if arguments.fake:
        return 0
    with mount_file(arguments.image, chosen) as mount:
        mount.attach(target)
    return 0
