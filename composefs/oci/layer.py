"""Import one layer: the whole of what a worker does.

One pass over the blob: its digest, decompression, the diff_id of the archive, the split of the archive, the fs-verity
digest of each file, the object, the splitstream, the index of its entries.  Nothing gets a name here but objects; a job
is a few paths and digests, its result digests, counts and the index.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from composefs import limits
from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.oci.blobs import SLOT_SIZE, BlobReader
from composefs.oci.index import Batch, Indexer, KeptIndex
from composefs.oci.inflation import inflate
from composefs.oci.manifest import Compression
from composefs.oci.progress import Pen
from composefs.oci.segments import PartsWriter, SegmentedPlace, SegmentTaker
from composefs.oci.sources.source import Blob
from composefs.oci.split import ArchiveSplitter
from composefs.oci.stages import Ahead, Behind
from composefs.oci.stats import Stats
from composefs.oci.storing import Sealers
from composefs.repository import Repository
from composefs.repository.durable import DurableObjects
from composefs.splitstream import ContentType, SplitstreamWriter

_DEPTH = 8  # slots that one stage may be ahead of the next; a guess
_BUSY = 2  # CPUs that the stages keep so; only others are worth more threads that inflate


@dataclass(frozen=True)
class LayerJob:
    """What a worker needs to know."""

    repository: str  # path
    blob: Blob
    diff_id: str  # of the archive; of an artifact's blob its digest
    label: str  # for messages
    board: str
    index: int  # on the board
    streams: int = 1  # connections to where the blobs are that all layers may have at a time
    wants_index: bool = False  # of its entries
    archive_size_max: int | None = None  # bytes; None: as `composefs.limits` has it
    has_name: bool = False  # its stream has one already, though it is missing: all else is on disk before it is there

    @property
    def size(self) -> int:
        """How much work it is, compared with the others: bytes of its blob."""
        return self.blob.size


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
        LimitError: it inflates to too much, or has too much of anything.
        CancelledError: the import is to stop.
        OSError: something could not be read or written.
    """
    with Repository.open(job.repository) as repository:
        repository.objects.load_durable = lambda: durable_objects(job.repository, job.board)
        return store_layer(repository, job)


def store_layer(repository: Repository, job: LayerJob) -> LayerResult:
    """Do what `import_layer` does, in *repository*, which is open already."""
    try:
        return _store_once(repository, job)
    except IntegrityError:
        place = job.blob.place.again()
        if place is None:
            raise
        try:
            return _store_once(repository, replace(job, blob=replace(job.blob, place=place)))
        except IntegrityError as error:
            error.add_note(f"it was fetched twice, the second time from {place}")
            raise


def _store_once(repository: Repository, job: LayerJob) -> LayerResult:
    if job.size > limits.ARCHIVE_SIZE:
        raise LimitError(job.label, 0, "bytes of blob", limits.ARCHIVE_SIZE, job.size)
    pen = Pen(job.board, job.index)
    try:
        if isinstance(job.blob.place, SegmentedPlace):
            return _take_segments(repository, job.blob.place, job, pen)
        streams = functools.partial(pen.share, job.streams)
        with BlobReader(job.blob, job.label, pen.advance, streams=streams, is_hashed=not _is_plain(job)) as blob:
            stats = Stats()
            if job.blob.compression is None:
                return LayerResult(_store_blob(repository, blob, job, stats), stats)
            stream, index = _store_archive(repository, blob, job, stats, pen)
            return LayerResult(stream, stats, index)
    finally:
        pen.close()


def _is_plain(job: LayerJob) -> bool:
    """Tell whether the blob is the archive, so that they have one digest."""
    return job.blob.compression is Compression.NONE


@functools.lru_cache(maxsize=1)  # all layers of an import, which its board identifies, share it in one worker
def durable_objects(path: str, _board: str) -> DurableObjects:
    """Return the objects of the repository *path* that named streams refer to."""
    with Repository.open(path) as repository:
        return repository.streams.load_durable()


def _store_blob(repository: Repository, blob: BlobReader, job: LayerJob, stats: Stats) -> Digest:
    """Store an artifact's blob as the one object of a stream, and return that."""
    pieces = iter(lambda: blob.read(SLOT_SIZE), b"")
    with closing(repository.streams.writer(ContentType.BLOB)) as writer:
        writer.external(stats.count(repository.objects.ensure_pieces(pieces), job.size), job.size)
        blob.verify()
        return _store_stream(repository, writer, job)


def _take_segments(repository: Repository, place: SegmentedPlace, job: LayerJob, pen: Pen) -> LayerResult:
    """Store a layer whose files are to be shared with the objects."""
    most = job.archive_size_max
    if most is not None and job.size > most:
        raise LimitError(job.label, 0, "bytes of archive", most, job.size, raised_by="max_layer_size")
    stats, kept = Stats(), KeptIndex()
    indexer = Indexer(kept.add) if job.wants_index else None
    with (
        closing(repository.streams.writer(ContentType.LAYER)) as writer,
        place.segments(job.label, lambda: pen.advance(0)) as segments,
    ):
        parts = PartsWriter(writer, job.label, stats, indexer)
        fetch = place.local_fetch
        taker = SegmentTaker(repository, parts, job.label, job.size, local_fetch=fetch, advance=pen.advance)
        for segment in segments:
            taker.take(segment)
        got = taker.finish()
        if got != job.diff_id:
            raise IntegrityError(f"{job.label}, diff_id", job.diff_id, got)
        stream = _store_stream(repository, writer, job)
        stats.bytes_inline = writer.inline_size
    return LayerResult(stream, stats, kept.batches() if indexer is not None else None)


def _store_stream(repository: Repository, writer: SplitstreamWriter, job: LayerJob) -> Digest:
    """Store the stream that was written, once nobody can find it without what it refers to."""
    if job.has_name:
        repository.sync()
    return repository.streams.store(writer)


def _store_archive(
    repository: Repository, blob: BlobReader, job: LayerJob, stats: Stats, pen: Pen
) -> tuple[Digest, tuple[Batch, ...] | None]:
    """Store a layer's archive as a stream of inline data and objects; return that, and the index of its entries."""
    assert job.blob.compression is not None
    kept = KeptIndex()
    indexer = Indexer(kept.add) if job.wants_index else None
    storing, compressing = (Behind(_DEPTH, pen.has_idle_cpus) for _ in range(2))
    sealers = Sealers(repository)
    with closing(repository.streams.writer(ContentType.LAYER, compressing.do)) as writer:
        archive = ArchiveSplitter(
            repository, writer, job.label, stats, indexer=indexer, storing=sealers.storing(storing.do)
        )
        inflated = inflate(blob, job.blob.compression, lambda: slots.is_waited_for and pen.has_idle_cpus(_BUSY))
        slots = Ahead(_watched(inflated, blob, job), _DEPTH, pen.has_idle_cpus)
        try:
            with (
                closing(archive),
                closing(sealers),
                closing(storing),
                closing(compressing),
                closing(slots),
                _stopping(blob),
            ):
                for slot in slots:
                    archive.feed(slot)
                    storing.check()
                    sealers.check()
                got = archive.finish()
                storing.finish()
                sealers.finish()
                compressing.finish()
        except FormatError:
            blob.verify()  # a damaged blob says more than what its damage led to
            raise
        blob.verify(got if _is_plain(job) else None)
        if got != job.diff_id:
            raise IntegrityError(f"{job.label}, diff_id", job.diff_id, got)
        stream = _store_stream(repository, writer, job)
        stats.bytes_inline = writer.inline_size
    if indexer is None:
        return stream, None
    indexer.flush()
    return stream, kept.batches()


@contextmanager
def _stopping(blob: BlobReader) -> Iterator[None]:
    """Have nobody wait for more of *blob* after an error, unless the rest of it may say what was wrong."""
    try:
        yield
    except FormatError:
        raise
    except BaseException:
        blob.stop()
        raise


def _watched(slots: Generator[bytes], blob: BlobReader, job: LayerJob) -> Generator[bytes]:
    """Yield *slots*: one piece of a blob may inflate to gigabytes, and the import may have been stopped."""
    asked = job.archive_size_max if job.archive_size_max is not None else limits.archive_size(job.size)
    most, size = min(asked, limits.ARCHIVE_SIZE), 0  # beyond that no stream is read
    raised_by = "max_layer_size" if most < limits.ARCHIVE_SIZE else None
    with closing(slots):
        for slot in slots:
            blob.advance(0)
            size += len(slot)
            if size > most:
                what = f"bytes of archive in a blob of {job.size} bytes"
                raise LimitError(job.label, blob.offset, what, most, raised_by=raised_by)
            yield slot
