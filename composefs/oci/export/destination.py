"""What an export asks of wherever an image goes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from composefs.errors import UsageError
from composefs.oci.export.events import Listener
from composefs.oci.export.spool import Spool
from composefs.oci.manifest import Descriptor


class Contents(Protocol):
    """The bytes of a blob."""

    def pieces(self) -> Iterator[bytes]:
        """Yield them, the last ones when all is proved."""


@dataclass(frozen=True)
class Blob:
    """A blob that goes to the destination."""

    digest: str
    size: int  # bytes
    contents: Contents | None  # None: it is there


@dataclass(frozen=True)
class Bytes:
    """A blob in memory."""

    data: bytes

    def pieces(self) -> Iterator[bytes]:
        """Yield it."""
        yield self.data


@dataclass(frozen=True)
class Export:
    """All of an image; each blob once, the config first."""

    manifest: Descriptor
    manifest_bytes: bytes
    blobs: tuple[Blob, ...]

    @property
    def files(self) -> tuple[Blob, ...]:
        """The blobs where a manifest is one, too, and the first."""
        return (Blob(self.manifest.digest, self.manifest.size, Bytes(self.manifest_bytes)), *self.blobs)


class Destination(ABC):
    """Where an image goes to; to be closed.  Nothing has a name there before `finish`.

    Attributes:
        name: the reference, as it was given.
        takes_docker: whether manifests of Docker's types are understood there.
        takes_streams: whether it takes a blob whose digest is known straight from the repository; otherwise from a
            spool.
        found: digests of blobs that were made, and then turned out to be there.
    """

    takes_docker = False
    takes_streams = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def holds(self, blobs: Sequence[Descriptor]) -> set[str]:  # noqa: ARG002  # nothing, unless it is known
        """Return the digests of those *blobs* that are there, and are what they should be."""
        return set()

    @abstractmethod
    def spool(self) -> Spool:
        """Return a new file for a blob, near to where that goes; the caller closes it, between `stop` and `close`."""

    def add(self, blob: Blob) -> None:  # noqa: B027  # files wait for the end
        """Take notice of a blob that is ready, and may be sent already."""

    def check(self) -> None:  # noqa: B027  # likewise
        """Raise what sending has raised so far."""

    @abstractmethod
    def finish(self, export: Export, listener: Listener) -> None:
        """Put the image there: first all that it needs, then its name, and that in one step; tell *listener*."""

    def stop(self) -> None:  # noqa: B027  # likewise
        """Send no more: files are being closed."""

    def close(self) -> None:  # noqa: B027  # there may be nothing
        """Let go of it; what was not finished leaves nothing, or nothing that has a name."""


def file_name(digest: str) -> str:
    """Return what the file of the blob *digest* is called: its hexadecimal digits."""
    return digest.partition(":")[2]


def check_tag(tag: str | None, reference: str) -> None:
    """See that an index can name an image *tag*.

    Raises:
        UsageError: it is no text, which JSON must be.
    """
    try:
        (tag or "").encode()
    except UnicodeEncodeError:
        raise UsageError(f"{reference!r}: the tag is not UTF-8, as an index must be") from None
