"""The entries of `streams/` and `images/`, which are links to objects, and the references below them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from composefs.digest import Algorithm, Digest
from composefs.errors import RepositoryError
from composefs.repository import refs
from composefs.repository.directories import list_directory
from composefs.repository.fsck.findings import Kind, Report
from composefs.repository.objects import DIRECTORY as OBJECTS

REFS = "refs"  # the directory of references, in that of the entries
_TYPES = {
    stat.S_IFREG: "a regular file",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
}


class Entry(NamedTuple):
    """A link to an object that exists."""

    name: str
    path: str  # from the repository's directory
    digest: Digest


class Checked(NamedTuple):
    """What stands in `streams/` or in `images/`."""

    names: set[str]  # all, good or not
    entries: list[Entry]  # the good ones, sorted
    corrupted: int


def check_entries(repository_fd: int, directory: str, algorithm: Algorithm, report: Report) -> Checked:
    """Check the links in *directory*, `streams` or `images`.

    Raises:
        RepositoryError: it is no directory.
        OSError: it cannot be read.
    """
    checked, corrupted = Checked(set(), [], 0), 0
    for name in list_directory(repository_fd, directory, ""):
        if name == REFS:
            continue
        path = f"{directory}/{name}"
        checked.names.add(name)
        if not _is_link(repository_fd, path):
            report.add(Kind.ENTRY_NOT_SYMLINK, path)
            corrupted += 1
            continue
        digest, what = _target(repository_fd, path, algorithm)
        try:
            os.stat(path, dir_fd=repository_fd)
        except FileNotFoundError:
            report.add(Kind.BROKEN_SYMLINK, path, object_id=digest.hex if digest is not None else None)
            report.counts.broken_links += 1
            corrupted += 1
            continue
        except OSError as error:
            report.add(Kind.STAT_FAILED, path, error.strerror or "")
            continue
        if digest is None:
            report.add(Kind.LINK_INVALID, path, what)
            corrupted += 1
            continue
        checked.entries.append(Entry(name, path, digest))
    return checked._replace(corrupted=corrupted)


def _target(repository_fd: int, path: str, algorithm: Algorithm) -> tuple[Digest | None, str]:
    """Return the object that the link *path* leads to, or None and why it is none."""
    text = os.readlink(path, dir_fd=repository_fd)
    try:
        digest = refs.object_of(text, algorithm, path)
    except RepositoryError as error:
        return None, error.what
    if text != f"../{OBJECTS}/{digest.object_path}":
        return None, f"link to {text!r} is none to an object"
    return digest, ""


def _is_link(repository_fd: int, path: str) -> bool:
    return stat.S_ISLNK(os.stat(path, dir_fd=repository_fd, follow_symlinks=False).st_mode)


def check_refs(repository_fd: int, directory: str, report: Report) -> None:
    """Check the references below *directory*, which lead to its entries, at any depth."""
    pending = [f"{directory}/{REFS}"]
    while pending:
        path = pending.pop()
        try:
            info = os.stat(path, dir_fd=repository_fd, follow_symlinks=False)
        except FileNotFoundError:  # the first one, or removed meanwhile
            continue
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            pending += [f"{path}/{name}" for name in reversed(list_directory(repository_fd, path, ""))]
        elif kind == stat.S_IFLNK and path != f"{directory}/{REFS}":
            _check_ref(repository_fd, directory, path, report)
        else:
            report.add(Kind.UNEXPECTED_FILE_TYPE, path, f"is {_TYPES.get(kind, 'of no known type')}")


def _check_ref(repository_fd: int, directory: str, path: str, report: Report) -> None:
    try:
        text = os.readlink(path, dir_fd=repository_fd)
    except FileNotFoundError:  # it was removed meanwhile
        return
    try:
        os.stat(path, dir_fd=repository_fd)
    except FileNotFoundError:
        if not _is_there(repository_fd, path):  # likewise
            return
        report.add(Kind.BROKEN_SYMLINK, path, wanted=os.path.basename(text))
        report.counts.broken_links += 1
    except OSError as error:
        report.add(Kind.STAT_FAILED, path, error.strerror or "")
    else:
        where = os.path.normpath(f"{os.path.dirname(path)}/{text}")
        if os.path.dirname(where) != directory or os.path.basename(where) == REFS:
            report.add(Kind.REF_INVALID, path, f"link to {text!r} is none to an entry of {directory}/")


def _is_there(repository_fd: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=repository_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def refs_by_entry(repository_fd: int, directory: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each reference below *directory*, and the name of the entry that it stands for."""
    with contextlib.suppress(RepositoryError):  # there is no directory, which was found before
        for path, text in refs.walk(repository_fd, f"{directory}/{REFS}"):
            yield f"{directory}/{REFS}/{path}", os.path.basename(text)
