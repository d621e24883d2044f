"""The guest's first file system: a cpio archive, which the kernel unpacks into memory.

Source: Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
"""

import stat
from collections.abc import Iterable
from pathlib import PurePosixPath

_HEADER = "070701" + "{:08X}" * 13
_TRAILER = "TRAILER!!!"


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the archive of executable *files*, given by path and contents; directories are made on the way."""
    archive = bytearray()
    known: set[str] = set()
    for path, contents in files:
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != "." and str(parent) not in known:
                known.add(str(parent))
                _append(archive, len(known), stat.S_IFDIR | 0o755, str(parent), b"")
        known.add(path)
        _append(archive, len(known), stat.S_IFREG | 0o755, path, contents)
    _append(archive, 0, 0, _TRAILER, b"")
    return bytes(archive)


def _append(archive: bytearray, inode: int, mode: int, path: str, contents: bytes) -> None:
    name = path.encode() + b"\0"
    links = 1
    # inode, mode, uid, gid, links, mtime, size, device and rdev (major, minor each), size of the name, checksum
    fields = (inode, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(name), 0)
    for part in (_HEADER.format(*fields).encode() + name, contents):
        archive += part
        archive += bytes(-len(archive) % 4)
