"""Metadata on files of the host, as far as privileges and file system allow.

Owner, extended attributes, mode and times are set in this order, since each may change those after it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from composefs.text import printable
from composefs.tree import Stat

EXAMPLES = 3  # paths that are kept of each shortfall
PRIVILEGED = frozenset([errno.EPERM, errno.EACCES])  # a more privileged process could do it

_REFUSALS = PRIVILEGED | {errno.EINVAL, errno.EOPNOTSUPP, errno.EOVERFLOW}
# E2BIG, ENOSPC: ext4 holds 4 KiB of attributes.  ERANGE: the name is too long or empty.
_XATTR_REFUSALS = _REFUSALS | {errno.ERANGE, errno.E2BIG, errno.ENOSPC}
_SET_ID = stat.S_ISUID | stat.S_ISGID
_NO_ID = 0xFFFFFFFF  # which to chown(2) means: leave it as it is


@dataclass
class Shortfall:
    """Something that could not be restored of some files."""

    what: str
    reason: int  # errno
    count: int = 0  # files
    examples: list[str] = field(default_factory=list)  # paths of the first of them

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.what}: {self.count:,} ({os.strerror(self.reason)}), {', '.join(self.examples)}{more}"


class Restorer:
    """Give files their metadata, and count what cannot be."""

    def __init__(self) -> None:
        self._shortfalls: dict[tuple[str, int], Shortfall] = {}
        self._refused: dict[tuple[int, int], int] = {}  # owners that this process cannot give, and why

    @property
    def shortfalls(self) -> list[Shortfall]:
        """What could not be restored, most of it first."""
        return sorted(self._shortfalls.values(), key=lambda shortfall: (-shortfall.count, shortfall.what))

    def restore(self, file: int | bytes, place: bytes, info: Stat, *, is_symlink: bool = False) -> None:
        """Give *file* the metadata *info* of *place* in the image.

        Args:
            file: a descriptor, or the path in /proc of one that was opened with O_PATH.
            place: what to call it if something cannot be restored.
            info: the metadata.
            is_symlink: it is a symbolic link, and those have no modes.
        """
        is_owned = self._give(file, place, info)
        if info.xattrs:
            self._set_xattrs(file, place, info)
        if not is_symlink:
            mode = info.mode
            if mode & _SET_ID and not is_owned:
                mode &= ~_SET_ID  # they would lend the rights of another owner than intended
                self.miss("set-user-id or set-group-id", errno.EPERM, place)
            os.chmod(file, mode)
        os.utime(file, ns=_times(info))

    def miss(self, what: str, reason: int, place: bytes) -> None:
        """Count that *what* of *place* could not be restored, by the errno *reason*."""
        shortfall = self._shortfalls.get((what, reason))
        if shortfall is None:
            shortfall = self._shortfalls[what, reason] = Shortfall(what, reason)
        shortfall.count += 1
        if len(shortfall.examples) < EXAMPLES:
            shortfall.examples.append(printable(place))

    def _give(self, file: int | bytes, place: bytes, info: Stat) -> bool:
        """Give *file* to its owner, and return whether that could be done."""
        owner = info.uid, info.gid
        if _NO_ID in owner:
            self._refused[owner] = errno.EINVAL
        if owner not in self._refused:
            try:
                os.chown(file, *owner)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self._refused[owner] = error.errno
            else:
                return True
        self.miss("owner", self._refused[owner], place)
        return False

    def _set_xattrs(self, file: int | bytes, place: bytes, info: Stat) -> None:
        for name, value in info.xattrs.items():
            try:
                os.setxattr(file, name, value)
            except OSError as error:
                if error.errno not in _XATTR_REFUSALS:
                    raise
                reason = error.errno
            except ValueError:  # a zero byte in the name
                reason = errno.EINVAL
            else:
                continue
            space, dot, _ = name.partition(b".")
            self.miss(f"extended attribute {printable(space) if dot else ''}.*", reason, place)


def _times(info: Stat) -> tuple[int, int]:
    """Return the time of *info* in nanoseconds, twice: images have no atime."""
    nanoseconds = info.mtime * 1_000_000_000 + info.nanoseconds
    return nanoseconds, nanoseconds
