"""`composefs compute-karg PATH`: the kernel argument that boots the image of a directory; nothing is stored."""

from __future__ import annotations

import argparse
import json

from composefs.cli import scanning
from composefs.xattrs import XattrFilter

EXAMPLES = """\
examples:
  composefs compute-karg /mnt/rootfs > /etc/kernel/cmdline
  composefs --erofs-version 2 compute-karg /mnt/rootfs"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the kernel argument that makes the initramfs boot the image that create-image --bootable makes of a "
        "directory; nothing is stored. Algorithm and EROFS version are chosen as for compute-id."
    )
    parser.epilog = EXAMPLES
    scanning.add_directory(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(bootable=True, xattrs=XattrFilter.ALLOWLIST_ONLY.value)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from composefs.boot.kargs import format_argument

    digest, version = scanning.compute_image(arguments)
    argument = format_argument(digest, version, insecure=arguments.insecure)
    if arguments.json:
        print(json.dumps({"argument": argument} | scanning.as_json(digest, version), indent=2))
    else:
        print(argument)
    return 0
