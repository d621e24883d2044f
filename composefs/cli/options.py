"""Arguments that several commands have, and what they mean."""

from __future__ import annotations

import argparse
import os

from composefs.errors import UsageError
from composefs.repository import SYSTEM_PATH, user_path


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose description and examples keep their lines."""


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a repository."""
    group = parser.add_argument_group("repository", "by default --system for root and --user for anyone else")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--repo", metavar="PATH", help="directory of the repository")
    choice.add_argument("--user", action="store_true", help="the one in $HOME/.var/lib/composefs")
    choice.add_argument("--system", action="store_true", help="the one in /sysroot/composefs")


def repository_path(arguments: argparse.Namespace) -> str:
    """Return the path of the repository that *arguments* choose."""
    if arguments.repo is not None:
        if not arguments.repo:
            raise UsageError("--repo needs a path")
        return str(arguments.repo)
    if arguments.system or (not arguments.user and os.getuid() == 0):
        return SYSTEM_PATH
    home = os.environ.get("HOME")
    if not home:
        raise UsageError("$HOME is not set; choose a repository with --repo")
    return user_path(home)


def positive(text: str) -> int:
    """Return the whole number above zero that *text* is, for argparse."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return number


def binary_size(size: int) -> str:
    """Return *size* bytes as text: `512 B`, `1.50 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.2f} {unit}"
    return f"{value / 1024:.2f} TiB"
