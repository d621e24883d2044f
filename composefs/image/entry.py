"""An entry of a directory in an image."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, AnyStr, Generic

from composefs.erofs.reader import Inode

if TYPE_CHECKING:
    from composefs.image.files import Image


class Entry(Generic[AnyStr]):
    """An entry of a directory, as `os.DirEntry`; metadata are read when they are asked for.

    Attributes:
        name: in its directory.
        path: the same, behind what `Image.scandir` was called with.
    """

    __slots__ = ("_image", "_inode", "name", "path")

    def __init__(self, image: Image, name: AnyStr, path: AnyStr, inode: Inode) -> None:
        self.name: AnyStr = name
        self.path: AnyStr = path
        self._image, self._inode = image, inode

    def __repr__(self) -> str:
        return f"<Entry {self.name!r}>"

    def inode(self) -> int:
        """Return the number of its inode; that of a symbolic link itself."""
        return self._inode.nid

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the metadata, of what a symbolic link leads to unless told otherwise."""
        if follow_symlinks and self.is_symlink():
            return self._image.stat(self.path)
        return self._image.stat_inode(self._inode)

    def is_symlink(self) -> bool:
        """Tell whether it is a symbolic link, also a broken one."""
        return self._inode.type == stat.S_IFLNK

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether it is a directory, or leads to one."""
        return self._is(stat.S_IFDIR, follow_symlinks=follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether it is a regular file, or leads to one."""
        return self._is(stat.S_IFREG, follow_symlinks=follow_symlinks)

    def _is(self, kind: int, *, follow_symlinks: bool) -> bool:
        try:
            return stat.S_IFMT(self.stat(follow_symlinks=follow_symlinks).st_mode) == kind
        except FileNotFoundError:
            return False  # as os.DirEntry has it
