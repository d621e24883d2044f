"""How fast layers are decompressed, on one core, by the decoders that an import uses."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import zstandard

from composefs.benchmark.sample import Sample
from composefs.benchmark.timing import time_runs
from composefs.oci import blobs
from composefs.oci.manifest import Compression


@dataclass(frozen=True)
class DecoderSpeed:
    """How fast one decoder is."""

    compression: Compression
    library: str
    rate: float  # bytes of archive a second
    ratio: float  # of the archive to its blob, as a divisor: 3.0 if a third is left


def time_decoders(sample: Sample, seconds: float) -> list[DecoderSpeed]:
    """Time the decoders with *sample*, for *seconds* all together."""
    libraries = {Compression.GZIP: _gzip_library(), Compression.ZSTD: _zstd_library()}
    return [
        _time_decoder(sample, compression, library, seconds / len(libraries))
        for compression, library in libraries.items()
    ]


class _Blob:
    """A blob in memory, for `blobs.decompress`; its digest is nobody's business here."""

    source = "sample"

    def __init__(self, data: bytes) -> None:
        self._data, self.offset = memoryview(data), 0

    def read(self, size: int) -> bytes:
        data = bytes(self._data[self.offset : self.offset + size])
        self.offset += len(data)
        return data


def _time_decoder(sample: Sample, compression: Compression, library: str, seconds: float) -> DecoderSpeed:
    data = sample.blobs[compression]

    def decompress() -> None:
        blob = cast("blobs.BlobReader", _Blob(data))
        for _ in blobs.decompress(blob, compression):
            pass

    size = len(sample.archive)
    return DecoderSpeed(compression, library, rate=size / time_runs(decompress, seconds), ratio=size / len(data))


def _gzip_library() -> str:
    if blobs.new_member_decoder is blobs.ZlibDecoder:
        return "zlib: without the package isal, half as fast"
    try:
        return f"ISA-L, isal {version('isal')}"
    except PackageNotFoundError:
        return "ISA-L"


def _zstd_library() -> str:
    return "libzstd " + ".".join(map(str, zstandard.ZSTD_VERSION))
