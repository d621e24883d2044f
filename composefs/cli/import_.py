"""`composefs-import REF`, also `composefs import REF`: import an image, and the repository with it if need be."""

from __future__ import annotations

import argparse
import json
import logging
import sys

from composefs.cli import options
from composefs.cli.progress import listener
from composefs.digest import Algorithm
from composefs.errors import RepositoryError
from composefs.oci import ImportResult, find_image, import_image
from composefs.oci.manifest import Platform
from composefs.repository import Repository
from composefs.repository.refs import encode_tag

DESCRIPTION = """\
Import an OCI image into a composefs repository, every digest checked: those of
manifest, config and layer blobs, the diff_id of each layer, and the fs-verity
digest of each file. Layers are imported in parallel; those that are there
already are skipped. A missing repository is made."""

EXAMPLES = """\
examples:
  composefs-import oci:/srv/fedora:42 --name os
  composefs-import ./layout --repo /var/lib/repo --platform linux/arm64
  composefs-import oci:/srv/app --user --json | jq .objects_new

exit status: 0 done, 1 failed, 2 wrong usage"""

_ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES.replace("composefs-import", parser.prog)
    parser.add_argument("reference", metavar="REF", help="the image: oci:PATH[:TAG], or the path of an OCI layout")
    parser.add_argument("--name", help="what to call it in the repository (default: REF)")
    parser.add_argument(
        "--algorithm",
        choices=_ALGORITHMS,
        help="of a new repository; must be that of an existing one (default: fsverity-sha512-12)",
    )
    parser.add_argument(
        "--workers", type=options.positive, metavar="N", help="layers at the same time (default: one for each CPU)"
    )
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="which image of several (default: this machine's)"
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "bar", "plain", "json", "none"),
        default="auto",
        help="bars on a terminal, else plain lines (default: auto)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Import, and print what became of it."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR if arguments.quiet else logging.WARNING)
    platform = Platform.parse(arguments.platform) if arguments.platform is not None else None
    encode_tag(arguments.name if arguments.name is not None else arguments.reference)  # before anything is made
    style = "none" if arguments.quiet else arguments.progress
    with _open_repository(arguments, platform) as repository, listener(style) as progress:
        result = import_image(
            repository,
            arguments.reference,
            name=arguments.name,
            platform=platform,
            workers=arguments.workers,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(_as_json(result), indent=2))
    elif not arguments.quiet:
        _print(result)
    return 0


def _open_repository(arguments: argparse.Namespace, platform: Platform | None) -> Repository:
    """Return the chosen repository, made if it is missing and the image is not."""
    path = options.repository_path(arguments)
    wanted = Algorithm.parse(arguments.algorithm) if arguments.algorithm is not None else None
    if not Repository.exists(path):
        find_image(arguments.reference, platform)
        Repository.init(path, wanted or Algorithm.SHA512)
        repository = Repository.open(path)
        if not repository.verity and not arguments.quiet:
            print(f"{path}: made without fs-verity, which this file system does not offer", file=sys.stderr)
        return repository
    repository = Repository.open(path)
    if wanted is not None and repository.algorithm is not wanted:
        repository.close()
        raise RepositoryError(
            path, f"has the algorithm {repository.algorithm.value}, not {wanted.value}; choose another --repo"
        )
    return repository


def _print(result: ImportResult) -> None:
    """Print the result as `cfsctl oci pull` does."""
    stats = result.stats
    stored, inlined = options.binary_size(stats.bytes_new), options.binary_size(stats.bytes_inline)
    print(f"manifest {result.manifest}")
    print(f"config   {result.config}")
    print(f"verity   {result.verity.hex}")
    print(f"tagged   {result.name}")
    print(
        f"objects  {stats.objects_new} new + {stats.objects_present} already present objects; "
        f"{stored} stored, {inlined} inlined"
    )


def _as_json(result: ImportResult) -> dict[str, object]:
    return {
        "manifest": result.manifest,
        "config": result.config,
        "name": result.name,
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "stream": str(layer.stream),
                "status": layer.status,
                "size": layer.size,
            }
            for layer in result.layers
        ],
        "objects_new": result.stats.objects_new,
        "objects_present": result.stats.objects_present,
        "bytes_new": result.stats.bytes_new,
        "bytes_inline": result.stats.bytes_inline,
        "seconds": round(result.seconds, 3),
    }
