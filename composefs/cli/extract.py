"""`composefs extract IMAGE TARGET [PATH...]`: copy the files of an image into a directory."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.cli.failure import DONE, FAILED
from composefs.cli.output import printable
from composefs.errors import UsageError
from composefs.text import counted

if TYPE_CHECKING:
    from composefs.image import Extraction

EXAMPLES = """\
examples:
  composefs extract os ./rootfs
  composefs extract os ./some /etc/passwd /usr/lib/modules
  composefs extract --nonempty os /mnt     # a new file system has lost+found

What could not be restored is said on standard error.

exit status: 0 done, also if privileges were missing for owners, devices or
attributes; 1 failed, or the file system cannot hold something; 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Copy the files of an image into a directory, with hard links, extended attributes and times, and as root "
        "with owners and devices. Nothing is written outside of it, whatever the image says, and nothing is replaced. "
        "A directory that is not there yet appears when all is done."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("image", metavar="IMAGE", help="id, ref or OCI tag")
    parser.add_argument("target", metavar="TARGET", help="a directory that is empty, or not there yet")
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        default=[],
        help="what to copy, with the directories above it (default: everything)",
    )
    parser.add_argument("--nonempty", action="store_true", help="TARGET may hold other files")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Copy them, and say what could not be restored."""
    from composefs.image import Image, extract

    if not arguments.target:
        raise UsageError("TARGET is empty")
    with options.open_repository(arguments) as repository, Image.open(repository, arguments.image) as image:
        result = extract(image, arguments.target, arguments.paths, nonempty=arguments.nonempty)
    if arguments.json:
        print(json.dumps(_as_json(result), indent=2))
    elif not arguments.quiet:
        print(f"Extracted {_describe(result)} to {printable(arguments.target)}")
    if not arguments.quiet:
        for shortfall in result.shortfalls:
            print(f"not restored: {shortfall}", file=sys.stderr)
    return DONE if result.lacks_only_privileges else FAILED


def _describe(result: Extraction) -> str:
    parts = [
        (result.files, "file"),
        (result.directories, "directory"),
        (result.symlinks, "symbolic link"),
        (result.hard_links, "hard link"),
        (result.specials, "special file"),
    ]
    size = options.binary_size(result.size)
    shared = f", {options.binary_size(result.shared)} of it shared with the repository" if result.shared else ""
    return f"{', '.join(counted(count, noun) for count, noun in parts if count or noun == 'file')} ({size}{shared})"


def _as_json(result: Extraction) -> dict[str, object]:
    import dataclasses

    shortfalls = [
        dataclasses.asdict(shortfall) | {"reason": os.strerror(shortfall.reason)} for shortfall in result.shortfalls
    ]
    return dataclasses.asdict(result) | {"shortfalls": shortfalls}
