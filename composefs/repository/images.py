"""Images: EROFS file systems, stored as objects and named under `images/`.

    images/<hex>           -> ../objects/xx/rest
    images/refs/<name>     -> ../<hex>, with one more .. for each slash in the name

As with streams: `store`, one flush of the file system that is the caller's, then the names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from composefs._native import Buffer
from composefs.digest import Algorithm, Digest
from composefs.errors import NotFoundError
from composefs.repository import refs
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.objects import ObjectStore

DIRECTORY = "images"
REFS = "images/refs"
_REF_PREFIX = "refs/"  # of a name that is surely a ref


class ImageStore:
    """The images of the repository *repository_fd*, called *path* in messages; their bytes are in *objects*."""

    def __init__(self, repository_fd: int, path: str, algorithm: Algorithm, objects: ObjectStore) -> None:
        self._repository_fd, self._path, self._algorithm, self._objects = repository_fd, path, algorithm, objects

    def store(self, data: Buffer) -> Digest:
        """Store the image that *data* is; it has no name yet."""
        digest, _ = self._objects.ensure(data)
        return Digest(self._algorithm, digest)

    def link(self, digest: Digest) -> None:
        """Name the stored image *digest* by its digest; flush the file system before, and `sync_names` after.

        Raises:
            RepositoryError: what has that name is no link.
        """
        refs.link(self._repository_fd, f"{DIRECTORY}/{digest.hex}", f"{OBJECTS}/{digest.object_path}", self._path)

    def set_ref(self, ref: str, digest: Digest) -> None:
        """Make `refs/`*ref* stand for the named image *digest*, whatever it stood for before; durably.

        Raises:
            UsageError: no image can be called so.
            RepositoryError: there are names below it, or one above it.
        """
        refs.check_ref(ref)
        refs.link(self._repository_fd, f"{REFS}/{ref}", f"{DIRECTORY}/{digest.hex}", self._path)
        refs.sync(self._repository_fd, os.path.dirname(f"{REFS}/{ref}"), self._path)

    def sync_names(self) -> None:
        """Wait until the names of all images are on disk."""
        refs.sync(self._repository_fd, DIRECTORY, self._path)

    def refs(self) -> Iterator[tuple[str, str]]:
        """Yield name below `refs/`, and what it stands for in hexadecimal, of every ref, sorted."""
        for path, text in refs.walk(self._repository_fd, REFS, self._path):
            yield path, os.path.basename(text)

    def find(self, digest: Digest) -> bool:
        """Tell whether *digest* is the name of an image whose object exists; its contents are not proved."""
        where = f"{DIRECTORY}/{digest.hex}"
        text = refs.read(self._repository_fd, where, self._path)
        if text is None or refs.object_of(text, self._algorithm, f"{self._path}/{where}") != digest:
            return False
        return self._objects.exists(digest)

    def resolve(self, name: str) -> Digest:
        """Return the image that *name* stands for: hexadecimal digits, or `sha512:HEX`, `refs/NAME`, a bare ref.

        Raises:
            NotFoundError: none.
            RepositoryError: the name leads to something that is no image.
        """
        ref = name.removeprefix(_REF_PREFIX)
        entry = name.removeprefix(f"{self._algorithm.hash_name}:") if ref == name else None
        text = None
        if entry is not None and "/" not in entry:
            text = refs.read(self._repository_fd, f"{DIRECTORY}/{entry}", self._path)
        if text is None:
            text = refs.read(self._repository_fd, f"{REFS}/{ref}", self._path)
            if text is None:
                raise NotFoundError(f"{self._path}: image not found: {name}")
            entry = os.path.basename(text)
            text = refs.read(self._repository_fd, f"{DIRECTORY}/{entry}", self._path)
            if text is None:
                raise NotFoundError(f"{self._path}: image not found: {name} stands for {entry}, which is not there")
        return refs.object_of(text, self._algorithm, f"{self._path}/{DIRECTORY}/{entry}")

    def open(self, name: str) -> BinaryIO:
        """Open the image *name*, as `resolve` takes it, its contents proved.

        Raises:
            NotFoundError: there is none.
            IntegrityError: it is broken.
        """
        return self._objects.open(self.resolve(name))
