"""Import an image: its layers in parallel, the EROFS images of all of them, one flush, then the names.

Layers that are finished are kept, whatever becomes of the rest, see `composefs.oci.checkpoints`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from composefs.digest import Digest
from composefs.errors import UsageError
from composefs.oci.erofs import ErofsMaker, ErofsRequest
from composefs.oci.manifest import Image, Platform
from composefs.oci.names import name_image
from composefs.oci.plan import Layers, Plan, plan_layers
from composefs.oci.progress import ImportDone, ImportStarted, LayerPlan, LayerPresent, Listener, Syncing
from composefs.oci.slots import ErofsImage
from composefs.oci.sources.access import Access
from composefs.oci.sources.opening import open_source
from composefs.oci.sources.source import Source
from composefs.oci.stats import Stats
from composefs.reference import parse_reference
from composefs.repository import Repository
from composefs.repository.holding import holding
from composefs.repository.refs import encode_tag

if TYPE_CHECKING:
    from concurrent.futures import Executor

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
    source_manifest: str  # digest where the image comes from; another one if that is no OCI manifest
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


@holding
def import_image(
    repository: Repository,
    reference: str | Source,
    *,
    access: Access | None = None,
    name: str | None = None,
    platform: Platform | None = None,
    erofs_version: int | None = None,
    bootable: bool = False,
    expected_digest: Digest | None = None,
    max_layer_size: int | None = None,
    force: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Listener | None = None,
) -> ImportResult:
    """Import the image *reference* into *repository*, every digest checked.

    Args:
        repository: open, and writable.
        reference: as `composefs.reference` has it, such as `docker://HOST/NAME:TAG` or `oci:PATH[:TAG]`; or an open
            source, which stays open.
        access: how images are reached, if that takes more than a registry which anybody may read.
        name: the tag it gets; by default the reference.
        platform: which image of an index; by default that of this machine.
        erofs_version: the format of its EROFS image, 0, 1 or 2; by default those of the repository, one image each.
        bootable: also make the EROFS image for booting; an artifact has none.
        expected_digest: of the EROFS image for booting; its format and extended attributes are found out.
        max_layer_size: bytes that the archive of a layer may have, whatever the ratio to its blob, and up to
            `composefs.limits.ARCHIVE_SIZE`; by default as `composefs.limits.archive_size` has it.
        force: begin also if the missing layers need more room than there is: an estimate, on the safe side.
        workers: layers to import at the same time; by default one for each CPU this process may use, or fewer if the
            largest layer would be the last to end all the same.
        executor: runs the layers instead of processes of its own; its workers must see the same files.
        progress: called with each event, in this thread.

    Returns:
        Digests, layers, images and counts.

    Raises:
        NotFoundError: the image, its platform, or a part of it is missing; also a directory that it must have,
            or an image for booting that has the expected digest.
        IntegrityError: a blob or layer is not what its digest says.
        FormatError: a part of the image is broken, or of an unknown kind.
        LimitError: a part of it is larger than is taken.
        TreeError: its layers make no file system that an EROFS image can hold.
        RepositoryError: the repository cannot be written, or (RoomError) has no room for so much.
        UsageError: the reference, the name or the format makes no sense.
        RegistryError: a registry refuses, or cannot be reached.
        OSError: something could not be read or written.
    """
    start = time.monotonic()
    if isinstance(reference, str):
        parse_reference(reference)  # it may hold a password, which the message quotes that refuses a name
    tag = check_name(name, reference if isinstance(reference, str) else reference.name)
    repository.check_writable()
    listener: Listener = progress or (lambda _: None)
    with open_source(reference, access or Access()) if isinstance(reference, str) else nullcontext(reference) as source:
        image = source.image(platform)
        if expected_digest is not None and not image.manifest.is_container:
            raise UsageError(f"{source.name} is an artifact, of which no image for booting is made")
        request = ErofsRequest.of(repository, erofs_version, bootable=bootable, expected=expected_digest)
        plans = plan_layers(repository, image)
        maker = ErofsMaker(repository, image, request) if image.manifest.is_container else None
        layers = Layers(plans)
        lacks_something = layers.missing or (maker is not None and not maker.is_done)
        if layers.missing and not (force or source.shares_files):
            from composefs.oci.room import check_room  # noqa: PLC0415  # only where something is missing

            check_room(repository, layers.missing)
        if lacks_something:
            # Codecs and pools take as long to import as all the rest does when nothing is new.
            from composefs.oci.missing import Missing  # noqa: PLC0415  # so only where something is missing
        listener(_started(source.name, image, plans))
        for plan in plans:
            if plan.present is not None:
                listener(LayerPresent(plan.index, plan.diff_id))
        if lacks_something:
            missing = Missing(
                repository, source, image, layers, maker=maker, listener=listener, max_layer_size=max_layer_size
            )
            missing.make(workers=workers, executor=executor)
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
        source_manifest=image.source_digest or image.descriptor.digest,
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


def check_name(name: str | None, reference: str) -> str:
    """Return what the image *reference* gets called: *name*, or as the reference itself.

    Raises:
        UsageError: no image can be called so.
    """
    tag = name if name is not None else reference
    encode_tag(tag)
    return tag


def _started(reference: str, image: Image, plans: Sequence[Plan]) -> ImportStarted:
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
