"""What there is to import: the sizes of an image, of one that is given or of a typical one."""

from __future__ import annotations

from dataclasses import dataclass

from composefs.oci.glance import read_tail
from composefs.oci.manifest import Compression, Image
from composefs.oci.sizes import ARCHIVE_SIZE, ENTRIES, OBJECTS, RATIOS, archive_size
from composefs.oci.sources.source import Source

LAYERS = 20  # of a typical image
_NEXT_LAYER = 0.75  # size of a layer, in that of the next larger one


@dataclass(frozen=True)
class LayerSize:
    """How large one layer is, in bytes."""

    blob: int
    archive: int
    compression: Compression


@dataclass(frozen=True)
class Workload:
    """What an import has to do."""

    layers: tuple[LayerSize, ...]
    entries: int
    objects: int  # files to store

    @property
    def blob_size(self) -> int:
        """Bytes of all blobs."""
        return sum(layer.blob for layer in self.layers)

    @property
    def archive_size(self) -> int:
        """Bytes of all archives."""
        return sum(layer.archive for layer in self.layers)


def typical_image(
    *,
    layers: int = LAYERS,
    archive_size: int = ARCHIVE_SIZE,
    compression: Compression = Compression.GZIP,
    entries: int | None = None,
    objects: int | None = None,
) -> Workload:
    """Return the sizes of an image of *layers* layers; entries and objects follow from *archive_size*, if not given."""
    weights = [_NEXT_LAYER**number for number in range(layers)]
    sizes = [round(archive_size * weight / sum(weights)) for weight in weights]
    return Workload(
        tuple(LayerSize(round(size / RATIOS[compression]), size, compression) for size in sizes),
        round(ENTRIES * archive_size / ARCHIVE_SIZE) if entries is None else entries,
        round(OBJECTS * archive_size / ARCHIVE_SIZE) if objects is None else objects,
    )


def given_image(source: Source, image: Image) -> Workload:
    """Return the sizes of *image* from *source*; entries and objects are taken to be as many as in a typical one."""
    layers: dict[str, LayerSize] = {}
    for index in range(len(image.manifest.layers)):
        blob = source.blob(image, index)
        compression = blob.compression or Compression.NONE
        size, _ = archive_size(blob.size, compression, read_tail(blob))
        layers[blob.digest] = LayerSize(blob.size, size.likely, compression)
    total = sum(layer.archive for layer in layers.values())
    entries, objects = (round(count * total / ARCHIVE_SIZE) for count in (ENTRIES, OBJECTS))
    return Workload(tuple(layers.values()), entries, objects)
