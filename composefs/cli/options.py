"""Arguments that several commands have, and what they mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs.digest import Algorithm
from composefs.erofs import VERSIONS
from composefs.errors import ComposefsError, RepositoryError, UsageError

if TYPE_CHECKING:
    from composefs.repository import Repository

_SECONDS_MAX = 1e9  # 30 years; more does not fit the clocks of some systems
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
HASHES = {algorithm.hash_name: algorithm for algorithm in Algorithm}


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a repository."""
    group = parser.add_argument_group("repository", "by default --system for root and --user for anyone else")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--repo", metavar="PATH", help="directory of the repository")
    choice.add_argument("--user", action="store_true", help="the one in $HOME/.var/lib/composefs")
    choice.add_argument("--system", action="store_true", help="the one in /sysroot/composefs")


def add_expectations(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a repository must be, and how it is used by this call."""
    group = parser.add_argument_group("how it is used")
    group.add_argument("--hash", choices=HASHES, help="the algorithm that it must have (default: any)")
    group.add_argument(
        "--erofs-version",
        type=int,
        choices=VERSIONS,
        help="format of the images made by this call (default: what the repository is set to)",
    )
    group.add_argument("--require-verity", action="store_true", help="fail unless fs-verity is required there")
    group.add_argument("--no-upgrade", action="store_true", help="never write a meta.json into an old repository")
    group.add_argument("--no-repo", action="store_true", help="open none: for compute-id and create-dumpfile")
    group.add_argument("--insecure", action="store_true", help=argparse.SUPPRESS)  # of old scripts; see compute-karg


def add_wait(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add the option that waits for others; *when* says what for, if not always."""
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="SECONDS",
        help=f"{when}for how long others may have the repository open still (default: not at all)",
    )


def repository_path(arguments: argparse.Namespace) -> str:
    """Return the path of the repository that *arguments* choose."""
    from composefs.repository import SYSTEM_PATH, user_path

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


def open_repository(arguments: argparse.Namespace, *, wait: float | None = None) -> Repository:
    """Open the repository that *arguments* choose, and see that it is what they want.

    Args:
        arguments: of the command.
        wait: for how many seconds at most, while garbage is collected there; None: as long as it takes.

    Raises:
        BusyError: it was waited long enough.
        RepositoryError: it has another algorithm, or no fs-verity where that is asked for.
    """
    from composefs.repository import Repository

    check_repository_wanted(arguments)
    path = repository_path(arguments)
    repository = Repository.open(
        path, upgrade=not arguments.no_upgrade, require_verity=arguments.require_verity, wait=wait
    )
    try:
        check_algorithm(arguments, repository)
    except RepositoryError:
        repository.close()
        raise
    return repository


def check_repository_wanted(arguments: argparse.Namespace) -> None:
    """Refuse `--no-repo`, for commands that open one."""
    if arguments.no_repo:
        raise UsageError("--no-repo is only for commands that compute: compute-id, compute-karg, create-dumpfile")


def wanted_algorithm(arguments: argparse.Namespace) -> Algorithm | None:
    """Return what `--algorithm` or `--hash` wants of a new repository, if one of them is given.

    Raises:
        UsageError: they do not agree.
    """
    by_hash = HASHES.get(arguments.hash)
    if arguments.algorithm is None:
        return by_hash
    wanted = Algorithm.parse(arguments.algorithm)
    if by_hash not in (None, wanted):
        raise UsageError(f"--hash {arguments.hash} is not of --algorithm {wanted.value}")
    return wanted


def check_algorithm(arguments: argparse.Namespace, repository: Repository) -> None:
    """See that *repository* has the algorithm that `--hash` says, if that was given.

    Raises:
        RepositoryError: it has another one.
    """
    if arguments.hash is not None and repository.algorithm is not HASHES[arguments.hash]:
        what = f"has the algorithm {repository.algorithm.value}, but --hash {arguments.hash} was given"
        raise RepositoryError(repository.path, what)


def algorithm(arguments: argparse.Namespace) -> Algorithm:
    """Return the algorithm for a command that needs no repository: as told, as in the chosen repository, or SHA-512."""
    from composefs.repository import Repository

    if arguments.hash is not None:
        return HASHES[arguments.hash]
    if not arguments.no_repo:
        try:
            with Repository.open(repository_path(arguments), upgrade=False) as repository:
                return repository.algorithm
        except (ComposefsError, OSError):
            pass  # there need not be any
    return Algorithm.SHA512


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Yield a descriptor of the file *path*; errors of reading have the path, too."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def positive(text: str) -> int:
    """Return the whole number above zero that *text* is, for argparse."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return number


def seconds(text: str) -> float:
    """Return the number of seconds that *text* is, for argparse; there are no negative ones."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def size(text: str) -> int:
    """Return the number of bytes that *text* is, for argparse: `512`, `64M`, `10G`, in powers of 1024."""
    digits, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    if not digits.isascii() or not digits.isdigit() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 64G")
    return int(digits) * _UNITS[unit]


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
