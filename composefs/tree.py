"""A file system as values, without places or node numbers.

A directory maps names to nodes.  A leaf that stands under several names is one object: that is what a hard link is.
Names, link targets and extended attributes are bytes, as the kernel has them.

Trees are built by mutation and read by everybody else; stats and contents are shared freely and never changed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeAlias

from composefs.errors import NotFoundError, TreeError

NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
PERMISSIONS = 0o7777  # what a mode may hold beside the type of the file


class Stat(NamedTuple):
    """What a node has whatever its type."""

    mode: int  # permission bits; those of a layer may have more, which images drop and dumps show
    uid: int
    gid: int
    mtime: int  # seconds, signed
    nanoseconds: int  # of the mtime
    xattrs: Mapping[bytes, bytes] = NO_XATTRS


@dataclass(slots=True)
class Inline:
    """A regular file whose *data* lie in the image."""

    data: bytes

    type: ClassVar[int] = stat.S_IFREG


@dataclass(slots=True)
class Object:
    """A regular file of *size* bytes which is the object *digest* of a repository."""

    size: int
    digest: bytes  # raw; its length tells the algorithm

    type: ClassVar[int] = stat.S_IFREG


@dataclass(slots=True)
class Backed:
    """A regular file of *size* bytes outside the image that is no plain `Object`.

    With neither path nor digest it is sparse: zeros only.
    """

    size: int
    path: bytes | None = None  # below the object directory, mostly xx/rest
    digest: bytes | None = None  # raw; None: not protected by fs-verity

    type: ClassVar[int] = stat.S_IFREG


@dataclass(slots=True)
class Symlink:
    """A symbolic link."""

    target: bytes

    type: ClassVar[int] = stat.S_IFLNK


@dataclass(slots=True)
class Special:
    """A device, fifo or socket; *type* is one of the `stat.S_IF...`."""

    type: int
    rdev: int = 0  # devices only: as the kernel packs major and minor


Content: TypeAlias = Inline | Object | Backed | Symlink | Special


@dataclass(slots=True, eq=False)
class Leaf:
    """All that is no directory; compared by identity, so that one leaf under two names is a hard link."""

    stat: Stat
    content: Content
    link_count: int | None = None  # to record in an image, where that is not the number of names


@dataclass(slots=True, eq=False)
class Directory:
    """A directory; compared by identity."""

    stat: Stat
    entries: dict[bytes, Node] = field(default_factory=dict)

    def directory(self, path: bytes) -> Directory:
        """Return the directory at *path*, relative to this one; symbolic links are not followed.

        Raises:
            NotFoundError: there is nothing.
            TreeError: something on the way is no directory.
        """
        node = self.node(path)
        if not isinstance(node, Directory):
            raise TreeError(path, "is not a directory")
        return node

    def node(self, path: bytes) -> Node:
        """Return what stands at *path*; errors are those of `directory`, and a final link is not followed either."""
        node: Node = self
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            if name == b"..":
                raise TreeError(path, "goes up")
            if not isinstance(node, Directory):
                raise TreeError(path, "goes through something that is no directory")
            if name not in node.entries:
                raise NotFoundError(f"{path.decode('utf-8', 'backslashreplace')} not found")
            node = node.entries[name]
        return node


Node: TypeAlias = Directory | Leaf


def walk(root: Directory) -> Iterator[tuple[bytes, Node]]:
    """Yield path and node of everything below *root*, itself first as `/`: depth first, siblings by name."""
    yield b"/", root
    stack = [(b"/", iter(sorted(root.entries.items(), key=_name)))]
    while stack:
        prefix, entries = stack[-1]
        for name, node in entries:
            path = prefix + name
            yield path, node
            if isinstance(node, Directory):
                stack.append((path + b"/", iter(sorted(node.entries.items(), key=_name))))
                break
        else:
            stack.pop()


def nodes(root: Directory) -> Iterator[Node]:
    """Yield everything below *root*, itself first, in no order; what has several names comes as often.

    For those who need no paths: in a deep tree, as an image may have, those are much larger than all else.
    """
    yield root
    pending = [root]
    while pending:
        for node in pending.pop().entries.values():
            yield node
            if isinstance(node, Directory):
                pending.append(node)


def _name(entry: tuple[bytes, Node]) -> bytes:
    return entry[0]


def object_path(digest: bytes) -> bytes:
    """Return the path of the object *digest* below the object directory."""
    text = digest.hex()
    return f"{text[:2]}/{text[2:]}".encode()


def is_whiteout(content: Content) -> bool:
    """Tell whether a leaf of *content* hides what an overlay has below it: a character device 0, 0."""
    return isinstance(content, Special) and content.type == stat.S_IFCHR and content.rdev == 0
