"""Export an image: the blobs of its layers in parallel, then its manifest, then its name.

The stored manifest is kept if all its blobs are at the destination, or can be made again; otherwise one is made that
says so (`composefs.oci.export.manifest`).  Whatever ends an export, nothing has a new name at the destination.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from composefs.errors import UsageError
from composefs.oci.export.destination import Blob, Bytes, Destination, Export
from composefs.oci.export.encoding import describe_library, make_encoding
from composefs.oci.export.events import ExportDone, Listener
from composefs.oci.export.image import ExportImage, ExportLayer, read_image
from composefs.oci.export.making import BlobMaker
from composefs.oci.export.manifest import NewBlob, convert_manifest, remake_manifest
from composefs.oci.export.opening import open_destination
from composefs.oci.manifest import MANIFEST_TYPE, Compression, Descriptor, Manifest
from composefs.oci.sources.access import Access
from composefs.oci_digest import oci_digest
from composefs.repository import Repository
from composefs.repository.holding import holding


@dataclass(frozen=True)
class LayerExport:
    """What became of one layer of the manifest."""

    digest: str  # of the blob
    size: int  # of the blob, bytes
    media_type: str
    diff_id: str  # of an artifact's blob its digest
    status: str  # written, or present: the blob was there
    library: str | None  # that made it


@dataclass(frozen=True)
class ExportResult:
    """What is at the destination now."""

    destination: str
    manifest: str  # digest
    stored_manifest: str  # digest of the manifest in the repository; another one if the manifest was made anew
    config: str  # digest
    layers: tuple[LayerExport, ...]
    bytes_written: int  # of blobs of layers
    seconds: float

    @property
    def is_kept(self) -> bool:
        """Whether the manifest is the stored one."""
        return self.manifest == self.stored_manifest


@holding
def export_image(
    repository: Repository,
    image: str,
    destination: str | Destination,
    *,
    access: Access | None = None,
    compression: Compression | None = None,
    level: int | None = None,
    workers: int | None = None,
    progress: Listener | None = None,
) -> ExportResult:
    """Export *image* from *repository*, every layer proved by its diff_id.

    Args:
        repository: open.
        image: a tag, or the digest of a manifest or config.
        destination: `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]`, `dir:PATH` or `docker://HOST/NAME[:TAG]`; or an open
            one, which is closed.
        access: how a registry is reached, and where compressed blobs are before they are sent.
        compression: of all layers; None: so that the stored manifest can be kept, or else as it was.  With one that
            is given, the image alone decides which manifest comes out; otherwise also what is at the destination.
        level: of the compression.
        workers: layers to make at the same time; by default one for each CPU this process may use.
        progress: called with each event, in this thread.

    Raises:
        UsageError: the image, the destination or the level makes no sense.
        NotFoundError: there is no such image, or a part of it is missing.
        FormatError, IntegrityError: a part of it is broken, or of the layout that it goes to.
        RegistryError: a registry refuses, or cannot be reached.
        OSError: something could not be read or written.
    """
    start = time.monotonic()
    if compression is None and level is not None:
        raise UsageError("a compression level needs gzip or zstd")
    encoding = make_encoding(compression, level) if compression is not None else None
    listener: Listener = progress or (lambda _: None)
    with ExitStack() as opened:
        if not isinstance(destination, str):
            opened.enter_context(destination)  # which is closed also if there is no such image
        stored = read_image(repository, image)
        if isinstance(destination, str):  # nothing is made there for an image that is not there
            target = opened.enter_context(open_destination(destination, access or Access()))
        else:
            target = destination
        spools = opened.enter_context(ExitStack())
        maker = BlobMaker(repository, stored, target, encoding=encoding, listener=listener)
        listener(maker.started(image))
        maker.make(workers, spools)
        export = _whole(stored, maker, target)
        target.finish(export, listener)
    layers = _summaries(stored, maker, export, target.found)
    result = ExportResult(
        destination=target.name,
        manifest=export.manifest.digest,
        stored_manifest=stored.image.descriptor.digest,
        config=stored.image.manifest.config.digest,
        layers=layers,
        bytes_written=sum({layer.digest: layer.size for layer in layers if layer.status == "written"}.values()),
        seconds=time.monotonic() - start,
    )
    listener(ExportDone(target.name, result.manifest, result.seconds))
    return result


def _whole(stored: ExportImage, maker: BlobMaker, target: Destination) -> Export:
    """Return what is to be at the destination."""
    image = stored.image
    parts = [_part(layer, maker) for layer in stored.layers]
    manifest, data = image.descriptor, image.manifest_bytes
    if not all(isinstance(part, Descriptor) for part in parts):
        data = remake_manifest(data, manifest.digest, parts)
    elif not target.takes_docker:
        data = convert_manifest(data, manifest.digest)
    if data != image.manifest_bytes:
        manifest = Descriptor(MANIFEST_TYPE, oci_digest(data), len(data))
    config = image.manifest.config.digest
    blobs = {config: Blob(config, len(image.config_bytes), Bytes(image.config_bytes))}
    for layer in stored.layers:
        blob = maker.blobs[layer]
        blobs.setdefault(blob.digest, blob)
    return Export(manifest, data, tuple(blobs.values()))


def _part(layer: ExportLayer, maker: BlobMaker) -> Descriptor | NewBlob:
    """Return the layer's own descriptor, if its blob is the one that this describes, or else what is new."""
    blob = maker.blobs[layer]
    if (blob.digest, blob.size) == (layer.descriptor.digest, layer.descriptor.size):
        return layer.descriptor
    return NewBlob(blob.digest, blob.size, maker.encodings[layer])


def _summaries(
    stored: ExportImage, maker: BlobMaker, export: Export, found: Collection[str]
) -> tuple[LayerExport, ...]:
    """Return what became of the layers; *found* are the digests of blobs that turned out to be there."""
    manifest = Manifest.parse(export.manifest_bytes, f"manifest {export.manifest.digest}")
    summaries = []
    for layer, descriptor in zip(stored.layers, manifest.layers, strict=True):
        is_made = maker.blobs[layer].contents is not None
        summary = LayerExport(
            digest=descriptor.digest,
            size=descriptor.size,
            media_type=descriptor.media_type,
            diff_id=layer.diff_id,
            status="written" if is_made and descriptor.digest not in found else "present",
            library=describe_library(maker.encodings[layer].compression) if is_made else None,
        )
        summaries.append(summary)
    return tuple(summaries)
