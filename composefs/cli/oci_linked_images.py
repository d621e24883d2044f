"""`composefs oci linked-erofs-images ID`: the EROFS images that belong together."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.oci_options import parse_id

EXAMPLES = """\
examples:
  composefs oci linked-erofs-images $(composefs oci compute-id os)
  composefs oci linked-erofs-images 0ecf6925... | jq '.[] | select(.bootable)'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Print, as a JSON array, all EROFS images of the OCI image to which the EROFS
image ID belongs, itself among them. The OCI image need not have a tag."""
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="id of an EROFS image: all its hexadecimal digits")


def run(arguments: argparse.Namespace) -> int:
    """Print them."""
    from composefs.oci.images import linked_images

    with options.open_repository(arguments) as repository:
        images = linked_images(repository, parse_id(repository, arguments.id))
    found = [
        {
            "id": digest.hex,
            "bootable": slot.bootable,
            "version": slot.epoch,
            "xattrMode": slot.xattrs.value if slot.bootable else None,
        }
        for slot, digest in images.items()
    ]
    print(json.dumps(found, indent=2))
    return 0
