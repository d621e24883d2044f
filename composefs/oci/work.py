"""What workers do: import a layer, or read the index of one that is in the repository; both give the same index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from composefs.digest import Digest
from composefs.errors import IntegrityError
from composefs.oci.index import Batch, KeptIndex, read_index
from composefs.oci.layer import LayerJob, LayerResult, import_layer
from composefs.oci.plan import Plan
from composefs.oci.progress import Board, Pen
from composefs.oci.sources.source import Blob
from composefs.repository import Repository
from composefs.splitstream import ContentType


@dataclass(frozen=True)
class IndexJob:
    """What a worker needs to know to read the index of a layer."""

    repository: str  # path
    stream: Digest
    size: int  # how much work it is, in bytes of streams
    diff_id: str
    board: str
    index: int  # on the board
    verify: bool = False  # prove the layer by its diff_id

    @property
    def label(self) -> str:
        """The layer, for messages."""
        return layer_label(self.diff_id)


@dataclass(frozen=True)
class IndexResult:
    """The index of a layer."""

    index: tuple[Batch, ...] | None  # None: it is too large, and is to be read from the stream


def layer_label(diff_id: str) -> str:
    """Return what messages call a layer."""
    return f"layer {diff_id}"


def layer_job(repository: Repository, plan: Plan, blob: Blob, board: Board, index: int) -> LayerJob:
    """Return the job to import the layer *plan*, which *blob* holds; it has the place *index* on *board*."""
    return LayerJob(
        repository=os.path.abspath(repository.path),
        blob=blob,
        diff_id=plan.diff_id,
        label=layer_label(plan.diff_id),
        board=board.path,
        index=index,
    )


def work(job: LayerJob | IndexJob) -> LayerResult | IndexResult:
    """Do what *job* says; errors are those of `import_layer` and `read_layer`."""
    return import_layer(job) if isinstance(job, LayerJob) else read_layer(job)


def read_layer(job: IndexJob) -> IndexResult:
    """Return the index of a layer.

    Raises:
        IntegrityError: it is not what its diff_id says, or an object is broken.
        FormatError: its stream is broken.
        NotFoundError: a part of it is missing.
        CancelledError: the work is to stop.
    """
    pen = Pen(job.board, job.index)
    kept = KeptIndex()
    try:
        with Repository.open(job.repository) as repository:
            for batch in stored_batches(repository, job.diff_id, job.stream, pen.advance, verify=job.verify):
                kept.add(batch)
    finally:
        pen.close()
    return IndexResult(kept.batches())


def stored_batches(
    repository: Repository, diff_id: str, stream: Digest, advance: Callable[[int], None], *, verify: bool
) -> Iterator[Batch]:
    """Yield the index of the layer *diff_id*, which is stored as *stream*; errors are those of `read_layer`.

    Args:
        repository: where it is.
        diff_id: of the layer.
        stream: of the layer.
        advance: called with 0 now and then; may raise what ends the work.
        verify: prove the layer by its diff_id first, which reads all its objects.
    """
    with repository.streams.open_object(stream, layer_label(diff_id), ContentType.LAYER) as opened:
        if verify:
            sha256 = hashlib.sha256()
            for piece in opened.merged():
                advance(0)
                sha256.update(piece)
            got = "sha256:" + sha256.hexdigest()
            if got != diff_id:
                raise IntegrityError(f"{layer_label(diff_id)}, diff_id", diff_id, got)
        for batch in read_index(opened.reader, layer_label(diff_id)):
            advance(0)
            yield batch
