"""Make the blobs of an image's layers: those that the destination has not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from composefs.cpus import available_cpus
from composefs.oci.export.choice import choose_encodings
from composefs.oci.export.destination import Blob, Destination
from composefs.oci.export.encoding import Encoding, Stored
from composefs.oci.export.events import ExportStarted, LayerExported, Listener
from composefs.oci.export.image import ExportImage, ExportLayer
from composefs.oci.export.layer import ExportJob, MadeBlob, make_blob
from composefs.oci.export.reading import read_archive
from composefs.oci.export.spool import Spool
from composefs.oci.manifest import Descriptor
from composefs.oci.pool import default_workers, run_jobs
from composefs.oci.progress import Board, LayerPlan, LayerPresent, LayerProgress
from composefs.repository import Repository

_POOL_COST = 1 << 25  # bytes of archives that are encoded in the time that it takes to start processes, about 0.4 s


class BlobMaker:
    """The blobs of the layers of *stored*, on their way to *target*.

    Args:
        repository: where the image is.
        stored: the image.
        target: where it goes to.
        encoding: how blobs are made; None: so that they are what they were, if that can be.
        listener: called with events.

    Attributes:
        blobs: what there is so far; in the end, of each layer.
        encodings: how they are made, at least those that have to be.
    """

    def __init__(
        self,
        repository: Repository,
        stored: ExportImage,
        target: Destination,
        *,
        encoding: Encoding | None,
        listener: Listener,
    ) -> None:
        self._repository, self._stored, self._target, self._listener = repository, stored, target, listener
        layers = self._layers = list(dict.fromkeys(stored.layers))
        if not stored.image.manifest.is_container:
            encoding = None  # blobs are taken as they are
        self._index = {layer: stored.layers.index(layer) for layer in layers}
        self.blobs: dict[ExportLayer, Blob] = {}
        known = {layer: descriptor for layer in layers if (descriptor := _known(layer, encoding)) is not None}
        held = target.holds(list(dict.fromkeys(known.values())))
        for layer, descriptor in known.items():
            if descriptor.digest in held:
                self.blobs[layer] = Blob(descriptor.digest, descriptor.size, None)
        if encoding is None:
            self.encodings = choose_encodings(repository, [layer for layer in layers if layer not in self.blobs])
        else:
            self.encodings = dict.fromkeys(layers, encoding)

    def started(self, image: str) -> ExportStarted:
        """Return the first event."""
        return ExportStarted(
            image=image,
            destination=self._target.name,
            manifest=self._stored.image.descriptor.digest,
            layers=tuple(
                LayerPlan(layer.descriptor.digest, layer.diff_id, layer.descriptor.size, layer in self.blobs)
                for layer in self._stored.layers
            ),
            total=sum(layer.size for layer in self._layers if layer not in self.blobs),
        )

    def make(self, workers: int | None, spools: ExitStack) -> None:
        """Make the blobs that are missing; *spools* closes their files."""
        jobs: dict[ExportLayer, Spool] = {}
        for layer in self._layers:
            if layer in self.blobs:
                self._listener(LayerPresent(self._index[layer], layer.diff_id))
            elif self._target.takes_streams and isinstance(self.encodings[layer], Stored):
                contents = _StoredContents(self._repository, layer, self._index[layer], self._listener)
                self.blobs[layer] = Blob(layer.diff_id, layer.size, contents)
            else:
                jobs[layer] = self._target.spool()
                spools.callback(jobs[layer].close)
        spools.callback(self._target.stop)  # before they are closed
        if jobs:
            self._run(list(jobs), list(jobs.values()), workers)

    def _run(self, layers: list[ExportLayer], spools: list[Spool], workers: int | None) -> None:
        if workers is None and sum(layer.size for layer in layers) < _POOL_COST:
            workers = 1
        board = Board(len(layers))
        at_once = min(len(layers), workers or default_workers([layer.size for layer in layers], available_cpus()))

        def on_progress(number: int, read: int) -> None:
            self._target.check()
            layer = layers[number]
            self._listener(LayerProgress(self._index[layer], read, layer.size))

        def on_result(number: int, made: MadeBlob) -> None:
            self._target.check()
            layer = layers[number]
            self.blobs[layer] = blob = Blob(made.digest, made.size, spools[number])
            self._listener(LayerExported(self._index[layer], layer.diff_id, made.digest, made.size))
            self._target.add(blob)

        try:
            jobs = [
                ExportJob(
                    repository=os.path.abspath(self._repository.path),
                    stream=layer.stream,
                    diff_id=layer.diff_id,
                    size=layer.size,
                    encoding=self.encodings[layer],
                    target=spool.path,
                    where=spool.directory,
                    threads=_threads(at_once, available_cpus()),
                    board=board.path,
                    index=number,
                )
                for number, (layer, spool) in enumerate(zip(layers, spools, strict=True))
            ]
            run_jobs(
                make_blob,
                jobs,
                board,
                workers=workers,
                executor=None,
                on_progress=on_progress,
                on_result=on_result,
            )
        finally:
            board.close()


def _threads(workers: int, cpus: int) -> int:
    """Return how many threads each of *workers* encodes by: twice its share of CPUs, which soon are fewer workers'."""
    return min(cpus, -(-2 * cpus // workers))


def _known(layer: ExportLayer, encoding: Encoding | None) -> Descriptor | None:
    """Return the blob that the layer is to have, if that is known before it is made."""
    if encoding is None:
        return layer.descriptor
    if isinstance(encoding, Stored):
        return Descriptor(layer.descriptor.media_type, layer.diff_id, layer.size)
    return None


@dataclass(frozen=True)
class _StoredContents:
    """The archive of a layer, straight from the repository."""

    repository: Repository
    layer: ExportLayer
    index: int
    listener: Listener

    def pieces(self) -> Iterator[bytes]:
        """Yield it; errors are those of `read_archive`."""
        done = 0
        layer = self.layer
        for piece in read_archive(self.repository, layer.diff_id, layer.stream, lambda _: None):
            done += len(piece)
            self.listener(LayerProgress(self.index, done, layer.size))
            yield piece
        self.listener(LayerExported(self.index, layer.diff_id, layer.diff_id, layer.size))
