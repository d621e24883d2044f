"""What there is to import: the sizes of an image, of one that is given or of a typical one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from struct import Struct

from composefs.oci.layout import Image, OciLayout
from composefs.oci.manifest import Compression

# A typical image: 58 Debian packages, browsers, office, compilers and a kernel among them, in 20 layers.
LAYERS = 20
ARCHIVE_SIZE = 4_560_000_000  # bytes of all archives
ENTRIES = 240_000
OBJECTS = 156_000  # files above 64 bytes
RATIOS = {Compression.NONE: 1.0, Compression.GZIP: 3.16, Compression.ZSTD: 3.5}  # of archive to blob
_NEXT_LAYER = 0.75  # size of a layer, in that of the next larger one

_RATIO_MAX = 1032  # of deflate
_GZIP_TRAILER = Struct("<II")  # CRC-32, and the size of the contents, modulo 2**32
_GZIP_MODULUS = 1 << 32


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


def given_image(layout: OciLayout, image: Image) -> Workload:
    """Return the sizes of *image* in *layout*; its entries and objects are taken to be as many as in a typical one."""
    layers: dict[str, LayerSize] = {}
    for descriptor in image.manifest.layers:
        compression = descriptor.compression or Compression.NONE
        path = layout.blob_path(descriptor.digest)
        archive = _archive_size(path, descriptor.size, compression)
        layers[descriptor.digest] = LayerSize(descriptor.size, archive, compression)
    size = sum(layer.archive for layer in layers.values())
    return Workload(tuple(layers.values()), round(ENTRIES * size / ARCHIVE_SIZE), round(OBJECTS * size / ARCHIVE_SIZE))


def _archive_size(path: str, blob_size: int, compression: Compression) -> int:
    """Return about how large the archive in a blob is.

    The end of a gzip member tells its size, but for what goes beyond 4 GiB; of several the last one's would be told,
    which is not taken for the whole.
    """
    typical = round(blob_size * RATIOS[compression])
    if compression is not Compression.GZIP:
        return typical
    try:
        with open(path, "rb") as file:
            file.seek(-_GZIP_TRAILER.size, os.SEEK_END)
            told = _GZIP_TRAILER.unpack(file.read(_GZIP_TRAILER.size))[1]
    except (OSError, ValueError):  # it is not there, or too short; the import will say so
        return typical
    wraps = max(0, round((typical - told) / _GZIP_MODULUS))
    size = told + wraps * _GZIP_MODULUS
    return size if blob_size <= size <= _RATIO_MAX * blob_size else typical
