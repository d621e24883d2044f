"""Copy one layer from repository to repository: the whole of what a worker does.

One pass over the stream: the diff_id, and whether the archive is split as it must be; each object is read once more to
prove it.  Nothing gets a name here but objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from composefs._native import Buffer
from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError
from composefs.oci.index import Indexer, KeptIndex
from composefs.oci.layer import LayerResult, durable_objects
from composefs.oci.names import layer_name
from composefs.oci.progress import Pen
from composefs.oci.segments import PartsWriter
from composefs.oci.stats import Stats
from composefs.oci.work import layer_label
from composefs.repository import Repository
from composefs.repository.objects import Stored
from composefs.repository.streams import OpenStream
from composefs.splitstream import ContentType, External, SplitstreamWriter

_PIECE = 1 << 20  # bytes read at a time; also the largest object that is copied in memory


@dataclass(frozen=True)
class CopyJob:
    """What a worker needs to know."""

    source: str  # path
    target: str  # path
    diff_id: str
    content_type: bytes  # that of the stream in the target
    zerocopy: bool
    size: int  # of the merged stream, bytes
    board: str
    index: int  # on the board

    @property
    def label(self) -> str:
        """The layer, for messages."""
        return f"{layer_label(self.diff_id)} of {self.source}"


def copy_layer(job: CopyJob) -> LayerResult:
    """Store the objects and the stream of one layer.

    Raises:
        IntegrityError: it is not what its diff_id says, or an object is broken.
        FormatError: its stream is broken.
        NotFoundError: a part of it is missing.
        CancelledError: the work is to stop.
        OSError: something could not be read or written.
    """
    pen = Pen(job.board, job.index)
    try:
        with (
            Repository.open(job.source) as source,
            Repository.open(job.target) as target,
            source.streams.open(layer_name(job.diff_id)) as stream,
            closing(target.streams.writer(job.content_type)) as writer,
        ):
            target.objects.load_durable = lambda: durable_objects(job.target, job.board)
            return _Copier(job, source, target, pen).copy(stream, writer)
    finally:
        pen.close()


class _Copier:
    """Copies the layer of *job*, and hashes it on the way."""

    def __init__(self, job: CopyJob, source: Repository, target: Repository, pen: Pen) -> None:
        self._job, self._source, self._target, self._pen = job, source, target, pen
        self._store = self._share if job.zerocopy else self._copy
        self._sha256 = hashlib.sha256()
        self._stats = Stats()
        self._size = 0  # bytes of the merged stream, so far

    def copy(self, stream: OpenStream, writer: SplitstreamWriter) -> LayerResult:
        job, index = self._job, None
        self._check_size = stream.reader.check_size
        if job.content_type == ContentType.BLOB:
            stored, size = self._blob(stream)
            writer.external(self._stats.count(stored, size), size)
        elif stream.reader.content_type == job.content_type:
            kept = KeptIndex()
            self._archive(stream, writer, kept)
            index = kept.batches()
        else:
            what = f"content type {stream.reader.content_type!r}, wanted {job.content_type!r}"
            raise FormatError(job.label, 0, what)
        got = "sha256:" + self._sha256.hexdigest()
        if got != job.diff_id:
            raise IntegrityError(f"{job.label}, diff_id", job.diff_id, got)
        result = self._target.streams.store(writer)
        self._stats.bytes_inline = writer.inline_size
        return LayerResult(result, self._stats, index)

    def _blob(self, stream: OpenStream) -> tuple[Stored, int]:
        """Copy an artifact's blob, and return its size, too."""
        objects = stream.reader.object_refs
        if stream.reader.content_type != ContentType.BLOB or len(objects) != 1:
            return self._ensure(stream.merged())  # composefs-rs has copied it, as if it were an archive
        return self._object(objects[0])

    def _archive(self, stream: OpenStream, writer: SplitstreamWriter, kept: KeptIndex) -> None:
        """Copy an archive as it is split, and see that it is split right: the diff_id does not tell."""
        parts = PartsWriter(writer, self._job.label, self._stats, Indexer(kept.add))
        for chunk in stream.reader.chunks():
            if isinstance(chunk, External):
                parts.contents(*self._object(chunk.digest))
            else:
                self._read(chunk.data)
                parts.inline(chunk.data)
        parts.finish()

    def _object(self, digest: Digest) -> tuple[Stored, int]:
        """Copy an object, and return its size, too."""
        with self._source.objects.open(digest) as file:
            return self._store(file)

    def _share(self, file: BinaryIO) -> tuple[Stored, int]:
        while piece := file.read(_PIECE):
            self._read(piece)
        try:
            return self._target.objects.share_file(file.fileno()), file.tell()
        except OSError as error:
            error.add_note("to share contents, both repositories must be on one file system, and of one owner")
            raise

    def _copy(self, file: BinaryIO) -> tuple[Stored, int]:
        data = file.read(_PIECE)
        if len(data) < _PIECE:
            self._read(data)
            return self._target.objects.ensure(data), len(data)
        file.seek(0)
        return self._ensure(iter(lambda: file.read(_PIECE), b""))

    def _ensure(self, pieces: Iterable[Buffer]) -> tuple[Stored, int]:
        """Store the object that the *pieces* are, and return its size, too."""
        size = 0
        with closing(self._target.objects.writer()) as writer:
            for piece in pieces:
                self._read(piece)
                writer.write(piece)
                size += len(piece)
            return writer.finish(), size

    def _read(self, piece: Buffer) -> None:
        """Hash a piece of the merged stream; the work may have been stopped."""
        self._pen.advance(len(piece))
        self._size += len(piece)
        self._check_size(self._size)
        self._sha256.update(piece)
