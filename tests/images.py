"""Images in repositories, made of trees as values."""

import os
import stat
from collections.abc import Mapping

from composefs import Digest, Repository
from composefs.erofs.writer import write_image
from composefs.image import Image
from composefs.repository.images import ImageStore
from composefs.tree import Directory, Inline, Leaf, Node, Object, Special, Stat, Symlink

STAT = Stat(0o644, 0, 0, 1_700_000_000, 5)
DIRECTORY_STAT = STAT._replace(mode=0o755)
LINK_STAT = STAT._replace(mode=0o777)


def directory(entries: Mapping[str, Node] | None = None, **changes: object) -> Directory:
    """Return a directory of *entries*, whose stat has *changes*."""
    names = {os.fsencode(name): node for name, node in (entries or {}).items()}
    return Directory(DIRECTORY_STAT._replace(**changes), names)


def inline(data: bytes = b"", **changes: object) -> Leaf:
    """Return a file whose *data* are in the image."""
    return Leaf(STAT._replace(**changes), Inline(data))


def external(repository: Repository, data: bytes, **changes: object) -> Leaf:
    """Return a file whose *data* are an object, stored now."""
    return Leaf(STAT._replace(**changes), Object(len(data), repository.objects.ensure(data)[0]))


def symlink(target: str | bytes) -> Leaf:
    """Return a symbolic link."""
    return Leaf(LINK_STAT, Symlink(os.fsencode(target)))


def fifo(**changes: object) -> Leaf:
    """Return a fifo."""
    return Leaf(STAT._replace(**changes), Special(stat.S_IFIFO))


def device(major: int, minor: int, **changes: object) -> Leaf:
    """Return a character device."""
    return Leaf(STAT._replace(**changes), Special(stat.S_IFCHR, os.makedev(major, minor)))


def store(images: ImageStore, image: bytes, name: str = "image") -> Digest:
    """Store the bytes of an *image*, and name it."""
    digest = images.store(image)
    images.link(digest)
    images.set_ref(name, digest)
    return digest


def open_tree(repository: Repository, root: Directory, version: int = 1) -> Image:
    """Return the image of *root*, stored and opened."""
    store(repository.images, write_image(root, version))
    return Image.open(repository, "image")


def open_bytes(repository: Repository, image: bytes) -> Image:
    """Return the *image*, whatever it is, stored and opened."""
    store(repository.images, image)
    return Image.open(repository, "image")
