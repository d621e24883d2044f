"""Make what an image lacks: import its layers in parallel, and make its EROFS images of all of them."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

from composefs.oci.checkpoints import Checkpoints
from composefs.oci.erofs import ErofsMaker
from composefs.oci.index import LayerIndex
from composefs.oci.layer import LayerJob, LayerResult
from composefs.oci.manifest import Image
from composefs.oci.merge import OrderedMerger
from composefs.oci.plan import Layers, Plan
from composefs.oci.pool import run_jobs
from composefs.oci.progress import Board, LayerDone, LayerProgress, Listener
from composefs.oci.read import index_jobs, pool_pays, stored_layer
from composefs.oci.sources.source import Source
from composefs.oci.work import IndexJob, IndexResult, layer_job, work
from composefs.repository import Repository


class Missing:
    """Makes what *image* lacks.

    Args:
        repository: gets it.
        source: has the image.
        image: the image.
        layers: of it; gets the new ones.
        maker: of its EROFS images; None: it is to have none.
        listener: called with each event, in this thread.
        max_layer_size: bytes that the archive of a layer may have; None: as `composefs.limits` has it.
    """

    def __init__(
        self,
        repository: Repository,
        source: Source,
        image: Image,
        layers: Layers,
        *,
        maker: ErofsMaker | None,
        listener: Listener,
        max_layer_size: int | None = None,
    ) -> None:
        self._repository, self._source, self._image, self._layers = repository, source, image, layers
        self._maker, self._listener, self._max_layer_size = maker, listener, max_layer_size
        self._checkpoints = Checkpoints(repository)

    def make(self, *, workers: int | None, executor: Executor | None) -> None:
        """Make it; nothing gets a name but objects, and layers that are finished while others are worked on.

        Args:
            workers: as of `composefs.oci.importer.import_image`, as also *executor*, and the errors.
            executor: see *workers*.
        """
        with self._checkpoints:
            if self._maker is None or self._maker.is_done:
                self._have_layers(None, workers, executor)
            else:
                merger = OrderedMerger(self._image.diff_ids)
                self._have_layers(merger, workers, executor)
                self._maker.make(merger.merged(), self._listener)

    def _have_layers(self, merger: OrderedMerger | None, workers: int | None, executor: Executor | None) -> None:
        """Import what is missing, and give the index of each layer to *merger*, if there is one."""
        missing = self._layers.missing
        present = dict(self._layers.streams) if merger is not None else {}
        board = Board(len(missing) + len(present))
        try:
            jobs: list[LayerJob | IndexJob] = [
                self._job(plan, board, number, wants_index=merger is not None) for number, plan in enumerate(missing)
            ]
            to_read = index_jobs(self._repository, present, board, first=len(missing))
            if len(missing) > 1 or pool_pays(to_read, workers):
                jobs += to_read

            def on_progress(number: int, read: int) -> None:
                if number < len(missing):
                    self._listener(LayerProgress(missing[number].index, read, missing[number].size))

            def on_result(number: int, result: LayerResult | IndexResult) -> None:
                if isinstance(result, LayerResult):
                    self._imported(missing[number], result)
                if merger is not None and result.index is not None:
                    merger.add(jobs[number].diff_id, LayerIndex(jobs[number].label, result.index))

            if jobs:
                run_jobs(
                    work,
                    jobs,
                    board,
                    workers=workers,
                    are_fetched=self._source.streams is not None,
                    modules=sorted({type(job.blob.place).__module__ for job in jobs if isinstance(job, LayerJob)}),
                    executor=executor,
                    on_progress=on_progress,
                    on_result=on_result,
                )
        finally:
            board.close()
        if merger is not None:
            for diff_id, stream in self._layers.streams.items():
                if diff_id not in merger:
                    merger.add(diff_id, stored_layer(self._repository, diff_id, stream))

    def _job(self, plan: Plan, board: Board, number: int, *, wants_index: bool) -> LayerJob:
        job = layer_job(self._repository, plan, self._source.blob(self._image, plan.index), board, number)
        streams = self._source.streams or 1
        return replace(job, streams=streams, wants_index=wants_index, archive_size_max=self._max_layer_size)

    def _imported(self, plan: Plan, result: LayerResult) -> None:
        layers = self._layers
        layers.streams[plan.diff_id] = result.stream
        layers.imported.add(plan.diff_id)
        layers.stats += result.stats
        self._checkpoints.add(plan.diff_id, result.stream)
        self._listener(LayerDone(plan.index, plan.diff_id, result.stats.objects_new, result.stats.objects_present))
