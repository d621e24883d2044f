"""Copy files of an image into a directory, which is never left.

Rule 1: nothing is looked up by a path.  A name of the image is one component, used relative to the descriptor of a
        directory that was opened from the target downwards, one step after the other, without following a link.
Rule 2: nothing that exists is replaced or written to: what is made must be new.
Rule 3: what needs privileges, or what the file system cannot hold, is counted; any other failure ends the work.

Directories get their metadata last, the deepest first, since what is made in them changes their times and their modes
might forbid it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, TypeAlias

from composefs import _native
from composefs.erofs.reader import Inode
from composefs.errors import IntegrityError, NotFoundError, TreeError
from composefs.image.copying import Copier
from composefs.image.files import Image
from composefs.image.restore import PRIVILEGED, Restorer, Shortfall
from composefs.image.walking import Guard
from composefs.text import printable
from composefs.tree import Backed, Inline, Object, Special, Stat, Symlink

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Selection: TypeAlias = "dict[bytes, Selection] | None"  # names to take from a directory, and what of each; None: all


@dataclass
class Extraction:
    """What an extraction made, in numbers."""

    directories: int = 0  # below the target
    files: int = 0
    symlinks: int = 0
    specials: int = 0  # devices, fifos and sockets
    hard_links: int = 0  # names beyond the first
    size: int = 0  # bytes of the files
    shared: int = 0  # of them, those whose blocks are the repository's
    shortfalls: list[Shortfall] = field(default_factory=list)  # what could not be restored

    @property
    def lacks_only_privileges(self) -> bool:
        """Whether a more privileged process could have restored all."""
        return all(shortfall.reason in PRIVILEGED for shortfall in self.shortfalls)


def extract(
    image: Image, target: str | os.PathLike[str], paths: Sequence[str | bytes] = (), *, nonempty: bool = False
) -> Extraction:
    """Copy files of *image* to below the directory *target*.

    A target that does not exist appears when all is done; after an error there is none.  In one that exists, an error
    leaves what was made until then, and says so in a note.

    Args:
        image: where they come from.
        target: a directory that is empty, or does not exist in one that does.
        paths: what to copy, each with all below it; the directories above come along, as in an archive.  Links on the
            way are followed in the image, a final one is not.  Without any, all is copied, and *target* gets the
            metadata of the root.
        nonempty: let *target* hold other files; none of them is replaced.

    Returns:
        What was made, and what could not be restored: owners, devices and some attributes need privileges.

    Raises:
        FileNotFoundError, NotADirectoryError: the image has no such path.
        FileExistsError: *target* holds a file of the image already.
        OSError: ENOTEMPTY, *target* is not empty; or a file could not be made.
        FormatError, TreeError: the image is broken, or has names that no file can have.
        NotFoundError, IntegrityError: an object is missing or not what it should be.
    """
    where = os.fspath(target)
    selection = _select(image, paths)
    try:
        root = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _extract_new(image, where, selection)
    extractor = _Extractor(image, root, where)
    try:
        if not nonempty and os.listdir(root):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), where)
        try:
            return extractor.run(selection)
        except BaseException as error:
            error.add_note(f"{where} holds what was extracted before")
            raise
    finally:
        extractor.close()


def _extract_new(image: Image, where: str, selection: Selection) -> Extraction:
    """Extract into a directory beside the target *where*, and give it that name at the end."""
    parent, name = os.path.split(where.rstrip("/"))
    parent_fd = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".composefs-extract-{os.urandom(6).hex()}"
    try:
        os.mkdir(temporary, 0o777 if selection else 0o700, dir_fd=parent_fd)
    except OSError as error:
        os.close(parent_fd)
        raise OSError(error.errno, error.strerror, where) from None
    extractor = None
    try:
        root = os.open(temporary, os.O_RDONLY | _DIRECTORY, dir_fd=parent_fd)
        extractor = _Extractor(image, root, where)
        result = extractor.run(selection)
        try:
            _native.rename(parent_fd, temporary, parent_fd, name, _native.RENAME_NOREPLACE)
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from None
        return result
    except BaseException as error:
        try:
            if extractor is not None:
                extractor.remove()
            os.rmdir(temporary, dir_fd=parent_fd)
        except OSError as second:
            if second.errno != errno.ENOENT:
                error.add_note(f"{os.path.join(parent, temporary)} is left behind")
        raise
    finally:
        if extractor is not None:
            extractor.close()
        os.close(parent_fd)


def _select(image: Image, paths: Sequence[str | bytes]) -> Selection:
    """Return what *paths* choose."""
    if not paths:
        return None
    selection: dict[bytes, Selection] = {}
    for path in paths:
        names = image.find(path, follow_symlinks=False).names
        if not names:
            return None
        chosen = selection
        for name in names[:-1]:
            below = chosen.setdefault(name, {})
            if below is None:
                break  # a directory above is chosen as a whole
            chosen = below
        else:
            chosen[names[-1]] = None
    return selection


class _Directory(NamedTuple):
    """A directory to be filled, relative to the target."""

    path: bytes
    inode: Inode
    selection: Selection
    depth: int


class _Extractor:
    """The extraction of *image* into the directory *root*, which it will close, called *where* in messages."""

    def __init__(self, image: Image, root: int, where: str) -> None:
        self._image, self._root, self._where = image, root, where
        self._restorer, self._copier = Restorer(), Copier()
        self._result = Extraction()
        self._entered: list[_Directory] = []  # those above before those below
        self._first: dict[int, bytes] = {}  # path of the first name of leaves with several, by nid
        self._links: list[tuple[bytes, bytes]] = []  # such a path, and that of another name
        self._unmade: dict[bytes, int] = {}  # paths of devices that could not be made, and why

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)

    def run(self, selection: Selection) -> Extraction:
        """Extract what *selection* says."""
        guard = Guard(self._image.reader)
        pending = [_Directory(b"", self._image.root, selection, 0)]
        while pending:
            directory = pending.pop()
            guard.enter(directory.inode, directory.depth)
            self._entered.append(directory)
            pending += reversed(self._fill(directory))
        for first, other in self._links:
            self._link(first, other)
        for directory in reversed(self._entered[1:] if selection else self._entered):
            self._finish(directory)
        self._result.directories = len(self._entered) - 1
        self._result.shared = self._copier.shared
        self._result.shortfalls = self._restorer.shortfalls
        return self._result

    def remove(self) -> None:
        """Remove all that is below the root."""
        os.chmod(self._root, 0o700)  # a finished one may lock out its owner, as do those below
        for directory in self._entered[1:]:
            fd = self._open(directory.path, os.O_PATH)
            try:
                os.chmod(_by_fd(fd), 0o700)
            finally:
                os.close(fd)
        for directory in reversed(self._entered):
            fd = self._open(directory.path)
            try:
                for name in os.listdir(fd):
                    try:
                        os.unlink(name, dir_fd=fd)
                    except IsADirectoryError:
                        os.rmdir(name, dir_fd=fd)  # it is empty: those below came first
            finally:
                os.close(fd)

    def _open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """Open the directory *path*, below the root, with *flags*."""
        names = path.split(b"/") if path else [b"."]
        fd = self._root
        try:
            for left, name in enumerate(names, 1 - len(names)):
                inner = os.open(name, (os.O_PATH if left else flags) | _DIRECTORY, dir_fd=fd)
                if fd != self._root:
                    os.close(fd)
                fd = inner
        except OSError as error:
            if fd != self._root:
                os.close(fd)
            raise self._located(error, path) from None
        return fd

    def _fill(self, directory: _Directory) -> list[_Directory]:
        """Make what is in *directory*, and return what of it are directories, to be filled."""
        below: list[_Directory] = []
        prefix = directory.path + b"/" if directory.path else b""
        fd = self._open(directory.path)
        try:
            for name, inode in self._image.children(directory.inode):
                if directory.selection is not None and name not in directory.selection:
                    continue
                path = prefix + name
                if b"/" in name or b"\0" in name:  # which the reader refuses, too
                    raise TreeError(b"/" + path, "has a name that no file can have")
                try:
                    if stat.S_ISDIR(inode.mode):
                        os.mkdir(name, 0o700, dir_fd=fd)
                        chosen = directory.selection and directory.selection[name]
                        below.append(_Directory(path, inode, chosen, directory.depth + 1))
                    else:
                        self._leaf(fd, name, path, inode)
                except OSError as error:
                    raise self._located(error, path) from None
                except (NotFoundError, IntegrityError) as error:
                    error.add_note(f"it is needed for {printable(b'/' + path)}")
                    raise
        finally:
            os.close(fd)
        return below

    def _leaf(self, fd: int, name: bytes, path: bytes, inode: Inode) -> None:
        """Make the leaf *inode*, unless it was made under another name: that is linked when all is there."""
        if inode.link_count > 1:
            first = self._first.setdefault(inode.nid, path)
            if first != path:
                self._links.append((first, path))
                return
        info, content = self._image.reader.leaf(inode)
        if isinstance(content, Symlink):
            self._symlink(fd, name, path, info, content)
        elif isinstance(content, Special):
            self._special(fd, name, path, info, content)
        else:
            self._file(fd, name, path, info, content)

    def _file(self, fd: int, name: bytes, path: bytes, info: Stat, content: Inline | Object | Backed) -> None:
        with self._image.open_content(content) as source:  # which may fail, and then nothing is made
            file = os.open(name, _NEW_FILE, 0o600, dir_fd=fd)
            try:
                self._result.size += self._write(file, content, source)
                self._restorer.restore(file, b"/" + path, info)
            except BaseException:
                os.unlink(name, dir_fd=fd)
                raise
            finally:
                os.close(file)
        self._result.files += 1

    def _write(self, file: int, content: Inline | Object | Backed, source: BinaryIO) -> int:
        """Give *file* its content, and return the size of that."""
        if isinstance(content, Inline):
            data = content.data
            while data:
                data = data[os.write(file, data) :]
            return len(content.data)
        if isinstance(content, Backed) and content.path is None and content.digest is None:
            os.ftruncate(file, content.size)
        else:
            self._copier.copy(source.fileno(), file)
        return content.size

    def _symlink(self, fd: int, name: bytes, path: bytes, info: Stat, content: Symlink) -> None:
        if b"\0" in content.target:
            raise TreeError(b"/" + path, "is a link to a name that no file can have")
        os.symlink(content.target, name, dir_fd=fd)
        self._restore(fd, name, path, info, content.type)
        self._result.symlinks += 1

    def _special(self, fd: int, name: bytes, path: bytes, info: Stat, content: Special) -> None:
        try:
            os.mknod(name, content.type | 0o600, content.rdev, dir_fd=fd)
        except OSError as error:
            if error.errno not in PRIVILEGED:
                raise
            self._unmade[path] = error.errno
            self._restorer.miss("device", error.errno, b"/" + path)
            return
        self._restore(fd, name, path, info, content.type)
        self._result.specials += 1

    def _restore(self, fd: int, name: bytes, path: bytes, info: Stat, kind: int) -> None:
        """Give what was made as *name*, of a type that is not to be opened, its metadata."""
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if stat.S_IFMT(os.fstat(file).st_mode) != kind:
                raise OSError(errno.EEXIST, "Somebody put another file in its place")
            self._restorer.restore(_by_fd(file), b"/" + path, info, is_symlink=kind == stat.S_IFLNK)
        finally:
            os.close(file)

    def _link(self, first: bytes, other: bytes) -> None:
        """Make *other* another name of the file *first*."""
        if first in self._unmade:
            self._restorer.miss("device", self._unmade[first], b"/" + other)
            return
        (source_path, source), (path, name) = os.path.split(first), os.path.split(other)
        source_fd = self._open(source_path)
        try:
            fd = self._open(path)
            try:
                os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                raise self._located(error, other) from None
            finally:
                os.close(fd)
        finally:
            os.close(source_fd)
        self._result.hard_links += 1

    def _finish(self, directory: _Directory) -> None:
        fd = self._open(directory.path)
        try:
            info = self._image.reader.node_stat(directory.inode)
            self._restorer.restore(fd, b"/" + directory.path, info)
        except OSError as error:
            raise self._located(error, directory.path) from None
        finally:
            os.close(fd)

    def _located(self, error: OSError, path: bytes) -> OSError:
        """Return *error* with the path that a person can look at."""
        where = os.path.join(self._where, os.fsdecode(path)) if path else self._where
        return OSError(error.errno, error.strerror, where)


def _by_fd(fd: int) -> bytes:
    """Return a path of what *fd* stands for, also of what was not opened for reading."""
    return b"/proc/self/fd/%d" % fd
