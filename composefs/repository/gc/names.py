"""The names in `streams/` and `images/`, read by who is about to remove what none of them keeps.

So nothing is passed over: what stands here and is no name might be what is left of one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from composefs.digest import Algorithm, object_path
from composefs.errors import NotFoundError, RepositoryError
from composefs.repository.directories import open_directory
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.refs import REFERRING
from composefs.repository.streams import DIRECTORY as STREAMS

REFS = "refs"  # the directory of references, in that of the entries
# What refers to others goes before them.
_REMOVAL_ORDER = (
    *(f"{directory}/{REFS}/" for directory in (STREAMS, IMAGES)),
    *(f"{STREAMS}/{prefix}" for prefix in REFERRING),
    f"{STREAMS}/",
    f"{IMAGES}/",
)
_HEX_START = len(f"../{OBJECTS}/")


class Ref(NamedTuple):
    """A reference."""

    path: str  # from the repository's directory
    entry: str | None  # what it stands for; None: the link has no last part that could be a name
    dangles: bool  # its link leads nowhere


class Names(NamedTuple):
    """What stands in `streams/` or in `images/`."""

    directory: str
    entries: dict[str, bytes]  # raw digests of the objects that they lead to
    refs: list[Ref]

    def roots(self, where: str) -> dict[str, list[str]]:
        """Return the entries that references stand for, and the paths of those; *where* is the repository's.

        Raises:
            RepositoryError: there is no such entry, so that nobody knows what the reference is to keep.
        """
        found: dict[str, list[str]] = {}
        for ref in self.refs:
            if ref.entry is None:
                continue
            if ref.entry not in self.entries:
                what = f"dangles: there is no {self.directory}/{ref.entry}, and so what it keeps is not known"
                raise RepositoryError(f"{where}/{ref.path}", what)
            found.setdefault(ref.entry, []).append(ref.path)
        return found


def read_names(repository_fd: int, where: str, directory: str, algorithm: Algorithm) -> Names:
    """Return the names in *directory*, none if there is no such directory.

    Args:
        repository_fd: the repository's directory.
        where: its path, for messages.
        directory: `streams` or `images`.
        algorithm: of the digests.

    Raises:
        RepositoryError: something else stands there than links to objects, and references.
        OSError: it cannot be read.
    """
    names = Names(directory, {}, [])
    try:
        fd = open_directory(repository_fd, directory, where, flags=os.O_RDONLY)
    except FileNotFoundError:
        return names
    try:
        # References first: those of an import that goes on come after what they stand for.
        names.refs.extend(_read_refs(fd, where, directory))
        for name in sorted(os.listdir(fd)):
            if name != REFS:
                names.entries[name] = _read_entry(fd, name, f"{where}/{directory}/{name}", algorithm)
    finally:
        os.close(fd)
    return names


def find_roots(roots: Sequence[str], images: Names, streams: Names, where: str) -> dict[str, list[str]]:
    """Return which of the names *roots* stand in `images/` and in `streams/` of the repository *where*.

    Raises:
        NotFoundError: one stands in neither.
    """
    found = {each.directory: [name for name in roots if name in each.entries] for each in (images, streams)}
    for name in roots:
        if name not in images.entries and name not in streams.entries:
            raise NotFoundError(f"{where}: no entry {name} in {images.directory}/ or {streams.directory}/")
    return found


def removal_order(path: str) -> int:
    """Return when the name *path*, relative to the repository, is to go; they come back in the opposite order."""
    return next(place for place, prefix in enumerate(_REMOVAL_ORDER) if path.startswith(prefix))


def object_of_link(text: str, algorithm: Algorithm) -> bytes | None:
    """Return the object, raw, that the link *text* of an entry leads to; None: it leads elsewhere."""
    digits = text[_HEX_START:].replace("/", "", 1)
    try:
        raw = bytes.fromhex(digits) if len(digits) == 2 * algorithm.digest_size else b""
    except ValueError:
        return None
    return raw if raw and text == f"../{OBJECTS}/{object_path(raw)}" else None


def _read_entry(dir_fd: int, name: str, path: str, algorithm: Algorithm) -> bytes:
    """Return the object that an entry leads to."""
    text = _read_link(dir_fd, name, path)
    raw = object_of_link(text, algorithm)
    if raw is None:
        raise RepositoryError(path, f"link to {text!r} is none to an object")
    return raw


def _read_refs(dir_fd: int, where: str, directory: str) -> Iterator[Ref]:
    """Yield the references at any depth; whoever takes one away meanwhile does not disturb."""
    pending = [REFS]
    while pending:
        path = pending.pop()
        try:
            fd = open_directory(dir_fd, path, f"{where}/{directory}", flags=os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            with os.scandir(fd) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            pending += [f"{path}/{entry.name}" for entry in reversed(found) if entry.is_dir(follow_symlinks=False)]
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    continue
                below = f"{directory}/{path}/{entry.name}"
                try:
                    text = _read_link(fd, entry.name, f"{where}/{below}")
                except FileNotFoundError:
                    continue
                yield Ref(below, _last_part(text), _dangles(fd, entry.name))
        finally:
            os.close(fd)


def _read_link(dir_fd: int, name: str, path: str) -> str:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, path) from None
        raise RepositoryError(path, "is no symbolic link, and so might be what is left of a name") from None


def _last_part(text: str) -> str | None:
    """Return the name that the link *text* ends with; only that counts of a reference, as in composefs-rs."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return parts[-1] if parts and parts[-1] != ".." else None


def _dangles(dir_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except OSError:  # a loop, or a directory that may not be searched: it is left alone
        return False
    return False
