"""Which commands there are, and a parser that imports the one that is chosen."""

from __future__ import annotations

import argparse
import importlib
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
TOOLS = {"mkcomposefs": "mkcomposefs", "composefs-info": "info"}  # names that this program may be called by


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose description and examples keep their lines, unless they are too long for the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent) if len(line) > width else line
            for line in text.splitlines()
        )


class CommandParser(argparse.ArgumentParser):
    """A parser whose arguments come from the *module* of a command, once it is used.

    Attributes:
        commands: the parsers of its commands by name, if it has commands.
    """

    def __init__(self, *args: Any, module: str | None = None, **options: Any) -> None:
        options["allow_abbrev"] = False
        options.setdefault("formatter_class", Help)
        super().__init__(*args, **options)
        self._module = module
        self.commands: dict[str, CommandParser] = {}

    def load(self) -> None:
        """Import the module, and add its arguments."""
        if self._module is not None:
            module = importlib.import_module(f"composefs.cli.{self._module}")
            self._module = None
            module.configure(self)
            self.set_defaults(command=module.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, with the module's arguments."""
        self.load()
        return super().parse_known_args(args, namespace)

    def add_commands(self, commands: Sequence[Command]) -> None:
        """Take one of *commands*; without one, print the help as a wrong usage."""
        self.set_defaults(command=self._print_usage)
        action = self.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
        for command in commands:
            action.add_parser(command.name, help=command.help, aliases=command.aliases, module=command.module)
        self.commands = action.choices

    def _print_usage(self, _: argparse.Namespace) -> int:
        self.print_help(sys.stderr)
        return USAGE
