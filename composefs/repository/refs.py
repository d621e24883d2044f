"""Names: symbolic links, replaced atomically.

streams/<content id>   -> ../objects/xx/rest
images/<hex>           -> ../objects/xx/rest
*/refs/<name>          -> ../<what it stands for>, with one more .. for each slash in the name
.symlink-...           a link on its way to replace another
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from composefs import _native
from composefs.digest import Algorithm, Digest
from composefs.errors import RepositoryError, UsageError
from composefs.repository.staging import make_directory

OCI_TAGS = "oci"  # directory below streams/refs, as the next
OCI_REFERRERS = "oci-referrers"
_NO_LINK = frozenset([errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])  # what readlink(2) gives then
_NAME_MAX = 255  # bytes of a file's name on every Linux file system
_RESERVED_MARK = "@"  # what begins with it is a digest, not a tag


def link(repository_fd: int, path: str, target: str, repository: str) -> None:
    """Make *path* a symbolic link to *target*, both relative to *repository*, replacing another link.

    Raises:
        RepositoryError: something else than a link stands there, or than a directory on the way.
    """
    parent = os.path.dirname(path)
    _make_directories(repository_fd, parent, f"{repository}/{path}", repository)
    text = os.path.relpath(f"/{target}", f"/{parent}")  # absolute, or it would ask for the current directory
    try:
        os.symlink(text, path, dir_fd=repository_fd)
        return
    except FileExistsError:
        if read(repository_fd, path, repository) == text:
            return
    name = f".symlink-{os.urandom(6).hex()}"
    os.symlink(text, name, dir_fd=repository_fd)
    try:
        _native.rename(repository_fd, name, repository_fd, path)
    except BaseException:
        os.unlink(name, dir_fd=repository_fd)
        raise


def _make_directories(repository_fd: int, path: str, wanted: str, repository: str) -> None:
    """Make the directory *path* and those above it, of which only the first may be a link: names are links, too."""
    top, *below = path.split("/")
    make_directory(top, repository_fd)
    for name in below:
        top = f"{top}/{name}"
        make_directory(top, repository_fd)
        if not stat.S_ISDIR(os.stat(top, dir_fd=repository_fd, follow_symlinks=False).st_mode):
            raise RepositoryError(wanted, f"cannot be made: {repository}/{top} is a name already")


def read(repository_fd: int, path: str, repository: str) -> str | None:
    """Return the text of the link *path*, or None where there is nothing.

    Raises:
        RepositoryError: something else than a link stands there.
    """
    try:
        return os.readlink(path, dir_fd=repository_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        where = f"{repository}/{path}"
        if error.errno not in _NO_LINK:
            raise OSError(error.errno, error.strerror, where) from None
        raise RepositoryError(where, "is no symbolic link") from None


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


def walk(repository_fd: int, directory: str) -> Iterator[tuple[str, str]]:
    """Yield path below *directory* and text of every link there, at any depth, sorted by path."""
    pending: list[tuple[str, str | None]] = [("", None)]  # paths, and texts of those that are links; the next one last
    while pending:
        path, text = pending.pop()
        if text is not None:
            yield path, text
        else:
            pending += reversed(_list(repository_fd, directory, path))


def _list(repository_fd: int, top: str, path: str) -> list[tuple[str, str | None]]:
    """Return the links and directories in the directory *path* below *top*, as `walk` has them."""
    try:
        where = os.path.join(top, path)
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=repository_fd)
    except FileNotFoundError:
        return []
    found: list[tuple[str, str | None]] = []
    try:
        with os.scandir(fd) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_symlink():
                    found.append((os.path.join(path, entry.name), os.readlink(entry.name, dir_fd=fd)))
                elif entry.is_dir(follow_symlinks=False):
                    found.append((os.path.join(path, entry.name), None))
    finally:
        os.close(fd)
    return found


def check_ref(ref: str) -> None:
    """Refuse a name that leads out of its directory or cannot be a file's.

    Raises:
        UsageError: *ref* is such a name.
    """
    if not all(_is_name(part) and len(os.fsencode(part)) <= _NAME_MAX for part in ref.split("/")):
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
