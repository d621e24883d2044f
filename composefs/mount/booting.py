"""Which image of a repository the kernel command line selects, as composefs-setup-root chooses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from composefs.boot.kargs import ImageArgument
from composefs.errors import NotFoundError, RepositoryError
from composefs.repository import Repository

DIRECTORY = "composefs"  # of the repository, below the root of the system

_log = logging.getLogger(__name__)


@contextmanager
def open_selected(path: str, arguments: Sequence[ImageArgument]) -> Iterator[tuple[Repository, ImageArgument]]:
    """Open the repository at *path*, and give it with the first of *arguments* whose image is there.

    It requires fs-verity unless the argument says that this is not required.  Nothing is written to it.  An image of
    another algorithm cannot be there, and the next one is tried; composefs-setup-root stops at such an argument.

    Raises:
        NotFoundError: there is no argument, no repository, or no image of any argument.
        RepositoryError: the repository was made without fs-verity, which an argument requires.
        FormatError: its `meta.json` is broken.
    """
    if not arguments:
        raise NotFoundError("no composefs karg found in kernel cmdline")
    for argument in arguments:
        with Repository.open(path, upgrade=False, insecure=argument.insecure) as repository:
            if _has(repository, argument):
                yield repository, argument
                return
        _log.warning("composefs: image %s not found, trying next karg", argument.digest.hex)
    tried = ", ".join(argument.digest.hex for argument in arguments)
    raise NotFoundError(f"{path}: no composefs image found (tried: {tried})")


def _has(repository: Repository, argument: ImageArgument) -> bool:
    if argument.digest.algorithm is not repository.algorithm:
        return False
    if not argument.insecure and not repository.verity:
        what = (
            f"was made without fs-verity, which the kernel argument {argument} requires: with a ? behind = it does not"
        )
        raise RepositoryError(repository.path, what)
    return repository.images.find(argument.digest)
