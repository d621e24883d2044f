"""Names: symbolic links, replaced atomically.

streams/<content id>   -> ../objects/xx/rest
images/<hex>           -> ../objects/xx/rest
*/refs/<name>          -> ../<what it stands for>, with one more .. for each slash in the name
.symlink-...           a link on its way to replace another
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from composefs import _native
from composefs.digest import Algorithm, Digest
from composefs.errors import RepositoryError, UsageError
from composefs.repository.directories import Missing, open_directory

OCI_TAGS = "oci"  # directory below streams/refs, as the next
OCI_REFERRERS = "oci-referrers"
# Streams that refer to others, by how their names begin: they go before these, and come after them, so that no image
# ever lacks a layer.
REFERRING = ("oci-manifest-", "oci-config-")
_NO_LINK = frozenset([errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])  # what readlink(2) gives then
_IS_NONE = "is no symbolic link"
_NAME_MAX = 255  # bytes of a file's name on every Linux file system
_REF_MAX = 4000  # bytes of a whole name: with the directories it is in less than PATH_MAX of <limits.h>
_RESERVED_MARK = "@"  # what begins with it is a digest, not a tag


def link(repository_fd: int, path: str, target: str, repository: str) -> None:
    """Make *path* a symbolic link to *target*, both relative to *repository*, replacing another link.

    Raises:
        RepositoryError: something else than a link stands there, or than a directory on the way.
    """
    parent, _, name = path.rpartition("/")
    text = os.path.relpath(f"/{target}", f"/{parent}")  # absolute, or it would ask for the current directory
    try:
        parent_fd = open_directory(repository_fd, parent, repository, missing=Missing.MAKE_DURABLY)
    except RepositoryError as error:
        raise RepositoryError(f"{repository}/{path}", f"cannot be made: {error.path} {error.what}") from None
    try:
        os.symlink(text, name, dir_fd=parent_fd)
    except FileExistsError:
        if _read(parent_fd, name, f"{repository}/{path}") != text:
            _replace(repository_fd, parent_fd, name, text)
    finally:
        os.close(parent_fd)


def _replace(repository_fd: int, parent_fd: int, name: str, text: str) -> None:
    """Put a link to *text* in the place of *name*, at one stroke."""
    temporary = f".symlink-{os.urandom(6).hex()}"
    os.symlink(text, temporary, dir_fd=repository_fd)
    try:
        _native.rename(repository_fd, temporary, parent_fd, name)
    except BaseException:
        os.unlink(temporary, dir_fd=repository_fd)
        raise


def unlink(repository_fd: int, path: str, repository: str) -> bool:
    """Remove the link *path*, durably; return whether it was there.

    Raises:
        RepositoryError: something else than a link stands there, or than a directory on the way.
    """
    parent, _, name = path.rpartition("/")
    try:
        parent_fd = open_directory(repository_fd, parent, repository, flags=os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if _read(parent_fd, name, f"{repository}/{path}") is None:
            return False
        try:
            os.unlink(name, dir_fd=parent_fd)
        except FileNotFoundError:  # somebody else was faster
            return False
        _sync(parent_fd, f"{repository}/{parent}")
        return True
    finally:
        os.close(parent_fd)


def sync(repository_fd: int, directory: str, repository: str) -> None:
    """Wait until the names in *directory*, relative to *repository*, are on disk; perhaps there is none."""
    try:
        fd = open_directory(repository_fd, directory, repository, flags=os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        _sync(fd, f"{repository}/{directory}")
    finally:
        os.close(fd)


def _sync(fd: int, where: str) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from None


def read(repository_fd: int, path: str, repository: str) -> str | None:
    """Return the text of the link *path*, or None where there is nothing; the path may be anything.

    Raises:
        RepositoryError: something else than a link stands there, or than a directory on the way.
    """
    parent, _, name = path.rpartition("/")
    try:
        check_ref(path)
        parent_fd = open_directory(repository_fd, parent, repository)
    except (UsageError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        raise RepositoryError(f"{repository}/{path}", _IS_NONE) from None
    try:
        return _read(parent_fd, name, f"{repository}/{path}")
    finally:
        os.close(parent_fd)


def _read(parent_fd: int, name: str, where: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise OSError(error.errno, error.strerror, where) from None
        raise RepositoryError(where, _IS_NONE) from None


def object_of(text: str, algorithm: Algorithm, path: str) -> Digest:
    """Return the object that the link *path*, which says *text*, leads to.

    Raises:
        RepositoryError: it leads elsewhere.
    """
    head, slash, rest = text[-(2 * algorithm.digest_size + 1) :].partition("/")
    try:
        if not text.startswith("../") or not slash or len(head) != 2:
            raise ValueError
        return Digest.from_hex(algorithm, head + rest)
    except ValueError:
        raise RepositoryError(path, f"link to {text!r} is none to an object") from None


def walk(repository_fd: int, directory: str, repository: str = "") -> Iterator[tuple[str, str]]:
    """Yield path below *directory* and text of every link there, at any depth, sorted by path.

    Raises:
        RepositoryError: something else than a directory stands there.
    """
    try:
        top_fd = open_directory(repository_fd, directory, repository)
    except FileNotFoundError:
        return
    try:
        # Paths, and texts of those that are links; the next one last.
        pending: list[tuple[str, str | None]] = [("", None)]
        while pending:
            path, text = pending.pop()
            if text is not None:
                yield path, text
            else:
                pending += reversed(_list(top_fd, path))
    finally:
        os.close(top_fd)


def _list(top_fd: int, path: str) -> list[tuple[str, str | None]]:
    """Return the links and directories in the directory *path* below *top_fd*, as `walk` has them.

    What is removed, or replaced by something else, meanwhile is not there.
    """
    try:
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=top_fd)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[tuple[str, str | None]] = []
    try:
        with os.scandir(fd) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                where = os.path.join(path, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    found.append((where, None))
                elif entry.is_symlink() and (text := _read(fd, entry.name, where)) is not None:
                    found.append((where, text))
    finally:
        os.close(fd)
    return found


def check_ref(ref: str) -> None:
    """Refuse a name that leads out of its directory or cannot be a file's.

    Raises:
        UsageError: *ref* is such a name.
    """
    is_name = all(_is_name(part) and len(os.fsencode(part)) <= _NAME_MAX for part in ref.split("/"))
    if not is_name or len(os.fsencode(ref)) > _REF_MAX:
        raise UsageError(f"{ref!r} is no name for a reference")


def encode_tag(name: str) -> str:
    """Return the file name of the tag *name*.

    Raises:
        UsageError: a tag cannot be called so.
    """
    if not _is_name(name):
        raise UsageError(f"{name!r} is no name for an image")
    if name.startswith(_RESERVED_MARK):
        raise UsageError(f"the name {name!r} begins with {_RESERVED_MARK}, which is for digests")
    encoded = name.replace("%", "%25").replace("/", "%2F")
    size = len(os.fsencode(encoded))
    if size > _NAME_MAX:
        raise UsageError(f"the name {name!r} is too long: {size} of {_NAME_MAX} bytes once encoded")
    return encoded


def _is_name(text: str) -> bool:
    """Tell whether a file could be called *text*, slashes and length aside."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which stands for no byte
        return False
    return text not in ("", ".", "..") and "\0" not in text


def decode_tag(encoded: str) -> str:
    """Return the tag whose file name is *encoded*."""
    return encoded.replace("%2F", "/").replace("%25", "%")  # in this order it equals one pass: %252F has no %2F
