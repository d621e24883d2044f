"""`composefs create-image PATH [NAME]`: store a directory as an image."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from composefs.cli import options, scanning
from composefs.cli.transforms import add_transforms
from composefs.digest import Digest

if TYPE_CHECKING:
    from composefs.repository import Repository

EXAMPLES = """\
examples:
  composefs create-image /mnt/rootfs base
  composefs --repo /var/lib/repo create-image --bootable /mnt/rootfs os
  composefs create-image --no-propagate-usr-to-root --json . | jq -r .id"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.set_defaults(stores=True)
    parser.description = (
        "Store the files of a directory as objects, make an image of the directory in every EROFS version that the "
        "repository is set to, and print the id of the default one."
    )
    parser.epilog = EXAMPLES
    scanning.add_directory(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to call it: the ref is images/refs/NAME")
    add_transforms(parser)
    parser.add_argument(
        "--sharing",
        metavar="WHAT",
        choices=("copy", "reflink", "hardlink"),
        default="reflink",
        help="what objects share with the files: copy (nothing), reflink (blocks, the default) or hardlink (all: what "
        "is later written to a file breaks the image); a copy is made where that cannot be",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Store it, and print its id."""
    from composefs.repository.refs import check_ref

    if arguments.name is not None:
        check_ref(arguments.name)
    with options.open_repository(arguments) as repository:
        repository.check_writable()
        images = _store(arguments, repository)
        repository.name({}, images.values())
        version, digest = next(iter(images.items()))
        if arguments.name is not None:
            repository.images.set_ref(arguments.name, digest)
    if arguments.json:
        others = [scanning.as_json(other, number) for number, other in images.items() if number != version]
        print(json.dumps(scanning.as_json(digest, version) | {"name": arguments.name, "others": others}, indent=2))
    else:
        print(digest)
    return 0


def _store(arguments: argparse.Namespace, repository: Repository) -> dict[int, Digest]:
    """Store objects and images without names; return the images by EROFS version, the default first."""
    from composefs.erofs.writer import write_image
    from composefs.oci.erofs import make_bootable
    from composefs.scan import Sharing

    objects = repository.objects
    root = scanning.read_directory(arguments, repository.algorithm, objects, Sharing(arguments.sharing))
    if arguments.bootable:
        make_bootable(repository, root)
    chosen = arguments.erofs_version
    versions = repository.meta.erofs_versions if chosen is None else (chosen,)
    return {version: repository.images.store(write_image(root, version)) for version in versions}
