"""`composefs oci tag MANIFEST NAME`: give an image a name."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.output import printable

EXAMPLES = """\
examples:
  composefs oci tag sha256:1496f4a1... os:43
  composefs oci tag os:43 os:latest"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Give an image a name, which from now on is that of no other image. It may have several."
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="MANIFEST", help="digest of the image's manifest: sha256:..., or a tag of it")
    parser.add_argument("name", metavar="NAME", help="the new name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Tag it."""
    from composefs.oci.tags import tag_image

    with options.open_repository(arguments) as repository:
        manifest = tag_image(repository, arguments.image, arguments.name)
    if arguments.json:
        print(json.dumps({"manifest": manifest, "name": arguments.name}, indent=2))
    else:
        print(f"Tagged {manifest} as {printable(arguments.name)}")
    return 0
