"""Files on their way to become objects: written without a name, sealed, linked into place.

objects/.tmp-object-...   where there is no O_TMPFILE, and for the moment of replacing a broken object
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from composefs import _native, verity
from composefs._native import Buffer
from composefs.digest import Algorithm, Digest, object_path
from composefs.errors import RepositoryError
from composefs.repository.directories import NOT_FOLLOWED, Missing, open_directory

FILE_MODE = 0o644
NO_UNNAMED_FILES = frozenset([errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS])  # what O_TMPFILE gives where it is unknown


class StagingArea:
    """The directory *name* of the repository *repository_fd*, and what its file system has been found to do.

    Args:
        repository_fd: the repository's directory; stays the caller's.
        path: of the repository, for messages.
        name: of the directory of objects.
        algorithm: of the objects' names.
        require_verity: fail where the kernel cannot enforce the digests.
    """

    def __init__(self, repository_fd: int, path: str, name: str, algorithm: Algorithm, *, require_verity: bool) -> None:
        self._repository_fd, self._path, self._name = repository_fd, path, name
        self.where, self.algorithm, self.requires_verity = f"{path}/{name}", algorithm, require_verity
        self._has_verity: bool | None = None  # whether the file system has fs-verity; until it was asked
        self._has_unnamed_files = True  # until the file system says no
        self._no_reflinks: set[int] = set()  # devices with whose files no blocks can be shared
        self._directory_fd: int | None = None
        self._lock = threading.Lock()  # of the directory; all else may be found out twice

    def close(self) -> None:
        """Close the directory."""
        if self._directory_fd is not None:
            os.close(self._directory_fd)
            self._directory_fd = None

    @property
    def seals(self) -> bool:
        """Whether to enable fs-verity for what is published."""
        if self.requires_verity:
            return True
        if self._has_verity is None:
            self._has_verity = verity.is_known(self.directory(make=True))  # or each would be written in vain
        return self._has_verity

    def cannot_seal(self, path: str) -> None:
        """Remember that the object at *path* could not be sealed, and so no other can.

        Raises:
            OSError: they must be.
        """
        if self.requires_verity:
            raise self.located(OSError(errno.EOPNOTSUPP, verity.MISSING), path)
        self._has_verity = False

    def directory(self, *, make: bool = False) -> int:
        """Return the directory, opened at the first need; if *make*, it is made where it is missing.

        Raises:
            FileNotFoundError: it is missing.
            RepositoryError: something else stands there.
        """
        with self._lock:
            if self._directory_fd is None:
                missing = Missing.MAKE if make else Missing.FAIL
                self._directory_fd = open_directory(
                    self._repository_fd, self._name, self._path, flags=os.O_RDONLY, missing=missing
                )
            return self._directory_fd

    def open(self, path: str, flags: int) -> int:
        """Open the object at *path*, whatever it is, and return its descriptor, which is the caller's.

        Raises:
            RepositoryError: its directory is none.
            OSError: it cannot be opened; ELOOP if it is a link.
        """
        try:
            return _native.open_below(self.directory(), path, flags)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise RepositoryError(f"{self.where}/{path[:2]}", NOT_FOLLOWED) from None
            raise self.located(error, path) from None

    def new(self, data: Buffer = b"") -> Staging:
        """Return a new file that holds *data*.

        Raises:
            OSError: it could not be made or written.
        """
        directory = self.directory(make=True)
        if self._has_unnamed_files:
            try:
                return Staging(self, _native.store_file(directory, data), None)
            except OSError as error:
                if error.errno not in NO_UNNAMED_FILES:
                    raise self.located(error, ".") from None
                self._has_unnamed_files = False
        name = f".tmp-object-{os.urandom(6).hex()}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        try:
            staging = Staging(self, os.open(name, flags, FILE_MODE, dir_fd=directory), name)
        except OSError as error:
            raise self.located(error, name) from None
        try:
            _native.set_mode(staging.fd, directory, FILE_MODE)
            staging.write(data)
        except OSError:
            staging.close()
            raise
        return staging

    def named(self, fd: int) -> Staging:
        """Return the file behind *fd*, which has a name somewhere else and stays the caller's."""
        return Staging(self, self.opened_near(fd), None, is_ours=False)

    def opened_near(self, fd: int) -> int:
        """Return a new descriptor of the file behind *fd*: one that can be linked here, if that can be had."""
        with contextlib.suppress(OSError):
            near = _native.reopen_near(fd, self.directory(make=True))
            if os.path.sameopenfile(near, fd):
                return near
            os.close(near)
        return os.dup(fd)

    def store(self, data: Buffer, spans: bytes, digests: bytes) -> list[int]:
        """Store many objects that lie in *data*, as `_native.store_objects` does; all fail without `O_TMPFILE`."""
        if not self._has_unnamed_files:
            return [-errno.EOPNOTSUPP] * (len(spans) // _native.SPAN_SIZE)
        directory = self.directory(make=True)
        kernel_id = self.algorithm.kernel_id if self.seals else 0
        return _native.store_objects(directory, kernel_id, data, spans, digests)

    def may_share(self, fd: int) -> bool:
        """Tell whether blocks could be shared with the file behind *fd*, for all that is known."""
        return os.fstat(fd).st_dev not in self._no_reflinks

    def cannot_share(self, fd: int) -> None:
        """Remember that no blocks can be shared with the file behind *fd* and its neighbours."""
        self._no_reflinks.add(os.fstat(fd).st_dev)

    def located(self, error: OSError, path: str) -> OSError:
        """Return *error* with the path that a person can look at."""
        return OSError(error.errno, error.strerror, os.path.normpath(f"{self.where}/{path}"))


class Staging:
    """A file being written: unnamed, or with the temporary *name*; one that is not ours has names already."""

    def __init__(self, area: StagingArea, fd: int, name: str | None, *, is_ours: bool = True) -> None:
        self._area, self.fd, self._name, self._is_ours = area, fd, name, is_ours
        self._closed = False

    def write(self, data: Buffer) -> None:
        """Append *data*."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.fd, rest) :]
            except OSError as error:
                raise self._area.located(error, ".") from None

    def seek(self, size: int) -> None:
        """Make the file *size* bytes long, and go on at its end."""
        os.ftruncate(self.fd, size)
        os.lseek(self.fd, size, os.SEEK_SET)

    def reflink(self, source: int) -> bool:
        """Share the blocks of the file *source*; return whether that could be done."""
        try:
            self._reflink(source)
        except OSError as error:
            if error.errno == errno.EINVAL:  # not this file
                return False
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY):
                raise self._area.located(error, ".") from None
            self._area.cannot_share(source)
            return False
        return True

    def _reflink(self, source: int) -> None:
        try:
            _native.reflink(source, self.fd)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            near = self._area.opened_near(source)  # until Linux 5.18, both had to be in one mount
            try:
                _native.reflink(near, self.fd)
            finally:
                os.close(near)

    def publish(self, digest: bytes, *, replace: bool, sync: bool = False) -> bool:
        """Seal the file and link it as the object *digest*; return whether it was not there.

        Args:
            digest: of its contents.
            replace: whatever has that name.
            sync: have it on disk before it gets the name.
        """
        area = self._area
        path = object_path(digest)
        if area.seals:
            self._seal(digest, path)
        if sync:
            self._sync(path)
        parent_name, _, name = path.partition("/")
        parent = open_directory(area.directory(), parent_name, area.where, missing=Missing.MAKE)
        try:
            self._link(parent, name, replace=replace)
        except FileExistsError:
            return False  # another worker was faster
        except OSError as error:
            raise area.located(error, path) from None
        finally:
            os.close(parent)
        return True

    def forget_name(self) -> None:
        """Remove the temporary name, if there is one."""
        if self._name is not None:
            os.unlink(self._name, dir_fd=self._area.directory())
            self._name = None

    def close(self) -> None:
        """Close the file; without a name it is gone."""
        if self._closed:
            return
        self._closed = True
        os.close(self.fd)
        self.forget_name()

    def _sync(self, path: str) -> None:
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise self._area.located(error, path) from None

    def _link(self, parent: int, name: str, *, replace: bool) -> None:
        directory = self._area.directory()
        if self._name is None and not replace:
            _native.link_fd(self.fd, parent, name)
            return
        if self._name is None:
            temporary = f".tmp-object-{os.urandom(6).hex()}"
            _native.link_fd(self.fd, directory, temporary)
            self._name = temporary
        _native.rename(directory, self._name, parent, name, 0 if replace else _native.RENAME_NOREPLACE)
        if replace:
            # Where both were names of one file, rename(2) has done nothing.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=directory)
        self._name = None

    def _seal(self, digest: bytes, path: str) -> None:
        """Have the kernel enforce the digest, if it can; a file of ours may be replaced by a copy for that."""
        area = self._area
        copy_to = area.directory() if self._is_ours and self._name is None else None
        if not verity.seal(self.fd, Digest(area.algorithm, digest), f"{area.where}/{path}", copy_to):
            area.cannot_seal(path)
