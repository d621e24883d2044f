"""An image and the objects of its repository, read as a file system.

Paths are text or bytes, and what comes out is as what went in; text has bytes that are no UTF-8 as surrogates, as
`os.fsdecode` makes them.  Paths are walked as by the kernel for a process whose root is the image: symbolic links lead
nowhere else, `..` of the root is the root, and more than 40 links are a loop.  Nobody asks for permissions.

What is wrong with a path is an `OSError`, as in `os`: FileNotFoundError, NotADirectoryError, IsADirectoryError, or one
with ELOOP or EINVAL.  What is wrong with image or repository is a `ComposefsError`.

Nothing changes an image; several threads may use one.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import AnyStr, BinaryIO, NamedTuple, Self, TypeAlias, overload

from composefs.dialect import Dialect
from composefs.digest import Digest
from composefs.erofs.ondisk import BLOCK
from composefs.erofs.reader import ErofsReader, Inode
from composefs.errors import IntegrityError
from composefs.image.contents import Contents, DirectoryContents, RepositoryContents, digest_of, open_content
from composefs.image.entry import Entry
from composefs.image.names import resolve
from composefs.image.walking import Guard
from composefs.repository import Repository
from composefs.tree import Backed, Inline, Object, Special, Symlink, is_whiteout
from composefs.verity import compute_digest

LINKS_MAX = 40  # symbolic links on one path, as the kernel's MAXSYMLINKS
_TARGET_MAX = 4095  # bytes of a link target that can be followed: PATH_MAX of the kernel, less a zero byte
_STAT_BLOCK = 512  # bytes; what st_blocks counts
_STUB = re.compile(rb"[0-9a-fA-F]{2}")  # names in the root that stand there for overlayfs only
_STRANGERS = (b"", b".", b"..")  # what is a part of a path, and no name

AnyPath: TypeAlias = str | bytes | os.PathLike[str]


class Place(NamedTuple):
    """Where a path leads to."""

    names: tuple[bytes, ...]  # from the root, without links on the way
    inode: Inode

    @property
    def path(self) -> bytes:
        """The same as a path."""
        return b"/" + b"/".join(self.names)


class _Open:
    """What `open` means: of the class, to open an image; of an image, to open a file."""

    @overload
    def __get__(self, image: None, kind: type[Image]) -> Callable[..., Image]: ...

    @overload
    def __get__(self, image: Image, kind: type[Image]) -> Callable[[AnyPath], BinaryIO]: ...

    def __get__(self, image: Image | None, kind: type[Image]) -> Callable[..., object]:
        return kind.open_image if image is None else image.open_path


class Image:
    """An open image.

    Attributes:
        open: `Image.open` is `open_image`, and `image.open` is `open_path`.
        id: the digest of the image, by which the repository knows it; None for an image file.
        reader: access to its inodes.
    """

    open = _Open()

    def __init__(self, reader: ErofsReader, contents: Contents, digest: Digest | None = None) -> None:
        self.reader, self.id = reader, digest
        self._contents = contents

    @classmethod
    def open_image(cls, repository: Repository, name: str, *, dialect: Dialect = Dialect.C) -> Self:
        """Open an image of *repository*, which must stay open as long.

        The image is proved now: measured, or read and hashed; the objects of its files are proved when they are opened.

        Args:
            repository: where it is.
            name: an id, a ref, or a tag, as `composefs.image.resolve` takes it.
            dialect: whose view of files that are no proper objects: C's, as the kernel's, is that they are somewhere
                else, that of composefs-rs, in its dumps, that they are sparse.

        Raises:
            NotFoundError: there is none.
            FormatError, IntegrityError: it is broken.
        """
        digest = resolve(repository, name)
        with repository.objects.open(digest) as file:
            reader = _reader(file, f"image {name}", dialect)
        return cls(reader, RepositoryContents(repository.objects, repository.algorithm), digest)

    @classmethod
    def open_file(cls, path: str | os.PathLike[str], objects: str | os.PathLike[str]) -> Self:
        """Open the image in the file *path*, as `mkcomposefs` writes it; nobody says its digest, so it is not proved.

        Args:
            path: the EROFS image.
            objects: the directory of the files' contents, those with a digest are proved.

        Raises:
            FormatError: it is no composefs image.
        """
        with open(path, "rb") as file:
            reader = _reader(file, os.fspath(path), Dialect.C)
        return cls(reader, DirectoryContents(os.fspath(objects)))

    def in_memory(self) -> Self:
        """Return the same image as it is now, proved again: what is done to its file later does not matter.

        The contents of its files that are elsewhere are as long as this image is open.

        Raises:
            FormatError, IntegrityError: it has been changed since it was opened.
        """
        reader, data = self.reader.in_memory()
        if self.id is not None:
            got = compute_digest(data, self.id.algorithm)
            if got != self.id:
                raise IntegrityError(reader.source, self.id.hex, got.hex)
        return type(self)(reader, self._contents, self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the image; files that were opened from it stay open."""
        self._contents.close()

    @property
    def root(self) -> Inode:
        """The inode of the root."""
        return self.reader.root

    def find(self, path: AnyPath, *, follow_symlinks: bool = True) -> Place:
        """Return where *path* leads to.

        Args:
            path: from the root, with a slash before it or not.
            follow_symlinks: follow a link at its end, as those on the way always are.

        Raises:
            FileNotFoundError: something on the way, or its end, is missing.
            NotADirectoryError: something on the way is no directory.
            OSError: ELOOP, there are more than 40 links; ENAMETOOLONG, a link leads to more than 4095 bytes.
            FormatError: the image is broken there.
        """
        todo = os.fsencode(path).split(b"/")
        if todo == [b""]:
            raise _error(errno.ENOENT, path)
        todo.reverse()  # the next one is the last
        way = [(b"", self.root)]
        links = 0
        while todo:
            name = todo.pop()
            directory = way[-1][1]
            if directory.type != stat.S_IFDIR:
                raise _error(errno.ENOTDIR, path)
            if name in _STRANGERS:
                if name == b".." and len(way) > 1:
                    way.pop()
                continue
            inode = self.lookup(directory, name)
            if inode is None:
                raise _error(errno.ENOENT, path)
            if inode.type != stat.S_IFLNK or not (todo or follow_symlinks):
                way.append((name, inode))
                continue
            links += 1
            if links > LINKS_MAX:
                raise _error(errno.ELOOP, path)
            if inode.size > _TARGET_MAX:
                raise _error(errno.ENAMETOOLONG, path)
            target = self.readlink_inode(inode)
            if not target:
                raise _error(errno.ENOENT, path)
            if target.startswith(b"/"):
                del way[1:]
            todo += reversed(target.split(b"/"))
        return Place(tuple(name for name, _ in way[1:]), way[-1][1])

    def exists(self, path: AnyPath, *, follow_symlinks: bool = True) -> bool:
        """Tell whether *path* leads to something."""
        try:
            self.find(path, follow_symlinks=follow_symlinks)
        except OSError:
            return False
        return True

    def stat(self, path: AnyPath, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the metadata of *path*, as `os.stat` would.

        Images have one time, the mtime, and it stands for all.  The device is 0.
        """
        return self.stat_inode(self.find(path, follow_symlinks=follow_symlinks).inode)

    def lstat(self, path: AnyPath) -> os.stat_result:
        """Return the metadata of *path*, of a symbolic link itself."""
        return self.stat(path, follow_symlinks=False)

    def xattrs(self, path: AnyPath, *, follow_symlinks: bool = True) -> Mapping[bytes, bytes]:
        """Return the extended attributes of *path*, without those by which images speak to overlayfs."""
        return self.reader.node_stat(self.find(path, follow_symlinks=follow_symlinks).inode).xattrs

    def digest(self, path: AnyPath) -> Digest | None:
        """Return the fs-verity digest of the object that has the content of the file *path*.

        None: the content lies in the image, or nothing protects it.

        Raises:
            IsADirectoryError: it is a directory.
            OSError: EINVAL, it is no regular file.
        """
        content = self._regular(path)
        return None if isinstance(content, Inline) else digest_of(content)

    def open_path(self, path: AnyPath) -> BinaryIO:
        """Open the file *path* for reading; its content is proved where the image has its digest.

        Raises:
            IsADirectoryError: it is a directory.
            OSError: EINVAL, it is no regular file.
            NotFoundError: its object is missing.
            IntegrityError: its object has another digest or size.
        """
        return self.open_content(self._regular(path))

    def open_content(self, content: Inline | Object | Backed) -> BinaryIO:
        """Open *content*, of a regular file of this image; errors are those of `open_path`."""
        if isinstance(content, Inline):
            return io.BufferedReader(io.BytesIO(content.data))  # which cannot be written to
        return open_content(self._contents, content)

    def readlink(self, path: AnyStr) -> AnyStr:
        """Return the target of the symbolic link *path*.

        Raises:
            OSError: EINVAL, it is no link.
        """
        inode = self.find(path, follow_symlinks=False).inode
        if inode.type != stat.S_IFLNK:
            raise _error(errno.EINVAL, path)
        return _like(path, self.readlink_inode(inode))

    def realpath(self, path: AnyStr) -> AnyStr:
        """Return the path of what *path* leads to, from the root and without links."""
        return _like(path, self.find(path).path)

    def listdir(self, path: AnyStr) -> list[AnyStr]:
        """Return the names in the directory *path*, sorted as bytes."""
        return [_like(path, name) for name, _ in self.children(self._directory(path))]

    def scandir(self, path: AnyStr) -> Iterator[Entry[AnyStr]]:
        """Yield the entries of the directory *path*, sorted as bytes."""
        for name, inode in self.children(self._directory(path)):
            text = _like(path, name)
            yield Entry(self, text, os.path.join(path, text), inode)

    def walk(self, top: AnyStr) -> Iterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
        """Yield path, names of directories and names of all else, of the directory *top* and of those below it.

        As `os.walk` from the top downwards: what is removed from the second list is not entered, and links are not
        followed.  Unlike there, errors are raised.
        """
        guard = Guard(self.reader)
        pending = [(top, self._directory(top), 0)]
        while pending:
            path, directory, depth = pending.pop()
            guard.enter(directory, depth)
            below, others = {}, []
            for name, inode in self.children(directory):
                if inode.type == stat.S_IFDIR:
                    below[_like(top, name)] = inode
                else:
                    others.append(_like(top, name))
            names = list(below)
            yield path, names, others
            pending += [(os.path.join(path, name), below[name], depth + 1) for name in reversed(names)]

    def stat_inode(self, inode: Inode) -> os.stat_result:
        """Return the metadata of what *inode* stands for."""
        kind, size, rdev = inode.type, inode.size, 0
        if kind == stat.S_IFDIR:
            info = self.reader.node_stat(inode)
        else:
            info, content = self.reader.leaf(inode)
            kind = content.type
            if isinstance(content, Special):
                size, rdev = 0, content.rdev
        seconds = info.mtime
        nanoseconds = seconds * 1_000_000_000 + info.nanoseconds
        more: dict[str, float] = {"st_blksize": BLOCK, "st_blocks": -(-size // _STAT_BLOCK), "st_rdev": rdev}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            more[name], more[f"{name}_ns"] = nanoseconds / 1e9, nanoseconds
        mode, links = kind | info.mode, inode.link_count
        fields = (mode, inode.nid, 0, links, info.uid, info.gid, size, seconds, seconds, seconds)
        return os.stat_result(fields, more)

    def children(self, directory: Inode) -> list[tuple[bytes, Inode]]:
        """Return name and inode of what stands in *directory*, sorted by name.

        Raises:
            FormatError: the image is broken there.
        """
        reader = self.reader
        names = reader.names(directory)
        found = [(name, reader.inode(names[name])) for name in sorted(names) if name not in _STRANGERS]
        if directory.nid == self.root.nid:
            return [(name, inode) for name, inode in found if not self._is_stub(name, inode)]
        return found

    def lookup(self, directory: Inode, name: bytes) -> Inode | None:
        """Return the inode of *name* in *directory*, None if it does not stand there.

        Raises:
            FormatError: the image is broken there.
        """
        nid = self.reader.lookup(directory, name)
        if nid is None:
            return None
        inode = self.reader.inode(nid)
        if directory.nid == self.root.nid and self._is_stub(name, inode):
            return None
        return inode

    def _is_stub(self, name: bytes, inode: Inode) -> bool:
        """Tell whether an entry of the root is there for overlayfs only; composefs-rs takes all such for that."""
        if not _STUB.fullmatch(name) or inode.type not in (stat.S_IFCHR, stat.S_IFREG):
            return False
        return is_whiteout(self.reader.content(inode))

    def _directory(self, path: AnyPath) -> Inode:
        inode = self.find(path).inode
        if inode.type != stat.S_IFDIR:
            raise _error(errno.ENOTDIR, path)
        return inode

    def _regular(self, path: AnyPath) -> Inline | Object | Backed:
        inode = self.find(path).inode
        if inode.type == stat.S_IFDIR:
            raise _error(errno.EISDIR, path)
        content = self.reader.content(inode)
        if isinstance(content, Special | Symlink):
            raise OSError(errno.EINVAL, "Is no regular file", path)
        return content

    def readlink_inode(self, inode: Inode) -> bytes:
        """Return the target of the symbolic link *inode*."""
        content = self.reader.content(inode)
        assert isinstance(content, Symlink)
        return content.target


def _reader(file: BinaryIO, source: str, dialect: Dialect) -> ErofsReader:
    """Return access to the inodes in *file*, of which only what is looked at is read."""
    if os.fstat(file.fileno()).st_size == 0:
        return ErofsReader(b"", source)  # which says what is wrong; it could not be mapped
    return ErofsReader(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), source, dialect)


def _like(path: AnyStr, name: bytes) -> AnyStr:
    """Return *name* as bytes or text, as *path* is."""
    if isinstance(path, bytes):
        return name
    return os.fsdecode(name)


def _error(number: int, path: AnyPath) -> OSError:
    """Return the error that the system would have for *path*."""
    return OSError(number, os.strerror(number), path)
