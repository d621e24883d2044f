"""`composefs oci images`: the tagged images of a repository."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.output import print_table
from composefs.oci.images import list_images
from composefs.repository import Repository

_SHORT = 12  # hexadecimal digits of a digest in the table


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("images", help="list the tagged images", description="List the tagged images.")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with whole digests")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    with Repository.open(options.repository_path(arguments)) as repository:
        images = list(list_images(repository))
    if arguments.json:
        print(json.dumps({"images": [image.as_json() for image in images]}, indent=2))
    elif not images:
        print("No images found")
    else:
        rows = [
            (
                image.name,
                image.manifest.partition(":")[2][:_SHORT],
                image.architecture or "artifact",
                str(image.layer_count),
                str(image.referrer_count),
            )
            for image in images
        ]
        print_table(("NAME", "DIGEST", "ARCH", "LAYERS", "REFS"), rows)
    return 0
