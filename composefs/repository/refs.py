"""Names: symbolic links, replaced atomically.

streams/<content id>   -> ../objects/xx/rest
images/<hex>           -> ../objects/xx/rest
*/refs/<name>          -> ../<what it stands for>, with one more .. for each slash in the name
.symlink-...           a link on its way to replace another
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from composefs import _native
from composefs.digest import Algorithm, Digest
from composefs.errors import RepositoryError, UsageError
from composefs.repository.objects import make_directory

OCI_TAGS = "oci"  # directory below streams/refs
_RESERVED_MARK = "@"  # what begins with it is a digest, not a tag


def link(repository_fd: int, path: str, target: str) -> None:
    """Make *path* a symbolic link to *target*, both relative to the repository, replacing another link."""
    parents = PurePosixPath(path).parts[:-1]
    text = os.path.relpath(target, "/".join(parents) or ".")
    try:
        os.symlink(text, path, dir_fd=repository_fd)
        return
    except FileNotFoundError:
        for depth in range(1, len(parents) + 1):
            make_directory("/".join(parents[:depth]), repository_fd)
    except FileExistsError:
        if os.readlink(path, dir_fd=repository_fd) == text:
            return
    name = f".symlink-{os.urandom(6).hex()}"
    os.symlink(text, name, dir_fd=repository_fd)
    try:
        _native.rename(repository_fd, name, repository_fd, path)
    except BaseException:
        os.unlink(name, dir_fd=repository_fd)
        raise


def read(repository_fd: int, path: str, repository: str) -> str | None:
    """Return the text of the link *path*, or None where there is nothing.

    Raises:
        RepositoryError: something else than a link stands there.
    """
    try:
        return os.readlink(path, dir_fd=repository_fd)
    except FileNotFoundError:
        return None
    except OSError:
        raise RepositoryError(f"{repository}/{path}", "is no symbolic link") from None


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
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=repository_fd)
    except FileNotFoundError:
        return
    try:
        with os.scandir(fd) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_symlink():
                yield entry.name, os.readlink(entry.name, dir_fd=fd)
            elif entry.is_dir(follow_symlinks=False):
                for path, text in walk(fd, entry.name):
                    yield f"{entry.name}/{path}", text
    finally:
        os.close(fd)


def check_ref(ref: str) -> None:
    """Refuse a name that leads out of its directory or cannot be a file's.

    Raises:
        UsageError: *ref* is such a name.
    """
    parts = ref.split("/")
    if "\0" in ref or any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts):  # NAME_MAX
        raise UsageError(f"{ref!r} is no name for a reference")


def encode_tag(name: str) -> str:
    """Return the file name of the tag *name*.

    Raises:
        UsageError: a tag cannot be called so.
    """
    if not name or name in (".", "..") or "\0" in name:
        raise UsageError(f"{name!r} is no name for an image")
    if name.startswith(_RESERVED_MARK):
        raise UsageError(f"the name {name!r} begins with {_RESERVED_MARK}, which is for digests")
    encoded = name.replace("%", "%25").replace("/", "%2F")
    if len(os.fsencode(encoded)) > 255:  # NAME_MAX of every Linux file system
        raise UsageError(f"the name {name!r} is too long: {len(os.fsencode(encoded))} of 255 bytes once encoded")
    return encoded


def decode_tag(encoded: str) -> str:
    """Return the tag whose file name is *encoded*."""
    return encoded.replace("%2F", "/").replace("%25", "%")  # in this order it equals one pass: %252F has no %2F
