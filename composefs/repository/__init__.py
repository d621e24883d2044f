"""A composefs repository: objects named by their fs-verity digests, streams, and references to them.

    meta.json          what it is (meta.py)
    objects/xx/rest    every file once (objects.py)
    streams/           layers, configs, manifests (streams.py)
    images/            EROFS images (images.py); refs/ below these two holds what is wanted (refs.py)

One repository serves this package and composefs-rs alike, at the same time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from composefs.digest import Algorithm, Digest
from composefs.errors import NotFoundError, RepositoryError
from composefs.repository import create, locks, meta
from composefs.repository.directories import Missing, open_directory
from composefs.repository.images import ImageStore
from composefs.repository.meta import Meta
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.objects import ObjectStore
from composefs.repository.streams import StreamStore

__all__ = ["SYSTEM_PATH", "Repository", "user_path"]

SYSTEM_PATH = "/sysroot/composefs"  # where bootc hosts have theirs


def user_path(home: str) -> str:
    """Return the default repository of the user whose home directory is *home*."""
    return os.path.join(home, ".var/lib/composefs")


class Repository:
    """An open repository; holds the shared lock until it is closed, so that no garbage collection runs meanwhile.

    Attributes:
        path: the directory.
        meta: the contents of `meta.json`.
        verity: whether the kernel must enforce every digest, which holds if `meta.json` is sealed.
        objects: the object store.
        streams: the streams and their references.
        images: the EROFS images and their references.
    """

    def __init__(self, path: str, fd: int, found: Meta, *, verity: bool) -> None:
        self.path, self.meta, self.verity = path, found, verity
        self._fd, self._pid = fd, os.getpid()
        self._alone = threading.Lock()  # of threads that want the exclusive lock
        self.objects = ObjectStore(fd, path, found.algorithm, require_verity=verity)
        self.streams = StreamStore(fd, path, found.algorithm, self.objects)
        self.images = ImageStore(fd, path, found.algorithm, self.objects)
        self.objects.load_durable = self.streams.load_durable

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        upgrade: bool = True,
        require_verity: bool = False,
        insecure: bool = False,
        wait: float | None = None,
    ) -> Self:
        """Open the repository at *path*; waits while another process collects garbage there.

        Args:
            path: its directory.
            upgrade: write the `meta.json` that repositories of old tools lack.
            require_verity: refuse a repository that was made without fs-verity.
            insecure: do not require fs-verity, although the repository does.
            wait: for how many seconds at most; None: as long as it takes.

        Raises:
            NotFoundError: there is none.
            BusyError: it was waited long enough.
            RepositoryError: it cannot be used by this program, or has no fs-verity.
            FormatError: its `meta.json` is broken.
        """
        text = os.fspath(path)
        try:
            fd = os.open(text, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"no repository at {text}; `composefs init` makes one") from None
        try:
            locks.lock_shared(fd, text, wait)
            found, sealed = _read_meta(fd, text, upgrade=upgrade)
            found.check(text)
            if require_verity and not sealed:
                raise RepositoryError(text, "was made without fs-verity")
            return cls(text, fd, found, verity=sealed and not insecure)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Return whether there is a repository at *path*, of this or an older format."""
        return any(os.path.lexists(os.path.join(path, name)) for name in (meta.NAME, "objects"))

    @classmethod
    def init(
        cls,
        path: str | os.PathLike[str],
        algorithm: Algorithm = Algorithm.SHA512,
        *,
        erofs_version: int = 1,
        require_verity: bool | None = None,
    ) -> bool:
        """Make a repository at *path* and the directories above it.

        Args:
            path: its directory, which may exist.
            algorithm: of all digests in it.
            erofs_version: format of the images made in it: 0, 1 or 2.
            require_verity: True fails where the file system has no fs-verity, False does without, None (the default)
                takes what there is.

        Returns:
            Whether it was made; False if just such a repository is there already.

        Raises:
            RepositoryError: a different repository is there, or fs-verity is missing.
        """
        text = os.fspath(path)
        if parent := os.path.dirname(os.path.abspath(text)):
            create.make_parents(parent)
        return create.create(text, Meta.new(algorithm, erofs_version), require_verity=require_verity)

    @classmethod
    def reset(cls, path: str | os.PathLike[str], *, wait: float | None = 0) -> None:
        """Remove all names and the `meta.json` of the repository at *path*, if there is one; its objects stay.

        Args:
            path: its directory.
            wait: for how many seconds at most, while others have it open; None: as long as it takes.

        Raises:
            BusyError: they have it open still.
        """
        create.reset(os.fspath(path), wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of all digests in it."""
        return self.meta.algorithm

    def close(self) -> None:
        """Close the directory, and release the lock."""
        if self._fd >= 0:
            self.objects.close()
            locks.unlock(self._fd, self._pid)
            os.close(self._fd)
            self._fd = -1

    def check_writable(self) -> None:
        """Refuse early what would fail late.

        Raises:
            RepositoryError: the file system is read-only, the directory belongs to somebody else, or the repository
                has features that this program does not know.
        """
        if self.meta.unknown_features:
            what = f"is read-only to this program: unknown features {', '.join(self.meta.unknown_features)}"
            raise RepositoryError(self.path, what)
        if os.fstatvfs(self._fd).f_flag & os.ST_RDONLY:
            raise RepositoryError(self.path, "is not writable: the file system is mounted read-only")
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._fd, effective_ids=True):
            owner = os.fstat(self._fd).st_uid
            raise RepositoryError(self.path, f"is not writable: it belongs to uid {owner}, this is uid {os.geteuid()}")

    @contextmanager
    def exclusive(self, *, wait: float | None = 0) -> Iterator[None]:
        """Hold the exclusive lock instead of the shared one: nobody else has the repository open meanwhile.

        Another handle of this program is somebody else, too; threads that share this one have it one after the other,
        but may read and write meanwhile (see `held`).  Others may have it for a moment before, and afterwards.

        Args:
            wait: for how many seconds at most, while others have it open; None: as long as it takes.

        Raises:
            BusyError: they have it open still.
        """
        with self._alone:
            try:
                locks.lock_exclusive(self._fd, self.path, wait)
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_SH)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Hold the lock of those who look at what has a name, and put something else in its place that includes it.

        Without it, two of them that do so at the same time would lose what the other one adds.  Waits for them;
        whoever only reads or stores objects does not mind.
        """
        # Opened anew, so that each call has a lock of its own.
        fd, pid = open_directory(self._fd, OBJECTS, self.path, flags=os.O_RDONLY, missing=Missing.MAKE), os.getpid()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            locks.unlock(fd, pid)
            os.close(fd)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the shared lock a second time: not even by this handle garbage is collected meanwhile.

        Waits while it is.
        """
        fd, pid = self.open_directory(), os.getpid()
        try:
            locks.lock_shared(fd, self.path, None)
            yield
        finally:
            locks.unlock(fd, pid)
            os.close(fd)

    def open_directory(self) -> int:
        """Return a new descriptor of its directory, which has no lock; the caller closes it."""
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)

    def open_objects(self) -> int:
        """Return a new descriptor of the directory of objects, to mount it; the caller closes it.

        Raises:
            FileNotFoundError: there is none, and so no object.
            RepositoryError: something else stands there.
        """
        return open_directory(self._fd, OBJECTS, self.path)

    def sync(self) -> None:
        """Wait until all objects are on disk; names of streams and images come after this."""
        self.objects.sync()

    def name(self, streams: Mapping[str, Digest], images: Iterable[Digest] = ()) -> None:
        """Give names to what is stored: objects are on disk before, and the names are when this returns.

        Args:
            streams: what they are to be called, and their objects.
            images: EROFS images.

        Raises:
            RepositoryError: what has that name is no link.
            OSError: the file system cannot be flushed, and so nothing got a name; or not all names could be made.
        """
        self.sync()
        for digest in images:
            self.images.link(digest)
        for name, digest in streams.items():
            self.streams.link(name, digest)
        self.images.sync_names()
        self.streams.sync_names()


def _read_meta(fd: int, path: str, *, upgrade: bool) -> tuple[Meta, bool]:
    try:
        return meta.read(fd, path)
    except FileNotFoundError:
        if not upgrade:
            raise NotFoundError(f"{path} has no meta.json; `composefs init` makes a repository") from None
    return create.upgrade(fd, path)
