"""Streams: splitstreams, stored as objects and named under `streams/`.

The order is what makes a name trustworthy: objects, the splitstream itself, one flush of the file system, the name.
`store` does the first half, `link` the second; the flush between them is the caller's, one for many streams.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Self

from composefs import limits
from composefs.digest import Algorithm, Digest
from composefs.errors import ComposefsError, FormatError, LimitError, NotFoundError, RepositoryError
from composefs.merged import MergedFile
from composefs.repository import refs
from composefs.repository.directories import list_directory
from composefs.repository.durable import DurableObjects
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.objects import ObjectStore
from composefs.splitstream import SplitstreamReader, SplitstreamWriter
from composefs.tasks import Do, do_now

DIRECTORY = "streams"
REFS = "streams/refs"


class StreamStore:
    """The streams of the repository *repository_fd*, called *path* in messages; their data are in *objects*."""

    def __init__(self, repository_fd: int, path: str, algorithm: Algorithm, objects: ObjectStore) -> None:
        self._repository_fd, self._path, self._algorithm, self._objects = repository_fd, path, algorithm, objects

    def writer(self, content_type: bytes, compress: Do = do_now) -> SplitstreamWriter:
        """Return a writer for a stream of *content_type*; *compress* does what compresses it."""
        return SplitstreamWriter(self._algorithm, content_type, self._objects.spill, compress)

    def store(self, writer: SplitstreamWriter) -> Digest:
        """Finish *writer* and store what it wrote; the stream has no name yet."""
        digest, _ = self._objects.ensure_pieces(writer.finish())
        return Digest(self._algorithm, digest)

    def link(self, name: str, digest: Digest) -> None:
        """Name the stored stream *digest*; flush the file system before, and `sync_names` after.

        Raises:
            RepositoryError: what has that name is no link.
        """
        refs.link(self._repository_fd, f"{DIRECTORY}/{name}", f"{OBJECTS}/{digest.object_path}", self._path)

    def sync_names(self) -> None:
        """Wait until the names of all streams are on disk."""
        refs.sync(self._repository_fd, DIRECTORY, self._path)

    def find(self, name: str) -> Digest | None:
        """Return the object that the stream *name* is, or None; whether it exists is not tested.

        Raises:
            RepositoryError: the name is no link to an object.
        """
        text = refs.read(self._repository_fd, f"{DIRECTORY}/{name}", self._path)
        return None if text is None else refs.object_of(text, self._algorithm, f"{self._path}/{DIRECTORY}/{name}")

    def open(self, name: str, content_type: bytes | None = None) -> OpenStream:
        """Open the stream *name*: a content id, or `refs/...`.

        Raises:
            NotFoundError: there is no such stream.
            IntegrityError, FormatError: it is broken.
        """
        digest = self.find(self._resolve(name))
        if digest is None:
            raise NotFoundError(f"{self._path}: no stream {name}")
        return self.open_object(digest, name, content_type)

    def open_object(self, digest: Digest, name: str, content_type: bytes | None = None) -> OpenStream:
        """Open the stream stored as *digest*, which messages call *name*."""
        file = self._objects.open(digest)
        try:
            reader = SplitstreamReader(file, self._algorithm, f"stream {name}", content_type)
        except BaseException:
            file.close()
            raise
        return OpenStream(digest, file, reader, self._objects)

    def names(self) -> Iterator[tuple[str, Digest]]:
        """Yield name and object of every stream, sorted by name; entries that are no streams are passed over."""
        for name in list_directory(self._repository_fd, DIRECTORY, self._path):
            try:
                digest = self.find(name)
            except RepositoryError:
                continue
            if digest is not None:
                yield name, digest

    def load_durable(self) -> DurableObjects:
        """Return the objects that named streams refer to; a stream that is broken vouches for nothing."""
        return DurableObjects(self._object_tables(), self._algorithm.digest_size)

    def set_ref(self, ref: str, name: str) -> None:
        """Make `refs/`*ref* stand for the stream *name*, whatever it stood for before; durably.

        Raises:
            UsageError: nothing can be called so.
            RepositoryError: there are names below it, or one above it.
        """
        refs.check_ref(ref)
        refs.link(self._repository_fd, f"{REFS}/{ref}", f"{DIRECTORY}/{name}", self._path)
        refs.sync(self._repository_fd, os.path.dirname(f"{REFS}/{ref}"), self._path)

    def unset_ref(self, ref: str) -> None:
        """Remove `refs/`*ref*, durably; what it stood for stays until garbage is collected.

        Raises:
            NotFoundError: there is no such ref.
            RepositoryError: something else stands there.
        """
        refs.check_ref(ref)
        if not refs.unlink(self._repository_fd, f"{REFS}/{ref}", self._path):
            raise NotFoundError(f"{self._path}: no {REFS}/{ref}")

    def ref(self, ref: str) -> str | None:
        """Return the stream name that `refs/`*ref* stands for, or None."""
        text = refs.read(self._repository_fd, f"{REFS}/{ref}", self._path)
        return None if text is None else os.path.basename(text)

    def refs(self, directory: str) -> Iterator[tuple[str, str]]:
        """Yield name below `refs/`*directory* and stream name of every ref there, sorted."""
        for path, text in refs.walk(self._repository_fd, f"{REFS}/{directory}", self._path):
            yield path, os.path.basename(text)

    def _resolve(self, name: str) -> str:
        if not name.startswith("refs/"):
            return name
        target = self.ref(name.removeprefix("refs/"))
        if target is None:
            raise NotFoundError(f"{self._path}: no stream {name}")
        return target

    def _object_tables(self) -> Iterator[bytes]:
        for name, digest in self.names():
            try:
                with self.open_object(digest, name) as stream:
                    yield stream.reader.object_refs.data
                    yield stream.reader.stream_refs.data
            except (ComposefsError, OSError):
                continue


class OpenStream:
    """An open stream: its object id, its tables, and its merged content."""

    def __init__(self, digest: Digest, file: BinaryIO, reader: SplitstreamReader, objects: ObjectStore) -> None:
        self.digest, self.reader = digest, reader
        self._file, self._objects = file, objects

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def merged(self) -> Iterator[bytes | memoryview]:
        """Yield the merged content in pieces, every object proved before it is read."""
        return self.reader.merged(self._objects.open)

    def merged_file(self) -> io.BufferedReader:
        """Return the merged content as a seekable file, for random access."""
        return io.BufferedReader(MergedFile(self.reader, self._objects.open, self._objects.spill()))

    def read_body(self) -> bytes:
        """Return the one object that the stream of a config or manifest consists of.

        Raises:
            FormatError: it is another stream, or too large.
        """
        count = len(self.reader.object_refs)
        if count != 1:
            raise FormatError(f"stream {self.digest}", 0, f"refers to {count} objects, where one is wanted")
        with self._objects.open(self.reader.object_refs[0]) as file:
            data = file.read(limits.JSON_SIZE + 1)
        if len(data) > limits.JSON_SIZE:
            raise LimitError(f"stream {self.digest}", 0, "bytes of JSON", limits.JSON_SIZE)
        return data
