"""`composefs oci import-layer DIFF_ID [NAME]`: import one layer, whose archive comes on standard input."""

from __future__ import annotations

import argparse
import json
import sys

from composefs.cli import options
from composefs.cli.oci_options import counts
from composefs.errors import UsageError

EXAMPLES = """\
examples:
  composefs oci import-layer sha256:9f86d081... < layer.tar
  zstd -dc layer.tar.zst | composefs oci import-layer sha256:9f86d081... base"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.set_defaults(stores=True)
    parser.description = """\
Import one layer, whose tar archive, not compressed, comes on standard input,
and print the id of its stream. The archive must have the digest DIFF_ID. A
layer that is there already is not read again."""
    parser.epilog = EXAMPLES
    parser.add_argument("diff_id", metavar="DIFF_ID", help="digest of the archive: sha256:...")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to call the stream: the ref is streams/refs/NAME")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Import it."""
    from composefs.oci.archive import import_archive
    from composefs.oci.names import find_layer
    from composefs.oci.tags import parse_digest
    from composefs.repository.refs import check_ref
    from composefs.splitstream import ContentType

    diff_id = parse_digest(arguments.diff_id)
    if arguments.name is not None:
        check_ref(arguments.name)
    with options.open_repository(arguments) as repository:
        if (sys.stdin is None or sys.stdin.isatty()) and find_layer(repository, diff_id, ContentType.LAYER) is None:
            raise UsageError("the archive comes on standard input: redirect it from a file or a pipe")
        result = import_archive(repository, sys.stdin.buffer, diff_id, name=arguments.name)
    if arguments.json:
        value = {
            "diff_id": diff_id,
            "stream": str(result.stream),
            "status": result.status,
            "name": arguments.name,
            **counts(result.stats),
        }
        print(json.dumps(value, indent=2))
    else:
        print(result.stream)
    return 0
