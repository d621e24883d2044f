"""The object store: every file once, named by its fs-verity digest.

    objects/xx/rest           a regular file; xx and rest are the digest in hexadecimal
    objects/.tmp-object-...   a file being written, see `composefs.repository.staging`

An object gets its name when all of it is written, and is never changed.  Nothing is flushed here: whoever names a
stream flushes first.  An existing object is proved before it is relied on (`_is_whole`); a broken one is replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO

from composefs import _native, verity
from composefs._native import Buffer
from composefs.digest import Algorithm, Digest, object_path
from composefs.errors import IntegrityError, NotFoundError
from composefs.repository.durable import DurableObjects, forget_contents
from composefs.repository.files import (
    WHOLE_MAX,
    Checkpoint,
    Look,
    Sharing,
    hash_file,
    is_zeros,
    no_checkpoint,
    no_look,
    read_file,
    read_pieces,
)
from composefs.repository.staging import Staging, StagingArea

DIRECTORY = "objects"
# Why a file cannot get another name, or cannot be sealed: another file system; owner and mode (protected_hardlinks in
# proc(5)); too many names, or none left; open for writing.
_NO_LINK = frozenset([errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOENT, errno.ETXTBSY])
# Why a file of somebody else, or one that somebody writes to, cannot be sealed; or one that cannot be read.
_NO_SEAL = frozenset([errno.EPERM, errno.EACCES, errno.ETXTBSY, errno.EIO])
_NO_FILE = frozenset([errno.ELOOP, errno.ENXIO])  # why what is a link, or a socket, cannot be opened
_SET_ID = stat.S_ISUID | stat.S_ISGID
_WRITE_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH
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
        self._path, self._algorithm = path, algorithm
        self._where = f"{path}/{directory}"
        self._staging = StagingArea(repository_fd, path, directory, algorithm, require_verity=require_verity)
        self._kernel_id, self._digest_size = algorithm.kernel_id, algorithm.digest_size
        self._require_verity = require_verity
        self.load_durable: Callable[[], DurableObjects] = lambda: DurableObjects([], algorithm.digest_size)
        self._durable: DurableObjects | None = None
        self._broken: set[bytes] = set()  # objects that are missing, or have other contents than their names say
        self._lock = threading.Lock()  # of the durable ones

    def close(self) -> None:
        """Close the directory."""
        self._staging.close()

    @property
    def seals(self) -> bool:
        """Whether the kernel enforces the digests of new objects, which takes longer: it does wherever it can."""
        return self._staging.seals

    def ensure(self, data: Buffer) -> Stored:
        """Store the object that is *data*: digest first, so that what exists is not written again.

        Raises:
            OSError: it could not be written; nothing is left behind.
        """
        return self.ensure_gathered([data], _native.verity_digest(self._kernel_id, data, self._digest_size))

    def ensure_spans(self, data: Buffer, spans: bytes, digests: bytes) -> Iterator[Stored]:
        """Store the objects that lie in *data*, many in one call, and yield what `ensure` returns of each, in order.

        Args:
            data: holds them.
            spans: offset and size of each, 8 bytes each, as the processor has numbers.
            digests: theirs, back to back.

        Raises:
            OSError: one could not be written; it is the one behind the last that was yielded.
        """
        size = self._digest_size
        each = [digests[start : start + size] for start in range(0, len(digests), size)]
        if self._broken.isdisjoint(each):
            results = self._staging.store(data, spans, digests)
        else:
            results = [-errno.EEXIST] * len(each)  # none is believed here, whatever stands there
        where = memoryview(spans).cast("Q")
        for number, (digest, result) in enumerate(zip(each, results, strict=True)):
            if result == _native.OBJECT_NEW:
                yield digest, True
            elif result == _native.OBJECT_SEALED or (result == _native.OBJECT_FOUND and self._is_durable(digest)):
                yield digest, False
            else:  # to be proved, or written in another way, or to be told why not
                offset = where[2 * number]
                yield self.ensure_gathered([memoryview(data)[offset : offset + where[2 * number + 1]]], digest)

    def ensure_gathered(self, pieces: Sequence[Buffer], digest: bytes) -> Stored:
        """Store the object *digest* that the *pieces*, joined, are; errors are those of `ensure`."""
        size = sum(map(len, pieces))
        path = object_path(digest)
        info = self._stat(path)
        if info is not None and self._is_whole(digest, path, info, size):
            return digest, False
        staging = self._staging.new()
        try:
            for piece in pieces:
                staging.write(piece)
            return digest, self._publish(staging, digest, size, replace=info is not None)
        finally:
            staging.close()

    def distrust(self, digests: Iterable[bytes]) -> None:
        """Take the objects *digests* for broken or missing, though streams with names refer to them.

        What is there is no proof: they are written again as they come, and are on disk before they get their names.
        """
        self._broken.update(digests)

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

    def take_file(self, fd: int, sharing: Sharing, look: Look, *, may_copy: bool = True) -> Stored:
        """Store the object that the regular file *fd* is, as `ensure_file` does, but show *look* what is stored, once.

        Args:
            fd: open for reading.
            sharing: what the object is to share with the file; a hard link is the last resort before a copy.
            look: sees each piece, in order.
            may_copy: whether a copy will do where nothing can be shared; it always does of what may not be linked.

        Raises:
            IntegrityError: somebody writes to the file.
            OSError: nothing can be shared and a copy will not do; EXDEV if the file is on another file system.
        """
        if sharing is not Sharing.COPY and (stored := self._reflinked(fd, look=look)) is not None:
            return stored
        info = os.fstat(fd)
        may_link = self._may_link(info)
        if sharing is not Sharing.HARD_LINK or not may_link or not self._is_near(fd):
            if may_link and not may_copy:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return self._copied(fd, info.st_size, look)
        digest = hash_file(fd, info.st_size, self._kernel_id, self._digest_size, no_checkpoint, look)
        if (stored := self._linked(fd, digest, info)) is not None:
            return stored
        if not may_copy:
            raise OSError(errno.EPERM, "can be linked to no object")
        stored = self._copied(fd, info.st_size, no_look)
        if stored[0] != digest:
            raise IntegrityError(f"file descriptor {fd}", digest.hex(), f"{stored[0].hex()}: somebody writes to it")
        return stored

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
        staging = self._staging.named(fd)  # of what has a name already
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
        return ObjectWriter(self, self._staging.new(), self._algorithm)

    def open(self, digest: Digest) -> BinaryIO:
        """Open the object *digest* for reading, its contents proved.

        Raises:
            NotFoundError: there is no such object.
            IntegrityError: its contents have another digest.
        """
        path = digest.object_path
        where = f"{self._where}/{path}"
        try:
            fd = self._staging.open(path, _READ_FLAGS)
        except FileNotFoundError:
            raise NotFoundError(f"{self._path}: no object {digest}") from None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise IntegrityError(where, digest.hex, "no regular file") from None
            raise
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

    def missing(self, tables: Iterable[bytes]) -> set[bytes]:
        """Return the digests in *tables*, raw and back to back, that have no object, without a look at contents.

        Directories are listed where many are asked for: 156,000 objects take 0.1 s, a look at each takes 0.4 s.
        """
        size, digests = self._digest_size, b"".join(tables)
        try:
            missing: Iterable[int] = _native.missing_objects(self._staging.directory(), digests, size)
        except FileNotFoundError:
            missing = range(len(digests) // size)
        except OSError as error:
            raise self._staging.located(error, "") from None
        return {digests[index * size : (index + 1) * size] for index in missing}

    def sync(self) -> None:
        """Wait until all objects are on disk.

        Raises:
            OSError: they are not, and are read from there from now on.
        """
        try:
            _native.syncfs(self._staging.directory(make=True))  # whose file system need not be that of the repository
        except OSError as error:
            forget_contents(self._staging.directory(), self._digest_size, self._is_durable)
            raise self._staging.located(error, ".") from None

    def spill(self) -> BinaryIO:
        """Return an empty file without a name, on the repository's file system, to read and write."""
        staging = self._staging.new()
        staging.forget_name()
        return open(staging.fd, "w+b")

    def _copied(self, fd: int, size: int, look: Look) -> Stored:
        """Store a copy of the file *fd*, of about *size* bytes; *look* sees each piece of it."""
        if size <= WHOLE_MAX:
            data = read_file(fd, size)
            look(data)
            return self.ensure(data)
        with closing(self.writer()) as writer:
            for piece in read_pieces(fd, no_checkpoint):
                look(piece)
                writer.write(piece)
            return writer.finish()

    def _reflinked(self, fd: int, checkpoint: Checkpoint = no_checkpoint, look: Look = no_look) -> Stored | None:
        """Store a copy of the file *fd* that shares its blocks; None: the file system cannot."""
        if not self._staging.may_share(fd):
            return None
        staging = self._staging.new()
        try:
            if not staging.reflink(fd):
                return None
            size = os.fstat(staging.fd).st_size
            digest = hash_file(staging.fd, size, self._kernel_id, self._digest_size, checkpoint, look)
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
        staging = self._staging.named(fd)  # of what has a name already
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

    def _may_link(self, info: os.stat_result) -> bool:
        """Tell whether a file may become an object itself, which is to be read by all, and changed and run by none."""
        if info.st_mode & _SET_ID or not info.st_mode & stat.S_IROTH:
            return False
        return self.seals or not info.st_mode & _WRITE_FOR_OTHERS

    def _is_near(self, fd: int) -> bool:
        """Tell whether the file *fd* is on our file system; another one would not tell whether ours has fs-verity."""
        return os.fstat(fd).st_dev == os.fstat(self._staging.directory(make=True)).st_dev

    def _settle(self, digest: bytes, size: int, staging: Staging) -> bool:
        """Publish *staging*, which holds the object *digest*, unless it exists; return whether it did not."""
        path = object_path(digest)
        info = self._stat(path)
        if info is not None and self._is_whole(digest, path, info, size):
            return False
        return self._publish(staging, digest, size, replace=info is not None)

    def _publish(self, staging: Staging, digest: bytes, size: int, *, replace: bool) -> bool:
        # A name that is there, or should be, is relied on: no crash may leave it with contents that are not on disk.
        # Of a small file no file system has the size there before it has the contents, and another size is no proof.
        is_relied_on = replace or digest in self._broken or (size > WHOLE_MAX and self._is_durable(digest))
        is_new = staging.publish(digest, replace=replace, sync=is_relied_on)
        if is_new:
            self._broken.discard(digest)
        return is_new

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            fd = self._staging.open(path, os.O_PATH)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _is_whole(self, digest: bytes, path: str, info: os.stat_result, size: int) -> bool:
        """Tell whether the object at *path* may stand for *digest*: the cheapest proof that a crash cannot fool.

        1. Another size, or no regular file, or seen to be broken: no.
        2. The file system has fs-verity: the kernel measures it, after it was enabled, so that it says.
        3. Where that cannot be, and need not be: a named stream refers to it, so it was flushed: yes.
        4. Otherwise its contents are hashed.
        """
        if not stat.S_ISREG(info.st_mode) or info.st_size != size or digest in self._broken:
            return False
        if not self._staging.seals and self._is_durable(digest):
            return True
        fd = self._staging.open(path, _READ_FLAGS)
        try:
            if self._staging.seals and self._is_sealed(fd, digest, path):
                return True
            if self._require_verity:
                return False
            return self._is_durable(digest) or self._has_contents(fd, digest)
        except IntegrityError:  # sealed, with another digest or algorithm
            return False
        finally:
            os.close(fd)

    def _is_sealed(self, fd: int, digest: bytes, path: str) -> bool:
        """Tell whether the kernel enforces *digest* for the object *fd*, from now on if it did not before.

        What cannot be undone is done to nothing but what has that digest: it may be another name of any file.

        Raises:
            IntegrityError: the kernel enforces another one, or the contents have another one.
        """
        wanted, where = Digest(self._algorithm, digest), f"{self._where}/{path}"
        try:
            if verity.measure(fd, self._algorithm) is None:
                got = verity.compute_file_digest(fd, self._algorithm)
                if got != wanted:
                    raise IntegrityError(where, wanted.hex, got.hex)
            return verity.seal(fd, wanted, where)
        except OSError as error:
            if error.errno not in _NO_SEAL:
                raise
            return False

    def _is_durable(self, digest: bytes) -> bool:
        """Tell whether the object *digest* needs no proof, if it exists and has the right size."""
        if self._require_verity or digest in self._broken:
            return False
        with self._lock:
            if self._durable is None:
                self._durable = self.load_durable()
        return digest in self._durable

    def _has_contents(self, fd: int, digest: bytes) -> bool:
        """Tell whether the file *fd* can be read, and has that *digest*."""
        try:
            return self._prove(fd) == digest
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False

    def _prove(self, fd: int) -> bytes | None:
        """Return the digest of the file *fd*: measured if the kernel can, hashed if it may be; None: not enforced."""
        measured = verity.measure(fd, self._algorithm)
        if measured is not None:
            return measured.raw
        if self._require_verity:
            return None
        return verity.compute_file_digest(fd, self._algorithm).raw


class ObjectWriter:
    """Write one object piece by piece, into a file that has no name until `finish`."""

    def __init__(self, store: ObjectStore, staging: Staging, algorithm: Algorithm) -> None:
        self._store, self._staging = store, staging
        self._builder = verity.DigestBuilder(algorithm)
        self._size = 0

    def write(self, data: Buffer) -> None:
        """Append *data*."""
        self._builder.update(data)
        self.append(data)

    def append(self, data: Buffer) -> None:
        """Append *data*, which the caller of `finish` hashes."""
        self._staging.write(data)
        self._size += len(data)

    def skip(self, zeros: Buffer) -> None:
        """Append *zeros*, which take no room on the disk."""
        self._builder.update(zeros)
        self._size += len(zeros)
        self._staging.seek(self._size)

    def finish(self, digest: bytes | None = None) -> Stored:
        """Give the object its name, unless it exists already, and close the file.

        Args:
            digest: of what was appended, if that was not only written.
        """
        try:
            if digest is None:
                digest = self._builder.finish().raw
            return digest, self._store._settle(digest, self._size, self._staging)
        finally:
            self.close()

    def close(self) -> None:
        """Give up, if not finished: nothing is left behind."""
        self._staging.close()
