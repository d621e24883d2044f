"""What no image can hold, of a node alone; what is too much only beside others is found where it is counted.

Source: the widths of the fields in the kernel's fs/erofs/erofs_fs.h; the kernel's PATH_MAX and NAME_MAX.
"""

from __future__ import annotations

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.tree import Backed, Directory, Inline, Leaf, Node, Object, Special, Stat, Symlink

NAME_MAX = 255  # bytes
TARGET_MAX = 4095  # bytes of a link target: PATH_MAX less its zero
INLINE_MAX = {1: 0xFFFFFFFF, 2: ondisk.BLOCK - 1}  # bytes of a file; epoch 2 has no blocks for it
CHUNKED_MAX = (ondisk.BLOCK // len(ondisk.NULL_CHUNK)) << ondisk.CHUNK_BITS_MAX  # bytes of a file elsewhere, to C

_BAD_NAMES = frozenset([b"", b".", b".."])
_MTIME_MIN = -1 << 63  # seconds


class UnfitError(Exception):
    """No image can hold *node*, or what stands under *name* in it, for it *what*."""

    def __init__(self, node: Node | None, what: str, name: bytes | None = None) -> None:
        super().__init__(node, what, name)
        self.node, self.what, self.name = node, what, name


def check_names(directory: Directory, joined: bytes) -> None:
    """Raise UnfitError if *directory* has a name that no file can have; *joined* are all, without anything between."""
    names = directory.entries.keys()
    are_short = len(joined) <= NAME_MAX or max(map(len, names), default=0) <= NAME_MAX
    if are_short and b"/" not in joined and b"\0" not in joined and names.isdisjoint(_BAD_NAMES):
        return
    for name in sorted(names):
        if len(name) > NAME_MAX:
            raise UnfitError(directory, f"has a name of {len(name)} bytes, more than {NAME_MAX}", name)
        if name in _BAD_NAMES or b"/" in name or b"\0" in name:
            raise UnfitError(directory, f"has the name {name!r}, which no file can have", name)


def check_node(node: Node, epoch: int, dialect: Dialect) -> None:
    """Raise UnfitError if owner, time or content of *node* is more than an image can hold, or tell of."""
    what = _stat_misfit(node.stat)
    if what is None and isinstance(node, Leaf):
        what = _content_misfit(node, epoch, dialect)
    if what is not None:
        raise UnfitError(node, what)


def _stat_misfit(info: Stat) -> str | None:
    if (info.uid | info.gid) >> 32:
        return f"belongs to {info.uid}:{info.gid}, wanted numbers of 32 bits"
    if not _MTIME_MIN <= info.mtime < -_MTIME_MIN:
        return f"has a time of {info.mtime} seconds, wanted a number of 64 bits"
    if info.nanoseconds >> 32:
        return f"has a time of {info.nanoseconds} nanoseconds, wanted a number of 32 bits"
    return None


def _content_misfit(leaf: Leaf, epoch: int, dialect: Dialect) -> str | None:
    content = leaf.content
    if leaf.link_count is not None and leaf.link_count >> 32:
        return f"has a link count of {leaf.link_count}, wanted a number of 32 bits"
    if isinstance(content, Object | Backed):
        return _external_misfit(content, dialect)
    if isinstance(content, Symlink) and len(content.target) > TARGET_MAX:
        return f"is a link with a target of {len(content.target)} bytes, more than {TARGET_MAX}"
    if isinstance(content, Inline) and len(content.data) > INLINE_MAX[epoch]:
        return f"has {len(content.data)} bytes inline, more than {INLINE_MAX[epoch]}"
    if isinstance(content, Special) and content.rdev >> 32:
        return f"is device {content.rdev}, wanted a number of 32 bits"
    return None


def _external_misfit(content: Object | Backed, dialect: Dialect) -> str | None:
    if content.digest is not None and len(content.digest) not in ondisk.KERNEL_IDS:
        return f"has a digest of {len(content.digest)} bytes, wanted 32 or 64"
    if content.size >> 64 or (dialect is Dialect.C and content.size > CHUNKED_MAX):
        return f"has {content.size} bytes, more than an image can tell of"
    return None
