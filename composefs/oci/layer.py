"""Import one layer: the whole of what a worker does.

One pass over the blob: its digest, decompression, the diff_id of the archive, the split of the archive, the fs-verity
digest of each file, the object, the splitstream, the index of its entries.  Nothing gets a name here but objects; a job
is a few paths and digests, its result digests, counts and the index.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

from composefs._native import Buffer
from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError
from composefs.oci.blobs import SLOT_SIZE, BlobReader, decompress
from composefs.oci.index import Batch, Indexer, KeptIndex
from composefs.oci.manifest import Compression
from composefs.oci.progress import Pen
from composefs.repository import Repository
from composefs.repository.durable import DurableObjects
from composefs.repository.objects import ObjectStore, ObjectWriter, Stored
from composefs.splitstream import ContentType, SplitstreamWriter
from composefs.tar import Content, Entry, Inline, TarSplitter

_IN_MEMORY_MAX = 1 << 23  # bytes of a file that is put together in memory; a guess: larger ones are few


@dataclass(frozen=True)
class LayerJob:
    """What a worker needs to know."""

    repository: str  # path
    blob: str  # path
    digest: str  # of the blob
    size: int  # of the blob, bytes
    compression: Compression | None  # None: an artifact's blob, stored as it is
    diff_id: str  # of the archive; of an artifact's blob its digest
    label: str  # for messages
    board: str
    index: int  # on the board
    wants_index: bool = False  # of its entries


@dataclass
class Stats:
    """What storing objects came to; sizes in bytes."""

    objects_new: int = 0
    objects_present: int = 0
    bytes_new: int = 0
    bytes_inline: int = 0

    def count(self, stored: Stored, size: int) -> bytes:
        """Count an object of *size* bytes and return its digest."""
        digest, is_new = stored
        if is_new:
            self.objects_new += 1
            self.bytes_new += size
        else:
            self.objects_present += 1
        return digest

    def __iadd__(self, other: Stats) -> Self:
        self.objects_new += other.objects_new
        self.objects_present += other.objects_present
        self.bytes_new += other.bytes_new
        self.bytes_inline += other.bytes_inline
        return self


@dataclass(frozen=True)
class LayerResult:
    """The stored, not yet named, splitstream of a layer."""

    stream: Digest
    stats: Stats
    index: tuple[Batch, ...] | None = None  # None: not wanted, or too large: read it from the stream


def import_layer(job: LayerJob) -> LayerResult:
    """Store the objects and the splitstream of one layer.

    Raises:
        IntegrityError: the blob or the archive is not the promised one.
        FormatError: the blob or the archive is broken.
        CancelledError: the import is to stop.
        OSError: something could not be read or written.
    """
    pen = Pen(job.board, job.index)
    try:
        with (
            Repository.open(job.repository) as repository,
            BlobReader(job.blob, job.digest, job.size, job.label, pen.advance) as blob,
        ):
            repository.objects.load_durable = lambda: durable_objects(job.repository, job.board)
            stats = Stats()
            content_type = ContentType.BLOB if job.compression is None else ContentType.LAYER
            with closing(repository.streams.writer(content_type)) as writer:
                index = None
                if job.compression is None:
                    _store_blob(repository, blob, writer, job.size, stats)
                else:
                    index = _store_archive(repository, blob, writer, job, stats)
                stream = repository.streams.store(writer)
            stats.bytes_inline = writer.inline_size
            return LayerResult(stream, stats, index)
    finally:
        pen.close()


@functools.lru_cache(maxsize=1)  # all layers of an import, which its board identifies, share it in one worker
def durable_objects(path: str, _board: str) -> DurableObjects:
    """Return the objects of the repository *path* that named streams refer to."""
    with Repository.open(path) as repository:
        return repository.streams.load_durable()


def _store_blob(repository: Repository, blob: BlobReader, writer: SplitstreamWriter, size: int, stats: Stats) -> None:
    """Store an artifact's blob as the one object of a stream."""
    pieces = iter(lambda: blob.read(SLOT_SIZE), b"")
    writer.external(stats.count(repository.objects.ensure_pieces(pieces), size), size)
    blob.verify()


def _store_archive(
    repository: Repository, blob: BlobReader, writer: SplitstreamWriter, job: LayerJob, stats: Stats
) -> tuple[Batch, ...] | None:
    """Store a layer's archive as a stream of inline data and objects; return the index of its entries, if wanted."""
    assert job.compression is not None
    kept = KeptIndex()
    indexer = Indexer(kept.add) if job.wants_index else None
    sha256 = hashlib.sha256()
    is_blob = job.compression is Compression.NONE  # then the digest of the archive is that of the blob
    try:
        slots = _watched(decompress(blob, job.compression), blob, _ignore if is_blob else sha256.update)
        split_archive(repository, slots, writer, label=job.label, stats=stats, indexer=indexer)
    except FormatError:
        blob.verify()  # a damaged blob says more than what its damage led to
        raise
    blob_digest = blob.verify()
    got = blob_digest if is_blob else "sha256:" + sha256.hexdigest()
    if got != job.diff_id:
        raise IntegrityError(f"{job.label}, diff_id", job.diff_id, got)
    if indexer is None:
        return None
    indexer.flush()
    return kept.batches()


def _watched(slots: Iterable[Buffer], blob: BlobReader, update: Callable[[Buffer], object]) -> Iterator[Buffer]:
    """Yield *slots*, hashed; one piece of a blob may inflate to gigabytes, and the import may have been stopped."""
    for slot in slots:
        blob.advance(0)
        update(slot)
        yield slot


def _ignore(_: Buffer) -> None:
    """Hash nothing."""


def split_archive(
    repository: Repository,
    slots: Iterable[Buffer],
    writer: SplitstreamWriter,
    *,
    label: str,
    stats: Stats,
    indexer: Indexer | None = None,
) -> None:
    """Store the objects of the archive that *slots* are, joined, and write the stream of it.

    Args:
        repository: that gets the objects.
        slots: pieces of the archive; each may overwrite the one before.
        writer: of the stream.
        label: of the archive, for messages.
        stats: counts the objects.
        indexer: is told each entry.

    Raises:
        FormatError: the archive is broken.
        OSError: an object could not be written.
    """
    splitter = TarSplitter(label, indexer.add if indexer is not None else None)
    contents = _Contents(repository.objects, stats)
    try:
        for slot in slots:
            for event in splitter.feed(slot):
                if isinstance(event, Inline):
                    writer.inline(event.data)
                elif (digest := contents.take(event)) is not None:
                    writer.external(digest, event.entry.size)
                    if indexer is not None:
                        indexer.add(event.entry, digest)
        splitter.close()
    finally:
        contents.close()


class _Contents:
    """Make objects of the contents that come out of a splitter, in memory if they are small enough."""

    def __init__(self, objects: ObjectStore, stats: Stats) -> None:
        self._objects, self._stats = objects, stats
        self._buffer = bytearray()
        self._writer: ObjectWriter | None = None

    def take(self, content: Content) -> bytes | None:
        """Take a piece of a file; return the digest of the object once the file is whole."""
        entry, position, data = content
        try:
            if len(data) == entry.size:
                return self._count(self._objects.ensure(data), entry)
            if entry.size <= _IN_MEMORY_MAX:
                return self._gather(entry, position, data)
            return self._stream(entry, position, data)
        except OSError as error:
            error.add_note(f"while storing {entry.name}, offset {entry.offset} of the archive")
            raise

    def close(self) -> None:
        """Give up what is not whole."""
        if self._writer is not None:
            self._writer.close()

    def _gather(self, entry: Entry, position: int, data: Buffer) -> bytes | None:
        if position == 0:
            self._buffer.clear()
        self._buffer += data
        if len(self._buffer) < entry.size:
            return None
        return self._count(self._objects.ensure(self._buffer), entry)

    def _stream(self, entry: Entry, position: int, data: Buffer) -> bytes | None:
        if position == 0:
            self._writer = self._objects.writer()
        assert self._writer is not None
        self._writer.write(data)
        if position + len(data) < entry.size:
            return None
        stored, self._writer = self._writer.finish(), None
        return self._count(stored, entry)

    def _count(self, stored: Stored, entry: Entry) -> bytes:
        return self._stats.count(stored, entry.size)
