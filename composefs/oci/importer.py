"""Import an image: its layers in parallel, the EROFS images of all of them, one flush, then the names."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from composefs.digest import Digest
from composefs.errors import FormatError, UsageError
from composefs.oci.erofs import ErofsMaker, ErofsRequest
from composefs.oci.index import LayerIndex
from composefs.oci.layer import LayerJob, LayerResult, Stats
from composefs.oci.layout import Image, OciLayout, parse_reference
from composefs.oci.manifest import Compression, Descriptor, Platform
from composefs.oci.merge import OrderedMerger
from composefs.oci.names import find_layers, name_image
from composefs.oci.pool import run_jobs
from composefs.oci.progress import (
    Board,
    ImportDone,
    ImportStarted,
    LayerDone,
    LayerPlan,
    LayerPresent,
    LayerProgress,
    Listener,
    Syncing,
)
from composefs.oci.read import index_jobs, pool_pays, stored_layer
from composefs.oci.slots import ErofsImage
from composefs.oci.work import IndexJob, IndexResult, layer_label, work
from composefs.repository import Repository
from composefs.repository.refs import encode_tag
from composefs.splitstream import ContentType

ImportStats = Stats


@dataclass(frozen=True)
class LayerSummary:
    """What became of one layer of the manifest."""

    digest: str  # of the blob
    diff_id: str
    stream: Digest
    status: str  # imported, or present: it was there already
    size: int  # of the blob, bytes


@dataclass(frozen=True)
class ImportResult:
    """What an import made, or found."""

    manifest: str  # digest
    config: str  # digest
    verity: Digest  # of the manifest's stream
    name: str
    layers: tuple[LayerSummary, ...]
    images: tuple[ErofsImage, ...]  # plain ones first, of each kind the default format first; an artifact has none
    stats: ImportStats
    seconds: float

    @property
    def image(self) -> Digest | None:
        """The EROFS image of the default format."""
        return next((image.digest for image in self.images if not image.bootable), None)

    @property
    def boot_image(self) -> ErofsImage | None:
        """The EROFS image for booting, if it was asked for."""
        return next((image for image in self.images if image.bootable), None)


@dataclass(frozen=True)
class _Plan:
    """One layer to have: its place in the manifest, and its stream if that exists."""

    index: int
    digest: str
    diff_id: str
    size: int
    compression: Compression | None
    present: Digest | None


def import_image(
    repository: Repository,
    reference: str,
    *,
    name: str | None = None,
    platform: Platform | None = None,
    erofs_version: int | None = None,
    bootable: bool = False,
    expected_digest: Digest | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Listener | None = None,
) -> ImportResult:
    """Import the image *reference* into *repository*, every digest checked.

    Args:
        repository: open, and writable.
        reference: `oci:PATH[:TAG]`, or the path of an OCI layout.
        name: the tag it gets; by default the reference.
        platform: which image of an index; by default that of this machine.
        erofs_version: the format of its EROFS image, 0, 1 or 2; by default those of the repository, one image each.
        bootable: also make the EROFS image for booting; an artifact has none.
        expected_digest: of the EROFS image for booting; its format and extended attributes are found out.
        workers: layers to import at the same time; by default one for each CPU this process may use.
        executor: runs the layers instead of processes of its own; its workers must see the same files.
        progress: called with each event, in this thread.

    Returns:
        Digests, layers, images and counts.

    Raises:
        NotFoundError: the image, its platform, or a part of it is missing; also a directory that it must have,
            or an image for booting that has the expected digest.
        IntegrityError: a blob or layer is not what its digest says.
        FormatError: a part of the image is broken, or of an unknown kind.
        TreeError: its layers make no file system that an EROFS image can hold.
        RepositoryError: the repository cannot be written.
        UsageError: the reference, the name or the format makes no sense.
        OSError: something could not be read or written.
    """
    start = time.monotonic()
    listener: Listener = progress or (lambda _: None)
    tag = name if name is not None else reference
    encode_tag(tag)  # refuse a bad name before any work
    repository.check_writable()
    layout, image = find_image(reference, platform)
    if expected_digest is not None and not image.manifest.is_container:
        raise UsageError(f"{reference} is an artifact, of which no image for booting is made")
    request = ErofsRequest.of(repository, erofs_version, bootable=bootable, expected=expected_digest)
    plans = _plan(repository, image)
    listener(_started(reference, image, plans))
    for plan in plans:
        if plan.present is not None:
            listener(LayerPresent(plan.index, plan.diff_id))
    maker = ErofsMaker(repository, image, request) if image.manifest.is_container else None
    layers = _Layers(repository, plans, listener)
    merger = None
    if maker is not None and not maker.is_done:
        merger = OrderedMerger(image.diff_ids, keep=expected_digest is not None)
    layers.have(layout, merger, workers=workers, executor=executor)
    if maker is not None and merger is not None:
        maker.make(merger.tree, listener)
    verity = name_image(
        repository,
        image,
        layers.streams,
        layers.imported,
        images=maker.images if maker is not None else (),
        tag=tag,
        before_sync=lambda: listener(Syncing()),
    )
    seconds = time.monotonic() - start
    listener(ImportDone(tag, seconds))
    return ImportResult(
        manifest=image.descriptor.digest,
        config=image.manifest.config.digest,
        verity=verity,
        name=tag,
        layers=tuple(
            LayerSummary(
                digest=descriptor.digest,
                diff_id=diff_id,
                stream=layers.streams[diff_id],
                status="imported" if diff_id in layers.imported else "present",
                size=descriptor.size,
            )
            for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
        ),
        images=maker.images if maker is not None else (),
        stats=layers.stats,
        seconds=seconds,
    )


def find_image(reference: str, platform: Platform | None = None) -> tuple[OciLayout, Image]:
    """Return the image *reference* for *platform*, its manifest and config checked; arguments and errors as above."""
    path, tag = parse_reference(reference)
    layout = OciLayout(path)
    return layout, layout.image(tag, platform)


def _plan(repository: Repository, image: Image) -> list[_Plan]:
    """Return the distinct layers of *image*, in its order."""
    layers: dict[str, tuple[int, Descriptor]] = {}
    for index, (descriptor, diff_id) in enumerate(zip(image.manifest.layers, image.diff_ids, strict=True)):
        layers.setdefault(diff_id, (index, descriptor))
    content_types = {}
    for diff_id, (_, descriptor) in layers.items():
        compression = descriptor.compression
        if compression is None and image.manifest.is_container:
            what = f"media type {descriptor.media_type!r} is not one of a layer"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        if compression not in (None, Compression.NONE) and not image.manifest.is_container:
            # An archive among an artifact's blobs is named by the digest of the blob, which only a plain one has.
            what = f"an artifact's archive of type {descriptor.media_type!r} has no digest of its contents"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        content_types[diff_id] = ContentType.BLOB if compression is None else ContentType.LAYER
    present = find_layers(repository, content_types)
    return [
        _Plan(index, descriptor.digest, diff_id, descriptor.size, descriptor.compression, present.get(diff_id))
        for diff_id, (index, descriptor) in layers.items()
    ]


def _started(reference: str, image: Image, plans: Sequence[_Plan]) -> ImportStarted:
    present = {plan.diff_id for plan in plans if plan.present is not None}
    return ImportStarted(
        reference=reference,
        manifest=image.descriptor.digest,
        layers=tuple(
            LayerPlan(layer.digest, diff_id, layer.size, diff_id in present)
            for layer, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
        ),
        total=sum(plan.size for plan in plans if plan.present is None),
    )


class _Layers:
    """The layers of an image: those that are there, and in the end all.

    Attributes:
        streams: theirs by diff_id.
        imported: the diff_ids of the new ones.
        stats: what storing these came to.
    """

    def __init__(self, repository: Repository, plans: Sequence[_Plan], listener: Listener) -> None:
        self._repository, self._listener = repository, listener
        self._missing = [plan for plan in plans if plan.present is None]
        self.streams = {plan.diff_id: plan.present for plan in plans if plan.present is not None}
        self.imported: set[str] = set()
        self.stats = Stats()

    def have(
        self, layout: OciLayout, merger: OrderedMerger | None, *, workers: int | None, executor: Executor | None
    ) -> None:
        """Import what is missing, and give the index of each layer to *merger*, if there is one."""
        missing = self._missing
        present = dict(self.streams) if merger is not None else {}
        board = Board(len(missing) + len(present))
        try:
            jobs: list[LayerJob | IndexJob] = [
                self._job(layout, plan, board, number, wants_index=merger is not None)
                for number, plan in enumerate(missing)
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
                    work, jobs, board, workers=workers, executor=executor, on_progress=on_progress, on_result=on_result
                )
        finally:
            board.close()
        if merger is not None:
            for diff_id, stream in self.streams.items():
                if diff_id not in merger:
                    merger.add(diff_id, stored_layer(self._repository, diff_id, stream))

    def _job(self, layout: OciLayout, plan: _Plan, board: Board, number: int, *, wants_index: bool) -> LayerJob:
        return LayerJob(
            repository=os.path.abspath(self._repository.path),
            blob=os.path.abspath(layout.blob_path(plan.digest)),
            digest=plan.digest,
            size=plan.size,
            compression=plan.compression,
            diff_id=plan.diff_id,
            label=layer_label(plan.diff_id),
            board=board.path,
            index=number,
            wants_index=wants_index,
        )

    def _imported(self, plan: _Plan, result: LayerResult) -> None:
        self.streams[plan.diff_id] = result.stream
        self.imported.add(plan.diff_id)
        self.stats += result.stats
        self._listener(LayerDone(plan.index, plan.diff_id, result.stats.objects_new, result.stats.objects_present))
