"""What a shell completes our commands with.

argcomplete walks the parser, and what stands in the repository, such as tags, is looked up when it is needed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from argcomplete.completers import BaseCompleter, FilesCompleter
from argcomplete.finders import CompletionFinder

from composefs.cli import options
from composefs.errors import ComposefsError

if TYPE_CHECKING:
    from composefs.cli.parser import CommandParser
    from composefs.repository import Repository


def complete(parser: CommandParser) -> None:
    """Answer the shell, which asks by its environment, and end the process."""
    chosen = parser
    chosen.load()
    for word in os.environ.get("COMP_LINE", "").split():  # argcomplete must find all arguments in place
        chosen = chosen.commands.get(word, chosen)
        chosen.load()
    CompletionFinder()(parser, default_completer=_Completer())


class _Completer(BaseCompleter):
    """Says what an argument without choices may be: names in the repository go by its metavar."""

    def __call__(
        self, *, prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, parsed_args: argparse.Namespace
    ) -> Iterable[str]:
        """Return the candidates."""
        if parser.prog.endswith(_OF_MOUNTS):
            return mountpoints(prefix)
        names = _NAMES.get(str(action.metavar), ())
        if not _OF_FILES.isdisjoint(parser.prog.split()):
            names = ()
        files: Iterable[str] = FilesCompleter()(prefix) if not names or action.metavar in _OR_FILES else ()
        return [*_names(names, prefix, parsed_args), *files]


def _names(kinds: Sequence[_Kind], prefix: str, arguments: argparse.Namespace) -> Iterator[str]:
    if not kinds:
        return
    from composefs.repository import Repository

    try:
        with Repository.open(options.repository_path(arguments), upgrade=False) as repository:
            for kind in kinds:
                yield from (name for name in kind(repository) if name.startswith(prefix))
    except (ComposefsError, OSError):
        return  # nobody wants an error message in the middle of typing


def mountpoints(prefix: str) -> list[str]:
    """Return where images are mounted, as far as it begins with *prefix*."""
    from composefs.mount.table import mounted_images

    try:
        return [mount.path for mount in mounted_images() if mount.path.startswith(prefix)]
    except OSError:
        return []


def _tags(repository: Repository) -> Iterator[str]:
    from composefs.oci.images import list_images

    for image in list_images(repository):
        yield image.name


def _manifests(repository: Repository) -> Iterator[str]:
    from composefs.oci.images import list_images

    for image in list_images(repository):
        yield image.manifest


def _images(repository: Repository) -> Iterator[str]:
    for name, _ in repository.images.refs():
        yield name


def _streams(repository: Repository) -> Iterator[str]:
    for name, _ in repository.streams.names():
        yield name
    for name, _ in repository.streams.refs("."):
        yield f"refs/{name}"


def _layers(repository: Repository) -> Iterator[str]:
    for name, _ in repository.streams.names():
        if name.startswith("oci-layer-"):
            yield name.removeprefix("oci-layer-")


_Kind: TypeAlias = "Callable[[Repository], Iterator[str]]"
_NAMES: dict[str, Sequence[_Kind]] = {
    "TAG": (_tags,),
    "MANIFEST": (_manifests, _tags),
    "IMAGE": (_images, _tags),
    "A": (_images, _tags),
    "B": (_images, _tags),
    "STREAM": (_streams,),
    "DIFF_ID": (_layers,),
}
_OR_FILES = frozenset(["A", "B"])  # may be something on disk, too
_OF_FILES = frozenset(["mkcomposefs", "info", "composefs-info", "mount.composefs"])  # tools whose images are files
_OF_MOUNTS = "umount"
