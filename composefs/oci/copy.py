"""Copy an image from one repository into another, which may have another algorithm.

It is checked as if it came from a registry: manifest, config, and the diff_id of every layer.  What the target has
already is not copied; EROFS images are made there, in its own formats.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from composefs.digest import Digest
from composefs.errors import RepositoryError
from composefs.oci.checkpoints import Checkpoints
from composefs.oci.erofs import ErofsMaker, ErofsRequest
from composefs.oci.images import StoredImage, open_image
from composefs.oci.index import LayerIndex
from composefs.oci.layer import LayerResult
from composefs.oci.manifest import MANIFEST_TYPE, Descriptor, Image
from composefs.oci.merge import OrderedMerger
from composefs.oci.names import config_name, find_layers, layer_name, name_image
from composefs.oci.pool import run_jobs
from composefs.oci.progress import Board, Event
from composefs.oci.read import stored_layer
from composefs.oci.slots import ErofsImage
from composefs.oci.stats import Stats
from composefs.oci.transfer import CopyJob, copy_layer
from composefs.oci.work import layer_label
from composefs.oci_digest import oci_digest
from composefs.repository import Repository
from composefs.repository.holding import holding
from composefs.repository.refs import encode_tag
from composefs.splitstream import ContentType

_POOL_COST = 1 << 26  # bytes that are copied in the time that it takes to start processes, about 0.4 s


@dataclass(frozen=True)
class CopyResult:
    """What a copy made, or found."""

    manifest: str  # digest
    config: str  # digest
    verity: Digest  # of the manifest's stream
    config_verity: Digest  # of the config's
    name: str | None
    images: tuple[ErofsImage, ...]  # the default format first; an artifact has none
    stats: Stats


@holding
def copy_image(
    source: Repository,
    target: Repository,
    image: str,
    *,
    name: str | None = None,
    zerocopy: bool = False,
    erofs_version: int | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> CopyResult:
    """Copy *image* from *source* into *target*, every digest checked.

    Args:
        source: open.
        target: open, and writable; may be the same.
        image: in the source: a tag, or the digest of a manifest or config.
        name: the tag it gets in the target; without one, the next collection of garbage there removes it.
        zerocopy: do not copy contents: share their blocks, or give the files a second name, which takes one file
            system and one algorithm, and lets whoever can write to one repository change both.
        erofs_version: the format of its EROFS image, 0, 1 or 2; by default those of the target, one image each.
        workers: layers to copy at the same time; by default one for each CPU this process may use.
        executor: copies the layers instead of processes of its own; its workers must see the same files.

    Raises:
        UsageError: the image or the name makes no sense.
        NotFoundError: the source has no such image, or not all of it.
        IntegrityError: a part of it is not what its digest says.
        FormatError, TreeError: a part of it is broken, or the layers make no file system.
        RepositoryError: the target cannot be written, or its algorithm does not let it share contents.
        OSError: something could not be read or written.
    """
    if name is not None:
        encode_tag(name)  # refuse a bad name before any work
    if zerocopy and source.algorithm is not target.algorithm:
        what = f"has the algorithm {target.algorithm.value}: it can share no objects named by {source.algorithm.value}"
        raise RepositoryError(target.path, what)
    target.check_writable()
    found = _parse(open_image(source, image))
    maker = None
    if found.manifest.is_container:
        maker = ErofsMaker(target, found, ErofsRequest.of(target, erofs_version))
    merger = OrderedMerger(found.diff_ids) if maker is not None and not maker.is_done else None
    layers = _Layers(target, found)
    with Checkpoints(target) as checkpoints:
        layers.have(source, merger, checkpoints, zerocopy=zerocopy, workers=workers, executor=executor)
        if maker is not None and merger is not None:
            maker.make(merger.merged(), _ignore)
    images = maker.images if maker is not None else ()
    verity = name_image(target, found, layers.streams, layers.copied, images=images, tag=name, before_sync=lambda: None)
    config = target.streams.find(config_name(found.manifest.config.digest))
    assert config is not None  # it was named just now
    return CopyResult(
        manifest=found.descriptor.digest,
        config=found.manifest.config.digest,
        verity=verity,
        config_verity=config,
        name=name,
        images=images,
        stats=layers.stats,
    )


class _Layers:
    """The layers of *image* in the repository *target*: those that are there, and in the end all.

    Attributes:
        streams: theirs by diff_id.
        copied: the diff_ids of the new ones.
        stats: what storing these came to.
    """

    def __init__(self, target: Repository, image: Image) -> None:
        self._target = target
        self._content_types = _content_types(image)
        self.streams = find_layers(target, self._content_types)
        self.copied: set[str] = set()
        self.stats = Stats()

    def have(
        self,
        source: Repository,
        merger: OrderedMerger | None,
        checkpoints: Checkpoints,
        *,
        zerocopy: bool,
        workers: int | None,
        executor: Executor | None,
    ) -> None:
        """Copy what is missing, have *checkpoints* keep it, and give the index of each layer to *merger*, if any."""
        missing = [diff_id for diff_id in self._content_types if diff_id not in self.streams]
        board = Board(len(missing))
        try:
            jobs = [
                CopyJob(
                    source=os.path.abspath(source.path),
                    target=os.path.abspath(self._target.path),
                    diff_id=diff_id,
                    content_type=self._content_types[diff_id],
                    zerocopy=zerocopy,
                    size=_merged_size(source, diff_id),
                    board=board.path,
                    index=number,
                )
                for number, diff_id in enumerate(missing)
            ]

            def on_result(number: int, result: LayerResult) -> None:
                diff_id = jobs[number].diff_id
                self.streams[diff_id] = result.stream
                self.copied.add(diff_id)
                self.stats += result.stats
                checkpoints.add(diff_id, result.stream)
                if merger is not None and result.index is not None:
                    merger.add(diff_id, LayerIndex(layer_label(diff_id), result.index))

            if executor is None and sum(job.size for job in jobs) < _POOL_COST:
                workers = 1
            if jobs:
                run_jobs(
                    copy_layer,
                    jobs,
                    board,
                    workers=workers,
                    executor=executor,
                    on_progress=lambda _number, _read: None,
                    on_result=on_result,
                )
        finally:
            board.close()
        if merger is not None:
            for diff_id, stream in self.streams.items():
                if diff_id not in merger:
                    merger.add(diff_id, stored_layer(self._target, diff_id, stream))


def _content_types(image: Image) -> Mapping[str, bytes]:
    """Return the content type of the stream of each layer, by diff_id."""
    is_container = image.manifest.is_container
    return {
        diff_id: ContentType.LAYER if is_container or descriptor.compression is not None else ContentType.BLOB
        for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
    }


def _merged_size(repository: Repository, diff_id: str) -> int:
    with repository.streams.open(layer_name(diff_id)) as stream:
        return stream.reader.size


def _parse(stored: StoredImage) -> Image:
    """Return an image as it would come from a registry, under the digest that its manifest has.

    That may not be the one it is stored as: skopeo converts Docker's manifests, and composefs-rs keeps the old digest.
    """
    data = stored.manifest_bytes
    descriptor = Descriptor(MANIFEST_TYPE, oci_digest(data), len(data))
    return Image.parse(descriptor, data, stored.config_bytes)


def _ignore(_: Event) -> None:
    """Take no interest in progress."""
