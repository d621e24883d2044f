"""`composefs oci layer DIFF_ID`: a layer's tar archive, bit for bit, or what is in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import refuse_terminal, write_bytes
from composefs.errors import NotFoundError

if TYPE_CHECKING:
    from composefs.repository import Repository
    from composefs.repository.streams import OpenStream

EXAMPLES = """\
examples:
  composefs oci layer sha256:9f86... | tar t
  composefs oci layer sha256:9f86... --dumpfile
  composefs oci layer sha256:9f86... --json | jq .splitstream.inlineSize"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Write the tar archive of a layer to standard output, bit for bit the one that was imported."
    parser.epilog = EXAMPLES
    parser.add_argument("diff_id", metavar="DIFF_ID", help="digest of the archive: sha256:...")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--dumpfile", action="store_true", help="instead, print a line of a dumpfile for each entry, in their order"
    )
    choice.add_argument("--json", action="store_true", help="instead, print sizes and counts as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    from composefs.oci.tags import parse_digest

    diff_id = parse_digest(arguments.diff_id)
    if not arguments.dumpfile and not arguments.json:
        refuse_terminal("a tar archive")
    with options.open_repository(arguments) as repository:
        if arguments.dumpfile:
            write_bytes(_lines(repository, diff_id))
        elif arguments.json:
            print(json.dumps(_facts(repository, diff_id), indent=2))
        else:
            with _open(repository, diff_id) as stream:
                write_bytes(stream.merged())
    return 0


def _open(repository: Repository, diff_id: str) -> OpenStream:
    from composefs.oci.names import layer_name
    from composefs.splitstream import ContentType

    if repository.streams.find(layer_name(diff_id)) is None:
        raise NotFoundError(f"{repository.path}: no layer {diff_id}")
    return repository.streams.open(layer_name(diff_id), ContentType.LAYER)


def _lines(repository: Repository, diff_id: str) -> Iterator[bytes]:
    from composefs.dumpfile import format_entry, format_hard_link
    from composefs.oci.trees import layer_entries

    for path, stat, content, target in layer_entries(repository, diff_id):
        yield format_entry(path, stat, content) if target is None else format_hard_link(path, target)


def _facts(repository: Repository, diff_id: str) -> dict[str, object]:
    from composefs.oci.index import read_entries
    from composefs.oci.work import layer_label
    from composefs.tar import INLINE_MAX, REGULAR

    count = external_size = 0
    with _open(repository, diff_id) as stream:
        for entry, _ in read_entries(stream.reader, layer_label(diff_id)):
            count += 1
            if entry.kind in REGULAR and entry.size > INLINE_MAX:
                external_size += entry.size
        return {
            "diffId": diff_id,
            "verity": stream.digest.hex,
            "size": stream.reader.size,
            "entryCount": count,
            "splitstream": {
                "externalObjects": len(stream.reader.object_refs),
                "externalSize": external_size,
                "inlineSize": stream.reader.size - external_size,
            },
        }
