"""The parsers of the programs; one of a command gets its arguments when the command is chosen."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from composefs import __version__
from composefs.cli import TOOLS, options
from composefs.cli.failure import USAGE
from composefs.cli.registry import COMMANDS, PROGRAMS, Command

DESCRIPTION = "Content-addressed repositories of OS images, every file named by its fs-verity digest."
EPILOG = """\
Repository and global options stand before the command. `composefs COMMAND --help` tells more;
`composefs-import` is short for `composefs import`; called `mkcomposefs`, `composefs-info` or
`mount.composefs`, this program is that tool.

examples:
  composefs-import oci:/srv/fedora:42 --name os
  composefs --repo /var/lib/repo oci images
  composefs ls -l os /usr/bin
  composefs diff dir:/srv/build os

exit status: 0 done, 1 failed, 2 wrong usage"""

_COLUMNS = 80  # where there is no terminal
_INSIDE_PARAGRAPH = re.compile(r"(?<=\S)\n(?=\S)")


def make_parser(program: str = "composefs") -> CommandParser:
    """Return the parser of *program*: of `composefs`, or of one of `PROGRAMS`."""
    if program in PROGRAMS:
        parser = CommandParser(prog=program, module=PROGRAMS[program])
    else:
        parser = CommandParser(prog=program, description=DESCRIPTION, epilog=EPILOG, subcommands=COMMANDS)
    parser.add_argument("--version", "-V", action="version", version=f"{program} {__version__}")
    if program not in TOOLS:
        options.add_repository(parser)
        options.add_expectations(parser)
    return parser


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose paragraphs fill the terminal, and whose indented lines, the examples, stay lines of their own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("width", _columns() - 2)  # as argparse has it
        super().__init__(*args, **options)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        lines = []
        for line in _INSIDE_PARAGRAPH.sub(" ", text).splitlines():
            content = line.lstrip()
            begin = indent + line.removesuffix(content)
            wrapper = textwrap.TextWrapper(width, begin, begin * 2, break_long_words=False, break_on_hyphens=False)
            lines += wrapper.wrap(content) or [""]
        return "\n".join(lines)


def _columns() -> int:
    """Return the width of the terminal as `shutil.get_terminal_size` does, whose import takes 2 ms."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # closed, replaced, or no terminal
        return _COLUMNS


class CommandParser(argparse.ArgumentParser):
    """A parser that gets its arguments when it is used.

    Args:
        args: of `argparse.ArgumentParser`, as also *options*.
        module: of the command.
        subcommands: that there are, instead.
        options: see *args*.

    Attributes:
        commands: the parsers of its commands by name, if it has commands.
        outer: the options of the parsers above it.
    """

    def __init__(
        self, *args: Any, module: str | None = None, subcommands: Sequence[Command] = (), **options: Any
    ) -> None:
        options["allow_abbrev"] = False
        options.setdefault("formatter_class", Help)
        super().__init__(*args, **options)
        self._module, self._waiting = module, subcommands
        self.commands: dict[str, CommandParser] = {}
        self.outer: frozenset[str] = frozenset()

    def load(self) -> None:
        """Add the arguments, from the module of the command, or the commands."""
        if self._module is not None:
            module = importlib.import_module(f"composefs.cli.{self._module}")
            self._module = None
            module.configure(self)
            self.set_defaults(command=module.run)
        if self._waiting:
            self._add_commands(self._waiting)
            self._waiting = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, with the module's arguments; options may stand anywhere behind the command."""
        self.load()
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        args = self._options_first(sys.argv[1:] if args is None else args)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:  # is said here, with the usage of the command
            text = f"unrecognized arguments: {' '.join(unknown)}"
            is_early = any(word.partition("=")[0] in self.outer for word in unknown)
            self.error(f"{text} (options of composefs itself stand before the command)" if is_early else text)
        return namespace, unknown

    def _options_first(self, arguments: Sequence[str]) -> list[str]:
        """Return *arguments* with the options before all others, as getopt_long(3) does.

        argparse does not find an argument that may be missing if an option stands before it.
        """
        known = self._option_string_actions
        options: list[str] = []
        others: list[str] = []
        rest = list(reversed(arguments))
        while rest:
            argument = rest.pop()
            if argument == "--":
                return [*options, *others, argument, *reversed(rest)]
            if not argument.startswith("--") and argument[:2] not in known:
                others.append(argument)  # also what looks like a negative number
                continue
            options.append(argument)
            action = known.get(argument)
            if action is None:
                continue
            if action.nargs is None:
                if not rest:
                    return list(arguments)  # so that it is missed, and not taken from the others
                options.append(rest.pop())
            elif action.nargs == argparse.OPTIONAL and action.choices is not None:
                # A value that may be missing: what is no choice is none, but an argument.
                value = rest.pop() if rest and rest[-1] in action.choices else action.const
                options[-1] = f"{argument}={value}"
        return [*options, *others]

    def _add_commands(self, commands: Sequence[Command]) -> None:
        """Take one of *commands*; without one, print the help as a wrong usage."""
        self.set_defaults(command=self._print_usage)
        action = self.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
        for name, module, text, aliases, subcommands in commands:
            parser = action.add_parser(name, help=text, aliases=aliases, module=module, subcommands=subcommands)
            if subcommands:
                parser.description = f"{text}."
            parser.outer = self.outer.union(self._option_string_actions)
        self.commands = action.choices

    def _print_usage(self, _: argparse.Namespace) -> int:
        self.print_help(sys.stderr)
        return USAGE
