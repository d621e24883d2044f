"""The commands `composefs` and `composefs-import`: exit statuses, and errors in one line.

Exit status: 0 done, 1 failed, 2 usage.  Only this package of all prints, exits and reads the environment.

An interrupt is told in one line from the first lines of `_run` on.  So what is imported before that is little: the
parser (parser.py) comes after it, and the module of a command (registry.py) when the command is chosen.
"""

from __future__ import annotations

import os
import sys

from composefs.cli.failure import USAGE, report

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of the above
if TYPE_CHECKING:
    from collections.abc import Sequence

TOOLS = (
    "mkcomposefs",
    "composefs-info",
    "mount.composefs",
)  # names that this program may be called by, and is that tool then


def main(argv: Sequence[str] | None = None) -> int:
    """Run `composefs` with *argv*, by default the process's, and return its exit status."""
    called = os.path.basename(sys.argv[0])
    return _run(called if argv is None and called in TOOLS else "composefs", argv)


def main_import(argv: Sequence[str] | None = None) -> int:
    """Run `composefs-import` with *argv*, by default the process's, and return its exit status."""
    return _run("composefs-import", argv)


def _run(program: str, argv: Sequence[str] | None) -> int:
    with report(program) as outcome:
        _repair_streams()
        os.umask(os.umask(0) & ~0o700)  # what one makes oneself one can use, also sockets to processes of ours
        from composefs.cli.parser import make_parser

        parser = make_parser(program)
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed next
            from composefs.cli.completer import complete

            complete(parser)
        try:
            arguments = parser.parse_args(argv)
        except SystemExit as stop:  # --help, --version or wrong usage: argparse has said all there is to say
            outcome.status = stop.code if isinstance(stop.code, int) else USAGE
        else:
            outcome.stores = getattr(arguments, "stores", False)
            outcome.status = arguments.command(arguments)
        sys.stdout.flush()
    return outcome.status


def _repair_streams() -> None:
    """Make standard output and error take everything: names need not be UTF-8, and streams may be closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
