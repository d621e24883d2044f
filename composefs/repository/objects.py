"""The object store: every file once, named by its fs-verity digest.

    objects/xx/rest           a regular file; xx and rest are the digest in hexadecimal
    objects/.tmp-object-...   a file being written, on file systems without O_TMPFILE only

An object gets its name when all of it is written, and is never changed.  Nothing is flushed here: whoever names a
stream flushes first.  An existing object is proved before it is relied on (`_is_whole`); a broken one is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO

from composefs import _native, verity
from composefs._native import Buffer
from composefs.digest import Algorithm, Digest, object_path
from composefs.errors import IntegrityError, NotFoundError
from composefs.repository.durable import DurableObjects
from composefs.repository.files import (
    WHOLE_MAX,
    Checkpoint,
    Sharing,
    hash_file,
    is_zeros,
    no_checkpoint,
    read_file,
    read_pieces,
)

DIRECTORY = "objects"
_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o644
_LISTING_PAYS = 32  # objects of one directory, from which on a listing is faster than a look at each; a guess
_UNSUPPORTED = frozenset([errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS])  # what O_TMPFILE gives where it is unknown
# Why a file cannot get another name, or cannot be sealed: another file system; owner and mode (protected_hardlinks in
# proc(5)); too many names, or none left; open for writing.
_NO_LINK = frozenset([errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOENT, errno.ETXTBSY])
_NO_FILE = frozenset([errno.ELOOP, errno.ENXIO])  # why what is a link, or a socket, cannot be opened
_SET_ID = stat.S_ISUID | stat.S_ISGID
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever stands there, never wait for it

Stored = tuple[bytes, bool]  # digest, and whether the object is new


class ObjectStore:
    """The objects of the repository *repository_fd*, called *path* in messages.

    Args:
        repository_fd: the repository's directory; stays the caller's.
        path: of the repository.
        algorithm: of the names.
        require_verity: fail where the kernel cannot enforce the digests.
        directory: where the objects are, below the repository's directory.

    Attributes:
        load_durable: makes the index of objects that need no proof; called once, at the first need.
    """

    def __init__(
        self,
        repository_fd: int,
        path: str,
        algorithm: Algorithm,
        *,
        require_verity: bool,
        directory: str = DIRECTORY,
    ) -> None:
        self._repository_fd, self._path, self._algorithm = repository_fd, path, algorithm
        self._name = directory
        self._kernel_id, self._digest_size = algorithm.kernel_id, algorithm.digest_size
        self._require_verity = require_verity
        self.load_durable: Callable[[], DurableObjects] = lambda: DurableObjects([], algorithm.digest_size)
        self._durable: DurableObjects | None = None
        self._broken: set[bytes] = set()  # objects that were opened and had other contents than their names say
        self._directory_fd: int | None = None
        self._lock = threading.RLock()  # of the two above, the first needs the second; all else may be found out twice
        self._has_unnamed_files = True  # until the file system says no, as also the next
        self._has_verity = True
        self._no_reflinks: set[int] = set()  # devices with whose files no blocks can be shared

    def close(self) -> None:
        """Close the directory."""
        if self._directory_fd is not None:
            os.close(self._directory_fd)
            self._directory_fd = None

    def ensure(self, data: Buffer) -> Stored:
        """Store the object that is *data*: digest first, so that what exists is not written again.

        Raises:
            OSError: it could not be written; nothing is left behind.
        """
        digest = _native.verity_digest(self._kernel_id, data, self._digest_size)
        path = object_path(digest)
        info = self._stat(path)
        if info is not None and self._is_whole(digest, path, info, len(data)):
            return digest, False
        staging = self._stage(data)
        try:
            return digest, staging.publish(digest, replace=info is not None)
        finally:
            staging.close()

    def ensure_pieces(self, pieces: Iterable[Buffer]) -> Stored:
        """Store the object that the *pieces*, joined, are; of any size, in constant memory."""
        writer = self.writer()
        try:
            for piece in pieces:
                writer.write(piece)
            return writer.finish()
        finally:
            writer.close()

    def ensure_file(
        self, fd: int, sharing: Sharing = Sharing.REFLINK, checkpoint: Checkpoint = no_checkpoint
    ) -> Stored:
        """Store the object that the regular file *fd* is, from its start.

        What is hashed is what is stored, also if somebody writes to the file meanwhile, and long runs of zeros take no
        room.  A file that runs as another user is never linked: the object would keep alive what its owner removes.

        Args:
            fd: open for reading.
            sharing: what the object is to share with the file.
            checkpoint: called between two pieces of a large file.
        """
        if sharing is Sharing.REFLINK and (stored := self._reflinked(fd, checkpoint)) is not None:
            return stored
        info = os.fstat(fd)
        may_link = sharing is Sharing.HARD_LINK and not info.st_mode & _SET_ID
        if info.st_size <= WHOLE_MAX and not may_link:
            return self.ensure(read_file(fd, info.st_size))
        digest = hash_file(fd, info.st_size, self._kernel_id, self._digest_size, checkpoint)
        if may_link and (stored := self._linked(fd, digest, info)) is not None:
            return stored
        path = object_path(digest)
        found = self._stat(path)
        if found is not None and self._is_whole(digest, path, found, info.st_size):
            return digest, False
        with closing(self.writer()) as writer:
            for piece in read_pieces(fd, checkpoint):
                if is_zeros(piece):
                    writer.skip(piece)
                else:
                    writer.write(piece)
            return writer.finish()

    def share_file(self, fd: int) -> Stored:
        """Store the object of another repository that the regular file *fd* is, without a copy of its contents.

        Its blocks are shared where the file system can; elsewhere the same file gets another name here.

        Raises:
            OSError: neither can be done; EXDEV if the file is on another file system.
        """
        if (stored := self._reflinked(fd)) is not None:
            return stored
        if not self._is_near(fd):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        digest = _native.verity_digest_fd(self._kernel_id, fd, self._digest_size)
        staging = _Staging(self, os.dup(fd), None)  # of what has a name already
        try:
            return digest, self._settle(digest, os.fstat(fd).st_size, staging)
        finally:
            staging.close()

    def ensure_path(self, path: str | os.PathLike[str]) -> Stored:
        """Store a copy of the regular file at *path*, as `ensure_file` does."""
        fd = os.open(path, _READ_FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is no regular file", os.fspath(path))
            return self.ensure_file(fd)
        finally:
            os.close(fd)

    def writer(self) -> ObjectWriter:
        """Return a writer for an object that is too large for memory."""
        return ObjectWriter(self, self._stage(), self._algorithm)

    def open(self, digest: Digest) -> BinaryIO:
        """Open the object *digest* for reading, its contents proved.

        Raises:
            NotFoundError: there is no such object.
            IntegrityError: its contents have another digest.
        """
        path = digest.object_path
        where = f"{self._path}/{self._name}/{path}"
        try:
            fd = os.open(path, _READ_FLAGS, dir_fd=self._directory())
        except FileNotFoundError:
            raise NotFoundError(f"{self._path}: no object {digest}") from None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise IntegrityError(where, digest.hex, "no regular file") from None
            raise self._located(error, path) from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise IntegrityError(where, digest.hex, "no regular file")
            got = self._prove(fd)
            if got != digest.raw:
                self._broken.add(digest.raw)
                raise IntegrityError(where, digest.hex, got.hex() if got else "no fs-verity")
        except BaseException:
            os.close(fd)
            raise
        return open(fd, "rb")

    def exists(self, digest: Digest) -> bool:
        """Tell whether there is an object of that name, without a look at its contents."""
        return self._stat(digest.object_path) is not None

    def missing(self, digests: set[bytes]) -> set[bytes]:
        """Return those of *digests*, raw, that have no object, without a look at contents.

        Where many are asked of one directory it is listed: for 156,000 objects that takes a third of the time.
        """
        missing: set[bytes] = set()
        for first, group in groupby(sorted(digests), key=itemgetter(0)):
            asked = list(group)
            if len(asked) < _LISTING_PAYS:
                missing.update(raw for raw in asked if self._stat(object_path(raw)) is None)
            else:
                names = self._names(f"{first:02x}")
                missing.update(raw for raw in asked if raw.hex()[2:] not in names)
        return missing

    def sync(self) -> None:
        """Wait until all objects are on disk."""
        _native.syncfs(self._directory(make=True))  # whose file system need not be that of the repository

    def spill(self) -> BinaryIO:
        """Return an empty file without a name, on the repository's file system, to read and write."""
        staging = self._stage()
        staging.forget_name()
        return open(staging.fd, "w+b")

    def _reflinked(self, fd: int, checkpoint: Checkpoint = no_checkpoint) -> Stored | None:
        """Store a copy of the file *fd* that shares its blocks; None: the file system cannot."""
        if os.fstat(fd).st_dev in self._no_reflinks:
            return None
        staging = self._stage()
        try:
            if not staging.reflink(fd):
                return None
            size = os.fstat(staging.fd).st_size
            digest = hash_file(staging.fd, size, self._kernel_id, self._digest_size, checkpoint)
            return digest, self._settle(digest, size, staging)
        finally:
            staging.close()

    def _linked(self, fd: int, digest: bytes, before: os.stat_result) -> Stored | None:
        """Store the file *fd* itself as the object *digest*; None: that cannot be, or it was changed since *before*."""
        after = os.fstat(fd)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return None
        if not self._is_near(fd):
            return None
        staging = _Staging(self, os.dup(fd), None)  # of what has a name already
        try:
            return digest, self._settle(digest, after.st_size, staging)
        except IntegrityError:
            return None  # sealed long ago, with another algorithm
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return None
        finally:
            staging.close()

    def _is_near(self, fd: int) -> bool:
        """Tell whether the file *fd* is on our file system; another one would not tell whether ours has fs-verity."""
        return os.fstat(fd).st_dev == os.fstat(self._directory(make=True)).st_dev

    def _settle(self, digest: bytes, size: int, staging: _Staging) -> bool:
        """Publish *staging*, which holds the object *digest*, unless it exists; return whether it did not."""
        path = object_path(digest)
        info = self._stat(path)
        if info is not None and self._is_whole(digest, path, info, size):
            return False
        return staging.publish(digest, replace=info is not None)

    def _directory(self, *, make: bool = False) -> int:
        """Return the directory, opened at the first need; if *make*, it is made where it is missing."""
        with self._lock:
            if self._directory_fd is None:
                if make:
                    make_directory(self._name, self._repository_fd)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._directory_fd = os.open(self._name, flags, dir_fd=self._repository_fd)
            return self._directory_fd

    def _names(self, path: str) -> set[str]:
        """Return the names in a directory of objects, none if it does not exist."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory())
        except FileNotFoundError:
            return set()
        try:
            return set(os.listdir(fd))
        finally:
            os.close(fd)

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(path, dir_fd=self._directory(), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is_whole(self, digest: bytes, path: str, info: os.stat_result, size: int) -> bool:
        """Tell whether the object at *path* may stand for *digest*: the cheapest proof that a crash cannot fool.

        1. Another size, or no regular file, or seen to be broken: no.
        2. A named stream refers to it, so it was flushed: yes (not where fs-verity is required).
        3. The kernel measures it: it says.
        4. Otherwise its contents are hashed.
        """
        if not stat.S_ISREG(info.st_mode) or info.st_size != size or digest in self._broken:
            return False
        if not self._require_verity:
            with self._lock:
                if self._durable is None:
                    self._durable = self.load_durable()
            if digest in self._durable:
                return True
        fd = os.open(path, _READ_FLAGS, dir_fd=self._directory())
        try:
            return self._prove(fd) == digest
        except IntegrityError:  # sealed with another algorithm
            return False
        finally:
            os.close(fd)

    def _prove(self, fd: int) -> bytes | None:
        """Return the digest of the file *fd*: measured if the kernel can, hashed if it may be; None: not enforced."""
        measured = verity.measure(fd, self._algorithm)
        if measured is not None:
            return measured.raw
        if self._require_verity:
            return None
        return verity.compute_file_digest(fd, self._algorithm).raw

    def _stage(self, data: Buffer = b"") -> _Staging:
        """Return a new file that holds *data*."""
        directory = self._directory(make=True)
        if self._has_unnamed_files:
            try:
                return _Staging(self, _native.store_file(directory, data), None)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise self._located(error, ".") from None
                self._has_unnamed_files = False
        name = f".tmp-object-{os.urandom(6).hex()}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        try:
            staging = _Staging(self, os.open(name, flags, _FILE_MODE, dir_fd=directory), name)
        except OSError as error:
            raise self._located(error, name) from None
        try:
            staging.write(data)
        except OSError:
            staging.close()
            raise
        return staging

    def _located(self, error: OSError, path: str) -> OSError:
        """Return *error* with the path that a person can look at."""
        return OSError(error.errno, error.strerror, os.path.normpath(f"{self._path}/{self._name}/{path}"))


class ObjectWriter:
    """Write one object piece by piece, into a file that has no name until `finish`."""

    def __init__(self, store: ObjectStore, staging: _Staging, algorithm: Algorithm) -> None:
        self._store, self._staging = store, staging
        self._builder = verity.DigestBuilder(algorithm)
        self._size = 0

    def write(self, data: Buffer) -> None:
        """Append *data*."""
        self._builder.update(data)
        self._staging.write(data)
        self._size += len(data)

    def skip(self, zeros: Buffer) -> None:
        """Append *zeros*, which take no room on the disk."""
        self._builder.update(zeros)
        self._size += len(zeros)
        self._staging.seek(self._size)

    def finish(self) -> Stored:
        """Give the object its name, unless it exists already, and close the file."""
        try:
            digest = self._builder.finish().raw
            return digest, self._store._settle(digest, self._size, self._staging)
        finally:
            self.close()

    def close(self) -> None:
        """Give up, if not finished: nothing is left behind."""
        self._staging.close()


class _Staging:
    """A file being written: unnamed, or with the temporary *name*."""

    def __init__(self, store: ObjectStore, fd: int, name: str | None) -> None:
        self._store, self.fd, self._name = store, fd, name
        self._closed = False

    def write(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.fd, rest) :]
            except OSError as error:
                raise self._store._located(error, ".") from None

    def seek(self, size: int) -> None:
        """Make the file *size* bytes long, and go on at its end."""
        os.ftruncate(self.fd, size)
        os.lseek(self.fd, size, os.SEEK_SET)

    def reflink(self, source: int) -> bool:
        """Share the blocks of the file *source*; return whether that could be done."""
        try:
            _native.reflink(source, self.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # not this file
                return False
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY):
                raise self._store._located(error, ".") from None
            self._store._no_reflinks.add(os.fstat(source).st_dev)
            return False
        return True

    def publish(self, digest: bytes, *, replace: bool) -> bool:
        """Seal the file and link it as the object *digest*; return whether it was not there."""
        store = self._store
        path = object_path(digest)
        if store._has_verity or store._require_verity:
            self._seal(digest, path)
        try:
            try:
                self._link(path, replace=replace)
            except FileNotFoundError:
                make_directory(path[:2], store._directory())
                self._link(path, replace=replace)
        except FileExistsError:
            return False  # another worker was faster
        except OSError as error:
            raise store._located(error, path) from None
        store._broken.discard(digest)
        return True

    def forget_name(self) -> None:
        if self._name is not None:
            os.unlink(self._name, dir_fd=self._store._directory())
            self._name = None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        os.close(self.fd)
        self.forget_name()

    def _link(self, path: str, *, replace: bool) -> None:
        directory = self._store._directory()
        if self._name is None and not replace:
            _native.link_fd(self.fd, directory, path)
            return
        if self._name is None:
            name = f".tmp-object-{os.urandom(6).hex()}"
            _native.link_fd(self.fd, directory, name)
            self._name = name
        _native.rename(directory, self._name, directory, path, 0 if replace else _native.RENAME_NOREPLACE)
        if replace:
            # Where both were names of one file, rename(2) has done nothing.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=directory)
        self._name = None

    def _seal(self, digest: bytes, path: str) -> None:
        """Enable fs-verity, where it exists, and have the kernel confirm the digest."""
        store = self._store
        writable, self.fd = self.fd, os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(writable)
        if verity.enable(self.fd, store._algorithm):
            measured = verity.measure(self.fd, store._algorithm)
            if measured is None or measured.raw != digest:
                where = f"{store._path}/{store._name}/{path}"
                raise IntegrityError(where, digest.hex(), measured.hex if measured else "no fs-verity")
        elif store._require_verity:
            raise store._located(OSError(errno.EOPNOTSUPP, "the file system has no fs-verity"), path)
        else:
            store._has_verity = False


def make_directory(name: str, dir_fd: int) -> None:
    """Make the directory *name* unless it exists."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, _DIRECTORY_MODE, dir_fd=dir_fd)
