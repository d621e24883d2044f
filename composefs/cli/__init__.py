"""The commands `composefs` and `composefs-import`: arguments, exit statuses, and errors in one line.

Exit status: 0 done, 1 failed, 2 usage.  Only this package of all prints, exits and reads the environment.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from composefs import __version__
from composefs.cli import cat, digest, images, import_, init, layer, options
from composefs.cli.failure import USAGE, report

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `composefs` with *argv*, by default the process's, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="composefs",
        description="Content-addressed repositories of OS images, every file named by its fs-verity digest.",
        epilog="`composefs COMMAND --help` tells more; `composefs-import` is short for `composefs import`.",
    )
    parser.add_argument("--version", "-V", action="version", version=f"composefs {__version__}")
    options.add_repository(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init.add(commands)
    import_.add(commands)
    cat.add(commands)
    digest.add(commands)
    oci = commands.add_parser("oci", help="look at OCI images", description="Look at the OCI images in a repository.")
    oci_commands = oci.add_subparsers(title="commands", metavar="COMMAND", required=True)
    images.add(oci_commands)
    layer.add(oci_commands)
    return _run(parser, argv)


def main_import(argv: Sequence[str] | None = None) -> int:
    """Run `composefs-import` with *argv*, by default the process's, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="composefs-import",
        description=import_.DESCRIPTION,
        epilog=import_.EXAMPLES,
        formatter_class=options.Help,
    )
    parser.add_argument("--version", "-V", action="version", version=f"composefs-import {__version__}")
    options.add_repository(parser)
    import_.add_arguments(parser)
    return _run(parser, argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    with report(parser.prog) as outcome:
        try:
            arguments = parser.parse_args(argv)
        except SystemExit as stop:  # --help, --version or wrong usage: argparse has said all there is to say
            outcome.status = stop.code if isinstance(stop.code, int) else USAGE
        else:
            command: Command = arguments.command
            outcome.status = command(arguments)
        sys.stdout.flush()
    return outcome.status
