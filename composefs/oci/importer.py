"""Import an image: find it, import the layers it lacks in parallel, flush once, then give everything its name.

    streams/oci-layer-<diff_id>          -> the splitstream of a layer
    streams/oci-config-<digest>          -> the config's bytes, and references to the layers
    streams/oci-manifest-<digest>        -> the manifest's bytes, and references to the config and the layers
    streams/refs/oci/<tag>               -> ../../oci-manifest-<digest>

Names appear in this order, after one flush of the file system: a name stands for something whole.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from composefs.digest import Digest
from composefs.errors import ComposefsError, FormatError
from composefs.oci.layer import LayerJob, LayerResult, Stats, import_layer
from composefs.oci.layout import Image, OciLayout, parse_reference
from composefs.oci.manifest import Compression, Platform
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
from composefs.repository.refs import OCI_TAGS, encode_tag
from composefs.splitstream import ContentType

_TICK = 0.1  # seconds between two looks at the workers' progress

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
    listener(
        ImportStarted(
            reference=reference,
            manifest=image.descriptor.digest,
            layers=tuple(LayerPlan(plan.digest, plan.diff_id, plan.size, plan.present is not None) for plan in plans),
            total=sum(plan.size for plan in missing),
        )
    )
    outcome = _Outcome()
    for plan in plans:
        if plan.present is not None and plan.diff_id not in outcome.streams:
            outcome.streams[plan.diff_id] = plan.present
            listener(LayerPresent(plan.index, plan.diff_id))
    if missing:
        _import_layers(repository, layout, missing, outcome, listener, workers=workers, executor=executor)
    verity = _name_image(repository, image, outcome, tag, listener)
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
        present = _find_layer(repository, diff_id, content_type)
        yield _Plan(index, descriptor.digest, diff_id, descriptor.size, compression, present)


def _find_layer(repository: Repository, diff_id: str, content_type: bytes) -> Digest | None:
    """Return the stream of a layer that is there whole: itself proved, and every object it refers to existing.

    What a named stream refers to was flushed before the name was made, so contents need no second look; but a garbage
    collection that was cut short may have left a name without all of its objects.
    """
    name = layer_name(diff_id)
    try:
        digest = repository.streams.find(name)
        if digest is None:
            return None
        with repository.streams.open_object(digest, name, content_type) as stream:
            return digest if repository.objects.missing(stream.reader.object_refs) is None else None
    except ComposefsError:
        return None  # broken: it is imported again, and replaced


def layer_name(diff_id: str) -> str:
    """Return the name of a layer's stream."""
    return f"oci-layer-{diff_id}"


def config_name(digest: str) -> str:
    """Return the name of a config's stream."""
    return f"oci-config-{digest}"


def manifest_name(digest: str) -> str:
    """Return the name of a manifest's stream."""
    return f"oci-manifest-{digest}"


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
    """Run one job for each missing layer, the largest first; the first failure stops the rest."""
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
                index=slot,
            )
            for slot, plan in enumerate(missing)
        ]
        by_size = sorted(range(len(jobs)), key=lambda slot: jobs[slot].size, reverse=True)
        count = min(len(jobs), workers or available_cpus())
        futures: dict[Future[LayerResult], int] = {}
        with _executor(executor, count) as pool:
            try:
                with nullcontext() if executor is not None else _interrupts_held():
                    for slot in by_size:
                        futures[_submit(pool, jobs[slot])] = slot
                _watch(futures, missing, board, outcome, listener)
            except BaseException:
                board.cancel()
                wait([future for future in futures if not future.cancel()])  # those that run; they see the board
                raise
    finally:
        board.close()


def _watch(
    futures: dict[Future[LayerResult], int],
    missing: Sequence[_Plan],
    board: Board,
    outcome: _Outcome,
    listener: Listener,
) -> None:
    """Report progress until all *futures* are done, and collect their results; raise the first failure."""
    pending = set(futures)
    reported = [0] * len(missing)
    while pending:
        done, pending = wait(pending, timeout=_TICK, return_when=FIRST_EXCEPTION)
        for slot, plan in enumerate(missing):
            read = board.read(slot)
            if read != reported[slot]:
                reported[slot] = read
                listener(LayerProgress(plan.index, read, plan.size))
        for future in sorted(done, key=lambda future: futures[future]):
            plan = missing[futures[future]]
            result = _result(future, plan)
            outcome.streams[plan.diff_id] = result.stream
            outcome.imported.add(plan.diff_id)
            outcome.stats += result.stats
            listener(LayerDone(plan.index, plan.diff_id, result.stats.objects_new, result.stats.objects_present))


def _submit(pool: Executor, job: LayerJob) -> Future[LayerResult]:
    try:
        return pool.submit(import_layer, job)
    except BrokenExecutor:
        raise _worker_died(job.label) from None


def _worker_died(label: str) -> ComposefsError:
    return ComposefsError(f"{label}: its worker process died; out of memory, or killed")


def _result(future: Future[LayerResult], plan: _Plan) -> LayerResult:
    try:
        return future.result()
    except BrokenExecutor:
        raise _worker_died(f"layer {plan.diff_id}") from None
    except OSError as error:
        error.add_note(f"in layer {plan.diff_id}")
        raise


@contextmanager
def _executor(given: Executor | None, count: int) -> Iterator[Executor]:
    """Yield the executor of the caller, which stays open, or one of our own for *count* jobs at a time."""
    if given is not None:
        yield given
    elif count == 1:
        with ThreadPoolExecutor(1) as threads:
            yield threads
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["composefs.oci.layer"])  # imported once, not by each worker
        with ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker) as processes:
            yield processes


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait: processes that start meanwhile never see one, not even before they can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave Ctrl-C, which the terminal sends to all processes, to the parent; but end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # otherwise it would wait for ever for the next layer, or finish this one for nobody


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _name_image(repository: Repository, image: Image, outcome: _Outcome, tag: str, listener: Listener) -> Digest:
    """Store config and manifest, flush, and make the names; what stands there already, and right, stays.

    Returns:
        The manifest's stream.
    """
    streams = repository.streams
    layers = {diff_id: outcome.streams[diff_id] for diff_id in image.diff_ids}
    config_digest, manifest_digest = image.manifest.config.digest, image.descriptor.digest
    names = {layer_name(diff_id): layers[diff_id] for diff_id in outcome.imported}

    config, old_refs = _find_json(
        repository, config_name(config_digest), ContentType.CONFIG, layers, image.config_bytes
    )
    if config is None:
        # Images of earlier imports stay referred to: they are made of the same layers.
        refs = layers | {key: digest for key, digest in old_refs.items() if key not in layers}
        config = _store_json(repository, ContentType.CONFIG, image.config_bytes, refs)
        names[config_name(config_digest)] = config

    refs = {f"config:{config_digest}": config} | layers
    name = manifest_name(manifest_digest)
    manifest, _ = _find_json(repository, name, ContentType.MANIFEST, refs, image.manifest_bytes)
    if manifest is None:
        manifest = _store_json(repository, ContentType.MANIFEST, image.manifest_bytes, refs)
        names[name] = manifest

    if names:
        listener(Syncing())
        repository.sync()
        for stream, digest in names.items():
            streams.link(stream, digest)
    streams.set_ref(f"{OCI_TAGS}/{encode_tag(tag)}", name)
    return manifest


def _store_json(repository: Repository, content_type: bytes, data: bytes, refs: dict[str, Digest]) -> Digest:
    """Store a stream whose body is one object, however small, and which refers to *refs*, in this order."""
    writer = repository.streams.writer(content_type)
    for name, digest in refs.items():
        writer.name(name, digest.raw)
    body, _ = repository.objects.ensure(data)
    writer.external(body, len(data))
    return repository.streams.store(writer)


def _find_json(
    repository: Repository, name: str, content_type: bytes, refs: dict[str, Digest], data: bytes
) -> tuple[Digest | None, dict[str, Digest]]:
    """Return the stream *name* if it holds *data* and refers to *refs*, or else None; and what it refers to."""
    try:
        digest = repository.streams.find(name)
        if digest is None:
            return None, {}
        with repository.streams.open_object(digest, name, content_type) as stream:
            found = stream.reader.named_refs
            if stream.read_body() != data:
                return None, {}
    except ComposefsError:
        return None, {}  # broken: it is written again, and replaced
    return (digest if refs.items() <= found.items() else None), found
