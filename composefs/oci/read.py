"""Read the indexes of layers that are in the repository: one after another, or in parallel where that is faster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from composefs.cpus import available_cpus
from composefs.digest import Digest
from composefs.errors import NotFoundError
from composefs.oci.index import Batch, LayerIndex
from composefs.oci.pool import run_jobs
from composefs.oci.progress import Board
from composefs.oci.work import IndexJob, IndexResult, layer_label, read_layer, stored_batches
from composefs.repository import Repository
from composefs.splitstream import ContentType

_POOL_COST = 1 << 25  # bytes of streams that are read in the time that it takes to start processes, about 0.4 s
_PROOF_COST = 8  # bytes of contents that are hashed in the time that it takes to read one byte of a stream


@dataclass(frozen=True)
class StoredIndex:
    """The batches of the layer *diff_id*, which is stored as *stream*, read whenever they are asked for."""

    repository: Repository
    diff_id: str
    stream: Digest
    verify: bool = False

    def __iter__(self) -> Iterator[Batch]:
        return stored_batches(self.repository, self.diff_id, self.stream, lambda _: None, verify=self.verify)


def stored_layer(repository: Repository, diff_id: str, stream: Digest, *, verify: bool = False) -> LayerIndex:
    """Return the index of a layer, which is read when it is gone through, and if *verify* proved by its diff_id."""
    return LayerIndex(layer_label(diff_id), StoredIndex(repository, diff_id, stream, verify))


def read_layers(
    repository: Repository,
    layers: Mapping[str, Digest],
    *,
    verify: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
) -> dict[str, LayerIndex]:
    """Return the indexes of layers by diff_id.

    Args:
        repository: where they are.
        layers: their streams by diff_id.
        verify: prove each layer by its diff_id, which reads all objects.
        workers: layers to read at the same time; by default one for each CPU this process may use.
        executor: reads the layers instead of processes of its own.

    Raises:
        NotFoundError, FormatError, IntegrityError: a layer is missing or broken; also later, while an index is gone
            through.
    """
    found = {diff_id: stored_layer(repository, diff_id, stream, verify=verify) for diff_id, stream in layers.items()}
    board = Board(len(layers))
    try:
        jobs = index_jobs(repository, layers, board, verify=verify)
        if not pool_pays(jobs, workers):
            return found

        def on_result(number: int, result: IndexResult) -> None:
            if result.index is not None:
                found[jobs[number].diff_id] = LayerIndex(jobs[number].label, result.index)

        run_jobs(read_layer, jobs, board, workers=workers, executor=executor, on_progress=_ignore, on_result=on_result)
    finally:
        board.close()
    return found


def index_jobs(
    repository: Repository, layers: Mapping[str, Digest], board: Board, *, first: int = 0, verify: bool = False
) -> list[IndexJob]:
    """Return the jobs of reading *layers*, which are streams by diff_id; their places on the board begin at *first*.

    Raises:
        NotFoundError: a stream is missing.
    """
    path = os.path.abspath(repository.path)
    return [
        IndexJob(path, stream, _cost(repository, diff_id, stream, verify=verify), diff_id, board.path, number, verify)
        for number, (diff_id, stream) in enumerate(layers.items(), first)
    ]


def pool_pays(jobs: list[IndexJob], workers: int | None) -> bool:
    """Tell whether processes read faster, although they have to be started."""
    sizes = [job.size for job in jobs]
    count = min(len(jobs), workers or available_cpus())
    return count > 1 and sum(sizes) - max(*sizes, sum(sizes) // count) > _POOL_COST


def _cost(repository: Repository, diff_id: str, stream: Digest, *, verify: bool) -> int:
    """Return what it costs to read a layer, in bytes of its stream."""
    try:
        size = os.stat(f"{repository.path}/objects/{stream.object_path}").st_size
    except FileNotFoundError:
        raise NotFoundError(f"{repository.path}: no object {stream}, the stream of layer {diff_id}") from None
    if not verify:
        return size
    with repository.streams.open_object(stream, layer_label(diff_id), ContentType.LAYER) as opened:
        return size + opened.reader.size // _PROOF_COST


def _ignore(_number: int, _read: int) -> None:
    """Take no interest in progress."""
