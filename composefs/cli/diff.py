"""`composefs diff A B`: every difference between two images, and what is behind them."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.failure import report
from composefs.cli.output import printable
from composefs.cli.transforms import add_transforms, add_untransformed
from composefs.text import counted
from composefs.xattrs import XattrFilter

if TYPE_CHECKING:
    from composefs.cli.sources import Loaded
    from composefs.diff import Change, Layer

LIMIT = 20  # changes shown path by path; a guess at what is still read
_EQUAL, _DIFFERENT, _TROUBLE = 0, 1, 2  # exit statuses, those of diff(1)
_WIDTH_MIN = 40  # columns

EXAMPLES = """\
examples:
  composefs diff os dir:/mnt/rootfs   # why is this id not that of the build?
  composefs diff --bootable tag:os refs/os-for-booting
  composefs diff --all build.dump install.dump
  composefs diff --json tag:old tag:new | jq -r '.explanations[].sentence'

exit status: 0 equal, 1 different, 2 trouble"""
HELP = (
    "an image of the repository (id, refs/NAME or NAME), the tag of an OCI image, a directory, a dumpfile, or an EROFS "
    "image file. What this leaves open is settled by a prefix: image:, tag: (or oci-tag:), dir:, dump: or file:"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Say why two images are not the same: the differences in groups, known causes that explain them, and path by "
        "path what is old (of A) and new (of B). For an OCI tag the layers are merged, so that each difference has the "
        "layer that brought it."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("a", metavar="A", help=HELP)
    parser.add_argument("b", metavar="B", help="the same; - is a dumpfile on standard input")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--limit", type=_count, default=LIMIT, metavar="N", help=f"paths to show (default: {LIMIT}); groups count all"
    )
    shown.add_argument("--all", dest="limit", action="store_const", const=None, help="show all paths")
    shown.add_argument("--no-explain", action="store_true", help="try no causes, which takes longer than comparing")
    shown.add_argument("--json", action="store_true", help="print one JSON object, with all paths")
    made = parser.add_argument_group("how the trees of directories and OCI tags are made")
    add_transforms(made)
    add_untransformed(made)
    made.add_argument(
        "--workers", type=options.positive, metavar="N", help="threads or processes (default: one for each CPU)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare; also a failure has its own status here, since 1 means that something differs."""
    from composefs.collector import paused_collector

    with report("composefs diff"), paused_collector():
        return _compare(arguments)
    return _TROUBLE


def _compare(arguments: argparse.Namespace) -> int:
    import shutil

    from composefs.cli.sources import Transforms, load_all
    from composefs.diff import as_json, compare, explain, groups, render

    transforms = Transforms(
        container=not arguments.no_propagate_usr_to_root,
        xattrs=XattrFilter(arguments.xattrs),
        bootable=arguments.bootable,
    )
    with load_all(arguments, [arguments.a, arguments.b], transforms) as (a, b):
        has_layers = bool(a.layers or b.layers)
        comparison = compare(a.root, b.root, layer_of=partial(_layer_of, a, b) if has_layers else None)
    encoding = _other_encoding(a, b) if comparison.equal else None
    grouped = groups(comparison)
    explanations = [] if arguments.no_explain else explain(a.root, b.root, comparison=comparison)
    if arguments.json:
        value = {"a": _as_json(a), "b": _as_json(b)} | as_json(comparison, grouped, explanations)
        value["equal"] = comparison.equal and encoding is None
        sys.stdout.writelines(json.JSONEncoder(indent=2).iterencode(value))  # of large images it is large, too
        print()
    else:
        width = max(shutil.get_terminal_size().columns, _WIDTH_MIN)
        print(f"a: {_told(a)}")
        print(f"b: {_told(b)}")
        for line in render(comparison, grouped, explanations, limit=arguments.limit, width=width):
            print(line)
        if encoding is not None:
            print(encoding)
    return _EQUAL if comparison.equal and encoding is None else _DIFFERENT


def _other_encoding(a: Loaded, b: Loaded) -> str | None:
    """Say why two images of one tree have different ids; None: they have not, or not both are images."""
    if a.encoded is None or b.encoded is None or a.encoded == b.encoded:
        return None
    if a.encoded.version != b.encoded.version:
        return f"The ids differ all the same: a has the EROFS format V{a.encoded.version}, b V{b.encoded.version}."
    return "The ids differ all the same: other programs, or other rules, laid out the same files."


def _layer_of(a: Loaded, b: Loaded, change: Change) -> Layer | None:
    """Return the layer of what is new, or else that of what is old."""
    sides = {"removed": [a], "added": [b]}.get(change.kind, [b, a])
    return next(filter(None, (side.layer_of(change.path) for side in sides)), None)


def _told(loaded: Loaded) -> str:
    layers = f", {counted(len(loaded.layers), 'layer')}" if loaded.layers else ""
    return printable(f"{loaded.source}{layers}")


def _as_json(loaded: Loaded) -> dict[str, object]:
    return {
        "kind": loaded.source.kind.value,
        "name": loaded.source.name,
        "layers": len(loaded.layers) or None,
        "version": None if loaded.encoded is None else loaded.encoded.version,
    }


def _count(text: str) -> int:
    """Return the whole number that *text* is, for argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)
