"""The commands `composefs` and `composefs-import`: arguments, exit statuses, and errors in one line.

Exit status: 0 done, 1 failed, 2 usage.  Only this package of all prints, exits and reads the environment.

A command is a module with two functions: `configure` gives a parser its arguments, `run` does the work and returns the
exit status.  It is imported when it is chosen, so that starting one does not pay for all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from composefs import __version__
from composefs.cli import options
from composefs.cli.failure import USAGE, report
from composefs.cli.registry import COMMANDS, OCI_COMMANDS, TOOLS, CommandParser

DESCRIPTION = "Content-addressed repositories of OS images, every file named by its fs-verity digest."
EPILOG = """\
Repository and global options stand before the command. `composefs COMMAND --help` tells more;
`composefs-import` is short for `composefs import`; called `mkcomposefs` or `composefs-info`,
this program is that tool.

examples:
  composefs-import oci:/srv/fedora:42 --name os
  composefs --repo /var/lib/repo oci images
  composefs ls -l os /usr/bin
  composefs diff dir:/srv/build os

exit status: 0 done, 1 failed, 2 wrong usage"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `composefs` with *argv*, by default the process's, and return its exit status."""
    called = os.path.basename(sys.argv[0])
    if argv is None and called in TOOLS:
        return _run(_tool_parser(called), None)
    return _run(make_parser(), argv)


def main_import(argv: Sequence[str] | None = None) -> int:
    """Run `composefs-import` with *argv*, by default the process's, and return its exit status."""
    return _run(make_import_parser(), argv)


def make_parser() -> CommandParser:
    """Return the parser of `composefs`."""
    parser = CommandParser(prog="composefs", description=DESCRIPTION, epilog=EPILOG)
    _add_version(parser)
    options.add_repository(parser)
    options.add_expectations(parser)
    parser.add_commands(COMMANDS)
    oci = parser.commands["oci"]
    oci.description = "Work with the OCI images in a repository."
    oci.add_commands(OCI_COMMANDS)
    return parser


def make_import_parser() -> CommandParser:
    """Return the parser of `composefs-import`."""
    parser = CommandParser(prog="composefs-import", module="import_")
    _add_version(parser)
    options.add_repository(parser)
    options.add_expectations(parser)
    return parser


def _tool_parser(name: str) -> CommandParser:
    parser = CommandParser(prog=name, module=TOOLS[name])
    _add_version(parser)
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", "-V", action="version", version=f"{parser.prog} {__version__}")


def _run(parser: CommandParser, argv: Sequence[str] | None) -> int:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    with report(parser.prog) as outcome:
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed next
            import_module("composefs.cli.completion").complete(parser)
        try:
            arguments = parser.parse_args(argv)
        except SystemExit as stop:  # --help, --version or wrong usage: argparse has said all there is to say
            outcome.status = stop.code if isinstance(stop.code, int) else USAGE
        else:
            outcome.status = arguments.command(arguments)
        sys.stdout.flush()
    return outcome.status
