"""What the two commands that import an image share: options, progress, and how the result is printed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from composefs.cli import access, options
from composefs.cli.output import printable
from composefs.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from composefs.digest import Digest
    from composefs.oci.importer import ImportResult
    from composefs.oci.manifest import Platform
    from composefs.oci.sources.source import Source
    from composefs.repository import Repository


REFERENCE = "the image: docker://HOST/NAME[:TAG], oci:PATH[:TAG], a path, ...; see docs/sources.md"


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
    parser.add_argument("--force", action="store_true", help="begin even if the disk has no room for all of it")
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="which image of several (default: this machine's)"
    )
    parser.add_argument(
        "--local-fetch",
        choices=("disabled", "auto", "zerocopy"),
        default="disabled",
        help="files of container storage: copied; shared if that can be done; or shared and nothing else "
        "(default: disabled)",
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "bar", "plain", "json", "none"),
        default="auto",
        help="bars on a terminal, else plain lines (default: auto)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    access.add_options(parser)


def platform(arguments: argparse.Namespace) -> Platform | None:
    """Return the platform that is asked for.

    Raises:
        UsageError: it is none.
    """
    from composefs.oci.manifest import Platform

    return Platform.parse(arguments.platform) if arguments.platform is not None else None


def opened_source(arguments: argparse.Namespace) -> Source:
    """Return what the image comes from, open."""
    from dataclasses import replace

    from composefs.oci.sources.opening import open_source
    from composefs.reference.parsing import STDIN, parse_reference

    platform(arguments)  # wrong usage goes before what may be wrong with the image
    reached = replace(access.access(arguments), local_fetch=arguments.local_fetch)
    assert reached.host is not None
    reference = access.full_reference(arguments.reference, reached.host)
    if arguments.password_stdin and getattr(parse_reference(reference), "path", None) == STDIN:
        raise UsageError("--password-stdin is for an image that does not come on standard input itself")
    return open_source(reference, reached)


def run(
    arguments: argparse.Namespace, repository: Repository, source: Source, expected_digest: Digest | None = None
) -> ImportResult:
    """Import the image from *source*, and show how that goes."""
    from composefs.cli.progress import Bars, Lines, listener
    from composefs.oci.importer import import_image

    with listener("none" if arguments.quiet else arguments.progress, Lines, Bars) as progress:
        return import_image(
            repository,
            source,
            name=arguments.name,
            platform=platform(arguments),
            erofs_version=arguments.erofs_version,
            bootable=arguments.bootable,
            expected_digest=expected_digest,
            max_layer_size=arguments.max_layer_size,
            force=arguments.force,
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
        "source_manifest": result.source_manifest,
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
