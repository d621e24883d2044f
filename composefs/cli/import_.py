"""`composefs-import REF`, also `composefs import REF`: import an image, and the repository with it if need be."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from composefs.cli import importing, options
from composefs.digest import Algorithm
from composefs.errors import RepositoryError

if TYPE_CHECKING:
    from composefs.oci.sources.source import Source
    from composefs.repository import Repository

DESCRIPTION = """\
Import an OCI image into a composefs repository, every digest checked: those of
manifest, config and layer blobs, the diff_id of each layer, and the fs-verity
digest of each file. Layers are imported in parallel; those that are there
already are skipped. A missing repository is made."""

EXAMPLES = """\
examples:
  composefs-import oci:/srv/fedora:42 --name os
  composefs-import --repo /var/lib/repo ./layout --platform linux/arm64
  composefs-import --user oci:/srv/app --json | jq .objects_new

exit status: 0 done, 1 failed, 2 wrong usage"""

_OPTIONS = re.compile(r"composefs-import((?: --repo \S+| --user)?)")  # stand before the command, if it is one
_ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = DESCRIPTION
    is_command = parser.prog != "composefs-import"
    parser.epilog = _OPTIONS.sub(r"composefs\1 import", EXAMPLES) if is_command else EXAMPLES
    parser.add_argument("reference", metavar="REF", help=importing.REFERENCE)
    parser.add_argument("--name", help="what to call it in the repository (default: REF)")
    parser.add_argument(
        "--algorithm",
        choices=_ALGORITHMS,
        help="of a new repository; must be that of an existing one (default: fsverity-sha512-12)",
    )
    importing.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import, and print what became of it."""
    from composefs.repository.refs import encode_tag

    if arguments.name is not None:
        encode_tag(arguments.name)  # before anything is asked for
    with importing.opened_source(arguments) as source, _open_repository(arguments, source) as repository:
        result = importing.run(arguments, repository, source)
    if arguments.json:
        importing.print_json(result)
    elif not arguments.quiet:
        importing.print_result(result)
        if result.image is not None:
            print(f"image    {result.image.hex}")
        if result.boot_image is not None:
            print(f"Boot image: {result.boot_image.digest.hex}")
    importing.check_bootable(arguments, result)
    return 0


def _open_repository(arguments: argparse.Namespace, source: Source) -> Repository:
    """Return the chosen repository, made if it is missing and the image is not."""
    from composefs.oci.importer import check_name
    from composefs.repository import Repository

    check_name(arguments.name, source.name)  # before anything is made
    path = options.repository_path(arguments)
    wanted = options.wanted_algorithm(arguments)
    if not arguments.no_repo and not Repository.exists(path):
        source.image(importing.platform(arguments))
        Repository.init(path, wanted or Algorithm.SHA512, require_verity=True if arguments.require_verity else None)
        repository = options.open_repository(arguments)
        if not repository.verity and not arguments.quiet and arguments.progress != "json":
            print(f"{path}: made without fs-verity, which this file system does not offer", file=sys.stderr)
        return repository
    repository = options.open_repository(arguments)
    if wanted is not None and repository.algorithm is not wanted:
        repository.close()
        raise RepositoryError(
            path, f"has the algorithm {repository.algorithm.value}, not {wanted.value}; choose another --repo"
        )
    return repository
