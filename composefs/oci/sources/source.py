"""What an import asks of whatever an image comes from, and of the bytes of its layers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from composefs.oci.manifest import Compression, Image, Platform
from composefs.oci.sources.files import open_regular


class ByteStream(Protocol):
    """The bytes of a blob, from the first on."""

    @property
    def size(self) -> int | None:
        """How many there are, if that is known before they are read."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""

    def close(self) -> None:
        """Let go of it, also before the end."""


class Place(Protocol):
    """Where the bytes of a blob are: a small value that a job takes to a worker, which may be another process."""

    def open(self, label: str, streams: Callable[[], int]) -> ByteStream:
        """Open the blob, which messages call *label*; *streams* tells how many connections it may have at a time."""

    def again(self) -> Place | None:
        """Return where to read it once more if it was not what its digest says; None: that would change nothing."""


@dataclass(frozen=True)
class Blob:
    """What an import reads of a layer."""

    place: Place
    digest: str  # sha256:..., of these bytes
    size: int  # of these bytes
    compression: Compression | None  # of the archive in it; None: an artifact's blob, stored as it is


class Source(Protocol):
    """Where an image comes from; to be closed."""

    @property
    def name(self) -> str:
        """The reference, as it was given."""

    @property
    def streams(self) -> int | None:
        """How many connections to fetch blobs by at a time; None: nothing waits for a network."""

    @property
    def shares_files(self) -> bool:
        """Whether the objects are to share the contents of its files, so that they take no room."""

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image for *platform*, by default that of this machine, manifest and config checked.

        Raises:
            NotFoundError: there is none, or a part of it is missing.
            UsageError: there are several, and nothing said which.
            FormatError, IntegrityError: a part of it is broken.
        """

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of layer number *index* of *image*."""

    def close(self) -> None:
        """Let go of it, and of places that it gave."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class FileRange:
    """The place of *size* bytes of the regular file *path*, or of all behind *offset*."""

    path: str
    offset: int = 0
    size: int | None = None

    def open(self, label: str, streams: Callable[[], int]) -> ByteStream:  # noqa: ARG002  # a file is one stream
        """Open the file; see `Place`."""
        return _FileStream(open_regular(self.path, label), self.offset, self.size)

    def again(self) -> None:
        """Return None: a file says the same again."""


class _FileStream:
    """The bytes of a file from *offset* on."""

    def __init__(self, fd: int, offset: int, size: int | None) -> None:
        self._fd, self._offset = fd, offset
        there = max(os.fstat(fd).st_size - offset, 0)
        self.size = there if size is None else min(there, size)
        self._left = size if size is not None else -1  # negative: whatever there is
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)

    def read(self, size: int, /) -> bytes:
        if self._left >= 0:
            size = min(size, self._left)
        data = os.read(self._fd, size)
        if self._left >= 0:
            self._left -= len(data)
        return data

    def close(self) -> None:
        os.close(self._fd)
