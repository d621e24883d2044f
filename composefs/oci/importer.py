"""Import an image: find it, import the layers it lacks in parallel, flush once, then give everything its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from composefs.digest import Digest
from composefs.errors import FormatError
from composefs.oci.layer import LayerJob, LayerResult, Stats
from composefs.oci.layout import Image, OciLayout, parse_reference
from composefs.oci.manifest import Compression, Platform
from composefs.oci.names import find_layer, name_image
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
    stats: ImportStats
    seconds: float


@dataclass(frozen=True)
class _Plan:
    """One layer to have: its place in the manifest, and its stream if that exists."""

    index: int
    digest: str
    diff_id: str
    size: int
    compression: Compression | None
    present: Digest | None


@dataclass
class _Outcome:
    """The layers' streams by diff_id, and what storing them came to."""

    streams: dict[str, Digest] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    stats: Stats = field(default_factory=Stats)


def import_image(
    repository: Repository,
    reference: str,
    *,
    name: str | None = None,
    platform: Platform | None = None,
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
        workers: layers to import at the same time; by default one for each CPU this process may use.
        executor: runs the layers instead of processes of its own; its workers must see the same files.
        progress: called with each event, in this thread.

    Returns:
        Digests, layers and counts.

    Raises:
        NotFoundError: the image, its platform, or a part of it is missing.
        IntegrityError: a blob or layer is not what its digest says.
        FormatError: a part of the image is broken, or of an unknown kind.
        RepositoryError: the repository cannot be written.
        UsageError: the reference or the name makes no sense.
        OSError: something could not be read or written.
    """
    start = time.monotonic()
    listener: Listener = progress or (lambda _: None)
    tag = name if name is not None else reference
    encode_tag(tag)  # refuse a bad name before any work
    repository.check_writable()
    layout, image = find_image(reference, platform)
    plans = list(_plan(repository, image))
    missing = [plan for plan in plans if plan.present is None]
    outcome = _Outcome({plan.diff_id: plan.present for plan in plans if plan.present is not None})
    listener(
        ImportStarted(
            reference=reference,
            manifest=image.descriptor.digest,
            layers=tuple(
                LayerPlan(layer.digest, diff_id, layer.size, diff_id in outcome.streams)
                for layer, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
            ),
            total=sum(plan.size for plan in missing),
        )
    )
    for plan in plans:
        if plan.present is not None:
            listener(LayerPresent(plan.index, plan.diff_id))
    if missing:
        _import_layers(repository, layout, missing, outcome, listener, workers=workers, executor=executor)
    verity = name_image(
        repository, image, outcome.streams, outcome.imported, tag=tag, before_sync=lambda: listener(Syncing())
    )
    seconds = time.monotonic() - start
    listener(ImportDone(tag, seconds))
    layers = zip(image.manifest.layers, image.diff_ids, strict=True)
    return ImportResult(
        manifest=image.descriptor.digest,
        config=image.manifest.config.digest,
        verity=verity,
        name=tag,
        layers=tuple(
            LayerSummary(
                digest=descriptor.digest,
                diff_id=diff_id,
                stream=outcome.streams[diff_id],
                status="imported" if diff_id in outcome.imported else "present",
                size=descriptor.size,
            )
            for descriptor, diff_id in layers
        ),
        stats=outcome.stats,
        seconds=seconds,
    )


def find_image(reference: str, platform: Platform | None = None) -> tuple[OciLayout, Image]:
    """Return the image *reference* for *platform*, its manifest and config checked; arguments and errors as above."""
    path, tag = parse_reference(reference)
    layout = OciLayout(path)
    return layout, layout.image(tag, platform)


def _plan(repository: Repository, image: Image) -> Iterator[_Plan]:
    """Yield the distinct layers of *image*, in its order."""
    seen: set[str] = set()
    for index, (descriptor, diff_id) in enumerate(zip(image.manifest.layers, image.diff_ids, strict=True)):
        if diff_id in seen:
            continue
        seen.add(diff_id)
        compression = descriptor.compression
        if compression is None and image.manifest.is_container:
            what = f"media type {descriptor.media_type!r} is not one of a layer"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        if compression not in (None, Compression.NONE) and not image.manifest.is_container:
            # An archive among an artifact's blobs is named by the digest of the blob, which only a plain one has.
            what = f"an artifact's archive of type {descriptor.media_type!r} has no digest of its contents"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        content_type = ContentType.BLOB if compression is None else ContentType.LAYER
        present = find_layer(repository, diff_id, content_type)
        yield _Plan(index, descriptor.digest, diff_id, descriptor.size, compression, present)


def _import_layers(
    repository: Repository,
    layout: OciLayout,
    missing: Sequence[_Plan],
    outcome: _Outcome,
    listener: Listener,
    *,
    workers: int | None,
    executor: Executor | None,
) -> None:
    """Run a job for each missing layer, and add what it made to *outcome*."""

    def on_progress(number: int, read: int) -> None:
        listener(LayerProgress(missing[number].index, read, missing[number].size))

    def on_result(number: int, result: LayerResult) -> None:
        plan, stats = missing[number], result.stats
        outcome.streams[plan.diff_id] = result.stream
        outcome.imported.add(plan.diff_id)
        outcome.stats += stats
        listener(LayerDone(plan.index, plan.diff_id, stats.objects_new, stats.objects_present))

    board = Board(len(missing))
    try:
        jobs = [
            LayerJob(
                repository=os.path.abspath(repository.path),
                blob=os.path.abspath(layout.blob_path(plan.digest)),
                digest=plan.digest,
                size=plan.size,
                compression=plan.compression,
                diff_id=plan.diff_id,
                label=f"layer {plan.diff_id}",
                board=board.path,
                index=number,
            )
            for number, plan in enumerate(missing)
        ]
        run_jobs(jobs, board, workers=workers, executor=executor, on_progress=on_progress, on_result=on_result)
    finally:
        board.close()
