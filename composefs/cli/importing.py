"""What the two commands that import an image share: options, progress, and how the result is printed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.output import printable
from composefs.errors import NotFoundError

if TYPE_CHECKING:
    from composefs.digest import Digest
    from composefs.oci.importer import ImportResult
    from composefs.oci.manifest import Platform
    from composefs.repository import Repository


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both have."""
    parser.set_defaults(stores=True)
    parser.add_argument("--bootable", action="store_true", help="also make the image for booting")
    parser.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="layers at the same time (default: one for each CPU, fewer where one large layer takes the longest)",
    )
    parser.add_argument(
        "--max-layer-size",
        type=options.size,
        metavar="SIZE",
        help="refuse layers that inflate to more, such as 64G (default: 16G or 256 times the blob, at most 1T)",
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


def platform(arguments: argparse.Namespace) -> Platform | None:
    """Return the platform that is asked for.

    Raises:
        UsageError: it is none.
    """
    from composefs.oci.manifest import Platform

    return Platform.parse(arguments.platform) if arguments.platform is not None else None


def run(arguments: argparse.Namespace, repository: Repository, expected_digest: Digest | None = None) -> ImportResult:
    """Import the image, and show how that goes."""
    from composefs.cli.progress import listener
    from composefs.oci.importer import import_image

    if arguments.quiet:  # otherwise warnings are printed, which is what logging does on its own
        import logging

        logging.basicConfig(level=logging.ERROR)
    with listener("none" if arguments.quiet else arguments.progress) as progress:
        return import_image(
            repository,
            arguments.reference,
            name=arguments.name,
            platform=platform(arguments),
            erofs_version=arguments.erofs_version,
            bootable=arguments.bootable,
            expected_digest=expected_digest,
            max_layer_size=arguments.max_layer_size,
            workers=arguments.workers,
            progress=progress,
        )


def check_bootable(arguments: argparse.Namespace, result: ImportResult) -> None:
    """See that there is an image for booting if one was asked for.

    Raises:
        NotFoundError: there is none.
    """
    if arguments.bootable and result.boot_image is None:
        raise NotFoundError(f"{arguments.reference} is an artifact, of which no image for booting is made")


def print_result(result: ImportResult) -> None:
    """Print the result as `cfsctl oci pull` does."""
    stats = result.stats
    stored, inlined = options.binary_size(stats.bytes_new), options.binary_size(stats.bytes_inline)
    print(f"manifest {result.manifest}")
    print(f"config   {result.config}")
    print(f"verity   {result.verity.hex}")
    print(f"tagged   {printable(result.name)}")
    print(
        f"objects  {stats.objects_new} new + {stats.objects_present} already present objects; "
        f"{stored} stored, {inlined} inlined"
    )


def print_json(result: ImportResult) -> None:
    """Print the result as one JSON object."""
    import json

    from composefs.cli.oci_options import counts, erofs_json

    value = {
        "manifest": result.manifest,
        "config": result.config,
        "verity": result.verity.hex,
        "name": result.name,
        "image": result.image.hex if result.image is not None else None,
        "boot_image": result.boot_image.digest.hex if result.boot_image is not None else None,
        "images": [erofs_json(image) for image in result.images],
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
        **counts(result.stats),
        "seconds": round(result.seconds, 3),
    }
    print(json.dumps(value, indent=2))
