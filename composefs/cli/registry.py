"""Which commands there are, and a parser that imports the one that is chosen."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from composefs.cli.failure import USAGE


class Command(NamedTuple):
    """A command, and the module of this package that has it."""

    name: str
    module: str | None  # None: it has commands of its own
    help: str
    aliases: tuple[str, ...] = ()


COMMANDS = (
    Command("import", "import_", "import an OCI image"),
    Command("init", "init", "make a repository"),
    Command("images", "images", "list the named images", ("list-images",)),
    Command("ls", "ls", "list the files of an image"),
    Command("cat-file", "cat_file", "write the content of files of an image"),
    Command("extract", "extract", "copy the files of an image into a directory"),
    Command("diff", "diff", "say why two images are not the same"),
    Command("create-image", "create_image", "store a directory as an image"),
    Command("import-image", "import_image", "store an EROFS image from standard input"),
    Command("compute-id", "compute_id", "print the id that the image of a directory has"),
    Command("compute-karg", "compute_karg", "print the kernel argument for the image of a directory"),
    Command("create-dumpfile", "create_dumpfile", "describe a directory as a dumpfile"),
    Command("dump-files", "dump_files", "describe files of an image as a dumpfile does"),
    Command("image-objects", "image_objects", "list the objects that an image refers to"),
    Command("cat", "cat", "write the content of a stream"),
    Command("digest", "digest", "print the fs-verity digest of files"),
    Command("mkcomposefs", "mkcomposefs", "make an image file, as the tool of that name"),
    Command("info", "info", "look at an image file, as composefs-info does", ("composefs-info",)),
    Command("completion", "completion", "print the completion script of a shell"),
    Command("oci", None, "OCI images: pull, list, tag, look at"),
)
OCI_COMMANDS = (
    Command("pull", "oci_pull", "import an image, as cfsctl does"),
    Command("images", "oci_images", "list the tagged images"),
    Command("inspect", "oci_inspect", "show manifest, config and images of a tag"),
    Command("tag", "oci_tag", "give a manifest a name"),
    Command("untag", "oci_untag", "take a name away"),
    Command("layer", "oci_layer", "write the tar archive of a layer, or tell about it"),
    Command("dump", "oci_dump", "describe the merged layers of an image as a dumpfile"),
    Command("compute-id", "oci_compute_id", "print the id of the image that the layers make"),
    Command("import-layer", "oci_import_layer", "import one layer from standard input"),
    Command("copy", "oci_copy", "copy an image from another repository"),
    Command("linked-erofs-images", "oci_linked_images", "list the images that belong to the same OCI image"),
)
_INSIDE_PARAGRAPH = re.compile(r"(?<=\S)\n(?=\S)")
TOOLS = {"mkcomposefs": "mkcomposefs", "composefs-info": "info"}  # names that this program may be called by


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose paragraphs fill the terminal, and whose indented lines, the examples, stay lines of their own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in _INSIDE_PARAGRAPH.sub(" ", text).splitlines():
            content = line.lstrip()
            begin = indent + line.removesuffix(content)
            wrapper = textwrap.TextWrapper(width, begin, begin * 2, break_long_words=False, break_on_hyphens=False)
            lines += wrapper.wrap(content) or [""]
        return "\n".join(lines)


class CommandParser(argparse.ArgumentParser):
    """A parser whose arguments come from the *module* of a command, once it is used.

    Attributes:
        commands: the parsers of its commands by name, if it has commands.
        outer: the options of the parsers above it.
    """

    def __init__(self, *args: Any, module: str | None = None, **options: Any) -> None:
        options["allow_abbrev"] = False
        options.setdefault("formatter_class", Help)
        super().__init__(*args, **options)
        self._module = module
        self.commands: dict[str, CommandParser] = {}
        self.outer: frozenset[str] = frozenset()

    def load(self) -> None:
        """Import the module, and add its arguments."""
        if self._module is not None:
            module = importlib.import_module(f"composefs.cli.{self._module}")
            self._module = None
            module.configure(self)
            self.set_defaults(command=module.run)

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
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                return [*options, *others, argument, *rest]
            if not argument.startswith("--") and argument[:2] not in known:
                others.append(argument)  # also what looks like a negative number
                continue
            options.append(argument)
            action = known.get(argument)
            if action is not None and action.nargs is None:
                value = next(rest, None)
                if value is None:
                    return list(arguments)  # so that it is missed, and not taken from the others
                options.append(value)
        return [*options, *others]

    def add_commands(self, commands: Sequence[Command]) -> None:
        """Take one of *commands*; without one, print the help as a wrong usage."""
        self.set_defaults(command=self._print_usage)
        action = self.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
        for command in commands:
            parser = action.add_parser(command.name, help=command.help, aliases=command.aliases, module=command.module)
            parser.outer = self.outer.union(self._option_string_actions)
        self.commands = action.choices

    def _print_usage(self, _: argparse.Namespace) -> int:
        self.print_help(sys.stderr)
        return USAGE
