"""What a few bytes of a blob tell of what is in it: a table of contents, or the end of a gzip member."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from composefs.errors import ComposefsError
from composefs.oci.daemons import Daemons
from composefs.oci.manifest import Compression, Image
from composefs.oci.sizes import TAIL_SIZE, Contents
from composefs.oci.sources.files import open_regular
from composefs.oci.sources.source import Blob, FileRange, Place, Source
from composefs.oci.toc import ReadAt, Toc, TocEntry, read_toc
from composefs.oci_digest import oci_digest

if TYPE_CHECKING:
    from composefs.oci.sources.registry_blob import RegistryBlob


def glance(source: Source, image: Image, indexes: Sequence[int]) -> list[Contents]:
    """Return how much layers of *image* hold, so far as that can be told without reading them.

    What cannot be had is taken to be as usual: what is wrong with it the import will say.

    Args:
        source: has the image; a registry is asked for a few bytes of each layer, of several at a time.
        image: from *source*.
        indexes: numbers of layers.
    """
    blobs = [source.blob(image, index) for index in indexes]
    threads = Daemons(source.streams or 1, "composefs-glance")
    begun = [threads.begin(partial(_contents, blob, image, index)) for blob, index in zip(blobs, indexes, strict=True)]
    return [contents.result() for contents in begun]


def _contents(blob: Blob, image: Image, index: int) -> Contents:
    layer, read_at = image.manifest.layers[index], _reader(blob.place)
    if read_at is None or blob.compression in (None, Compression.NONE):
        return Contents.of_blob(blob.size, blob.compression)
    try:
        toc = read_toc(layer.annotations, blob.size, read_at) if blob.digest == layer.digest else None
        if toc is not None:
            return Contents.of_entries(_entries(toc, blob))
    except (ComposefsError, OSError):
        pass
    return Contents.of_blob(blob.size, blob.compression, read_tail(blob))


def _entries(toc: Toc, blob: Blob) -> Iterator[TocEntry]:
    yield from toc.entries()
    if blob.compression is Compression.GZIP:  # eStargz, whose table is a file of the archive
        digest = oci_digest(toc.data)
        yield TocEntry("", "reg", len(toc.data), None, None, digest)


def read_tail(blob: Blob) -> bytes | None:
    """Return the last bytes of *blob*, if they can be had by themselves and tell anything."""
    read_at = _reader(blob.place)
    if read_at is None or blob.compression is not Compression.GZIP or blob.size < TAIL_SIZE:
        return None
    try:
        return read_at(blob.size - TAIL_SIZE, TAIL_SIZE)
    except (ComposefsError, OSError):
        return None


def _reader(place: Place) -> ReadAt | None:
    """Return what reads parts of the blob at *place*; None: nothing does."""
    if isinstance(place, FileRange):
        return lambda offset, size: _read_file(place, offset, size)
    from composefs.oci.sources.registry_blob import RegistryBlob  # noqa: PLC0415  # takes long, and is for registries

    return (lambda offset, size: _read_registry(place, offset, size)) if isinstance(place, RegistryBlob) else None


def _read_file(place: FileRange, offset: int, size: int) -> bytes:
    fd = open_regular(place.path, place.path)
    try:
        return os.pread(fd, size, place.offset + offset)
    finally:
        os.close(fd)


def _read_registry(place: RegistryBlob, offset: int, size: int) -> bytes:
    """Return bytes of a blob, none if the registry would send it from the first on."""
    from composefs.registry.client import Client  # noqa: PLC0415  # see _reader

    endpoint, tokens = place.places[0]
    parts, left = [], size
    with Client(endpoint, tokens=tokens).open_blob(place.digest, start=offset, end=offset + size) as response:
        if response.start == offset:
            while left and (part := response.read(left)):
                parts.append(part)
                left -= len(part)
    return b"".join(parts)
