"""Make a repository, or recognise an old one that has no `meta.json`."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from composefs import _native, verity
from composefs.digest import Algorithm
from composefs.errors import NotFoundError, RepositoryError
from composefs.repository import locks, meta, refs
from composefs.repository.directories import open_directory
from composefs.repository.meta import Meta

MODE = 0o700  # of a new repository directory
MODE_ABOVE = 0o755  # of directories above it
_NAME_SIZES = {2 * algorithm.digest_size - 2: algorithm for algorithm in Algorithm}  # of files in objects/xx


def create(path: str, wanted: Meta, *, require_verity: bool | None) -> bool:
    """Make the repository directory *path*, whose parent exists, and its `meta.json`, durably.

    Args:
        path: the directory; an existing one is used.
        wanted: the metadata.
        require_verity: True fails where the file system has no fs-verity, False does without it, None takes what
            there is.

    Returns:
        Whether it was made; False if the same repository was there.

    Raises:
        RepositoryError: a different repository is there, or fs-verity is missing.
    """
    with contextlib.suppress(FileExistsError):
        _native.make_directory(None, path, MODE)
    dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_new = _create_in(dir_fd, path, wanted, require_verity=require_verity)
        os.fsync(dir_fd)  # also of what was there, but perhaps for a moment only
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or f"{path}/{meta.NAME}") from None
    finally:
        os.close(dir_fd)
    _sync_parent(path)
    return is_new


def make_parents(path: str) -> None:
    """Make the directory *path*, and those above it, durably, unless they exist; nobody else may write in them.

    They are no part of a repository: of what is left, the umask may take away more.
    """
    if os.path.isdir(path):
        return
    make_parents(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, MODE_ABOVE)
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IRWXU)  # or nobody could make anything in it
    _sync_parent(path)


def _sync_parent(path: str) -> None:
    """Wait until the name of the directory *path* is on disk."""
    try:
        fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # who may make names in it need not be allowed to read it
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reset(path: str, wait: float | None) -> None:
    """Remove all names and the `meta.json` of the repository directory *path*, and keep its objects.

    Args:
        path: the directory.
        wait: for how many seconds at most, while others have it open; None: as long as it takes.

    Raises:
        BusyError: they have it open still.
    """
    try:
        dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        locks.lock_exclusive(dir_fd, path, wait)
        # So that no reference ever leads to nothing, and no image ever lacks a layer.
        for name in ("streams/refs", "images/refs"):
            _remove(dir_fd, name, path)
        for prefix in refs.REFERRING:
            _remove_streams(dir_fd, prefix, path)
        for name in ("streams", "images"):
            _remove(dir_fd, name, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(meta.NAME, dir_fd=dir_fd)
        os.fsync(dir_fd)
    finally:
        os.close(dir_fd)


def _remove(dir_fd: int, name: str, path: str) -> None:
    import shutil  # noqa: PLC0415  # with its archive formats 2 ms, which nobody else who opens a repository needs

    with contextlib.suppress(FileNotFoundError):
        os.close(open_directory(dir_fd, name, path))  # which refuses what rmtree would
        shutil.rmtree(name, dir_fd=dir_fd)


def _remove_streams(dir_fd: int, prefix: str, path: str) -> None:
    try:
        streams = open_directory(dir_fd, "streams", path, flags=os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(streams):
            if name.startswith(prefix):
                os.unlink(name, dir_fd=streams)
    finally:
        os.close(streams)


def infer(dir_fd: int, path: str) -> tuple[Algorithm, bool]:
    """Return the algorithm of a repository without `meta.json`, and whether its objects have fs-verity.

    The length of an object's name tells the algorithm, its first object stands for all.

    Raises:
        NotFoundError: there is no object to judge by.
    """
    try:
        objects = open_directory(dir_fd, "objects", path, flags=os.O_RDONLY)
    except FileNotFoundError:
        raise NotFoundError(f"{path} is no composefs repository: it has neither meta.json nor objects") from None
    try:
        for directory in sorted(name for name in os.listdir(objects) if len(name) == 2):
            found = _judge(objects, directory, f"{path}/objects")
            if found is not None:
                return found
    finally:
        os.close(objects)
    raise NotFoundError(f"{path} has no meta.json, and no objects that would tell its algorithm")


def upgrade(dir_fd: int, path: str) -> tuple[Meta, bool]:
    """Write the `meta.json` that an old repository lacks, as the reference does.

    Returns:
        The metadata, and whether fs-verity is required; also of a repository that can only be read.
    """
    algorithm, sealed = infer(dir_fd, path)
    wanted = Meta.new(algorithm)
    try:
        meta.write(dir_fd, wanted, seal=sealed)
    except FileExistsError:  # another process was faster
        return meta.read(dir_fd, path)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    return wanted, sealed


def _create_in(dir_fd: int, path: str, wanted: Meta, *, require_verity: bool | None) -> bool:
    try:
        found, _ = meta.read(dir_fd, path)
    except FileNotFoundError:
        pass
    else:
        if found != wanted:
            what = f"repository exists with {_describe(found)}; it cannot become one with {_describe(wanted)}"
            raise RepositoryError(path, what)
        return False
    try:
        algorithm, _ = infer(dir_fd, path)
    except NotFoundError:
        pass
    else:
        if algorithm is not wanted.algorithm:
            what = f"has objects of {algorithm.value} and no meta.json; it cannot become {wanted.algorithm.value}"
            raise RepositoryError(path, what)
    try:
        if require_verity is not False and meta.write(dir_fd, wanted, seal=True):
            return True
        if require_verity:
            raise RepositoryError(path, f"{verity.MISSING} (ext4: mkfs -b 4096 -O verity, or tune2fs -O verity)")
        return meta.write(dir_fd, wanted, seal=False)
    except FileExistsError:  # another process was faster
        return _create_in(dir_fd, path, wanted, require_verity=require_verity)


def _describe(found: Meta) -> str:
    return f"algorithm {found.algorithm.value}, EROFS V{found.erofs_versions[0]}"


def _judge(objects: int, directory: str, where: str) -> tuple[Algorithm, bool] | None:
    """Return algorithm and fs-verity of the first object in *directory*."""
    directory_fd = open_directory(objects, directory, where, flags=os.O_RDONLY)
    try:
        for name in sorted(os.listdir(directory_fd)):
            algorithm = _NAME_SIZES.get(len(name))
            if algorithm is not None:
                return algorithm, _has_verity(directory_fd, name, algorithm)
    finally:
        os.close(directory_fd)
    return None


def _has_verity(dir_fd: int, name: str, algorithm: Algorithm) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and verity.measure(fd, algorithm) is not None
    finally:
        os.close(fd)
