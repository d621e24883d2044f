"""Copy one file to another: shared where the file system can, by the kernel where it does, else by hand."""

from __future__ import annotations

import errno
import os

from composefs import _native

_NO_REFLINK = frozenset([errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
_NO_KERNEL_COPY = frozenset([errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS])
_PIECE = 1 << 20  # bytes
_BLOCK = 512  # bytes; what st_blocks counts


class Copier:
    """Copy files from one directory to another, and remember what their file systems cannot.

    Attributes:
        shared: bytes of copies that share their blocks with the originals.
    """

    def __init__(self) -> None:
        self.shared = 0
        self._can_share = self._kernel_copies = True

    def copy(self, source: int, target: int) -> None:
        """Make the empty file *target* a copy of the file *source*, with its holes."""
        info = os.fstat(source)
        size = info.st_size
        if self._can_share and self._share(source, target):
            self.shared += size
        elif info.st_blocks * _BLOCK >= size:
            self._copy_range(source, target, 0, size)
        else:
            self._copy_data(source, target, size)

    def _share(self, source: int, target: int) -> bool:
        try:
            _native.reflink(source, target)
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
            self._can_share = False
        return self._can_share

    def _copy_data(self, source: int, target: int, size: int) -> None:
        """Copy what is no hole."""
        end = 0
        while end < size:
            try:
                start = os.lseek(source, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # no data follow
                    raise
                break
            end = os.lseek(source, start, os.SEEK_HOLE)
            self._copy_range(source, target, start, end)
        os.ftruncate(target, size)

    def _copy_range(self, source: int, target: int, start: int, end: int) -> None:
        while start < end:
            if self._kernel_copies:
                try:
                    count = os.copy_file_range(source, target, end - start, start, start)
                except OSError as error:
                    if error.errno not in _NO_KERNEL_COPY:
                        raise
                    self._kernel_copies = False
                    continue
            else:
                count = os.pwrite(target, os.pread(source, min(end - start, _PIECE), start), start)
            if not count:
                raise OSError(errno.EIO, "the object became shorter")
            start += count
