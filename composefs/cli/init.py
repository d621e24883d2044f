"""`composefs init [PATH]`: make a repository."""

from __future__ import annotations

import argparse

from composefs.cli import options
from composefs.digest import Algorithm
from composefs.repository import Repository


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="make a repository",
        description="Make a repository. Where the file system has fs-verity it will be required, unless --insecure.",
    )
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="its directory (default: the one chosen by --repo etc.)"
    )
    parser.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        default=Algorithm.SHA512.value,
        help="of all digests in it (default: %(default)s)",
    )
    parser.add_argument("--erofs-version", type=int, choices=(0, 1, 2), default=1, help="of its images (default: 1)")
    verity = parser.add_mutually_exclusive_group()
    verity.add_argument("--insecure", action="store_true", help="do not require fs-verity")
    verity.add_argument("--require-verity", action="store_true", help="fail where the file system has no fs-verity")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Make it, and say what it is."""
    path = arguments.path or options.repository_path(arguments)
    require_verity = True if arguments.require_verity else (False if arguments.insecure else None)
    made = Repository.init(
        path,
        Algorithm.parse(arguments.algorithm),
        erofs_version=arguments.erofs_version,
        require_verity=require_verity,
    )
    if not made:
        print(f"Repository already initialized at {path}")
        return 0
    with Repository.open(path) as repository:
        print(f"Initialized composefs repository at {path}")
        print(f"  algorithm: {repository.algorithm.value}")
        print(f"  verity:    {'required' if repository.verity else 'not required (insecure)'}")
    return 0
