"""`composefs oci images`: the tagged images of a repository."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.output import SHORT_DIGEST, print_table

EXAMPLES = """\
examples:
  composefs oci images
  composefs oci images --json | jq -r '.images[].manifest_digest'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List the tagged OCI images."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print one JSON object, with whole digests")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from composefs.oci.images import list_images

    with options.open_repository(arguments) as repository:
        images = list(list_images(repository))
    if arguments.json:
        print(json.dumps({"images": [image.as_json() for image in images]}, indent=2))
    elif not images:
        print("No images found")
    else:
        rows = [
            (
                image.name,
                image.manifest.partition(":")[2][:SHORT_DIGEST],
                image.architecture or "artifact",
                str(image.layer_count),
                str(image.referrer_count),
            )
            for image in images
        ]
        print_table(("NAME", "DIGEST", "ARCH", "LAYERS", "REFS"), rows)
    return 0
