"""What the commands share that heed kernel arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from composefs.cli import options
from composefs.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from composefs.boot.kargs import ImageArgument
    from composefs.repository import Repository

_CMDLINE = "/proc/cmdline"
_SYSROOT = "/sysroot"


def add_cmdline(parser: Any) -> None:  # argparse's group has no public type
    """Add the options that say which kernel arguments, and which repository."""
    parser.add_argument("--cmdline", metavar="TEXT", help=f"the kernel arguments (default: {_CMDLINE})")
    parser.add_argument(
        "--sysroot", metavar="DIR", help=f"the repository is DIR/composefs, unless --repo says (default: {_SYSROOT})"
    )


@contextmanager
def open_selected(arguments: argparse.Namespace) -> Iterator[tuple[Repository, ImageArgument]]:
    """Open the repository that *arguments* choose, with the kernel argument whose image is there.

    Raises:
        NotFoundError: there is no such image.
        RepositoryError: the repository is not what they want.
    """
    from composefs.boot.kargs import parse_cmdline
    from composefs.mount import booting

    options.check_repository_wanted(arguments)
    if arguments.sysroot == "":
        raise UsageError("--sysroot needs a path")
    path = _repository_path(arguments)
    with booting.open_selected(path, parse_cmdline(_read_cmdline(arguments))) as (repository, argument):
        if arguments.require_verity and argument.insecure:
            raise RepositoryError(path, f"--require-verity was given, but {argument} does not require it")
        options.check_algorithm(arguments, repository)
        yield repository, argument


def _read_cmdline(arguments: argparse.Namespace) -> str:
    if arguments.cmdline is not None:
        return str(arguments.cmdline)
    with open(_CMDLINE, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _repository_path(arguments: argparse.Namespace) -> str:
    if arguments.repo is None and not arguments.user and not arguments.system:
        from composefs.mount.booting import DIRECTORY

        return f"{_SYSROOT if arguments.sysroot is None else arguments.sysroot}/{DIRECTORY}"
    if arguments.sysroot is not None:
        raise UsageError("--sysroot chooses a repository, and so do --repo, --user and --system")
    return options.repository_path(arguments)
