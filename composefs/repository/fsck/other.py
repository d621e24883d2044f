"""Another repository as the source of what is broken or missing in one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

from composefs.digest import Digest
from composefs.errors import ComposefsError, IntegrityError, NotFoundError, RepositoryError
from composefs.repository import Repository
from composefs.repository.fsck.damage import Damage, message_of, object_path_of
from composefs.repository.fsck.files import open_object
from composefs.repository.fsck.streams import check_type
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.splitstream import MAGIC
from composefs.verity import DigestBuilder

_THREADS = 16  # each waits for the disk with each object; a guess
_PIECE = 1 << 20  # bytes copied at a time
_HEAD = 32  # bytes of a splitstream, in which its magic is, also in those of old tools
_CONTENT_ID = re.compile(
    r"oci-[a-z]+-(sha256:[0-9a-f]{64})"
)  # of a stream that is called by the digest of its contents

_DIGEST_KEY = re.compile(r"(?:config:)?(sha256:[0-9a-f]{64})")  # of a reference to such a stream


class OtherRepository:
    """The repository *source*, of which *target* is mended; both are open.

    Raises:
        RepositoryError: they have different algorithms, or are the same.
    """

    def __init__(self, source: Repository, target: Repository) -> None:
        if source.algorithm is not target.algorithm:
            what = f"has objects of {source.algorithm.value}, and none of {target.algorithm.value}, which are wanted"
            raise RepositoryError(source.path, what)
        if os.path.samefile(source.path, target.path):
            raise RepositoryError(source.path, "is the repository that is to be mended")
        self._source, self._target = source, target
        self._proved: set[tuple[Digest, str]] = set()  # streams, with the digests of their contents

    @property
    def name(self) -> str:
        """Its path."""
        return self._source.path

    def mend(self, damage: Damage) -> Mapping[str, str]:
        """Copy objects by their digests, and make the names that are missing of those that are there.

        A name is made when all below it is here, and proved by the digest that it is.
        """
        failed = self._copy_all(damage.objects)
        found: dict[str, Digest] = {}
        for path in sorted(damage.entries):
            _note(failed, path, partial(self._find, path, found))
        self._target.sync()
        for path, digest in found.items():
            _note(failed, path, partial(self._link, path, digest))
        self._target.images.sync_names()
        self._target.streams.sync_names()
        return failed

    def _find(self, path: str, found: dict[str, Digest]) -> None:
        """Note the object that the entry *path* is to lead to, once all that it needs is here."""
        directory, name = os.path.split(path)
        found[path] = self._find_image(name) if directory == IMAGES else self._find_stream(name)

    def _copy_all(self, raws: Iterable[bytes]) -> dict[str, str]:
        """Copy the objects *raws*; return why some could not be, by path."""
        failed: dict[str, str] = {}
        source_fd = self._source.open_directory()

        def copy(raw: bytes) -> None:
            _note(failed, object_path_of(raw), partial(self._copy, source_fd, raw))

        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="repair") as pool:
                for _ in pool.map(copy, sorted(raws)):
                    pass
        finally:
            os.close(source_fd)
        return failed

    def _copy(self, source_fd: int, raw: bytes) -> None:
        """Copy an object, and prove what is written, which nobody sees before.

        Raises:
            IntegrityError: it is broken there, too.
            OSError: it is not there, or cannot be read or written.
        """
        builder, where = DigestBuilder(self._target.algorithm), f"{self._source.path}/{object_path_of(raw)}"
        try:
            file = open_object(source_fd, Digest(self._target.algorithm, raw))
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from None
        with file, closing(self._target.objects.writer()) as writer:
            while piece := file.read(_PIECE):
                builder.update(piece)
                writer.append(piece)
            got = builder.finish().raw
            if got != raw:
                raise IntegrityError(where, raw.hex(), got.hex())
            writer.finish(got)

    def _have(self, digests: Iterable[bytes]) -> None:
        """Copy the objects *digests*, raw, that are not here.

        Raises:
            NotFoundError: one cannot be had.
        """
        failed = self._copy_all(digests)
        if failed:
            raise NotFoundError(next(iter(failed.values())))

    def _find_image(self, name: str) -> Digest:
        try:
            digest = Digest.from_hex(self._target.algorithm, name)
        except ValueError:
            raise NotFoundError(f"no image can be called {name!r}") from None
        if not self._target.objects.exists(digest):
            self._have([digest.raw])
        return digest

    def _find_stream(self, name: str) -> Digest:
        """Return the stream that is called *name* there, once all of it is here and proved.

        Raises:
            NotFoundError: there is none, or not all of it.
            FormatError: it is none, or one of another type.
            IntegrityError: it is another one than it is called, or that cannot be told.
        """
        digest = self._source.streams.find(name)
        if digest is None:
            raise NotFoundError(f"{self._source.path}: no stream {name}")
        wanted = _CONTENT_ID.fullmatch(name)
        if wanted is None:
            raise NotFoundError(f"{self._source.path}: what is called {name} cannot be proved by its name")
        self._have_below(digest, name, set())
        with self._target.streams.open_object(digest, name) as stream:
            check_type(name, stream.reader.content_type)
        self._prove(digest, name, wanted[1])
        return digest

    def _prove(self, digest: Digest, name: str, wanted: str) -> None:
        """Prove that the contents of a stream have the digest *wanted*, and so those that it refers to by digests.

        Raises:
            IntegrityError: they have another one.
        """
        if (digest, wanted) in self._proved:
            return
        sha256 = hashlib.sha256()
        with self._target.streams.open_object(digest, name) as stream:
            for piece in stream.merged():
                sha256.update(piece)
            refs = stream.reader.named_refs
        got = f"sha256:{sha256.hexdigest()}"
        if got != wanted:
            raise IntegrityError(f"{self._source.path}: stream {name}", wanted, got)
        self._proved.add((digest, wanted))
        for key, below in refs.items():
            if (match := _DIGEST_KEY.fullmatch(key)) is not None:
                self._prove(below, key, match[1])

    def _have_below(self, digest: Digest, name: str, seen: set[bytes]) -> None:
        """Copy the stream *digest*, and what it refers to, as far as that is not here; it is none that was *seen*."""
        seen.add(digest.raw)
        if not self._target.objects.exists(digest):
            self._have([digest.raw])
        with self._target.streams.open_object(digest, name) as stream:
            reader = stream.reader
            self._have(self._target.objects.missing([reader.object_refs.data, reader.stream_refs.data]))
            below = [each for each in reader.stream_refs if each.raw not in seen]
        for each in below:
            if each.raw not in seen and self._is_stream(each):
                self._have_below(each, name, seen)

    def _is_stream(self, digest: Digest) -> bool:
        """Tell whether an object that a stream refers to by name is a stream; otherwise it is an image."""
        with self._target.objects.open(digest) as file:
            return MAGIC in file.read(_HEAD)

    def _link(self, path: str, digest: Digest) -> None:
        directory, name = os.path.split(path)
        if directory == IMAGES:
            self._target.images.link(digest)
        else:
            self._target.streams.link(name, digest)


def _note(failed: dict[str, str], path: str, do: Callable[[], object]) -> None:
    """Do something about *path*, and note why that failed."""
    try:
        do()
    except (ComposefsError, OSError) as error:
        failed[path] = message_of(error)
