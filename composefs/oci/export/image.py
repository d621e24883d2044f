"""An image as it is stored, and its layers as an export needs them."""

from __future__ import annotations

from dataclasses import dataclass

from composefs.digest import Digest
from composefs.oci.export.reading import archive_size
from composefs.oci.images import open_image
from composefs.oci.manifest import MANIFEST_TYPE, Compression, Descriptor, Image, parse_object
from composefs.oci_digest import oci_digest
from composefs.repository import Repository


@dataclass(frozen=True)
class ExportLayer:
    """One layer of an image."""

    descriptor: Descriptor  # in the stored manifest
    diff_id: str  # of an artifact's blob its digest
    stream: Digest
    size: int  # of the archive, bytes

    @property
    def compression(self) -> Compression:
        """That of its blob; an artifact's is taken as it is."""
        if self.descriptor.digest == self.diff_id:
            return Compression.NONE
        return self.descriptor.compression or Compression.NONE


@dataclass(frozen=True)
class ExportImage:
    """One image."""

    image: Image  # under the digest of its bytes: composefs-rs may have it under that of Docker's
    layers: tuple[ExportLayer, ...]  # as in the manifest


def read_image(repository: Repository, name: str) -> ExportImage:
    """Return the image *name*; arguments and errors are those of `composefs.oci.images.open_image`."""
    found = open_image(repository, name)
    data = found.manifest_bytes
    digest = oci_digest(data)
    media_type = parse_object(data, f"manifest {digest}").get("mediaType", MANIFEST_TYPE)
    image = Image.parse(Descriptor(media_type, digest, len(data)), data, found.config_bytes)
    sizes = {diff_id: archive_size(repository, diff_id, stream) for diff_id, stream in found.layers.items()}
    layers = tuple(
        ExportLayer(descriptor, diff_id, found.layers[diff_id], sizes[diff_id])
        for descriptor, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True)
    )
    return ExportImage(image, layers)
