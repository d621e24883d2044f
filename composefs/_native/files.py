"""Files, and the objects of a repository."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, cast

from composefs._native.core import DIGEST_MAX, Buffer, check, encode_path, ffi, lib

_AT_FDCWD = -100  # <fcntl.h>
RENAME_NOREPLACE = 1  # <linux/fs.h>: the new name must not exist
RENAME_EXCHANGE = 2  # both names exist and change places
OBJECT_FOUND, OBJECT_NEW, OBJECT_SEALED = 0, 1, 2  # of `store_objects`


def link_fd(fd: int, dir_fd: int, path: str) -> None:
    """Name the unnamed (`O_TMPFILE`) file behind *fd*: *path*, relative to *dir_fd*.

    Raises:
        FileExistsError: the name is taken.
        OSError: as link(2).

    Source: open(2), `O_TMPFILE`; needs /proc.
    """
    check(lib.cfs_link_fd(fd, dir_fd, encode_path(path)), path)


def reopen_near(fd: int, dir_fd: int) -> int:
    """Open the file behind *fd* for reading once more, in the mount of *dir_fd*, so that it can be linked there.

    A link leads from no mount to another one, also where both are of one file system.

    Returns:
        Its descriptor; the caller closes it, and sees that it is the same file.

    Raises:
        OSError: EPERM without CAP_DAC_READ_SEARCH; or as name_to_handle_at(2) and open_by_handle_at(2).
    """
    return check(lib.cfs_reopen_near(fd, dir_fd))


def rename(old_dir_fd: int, old: str, new_dir_fd: int, new: str, flags: int = 0) -> None:
    """Rename *old*, relative to *old_dir_fd*, to *new*, relative to *new_dir_fd*.

    Args:
        old_dir_fd: directory that *old* is relative to.
        old: a name that exists.
        new_dir_fd: directory that *new* is relative to.
        new: is replaced if it exists, unless the flags say otherwise.
        flags: 0, `RENAME_NOREPLACE` or `RENAME_EXCHANGE`; with flags the file system must support them.

    Raises:
        OSError: as renameat2(2); the path is *new*.
    """
    check(lib.cfs_rename(old_dir_fd, encode_path(old), new_dir_fd, encode_path(new), flags), new)


def reflink(source_fd: int, target_fd: int) -> None:
    """Let the file behind *target_fd* share all blocks of the one behind *source_fd*.

    Raises:
        OSError: as ioctl_ficlone(2); EOPNOTSUPP, EINVAL or EXDEV where that cannot be.
    """
    check(lib.cfs_reflink(source_fd, target_fd))


def enable_verity(fd: int, alg: int, block_size: int = 4096, salt: bytes = b"") -> None:
    """Ask the kernel to build the tree of the file behind *fd* and to check every read from now on.

    Where somebody has the file open for writing, this is tried three times in three milliseconds.

    Args:
        fd: open for reading only; nobody may have the file open for writing.
        alg: the hash.
        block_size: bytes.
        salt: at most 32 bytes.

    Raises:
        OSError: as FS_IOC_ENABLE_VERITY: ETXTBSY, EEXIST, EOPNOTSUPP, ENOTTY and others.
    """
    seed = ffi.from_buffer(salt)
    check(lib.cfs_enable_verity(fd, alg, block_size, seed, len(seed)))


def measure_verity(fd: int, capacity: int = DIGEST_MAX) -> tuple[int, bytes]:
    """Return the hash and the digest of the file behind *fd*, as the kernel knows them.

    Args:
        fd: open for reading.
        capacity: the longest digest wanted, in bytes.

    Raises:
        OSError: as FS_IOC_MEASURE_VERITY: ENODATA without verity, EOVERFLOW for a longer digest and others.
    """
    alg, out = ffi.new("int *"), bytearray(capacity)
    target = ffi.from_buffer(out)
    size = check(lib.cfs_measure_verity(fd, alg, target, len(target)))
    return alg[0], bytes(out[:size])


def seal(fd: int, dir_fd: int | None, alg: int, digest: bytes) -> None:
    """Have the kernel enforce *digest* for the file behind *fd*, and prove that it does.

    Args:
        fd: is reopened for reading only, if it was open for writing.
        dir_fd: where others keep the file open for writing, *fd* stands for a copy afterwards, unnamed in the file
            system of this directory; None: that is an error.
        alg: the hash.
        digest: what is expected.

    Raises:
        OSError: EBADMSG if the contents have another digest, which the kernel enforces from now on; or as
            FS_IOC_ENABLE_VERITY.
    """
    check(lib.cfs_seal(fd, -1 if dir_fd is None else dir_fd, alg, ffi.from_buffer(digest), len(digest)))


def syncfs(fd: int) -> None:
    """Make everything written to the file system of *fd* durable.

    Raises:
        OSError: as syncfs(2).
    """
    check(lib.cfs_syncfs(fd))


def store_file(dir_fd: int, data: Buffer) -> int:
    """Write *data* to a new unnamed file in the directory *dir_fd*.

    Returns:
        Its descriptor, open for reading and writing, closed on exec; the caller closes it.

    Raises:
        OSError: the file cannot be made or written; EOPNOTSUPP where the file system has no `O_TMPFILE`.
    """
    with ffi.from_buffer(data) as source:
        return check(lib.cfs_store_file(dir_fd, source, len(source)))


def set_mode(fd: int, dir_fd: int, mode: int) -> None:
    """Give the file *fd*, which was just made in the directory *dir_fd*, its *mode*, whatever the umask.

    A directory that has a default ACL has no umask; what the ACL takes away stays away.
    """
    check(lib.cfs_set_mode(fd, dir_fd, mode))


def make_directory(dir_fd: int | None, name: str, mode: int) -> None:
    """Make the directory *name* in the directory *dir_fd*, or where this process is, of *mode* whatever the umask.

    Raises:
        FileExistsError: something has that name.
        OSError: it cannot be made.
    """
    check(lib.cfs_make_directory(_AT_FDCWD if dir_fd is None else dir_fd, encode_path(name), mode), name)


def open_below(dir_fd: int, path: str, flags: int) -> int:
    """Open *path*, a name or two, below the directory *dir_fd*, with *flags* of open(2); the caller closes it.

    Raises:
        OSError: as open(2); ENOTDIR or ELOOP if one of them is a link, since neither is followed.
    """
    return check(lib.cfs_open_below(dir_fd, encode_path(path), flags), path)


def missing_objects(dir_fd: int, digests: Buffer, digest_size: int) -> list[int]:
    """Return which of *digests* no file is named by.

    Args:
        dir_fd: the directory of the files xx/rest.
        digests: back to back, in any order, also several times the same.
        digest_size: bytes of one.

    Returns:
        Their indexes, in order.

    Raises:
        OSError: a directory cannot be read.
    """
    source, count = ffi.from_buffer(digests), len(digests) // digest_size
    marks = bytearray(count)
    check(lib.cfs_missing_objects(dir_fd, source, count, digest_size, ffi.from_buffer(marks)))
    return [index for index, mark in enumerate(marks) if mark] if 1 in marks else []


def stamp_objects(dir_fd: int, digests: Buffer, digest_size: int, time: int) -> bytearray:
    """Return a number for each object that is another one if it may have been changed.

    Args:
        dir_fd: the directory of the files xx/rest.
        digests: of the objects, back to back.
        digest_size: bytes of one.
        time: nanoseconds since 1970; what was changed then or later might be changed again without another time.

    Returns:
        8 bytes each, as the processor has numbers, of inode, size, mtime and ctime; 0: there is no such file, or it was
        changed too late.
    """
    count = len(digests) // digest_size
    stamps = bytearray(8 * count)
    names, numbers = ffi.from_buffer(digests), ffi.from_buffer("uint64_t[]", stamps)
    ret = lib.cfs_stamp_objects(dir_fd, names, count, digest_size, time, numbers)
    del names, numbers  # see `ObjectChecker.check`
    check(ret)
    return stamps


class ObjectState(IntEnum):
    """What an object turned out to be, as `enum object_state` of csrc/cfs.h."""

    HASHED = 0  # its digest was computed
    MEASURED = 1  # the kernel enforces its digest, and all of it could be read
    NOT_OPENED = 2  # as the error says
    NO_FILE = 3  # but something else
    NOT_READ = 4  # as the error says
    NOT_SEALED = 5  # the kernel enforces no digest of that hash, though it is required to


class FoundObjects(NamedTuple):
    """What objects turned out to be, each at the place of its name."""

    digests: bytearray  # back to back; of what has none anything
    states: bytearray  # as `ObjectState`
    errors: list[int]  # errno, or 0
    stamps: bytearray = bytearray()  # as `stamp_objects` returns them, from before they were read


class ObjectChecker:
    """Look at the objects in the directory *dir_fd*, each at `xx/rest`, from several threads at once.

    Args:
        alg: the hash of the names.
        dir_fd: stays open meanwhile.
        digest_size: bytes; must be that of the hash.
        require_verity: whether the kernel must enforce every digest; then nothing is hashed.
        time: as of `stamp_objects`; None: no stamps are wanted.
    """

    def __init__(
        self, alg: int, dir_fd: int, digest_size: int, *, require_verity: bool, time: int | None = None
    ) -> None:
        self._alg, self._dir_fd, self._digest_size, self._require_verity = alg, dir_fd, digest_size, require_verity
        self._time = time
        self._stop = ffi.new("int *")

    def check(self, digests: Buffer) -> FoundObjects:
        """Return what the objects called *digests*, raw and back to back, are.

        Raises:
            OSError: ECANCELED after `stop`; EINVAL for a wrong hash.
            MemoryError: no memory for a buffer of 1 MiB.
        """
        count = len(digests) // self._digest_size
        found, states, errors = bytearray(count * self._digest_size), bytearray(count), ffi.new("int[]", count)
        stamps = bytearray(8 * count if self._time is not None else 0)
        names, target, kinds = (ffi.from_buffer(buffer) for buffer in (digests, found, states))
        numbers = ffi.from_buffer("uint64_t[]", stamps) if self._time is not None else ffi.NULL
        fields = (names, count, self._require_verity, self._stop, target, kinds, errors, numbers, self._time or 0)
        objects = ffi.new("struct cfs_objects *", fields)
        ret = lib.cfs_check_objects(self._alg, self._dir_fd, self._digest_size, objects)
        # An error keeps its frames, and CPython 3.11 crashes where it collects a memoryview that is still exported.
        del names, target, kinds, numbers, fields, objects
        check(ret)
        return FoundObjects(found, states, list(errors), stamps)

    def stop(self) -> None:
        """Let every `check` fail, also those that go on."""
        self._stop[0] = 1


def store_objects(dir_fd: int, alg: int, data: Buffer, spans: Buffer, digests: Buffer) -> list[int]:
    """Store objects that are not there.

    Args:
        dir_fd: the directory of objects.
        alg: seal them by this hash; 0: do not.
        data: holds their contents.
        spans: where, as `struct cfs_span` each.
        digests: of them, back to back.

    Returns:
        For each `OBJECT_NEW` if it is stored now; `OBJECT_SEALED` if it is there, and the kernel enforces its digest by
        *alg*; `OBJECT_FOUND`, without *alg*, if a file of that name and size is there; else the negative errno of what
        failed, and nothing is left behind.
    """
    where, names = ffi.from_buffer("struct cfs_span[]", spans), ffi.from_buffer(digests)
    count = len(where)
    if not count:
        return []
    results, digest_size = ffi.new("int[]", count), len(names) // count
    with ffi.from_buffer(data) as source:
        check(lib.cfs_store_objects(dir_fd, alg, source, len(source), where, count, names, digest_size, results))
    return cast("list[int]", ffi.unpack(results, count))
