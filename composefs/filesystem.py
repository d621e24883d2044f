"""`composefs://IMAGE/path` for fsspec: the files of an image for pandas, dask, xarray and all that take such addresses.

import fsspec

with fsspec.open("composefs://os/etc/os-release", "rt", repo="/sysroot/composefs") as file:
    print(file.read())

IMAGE is an id, a ref or an OCI tag, with `%2F` for a slash in it and `%25` for a percent sign.  Nothing can be written.

fsspec finds this module by the entry point group `fsspec.specs`.  `pip install composefs[fsspec]` installs it.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

try:
    from fsspec.spec import AbstractFileSystem
except ImportError as error:
    raise ImportError("composefs.filesystem needs fsspec: pip install 'composefs[fsspec]'") from error

from composefs.errors import UsageError
from composefs.image import Image
from composefs.image.walking import walk_inodes
from composefs.repository import Repository

_SCHEME = "composefs://"
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}

Info = dict[str, Any]


class ComposefsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of one image of a repository, read only.

    Links are followed inside the image.  In listings, a link to a file counts as that file, so that what is found can
    be opened; a link to a directory, or to nothing, has the type `link` and is not entered.

    The repository is open, and no garbage is collected there, as long as this object lives or until `close`; therefore
    fsspec does not keep it for others.

    Args:
        repo: the directory of the repository.
        image: what `composefs.image.resolve` takes; in an address it stands there.
        options: those of fsspec.

    Raises:
        UsageError: one of the two is missing.
        NotFoundError: there is no such repository, or no such image in it.
        FormatError, IntegrityError: the image is broken.
    """

    protocol = "composefs"
    root_marker = "/"
    cachable = False

    def __init__(self, repo: str | os.PathLike[str] | None = None, image: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        if repo is None:
            raise UsageError("which repository? It is the storage option repo")
        if not image:
            raise UsageError("which image? It is the first part of the address, or the storage option image")
        self.name = image
        repository = Repository.open(repo, upgrade=False)
        try:
            self._image = Image.open(repository, image)
        except BaseException:
            repository.close()
            raise
        self._close = weakref.finalize(self, _close, self._image, repository)
        self._is_walkable = False

    def close(self) -> None:
        """Close the repository; open files stay open."""
        self._close()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        text = os.fspath(path)
        if text.startswith(_SCHEME):
            text = text.removeprefix(_SCHEME).partition("/")[2]
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        if not path.startswith(_SCHEME):
            return {}
        return {"image": unquote(path.removeprefix(_SCHEME).partition("/")[0])}

    def unstrip_protocol(self, name: str) -> str:
        """Return the address of the file *name*."""
        return f"{_SCHEME}{quote(self.name, safe=':@')}{self._strip_protocol(name)}"

    @property
    def fsid(self) -> str:
        """What is the same for the same image, wherever it is."""
        return f"composefs:{self._image.id}"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Info] | list[str]:  # noqa: FBT001, FBT002  # fsspec's
        """Return what is in the directory *path*, or of a file just itself, as `info` or as paths."""
        path = self._strip_protocol(path)
        if self._image.find(path).inode.type != stat.S_IFDIR:
            found = [self.info(path)]
        else:
            found = [self._info(entry.path, entry.stat(follow_symlinks=False)) for entry in self._image.scandir(path)]
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, **_: Any) -> Info:
        """Return what is known of *path*.

        The keys are `name`, `size`, `type` and `islink`; `mode`, `uid`, `gid`, `mtime`, `ino` and `nlink` as in
        `os.stat`; `digest`, the fs-verity digest of a file's content if the image has it; of links, `destination`.
        """
        path = self._strip_protocol(path)
        found = self._info(path, self._image.lstat(path))
        if found["islink"]:
            return found | self._about(path, self._image.stat(path))
        return found

    def _info(self, path: str, info: os.stat_result) -> Info:
        """Return what is known of *path*, of which *info* is that of a link itself."""
        found = {"name": path, "islink": False, **self._about(path, info)}
        if stat.S_ISLNK(info.st_mode):
            found |= {"islink": True, "destination": self._image.readlink(path)}
            try:
                target = self._image.stat(path)
            except OSError:
                return found  # it leads nowhere
            if stat.S_ISREG(target.st_mode):
                found |= self._about(path, target)
        return found

    def _about(self, path: str, info: os.stat_result) -> Info:
        digest = self._image.digest(path) if stat.S_ISREG(info.st_mode) else None
        return {
            "type": _KINDS.get(stat.S_IFMT(info.st_mode), "other"),
            "size": info.st_size,
            "mode": info.st_mode,
            "uid": info.st_uid,
            "gid": info.st_gid,
            "mtime": info.st_mtime,
            "ino": info.st_ino,
            "nlink": info.st_nlink,
            "digest": None if digest is None else str(digest),
        }

    def walk(self, path: str, *args: Any, **options: Any) -> Iterator[Any]:
        """Walk as `AbstractFileSystem.walk`, through an image that has no loops."""
        if not self._is_walkable:
            for _ in walk_inodes(self._image, b"/", self._image.root):
                pass  # it raises FormatError
            self._is_walkable = True
        found: Iterator[Any] = super().walk(path, *args, **options)
        return found

    def modified(self, path: str) -> datetime:
        """Return the time of the last change."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def lexists(self, path: str, **_: Any) -> bool:
        """Tell whether there is something at *path*, be it a link that leads nowhere."""
        return self._image.exists(self._strip_protocol(path), follow_symlinks=False)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise self._read_only(path)
        return self._image.open(path)

    def mkdir(self, path: str, *_: Any, **__: Any) -> None:
        """Refuse: nothing can be written."""
        raise self._read_only(path)

    makedirs = mkdir
    rmdir = mkdir
    _rm = mkdir

    def _read_only(self, path: str) -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS), self.unstrip_protocol(path))


def _close(image: Image, repository: Repository) -> None:
    image.close()
    repository.close()
