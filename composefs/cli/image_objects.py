"""`composefs image-objects IMAGE`: the objects that an image refers to."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.digest import Algorithm, Digest

EXAMPLES = """\
examples:
  composefs image-objects os
  composefs image-objects os --json | jq '.objects | length'"""

_ALGORITHMS = {algorithm.digest_size: algorithm for algorithm in Algorithm}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "List the objects that an image refers to, sorted, whether or not they are there. The structure of the image "
        "is checked before."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="id, ref or OCI tag")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from composefs.erofs.check import check_structure, collect_objects
    from composefs.image import Image

    with options.open_repository(arguments) as repository, Image.open(repository, arguments.image) as image:
        check_structure(image.reader)
        objects = [str(Digest(_ALGORITHMS[len(raw)], raw)) for raw in sorted(collect_objects(image.reader))]
    if arguments.json:
        print(json.dumps({"image": str(image.id), "objects": objects}, indent=2))
    else:
        for name in objects:
            print(name)
    return 0
