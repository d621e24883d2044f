"""`composefs oci export IMAGE DEST`, also `composefs oci push`: copy an image to a layout, an archive or a registry."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from composefs.cli import access, options
from composefs.cli.oci_options import say_which
from composefs.cli.output import printable, refuse_terminal

if TYPE_CHECKING:
    from typing import TextIO

    from composefs.oci.export.destination import Destination
    from composefs.oci.export.exporter import ExportResult
    from composefs.oci.manifest import Compression
    from composefs.oci.sources.access import Access

DESCRIPTION = """\
Copy an image out of the repository: to an OCI layout or archive, a directory as
skopeo has it, or a registry. Layers are rebuilt bit for bit, and proved by
their diff_ids. The manifest is the stored one if all compressed layers are at
DEST already or can be made again as they were; otherwise a new one, which names
the old one, with the same config. What is not complete gets no name."""

EXAMPLES = """\
examples:
  composefs oci export os oci:/srv/layout:42
  composefs oci export os oci-archive:os.tar --compression zstd --level 9
  composefs oci export os oci-archive:- | ssh host podman load
  composefs oci push os docker://registry.example/os:42

DEST is oci:PATH[:TAG], oci-archive:PATH[:TAG] (- is standard output), dir:PATH
or docker://HOST/NAME[:TAG]. A layout keeps its other images; a file is replaced.

With --compression none, gzip or zstd the same image always gives the same
manifest, as long as zlib or libzstd is the same; --json says which it was."""

_AUTO = "auto"
_STANDARD = "-"
_ARCHIVE = "oci-archive:"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="a tag, or @sha256:..., of its manifest or config")
    parser.add_argument("destination", metavar="DEST", help="where to: see below")
    parser.add_argument(
        "--compression",
        choices=(_AUTO, "none", "gzip", "zstd"),
        default=_AUTO,
        help="of all layers (default: auto: as they were, and without a new manifest if that can be)",
    )
    parser.add_argument(
        "--level", type=options.positive, metavar="N", help="of gzip (1 to 9, default: 4) or zstd (1 to 19, default: 3)"
    )
    parser.add_argument(
        "--workers", type=options.positive, metavar="N", help="layers at the same time (default: one for each CPU)"
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "bar", "plain", "json", "none"),
        default="auto",
        help="bars on a terminal, else plain lines (default: auto)",
    )
    access.add_registry_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Copy it, and print what became of it."""
    from composefs.cli.export_progress import ExportBars, ExportLines
    from composefs.cli.progress import listener
    from composefs.oci.export.exporter import export_image
    from composefs.oci.tags import NamedBy

    reached = access.access(arguments)
    with options.open_repository(arguments) as repository:
        say_which(repository, arguments.image, usual=NamedBy.MANIFEST)
        destination, output = _destination(arguments, reached)
        with listener("none" if arguments.quiet else arguments.progress, ExportLines, ExportBars) as progress:
            result = export_image(
                repository,
                arguments.image,
                destination,
                access=reached,
                compression=_compression(arguments),
                level=arguments.level,
                workers=arguments.workers,
                progress=progress,
            )
    if arguments.json:
        print(json.dumps(_as_json(result), indent=2), file=output)
    elif not arguments.quiet:
        _print(result, output)
    return 0


def _compression(arguments: argparse.Namespace) -> Compression | None:
    from composefs.oci.manifest import Compression

    return None if arguments.compression == _AUTO else Compression[arguments.compression.upper()]


def _destination(arguments: argparse.Namespace, reached: Access) -> tuple[str | Destination, TextIO]:
    """Return where the image goes to, and where what is printed does: not among the bytes of an archive."""
    from composefs.oci.export.archive import ArchiveDestination

    path, _, tag = arguments.destination.removeprefix(_ARCHIVE).partition(":")
    if not arguments.destination.startswith(_ARCHIVE) or path != _STANDARD:
        return arguments.destination, sys.stdout
    refuse_terminal("an archive")
    return ArchiveDestination(arguments.destination, sys.stdout.buffer, tag or None, reached.spool), sys.stderr


def _print(result: ExportResult, output: TextIO) -> None:
    """Print the result."""
    present = sum(layer.status == "present" for layer in result.layers)
    print(f"manifest {result.manifest}", file=output)
    if not result.is_kept:
        print(f"made of  {result.stored_manifest}", file=output)
    print(f"config   {result.config}", file=output)
    print(f"exported {printable(result.destination)}", file=output)
    print(
        f"layers   {len(result.layers) - present} written + {present} already there; "
        f"{options.binary_size(result.bytes_written)} written",
        file=output,
    )


def _as_json(result: ExportResult) -> dict[str, object]:
    import dataclasses

    fields = dataclasses.asdict(result)
    del fields["seconds"]
    return fields | {"kept": result.is_kept, "seconds": round(result.seconds, 3)}
