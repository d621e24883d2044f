"""`composefs oci inspect IMAGE`: what is stored of an image."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.oci_options import add_image, erofs_version, say_which
from composefs.cli.output import write_bytes

EXAMPLES = """\
examples:
  composefs oci inspect os | jq -r .composefs_erofs
  composefs oci inspect os --config | jq .config
  composefs oci inspect @sha256:1496f4a1... --manifest | jq .layers"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = """\
Print, as one JSON object, the manifest and config of an image, the digests of
the manifests that refer to it, and the ids of its EROFS images, of the format
that the repository is set to."""
    parser.epilog = EXAMPLES
    add_image(parser)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--manifest", action="store_true", help="print the manifest only, as it is stored, and a line end"
    )
    choice.add_argument("--config", action="store_true", help="print the config only, likewise")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from composefs.oci.images import open_image
    from composefs.oci.tags import NamedBy

    with options.open_repository(arguments) as repository:
        say_which(repository, arguments.image, usual=NamedBy.MANIFEST)
        image = open_image(repository, arguments.image)
        version = erofs_version(arguments, repository)
    if arguments.manifest or arguments.config:
        write_bytes([image.manifest_bytes if arguments.manifest else image.config_bytes, b"\n"])
        return 0
    plain, boot = (image.erofs_image(version, bootable=bootable) for bootable in (False, True))
    value = {
        "manifest": image.manifest_bytes.decode("utf-8", "replace"),
        "config": image.config_bytes.decode("utf-8", "replace"),
        "referrers": list(image.referrers),
        "composefs_erofs": plain.hex if plain is not None else None,
        "composefs_boot_erofs": boot.hex if boot is not None else None,
    }
    print(json.dumps(value, indent=2))
    return 0
