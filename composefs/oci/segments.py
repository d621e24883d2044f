"""Take over a layer that is stored in parts: raw bytes of its archive, and files that hold the contents between them.

The files become objects without a copy, where the file systems allow.  All parts are hashed as they are stored, in
order, so the diff_id proves the whole as it proves an archive; stream and index are the same as those of an archive.

What an object shares with the file that it comes from:

    blocks (reflink)   Each side has its own from the moment it is changed: as safe as a copy.
    the file itself    Its owner, mode, times and extended attributes stay those that the store gave it.  Where the
    (hard link)        kernel enforces digests, the file is sealed, also under its other name: neither side can change
                       it any more.  Elsewhere whoever writes to it in the store breaks the object, and all images that
                       have it, so it is linked only where that was demanded.  Files that run as somebody else, that
                       not everybody may read, or that others may write to without a seal, are copied all the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from composefs._native import Buffer
from composefs.errors import FormatError, IntegrityError
from composefs.oci.index import Indexer
from composefs.oci.sources.access import LocalFetch
from composefs.oci.stats import Stats
from composefs.repository import Repository
from composefs.repository.files import Sharing
from composefs.repository.objects import Stored
from composefs.splitstream import SplitstreamWriter
from composefs.tar import INLINE_MAX, Content, TarSplitter


class FileSegment(NamedTuple):
    """The next *size* bytes of an archive are the whole of a file."""

    fd: int  # open for reading, until the next segment is asked for
    size: int
    name: str  # of the file, for messages


Segment: TypeAlias = bytes | FileSegment


@runtime_checkable
class SegmentedPlace(Protocol):
    """A place that has a layer in segments, to be shared as *local_fetch* says."""

    @property
    def local_fetch(self) -> LocalFetch:
        """How."""

    def segments(self, label: str, checkpoint: Callable[[], object]) -> AbstractContextManager[Iterator[Segment]]:
        """Open the layer, which messages call *label*; *checkpoint* is called while it waits, and may raise."""


class PartsWriter:
    """Write the stream of an archive that comes in parts: bytes, and contents that are stored as objects already.

    Args:
        writer: of the stream.
        label: of the archive, for messages.
        stats: counts the objects.
        indexer: is told each entry.
    """

    def __init__(self, writer: SplitstreamWriter, label: str, stats: Stats, indexer: Indexer | None) -> None:
        self._writer, self._label, self._stats, self._indexer = writer, label, stats, indexer
        self._splitter = TarSplitter(label, indexer.add if indexer is not None else None)

    def inline(self, data: Buffer) -> None:
        """Append bytes of the archive that are kept inline.

        Raises:
            FormatError: the archive is broken, or they are contents of a file that is to be an object.
        """
        self._writer.inline(data)
        for event in self._splitter.feed(data):
            if isinstance(event, Content):
                entry = event.entry
                raise FormatError(self._label, entry.offset, f"{entry.size} bytes that are no object", entry.name)

    def contents(self, stored: Stored, size: int) -> None:
        """Append the whole of an object of *size* bytes.

        Raises:
            FormatError: no contents of that size are due.
        """
        entry = self._splitter.skip_contents()
        if entry.size != size:
            what = f"object of {size} bytes, where {entry.size} are wanted"
            raise FormatError(self._label, entry.offset, what, entry.name)
        digest = self._stats.count(stored, size)
        self._writer.external(digest, size)
        if self._indexer is not None:
            self._indexer.add(entry, digest)

    def finish(self) -> None:
        """Say that no more comes.

        Raises:
            FormatError: the archive ends where it must not.
        """
        self._splitter.close()
        if self._indexer is not None:
            self._indexer.flush()


class SegmentTaker:
    """Store the objects of an archive that comes in segments, write its stream, and compute its digest.

    Args:
        repository: gets the objects.
        parts: gets the stream.
        label: of the archive, for messages.
        size: of the archive in bytes, at most.
        local_fetch: what the objects share with the files.
        advance: called with the number of bytes of each piece; may raise what ends the work.
    """

    def __init__(
        self,
        repository: Repository,
        parts: PartsWriter,
        label: str,
        size: int,
        *,
        local_fetch: LocalFetch,
        advance: Callable[[int], None],
    ) -> None:
        self._objects, self._parts, self._label, self._advance = repository.objects, parts, label, advance
        self._sharing, self._may_copy = _sharing(local_fetch, seals=self._objects.seals)
        self._sha256 = hashlib.sha256()
        self._size, self._left = size, size

    def take(self, segment: Segment) -> None:
        """Take the next segment.

        Raises:
            IntegrityError: a file has another size, or is being written to.
            FormatError: the archive is broken, or a file stands where none is due.
            OSError: it cannot be read, or be stored as demanded.
        """
        if not isinstance(segment, FileSegment):
            self._look(segment)
            self._parts.inline(segment)
        elif segment.size <= INLINE_MAX:
            self.take(_read_small(segment, self._label))
        else:
            self._parts.contents(self._store(segment), segment.size)

    def finish(self) -> str:
        """Say that no more comes, and return the digest of the archive, sha256:...

        Raises:
            FormatError: the archive ends where it must not.
        """
        self._parts.finish()
        return "sha256:" + self._sha256.hexdigest()

    def _store(self, file: FileSegment) -> Stored:
        seen = 0

        def look(piece: bytes) -> None:
            nonlocal seen
            seen += len(piece)
            self._look(piece)

        try:
            stored = self._objects.take_file(file.fd, self._sharing, look, may_copy=self._may_copy)
        except OSError as error:
            if error.filename is None:
                error.filename = file.name
            else:  # an object
                error.add_note(f"while storing {file.name}")
            if not self._may_copy:
                error.add_note("to share files, the repository must be on the file system of the store")
            raise
        if seen != file.size:
            raise IntegrityError(f"{self._label}, file {file.name}", f"{file.size} bytes", f"{seen} bytes")
        return stored

    def _look(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise IntegrityError(self._label, f"{self._size} bytes of archive", "more")
        self._advance(len(piece))
        self._sha256.update(piece)


def _sharing(local_fetch: LocalFetch, *, seals: bool) -> tuple[Sharing, bool]:
    """Return what objects share with files, and whether a copy will do."""
    match local_fetch:
        case "disabled":
            return Sharing.COPY, True
        case "auto":
            return Sharing.HARD_LINK if seals else Sharing.REFLINK, True
        case "zerocopy":
            return Sharing.HARD_LINK, False


def _read_small(file: FileSegment, label: str) -> bytes:
    data = os.pread(file.fd, file.size + 1, 0)
    if len(data) != file.size:
        raise IntegrityError(f"{label}, file {file.name}", f"{file.size} bytes", f"{len(data)} bytes")
    return data
