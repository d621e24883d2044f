"""Images in an OCI layout, which is a directory or lies in an archive.

    index.json             which manifests there are
    blobs/sha256/<hex>     manifests, configs, layers; each is checked against its name and size when it is read

Source: OCI image specification 1.1, image-layout.md.  A file `oci-layout` is not asked for, as elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from composefs import limits
from composefs.errors import NotFoundError
from composefs.oci.choice import check_blob, check_size, choose, read_image
from composefs.oci.manifest import Descriptor, Image, Platform, parse_index
from composefs.oci.sources.files import open_regular
from composefs.oci.sources.source import Blob, FileRange, Place
from composefs.text import listed

INDEX = "index.json"


class LayoutFiles(Protocol):
    """The files of a layout, by their paths in it."""

    @property
    def name(self) -> str:
        """What messages call the layout."""

    @property
    def name_as(self) -> str:
        """How one names one of its images: `oci:PATH:TAG`."""

    def read(self, path: str, what: str) -> bytes:
        """Return the file *path*, *what* for messages; of one that is larger, a byte more than `limits.JSON_SIZE`.

        Raises:
            NotFoundError: there is none.
            FormatError: it is no regular file.
        """

    def place(self, path: str) -> Place:
        """Return where the file *path* is."""

    def where(self, path: str) -> str:
        """Return *path* for messages."""

    def close(self) -> None:
        """Let go of the files."""


@dataclass(frozen=True)
class DirectoryFiles:
    """The files of a layout in the directory *name*."""

    name: str
    name_as = "oci:PATH:TAG"

    def read(self, path: str, what: str) -> bytes:
        """See `LayoutFiles`."""
        with open(open_regular(self.where(path), what), "rb") as file:
            # If there is that much, it is refused; there is None of what may come later, such as /proc/kmsg.
            return file.read(limits.JSON_SIZE + 1) or b""

    def place(self, path: str) -> FileRange:
        """See `LayoutFiles`."""
        return FileRange(os.path.abspath(self.where(path)))

    def where(self, path: str) -> str:
        """See `LayoutFiles`."""
        return os.path.join(self.name, path)

    def close(self) -> None:
        """See `LayoutFiles`."""


class OciLayout:
    """An image in the OCI layout that *files* are, as a source.

    Args:
        files: closed with it.
        which: the tag of the image, or its number in the index; None: the only one.
        name: the reference.
    """

    streams, shares_files = None, False

    def __init__(self, files: LayoutFiles, which: str | int | None, name: str) -> None:
        self._files, self._which, self.name = files, which, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image; see `Source`."""
        files, name_as = self._files, None if self._which is not None else self._files.name_as
        chosen = choose(self._named(), platform, self._read, files.name, name_as=name_as)
        return read_image(chosen, self._read)

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of a layer; see `Source`."""
        layer = image.manifest.layers[index]
        return Blob(self._files.place(blob_path(layer.digest)), layer.digest, layer.size, layer.compression)

    def _named(self) -> Sequence[Descriptor]:
        """Return what the index says of the image."""
        source = self._files.where(INDEX)
        index = parse_index(self._files.read(INDEX, source), source)
        if not index:
            raise NotFoundError(f"{self._files.name} holds no image")
        if isinstance(self._which, int):
            if self._which >= len(index):
                raise NotFoundError(f"{self._files.name} has no image number {self._which}; it has {len(index)}")
            return [index[self._which]]
        named = [descriptor for descriptor in index if self._which is None or descriptor.tag == self._which]
        if not named:
            tags = [descriptor.tag for descriptor in index if descriptor.tag]
            raise NotFoundError(f"{self._files.name} has no tag {self._which!r}; {listed('it has', tags)}")
        return named

    def _read(self, descriptor: Descriptor, what: str) -> bytes:
        return read_blob(self._files, descriptor, what)


def open_layout(path: str, which: str | int | None = None, name: str | None = None) -> OciLayout:
    """Return an image in the layout in the directory *path*, see `OciLayout`.

    Raises:
        NotFoundError: there is no directory, or no index in it.
    """
    if not os.path.isdir(path):
        raise NotFoundError(f"no directory {path}")
    if not os.path.exists(os.path.join(path, INDEX)):
        raise NotFoundError(f"{path} is no OCI layout: it has no {INDEX}")
    return OciLayout(DirectoryFiles(path), which, name if name is not None else f"oci:{path}")


def read_blob(files: LayoutFiles, descriptor: Descriptor, what: str) -> bytes:
    """Return a small blob of the layout that *files* are, proved by its descriptor; *what* it is, for messages.

    Raises:
        NotFoundError: it is not there.
        FormatError: it is no regular file, or larger than is taken.
        IntegrityError: it is another one.
    """
    check_size(descriptor, what)
    data = files.read(blob_path(descriptor.digest), f"{what} {descriptor.digest}")
    return check_blob(descriptor, data, what)


def blob_path(digest: str) -> str:
    """Return the path of the blob *digest* in its layout."""
    return os.path.join("blobs", *digest.split(":"))
