"""How the blobs of an image are to be made again: so that the stored manifest holds, if that can be found out.

The manifest holds if every blob comes out as it was.  gzip and zstd data do only if they were made by the same library,
at the same level, with the same header; most programs in use have compressors of their own, whose output nothing here
makes again.  So, for the layers whose blobs have to be made:

1. A layer that was exported by this package says how (`composefs.oci.export.manifest.ENCODING`).
2. Of the others, the smallest of each compression is tried in the ways that are known, if it is small.  If one of them
   gives the blob that it had, all are made in this way.
3. Otherwise they are made in our own way, and the manifest is made anew.

Nothing is remembered: the trial takes four seconds at most, and mostly far less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from composefs.oci.export.encoding import Encoding, Gzip, Stored, Zstd, make_encoding, parse_hint
from composefs.oci.export.image import ExportLayer
from composefs.oci.export.manifest import ENCODING
from composefs.oci.export.reading import read_archive
from composefs.oci.manifest import Compression
from composefs.oci_digest import oci_digest
from composefs.repository import Repository

_TRIAL_MAX = 1 << 24  # bytes of an archive that is tried
# What gzip headers say of the level and the system: zlib, and Python's module gzip.
_GZIP_HEADERS = {6: (b"\0\x03", b"\0\xff"), 9: (b"\2\x03", b"\2\xff")}
_GZIP_HEADER_SIZE = 10  # bytes


def choose_encodings(repository: Repository, layers: Sequence[ExportLayer]) -> dict[ExportLayer, Encoding]:
    """Return how the blob of each of *layers* is to be made, which the destination has not."""
    ways: dict[Compression, Encoding] = {Compression.NONE: Stored()}
    for compression in (Compression.GZIP, Compression.ZSTD):
        others = [layer for layer in layers if layer.compression is compression and _hinted(layer) is None]
        smallest = min(others, key=lambda layer: (layer.size, layer.diff_id), default=None)
        found = _try(repository, smallest) if smallest is not None and smallest.size <= _TRIAL_MAX else None
        ways[compression] = found or make_encoding(compression)
    return {layer: _hinted(layer) or ways[layer.compression] for layer in layers}


def _hinted(layer: ExportLayer) -> Encoding | None:
    return parse_hint(layer.descriptor.annotations.get(ENCODING), layer.compression)


def _try(repository: Repository, layer: ExportLayer) -> Encoding | None:
    """Return the encoding that gives the blob of *layer*, or None: none that is known."""
    archive = b"".join(read_archive(repository, layer.diff_id, layer.stream, lambda _: None))
    known = _gzip_blobs(archive) if layer.compression is Compression.GZIP else _zstd_blobs(archive)
    for encoding, blob in known:
        if len(blob) == layer.descriptor.size and oci_digest(blob) == layer.descriptor.digest:
            return encoding
    return None


def _gzip_blobs(archive: bytes) -> Iterator[tuple[Encoding, bytes]]:
    ours = make_encoding(Compression.GZIP)
    yield ours, _encoded(ours, archive)
    for level, headers in _GZIP_HEADERS.items():
        blob = _encoded(Gzip(level, in_blocks=False), archive)
        for extra in headers:
            encoding = Gzip(level, in_blocks=False, extra=extra)
            header = next(iter(encoding.encode([], 0, 1)))
            yield encoding, bytes(header) + blob[_GZIP_HEADER_SIZE:]


def _zstd_blobs(archive: bytes) -> Iterator[tuple[Encoding, bytes]]:
    for in_jobs in (True, False):
        for has_size in (True, False):
            for has_checksum in (False, True):
                encoding = Zstd(3, in_jobs=in_jobs, has_size=has_size, has_checksum=has_checksum)
                yield encoding, _encoded(encoding, archive)


def _encoded(encoding: Encoding, archive: bytes) -> bytes:
    return b"".join(encoding.encode([archive] if archive else [], len(archive), 1))
