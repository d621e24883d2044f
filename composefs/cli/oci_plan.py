"""`composefs oci plan REF`: what an import would cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from composefs.cli import access, importing, options
from composefs.cli.failure import DONE, FAILED
from composefs.cli.output import SHORT_DIGEST, print_table, printable
from composefs.digest import Algorithm
from composefs.text import counted

if TYPE_CHECKING:
    from composefs.oci.cost import Cost, LayerCost
    from composefs.oci.manifest import Image
    from composefs.oci.sizes import Range
    from composefs.oci.sources.source import Source

DESCRIPTION = """\
Tell what an import would cost, before anything of its layers is fetched: which
are there, what is to be read of the others, what that takes on disk, and whether
it fits. Where a layer has a table of contents (zstd:chunked, eStargz), what it
takes is known but for what is stored already; of others it is a range. The exit
status is 1 if it cannot fit."""

EXAMPLES = """\
examples:
  composefs oci plan docker://quay.io/fedora/fedora:42
  composefs oci plan oci:/srv/fedora:42 --json | jq .disk.likely"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.set_defaults(local_fetch="disabled")
    parser.add_argument("reference", metavar="REF", help=importing.REFERENCE)
    parser.add_argument("--bootable", action="store_true", help="with the image for booting")
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="which image of several (default: this machine's)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    access.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from composefs.oci.cost import Verdict

    with importing.opened_source(arguments) as source:
        image = source.image(importing.platform(arguments))
        cost = _cost(arguments, source, image)
        if arguments.json:
            _print_json(source, image, cost)
        else:
            _print(source, image, cost)
    return FAILED if cost.verdict is Verdict.IMPOSSIBLE else DONE


def _cost(arguments: argparse.Namespace, source: Source, image: Image) -> Cost:
    """Return the cost for the chosen repository, which need not exist."""
    from composefs.oci.cost import Target, import_cost
    from composefs.repository import Repository

    options.check_repository_wanted(arguments)
    path = options.repository_path(arguments)
    chosen = {"erofs_version": arguments.erofs_version, "bootable": arguments.bootable}
    if not Repository.exists(path):
        target = Target.new(path, options.HASHES.get(arguments.hash, Algorithm.SHA512))
        return import_cost(source, image, None, target, **chosen)
    with options.open_repository(arguments) as repository:
        return import_cost(source, image, repository, Target.of(repository), **chosen)


def _print(source: Source, image: Image, cost: Cost) -> None:
    print(f"image    {printable(source.name)}")
    print(f"manifest {image.descriptor.digest}")
    if cost.layers:
        print()
        print_table(("LAYER", "STATE", "SIZE", "ARCHIVE", "FILES", "KNOWN BY"), [_row(layer) for layer in cost.layers])
    print()
    rows = [
        ("new files", *_cells(cost.objects, "{:,}".format)),
        ("their size", *_cells(cost.object_size, options.binary_size)),
        ("streams of layers", *_cells(cost.streams, options.binary_size)),
        ("EROFS images", *_cells(cost.images, options.binary_size)),
        ("disk in all", *_cells(cost.disk, options.binary_size)),
        ("inodes in all", *_cells(cost.inodes, "{:,}".format)),
    ]
    print_table(("NEEDED", "LEAST", "LIKELY", "MOST"), rows)
    print()
    present = sum(layer.is_present for layer in cost.layers)
    verb = "read" if source.streams is None else "download"
    there = f"; {counted(present, 'layer')} of {len(cost.layers)} present" if present else ""
    print(f"{verb:8} {options.binary_size(cost.fetched)}{there}")
    free = options.binary_size(cost.room.free) if cost.room.free is not None else "no limit, or not told"
    inodes = f", {counted(cost.room.inodes, 'inode')}" if cost.room.inodes is not None else ""
    print(f"free     {free}{inodes}")
    print(f"verdict  {cost.verdict.value}")


def _row(layer: LayerCost) -> tuple[str, ...]:
    objects = layer.contents.objects
    about = "" if objects.least == objects.most else "~"
    return (
        layer.digest.partition(":")[2][:SHORT_DIGEST],
        "present" if layer.is_present else "missing",
        options.binary_size(layer.size),
        options.binary_size(layer.contents.archive.likely),
        f"{about}{objects.likely:,}",
        layer.contents.known.value,
    )


def _cells(found: Range, shown: Callable[[int], str]) -> tuple[str, ...]:
    return tuple(map(shown, (found.least, found.likely, found.most)))


def _print_json(source: Source, image: Image, cost: Cost) -> None:
    import json
    from dataclasses import asdict

    value = {
        "reference": source.name,
        "manifest": image.descriptor.digest,
        "config": image.manifest.config.digest,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "status": "present" if layer.is_present else "missing",
                "size": layer.size,
                "known_by": layer.contents.known.name.lower(),
                "archive": asdict(layer.contents.archive),
                "objects": asdict(layer.contents.objects),
            }
            for layer in cost.layers
        ],
        "fetched": cost.fetched,
        "objects": asdict(cost.objects),
        "object_size": asdict(cost.object_size),
        "streams": asdict(cost.streams),
        "images": asdict(cost.images),
        "disk": asdict(cost.disk),
        "inodes": asdict(cost.inodes),
        "free": cost.room.free,
        "free_inodes": cost.room.inodes,
        "verdict": cost.verdict.name.lower(),
    }
    print(json.dumps(value, indent=2))
