"""Walk over a directory on disk, and make the tree of it.

Each node is opened relative to the descriptor of its directory, without following links, and looked at through its own
descriptor: what is swapped for a link meanwhile does not lead out of the tree.  Neither depth nor breadth takes more
descriptors than `_OPEN_MAX`: of the directories on the way, the upper ones are closed, and found again by `..`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from composefs.errors import TreeError
from composefs.scan.contents import Contents
from composefs.scan.places import Place, changed_type, check_same, located, open_at, path_of
from composefs.tree import NO_XATTRS, PERMISSIONS, Content, Directory, Inline, Leaf, Object, Special, Stat, Symlink

INLINE_MAX = 64  # bytes; larger contents become objects

_OPEN_MAX = 64  # directories open at a time
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # never wait for what has become a fifo
_OTHER_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND = 1_000_000_000  # nanoseconds
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


@dataclass(slots=True)
class _Visit:
    """A directory on the way from the root to where the walk is."""

    directory: Directory
    fd: int  # -1: closed for now
    info: os.stat_result
    place: Place
    names: list[bytes] = field(default_factory=list)  # of directories in it that are still to be visited


class Xattrs(Enum):
    """Which extended attributes are read."""

    ALL = "all"
    USER = "user"  # those whose name begins with `user.`
    NONE = "none"


class Walk:
    """One walk over a tree on disk.

    Args:
        contents: gives the digests of files.
        xattrs: which extended attributes are read.
        hard_links: make one leaf of what is one file.
        devices: read block and character devices, too.
    """

    def __init__(self, contents: Contents, *, xattrs: Xattrs, hard_links: bool, devices: bool) -> None:
        self._contents, self._xattrs = contents, xattrs
        self._hard_links, self._devices = hard_links, devices
        self._leaves: dict[tuple[int, int], Leaf] = {}  # by device and inode number; some link counts are wrong
        self._known_xattrs: dict[
            tuple[tuple[bytes, bytes], ...], Mapping[bytes, bytes]
        ] = {}  # most files have equal ones

    def run(self, path: bytes) -> Directory:
        """Return the tree of the directory *path*."""
        stack: list[_Visit] = []
        try:
            root = self._visit(_open_root(path), path)
            stack.append(root)
            while stack:
                visit = stack[-1]
                if visit.names:
                    name = visit.names.pop()
                    child = self._visit(open_at(name, _DIRECTORY_FLAGS, visit.fd, visit.place), (visit.place, name))
                    visit.directory.entries[name] = child.directory
                    stack.append(child)
                    if len(stack) > _OPEN_MAX:
                        _close(stack[-_OPEN_MAX - 1])
                else:
                    if len(stack) > 1:
                        _reopen(stack[-2], visit.fd)
                    check_same(visit.info, os.fstat(visit.fd), visit.place)
                    _close(stack.pop())
        finally:
            for visit in stack:
                _close(visit)
        return root.directory

    def _visit(self, fd: int, place: Place) -> _Visit:
        """Read the directory *fd*, all but the directories in it."""
        try:
            info = os.fstat(fd)
            directory = Directory(self._stat(info, fd, place))
            visit = _Visit(directory, fd, info, place)
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        visit.names.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        directory.entries[name] = self._file(name, visit)
                    elif (leaf := self._other(name, visit)) is not None:
                        directory.entries[name] = leaf
            self._contents.check()
            return visit
        except OSError as error:
            os.close(fd)
            raise located(error, place) from None
        except BaseException:
            os.close(fd)
            raise

    def _file(self, name: bytes, visit: _Visit) -> Leaf:
        """Return the leaf of the regular file *name*."""
        place = (visit.place, name)
        fd = open_at(name, _FILE_FLAGS, visit.fd, visit.place)
        is_given = False
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise changed_type(place)
            key = (info.st_dev, info.st_ino)
            if self._hard_links and (known := self._leaves.get(key)) is not None:
                return known
            data = _read_small(fd, info, place) if info.st_size <= INLINE_MAX else None
            content = Object(info.st_size, b"") if data is None else Inline(data)
            self._leaves[key] = leaf = Leaf(self._stat(info, fd, place), content)
            if isinstance(content, Object):
                is_given = True
                self._contents.add(fd, info, place, content)
            return leaf
        except OSError as error:
            raise located(error, place) from None
        finally:
            if not is_given:
                os.close(fd)

    def _other(self, name: bytes, visit: _Visit) -> Leaf | None:
        """Return the leaf of *name*, which is neither a directory nor a regular file; None: it is not wanted."""
        place = (visit.place, name)
        fd = open_at(name, _OTHER_FLAGS, visit.fd, visit.place)
        try:
            info = os.fstat(fd)
            kind = stat.S_IFMT(info.st_mode)
            if kind in _DEVICES and not self._devices:
                return None
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                raise changed_type(place)
            key = (info.st_dev, info.st_ino)
            if self._hard_links and (known := self._leaves.get(key)) is not None:
                return known
            if kind == stat.S_IFLNK:
                content: Content = Symlink(os.readlink(b"", dir_fd=fd))
            else:
                content = Special(kind, info.st_rdev if kind in _DEVICES else 0)
            # O_PATH is not enough for extended attributes; the link in /proc leads to the node itself, and no further.
            self._leaves[key] = leaf = Leaf(self._stat(info, f"/proc/self/fd/{fd}", place), content)
            return leaf
        except OSError as error:
            raise located(error, place) from None
        finally:
            os.close(fd)

    def _stat(self, info: os.stat_result, target: int | str, place: Place) -> Stat:
        """Return the metadata of a node, *target* to the functions that read extended attributes."""
        seconds, nanoseconds = divmod(info.st_mtime_ns, _SECOND)
        mode, uid, gid = info.st_mode & PERMISSIONS, info.st_uid, info.st_gid
        return Stat(mode, uid, gid, seconds, nanoseconds, self._read_xattrs(target, place))

    def _read_xattrs(self, target: int | str, place: Place) -> Mapping[bytes, bytes]:
        if self._xattrs is Xattrs.NONE:
            return NO_XATTRS
        try:
            names = os.listxattr(target)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return NO_XATTRS
            raise
        if not names:
            return NO_XATTRS
        found = {}
        for name in sorted(names):
            raw = os.fsencode(name)
            if self._xattrs is Xattrs.ALL or raw.startswith(b"user."):
                try:
                    found[raw] = os.getxattr(target, name)
                except OSError as error:
                    if error.errno == errno.ENODATA:
                        raise TreeError(
                            path_of(place), f"lost its extended attribute {name!r} while it was read"
                        ) from None
                    raise
        return self._known_xattrs.setdefault(tuple(found.items()), found)


def _open_root(path: bytes) -> int:
    try:
        return os.open(path, _DIRECTORY_FLAGS)
    except NotADirectoryError:
        if not os.path.islink(path):
            raise
        raise TreeError(
            path, "is a symbolic link, which is not followed; a slash behind it names where it leads"
        ) from None


def _read_small(fd: int, info: os.stat_result, place: Place) -> bytes:
    data = os.pread(fd, INLINE_MAX + 1, 0)
    check_same(info, os.fstat(fd), place)
    if len(data) != info.st_size:  # so it is in /proc
        raise TreeError(path_of(place), f"has a size of {info.st_size} bytes, but other contents to read")
    return data


def _close(visit: _Visit) -> None:
    if visit.fd >= 0:
        os.close(visit.fd)
        visit.fd = -1


def _reopen(visit: _Visit, child_fd: int) -> None:
    """Open the directory of *visit* again, if it was closed, as the parent of *child_fd*.

    Raises:
        TreeError: it is the parent no more.
    """
    if visit.fd >= 0:
        return
    visit.fd = open_at(b"..", _DIRECTORY_FLAGS, child_fd, visit.place)
    info = os.fstat(visit.fd)
    if (info.st_dev, info.st_ino) != (visit.info.st_dev, visit.info.st_ino):
        raise TreeError(path_of(visit.place), "was moved while the tree was read")
