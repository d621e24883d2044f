"""`composefs oci referrers REF`: what a registry has that refers to an image, such as signatures."""

from __future__ import annotations

import argparse
import json

from composefs.cli import access
from composefs.cli.output import SHORT_DIGEST, print_table, printable
from composefs.errors import UsageError

DESCRIPTION = """\
List what refers to an image in its registry: signatures, lists of software,
attestations. Of a registry that does not know of referrers the tag is read
that has them."""

EXAMPLES = """\
examples:
  composefs oci referrers docker://registry.example/os:42
  composefs oci referrers registry.example/os:42 --json | jq .digest"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("reference", metavar="REF", help="the image: docker://HOST/NAME[:TAG]")
    parser.add_argument("--artifact-type", metavar="TYPE", help="only those of this kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with whole digests and annotations")
    access.add_registry_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from dataclasses import asdict

    from composefs.oci.sources.registry import open_registry
    from composefs.reference import RegistryReference, parse_reference

    reached = access.access(arguments)
    assert reached.host is not None
    reference = parse_reference(access.full_reference(arguments.reference, reached.host))
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{arguments.reference} is in no registry, and only these know what refers to an image")
    with open_registry(reference, reached) as source:
        digest, referrers = source.referrers(arguments.artifact_type)
    if arguments.json:
        print(json.dumps({"digest": digest, "referrers": [asdict(each) for each in referrers]}, indent=2))
    elif not referrers:
        of_the_type = f" of type {printable(arguments.artifact_type)}" if arguments.artifact_type is not None else ""
        print(f"nothing{of_the_type} refers to {digest}")
    else:
        rows = [
            (each.artifact_type or each.media_type, each.digest.partition(":")[2][:SHORT_DIGEST], f"{each.size:,}")
            for each in referrers
        ]
        print_table(("ARTIFACT TYPE", "DIGEST", "BYTES"), rows)
    return 0
