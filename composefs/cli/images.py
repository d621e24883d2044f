"""`composefs images`: the named images of a repository."""

from __future__ import annotations

import argparse
import json

from composefs.cli import options
from composefs.cli.output import SHORT_DIGEST, print_table

EXAMPLES = """\
examples:
  composefs images --no-trunc
  composefs images --json | jq -r '.images[].name'"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List the images that have names, which are refs below images/refs; for OCI tags: oci images."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print one JSON object, with whole digests")
    parser.add_argument("--no-trunc", action="store_true", help="print whole digests")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    with options.open_repository(arguments) as repository:
        images = list(repository.images.refs())
    if arguments.json:
        print(json.dumps({"images": [{"name": name, "digest": digest} for name, digest in images]}, indent=2))
    elif not images:
        print("No images found")
    else:
        size = None if arguments.no_trunc else SHORT_DIGEST
        print_table(("NAME", "DIGEST"), [(name, digest[:size]) for name, digest in images])
    return 0
