"""`composefs init [PATH]`: make a repository."""

from __future__ import annotations

import argparse
import os

from composefs.cli import options
from composefs.digest import Algorithm
from composefs.erofs import VERSIONS
from composefs.errors import UsageError

EXAMPLES = """\
examples:
  composefs init /var/lib/repo
  composefs --repo ./repo init --insecure --algorithm fsverity-sha256-12
  composefs init --ensure /var/lib/repo   # what is there keeps its settings"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Make a repository. Where the file system has fs-verity it will be required, unless --insecure."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="its directory (default: the one chosen by --repo etc.)"
    )
    parser.add_argument(
        "--algorithm",
        choices=[algorithm.value for algorithm in Algorithm],
        help="of all digests in it (default: that of --hash, or fsverity-sha512-12)",
    )
    parser.add_argument(
        "--erofs-version",
        type=int,
        choices=VERSIONS,
        default=argparse.SUPPRESS,  # the option of that name before the command holds, too
        help="of its images (default: 1)",
    )
    verity = parser.add_mutually_exclusive_group()
    verity.add_argument("--insecure", action="store_true", default=argparse.SUPPRESS, help="do not require fs-verity")
    verity.add_argument(
        "--require-verity",
        action="store_true",
        default=argparse.SUPPRESS,
        help="fail where the file system has no fs-verity",
    )
    parser.add_argument("--ensure", action="store_true", help="take an existing repository, whatever its settings")
    parser.add_argument(
        "--reset-metadata",
        action="store_true",
        help="first forget all images, streams and settings that are there; objects are kept",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make it, and say what it is."""
    from composefs.repository import Repository

    if arguments.path == "":
        raise UsageError("PATH is empty")
    path = arguments.path or options.repository_path(arguments)
    algorithm = options.wanted_algorithm(arguments) or Algorithm.SHA512
    if arguments.reset_metadata:
        Repository.reset(path)
    if arguments.ensure and Repository.exists(path):
        return _ensure(path)
    made = Repository.init(
        path,
        algorithm,
        erofs_version=1 if arguments.erofs_version is None else arguments.erofs_version,
        require_verity=True if arguments.require_verity else (False if arguments.insecure else None),
    )
    if not made:
        print(f"Repository already initialized at {path}")
        return 0
    with Repository.open(path) as repository:
        print(f"Initialized composefs repository at {path}")
        print(f"  algorithm: {repository.algorithm.value}")
        print(f"  verity:    {'required' if repository.verity else 'not required (insecure)'}")
    return 0


def _ensure(path: str) -> int:
    from composefs.repository import Repository
    from composefs.repository.meta import NAME as META

    is_old = not os.path.lexists(os.path.join(path, META))
    with Repository.open(path):
        pass
    if is_old:
        print(f"Upgraded legacy repository at {path}")
    else:
        print(f"Repository already initialized at {path} (existing configuration preserved)")
    return 0
