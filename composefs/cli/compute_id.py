"""`composefs compute-id PATH`: the id that the image of a directory has; nothing is stored."""

from __future__ import annotations

import argparse
import json

from composefs.cli import scanning
from composefs.cli.transforms import add_transforms

EXAMPLES = """\
examples:
  composefs compute-id /mnt/rootfs
  composefs --no-repo --hash sha256 --erofs-version 2 compute-id /mnt/rootfs
  composefs compute-id --bootable --json /mnt/rootfs | jq -r .id"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the id, in hexadecimal, of the image that create-image makes of a directory; nothing is stored. "
        "The algorithm is that of --hash, else of the chosen repository if there is one, else SHA-512; the EROFS "
        "version is 1 unless --erofs-version says another."
    )
    parser.epilog = EXAMPLES
    scanning.add_directory(parser)
    add_transforms(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    digest, version = scanning.compute_image(arguments)
    if arguments.json:
        print(json.dumps(scanning.as_json(digest, version), indent=2))
    else:
        print(digest.hex)
    return 0
