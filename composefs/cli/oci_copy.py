"""`composefs oci copy IMAGE --from PATH`: copy an image from another repository."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.oci_options import counts, erofs_json, say_which
from composefs.cli.output import printable
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.oci.copy import CopyResult

EXAMPLES = """\
examples:
  composefs --repo /var/lib/repo oci copy os --from /mnt/repo --name os
  composefs oci copy @sha256:1496f4a1... --from /mnt/repo --name os:42
  composefs oci copy os --from /srv/build/repo --name os --zerocopy"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.set_defaults(stores=True)
    parser.description = """\
Copy an image from the repository at PATH into the chosen one, every digest
checked. They may have different algorithms and formats: what is there already
is not copied, and EROFS images are made anew."""
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="there: a tag, or @sha256:..., of a manifest or config")
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="directory of the other repository"
    )
    parser.add_argument(
        "--name", help="what to call it here (default: nothing, so that the next collection of garbage removes it)"
    )
    parser.add_argument(
        "--zerocopy",
        action="store_true",
        help="share contents, by reflink or else by hard link: needs one file system and one algorithm",
    )
    parser.add_argument(
        "--workers", type=options.positive, metavar="N", help="layers at the same time (default: one for each CPU)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Copy it."""
    from composefs.oci.copy import copy_image
    from composefs.oci.tags import NamedBy
    from composefs.repository import Repository

    if not arguments.source:
        raise UsageError("--from needs a path")
    with (
        options.open_repository(arguments) as target,
        Repository.open(arguments.source, upgrade=not arguments.no_upgrade) as source,
    ):
        say_which(source, arguments.image, usual=NamedBy.MANIFEST)
        result = copy_image(
            source,
            target,
            arguments.image,
            name=arguments.name,
            zerocopy=arguments.zerocopy,
            erofs_version=arguments.erofs_version,
            workers=arguments.workers,
        )
    if arguments.json:
        print(json.dumps(_as_json(result), indent=2))
    else:
        _print(result, arguments.image, arguments.source)
    return 0


def _print(result: CopyResult, image: str, source: str) -> None:
    name = f", tagged as {result.name}" if result.name is not None else ""
    print(printable(f"Copied image {image} from {source} to destination repo{name}"))
    print(f"Manifest digest: {result.manifest}")
    print(f"Manifest verity: {result.verity.hex}")
    print(f"Config digest:   {result.config}")
    print(f"Config verity:   {result.config_verity.hex}")


def _as_json(result: CopyResult) -> dict[str, object]:
    return {
        "manifest": result.manifest,
        "manifest_verity": result.verity.hex,
        "config": result.config,
        "config_verity": result.config_verity.hex,
        "name": result.name,
        "image": result.images[0].digest.hex if result.images else None,
        "images": [erofs_json(image) for image in result.images],
        **counts(result.stats),
    }
