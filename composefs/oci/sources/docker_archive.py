"""Images as `docker save` writes them: a tar archive with manifest.json, which names config and layers of each image.

    manifest.json   [{"Config": "<file>", "RepoTags": ["<name>", ...] or null, "Layers": ["<file>", ...]}, ...]

Docker before 25 has a directory with layer.tar for each layer, equal ones as links; skopeo and podman have
<diff_id>.tar, with links to them; since Docker 25 the files are the blobs of an OCI layout.  Layers may be compressed.

Nothing but the diff_ids in the config proves the layers, which an import does.  Where there is a layout, the image has
the manifest that it has there; else one is made, always the same for the same files.

Source: github.com/moby/docker-image-spec, v1.2 and v1.3.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError, NotFoundError, UsageError
from composefs.json_text import parse_json
from composefs.oci.choice import choose, manifests_of, read_image
from composefs.oci.layout import INDEX, blob_path, read_blob
from composefs.oci.manifest import (
    MANIFEST_TYPE,
    Compression,
    Config,
    Descriptor,
    Image,
    Manifest,
    Platform,
    parse_index,
)
from composefs.oci.sources.archive_files import ArchiveFiles
from composefs.oci.sources.source import Blob, FileRange
from composefs.oci.sources.spool import MAGIC_SIZE, Packing, packing_of, spool_extent
from composefs.oci.sources.tar_index import Extent
from composefs.oci_digest import oci_digest
from composefs.reference import RegistryName, parse_name
from composefs.text import listed

MANIFEST = "manifest.json"
_LEGACY = "repositories"  # all that there was before manifest.json
_READ_SIZE = 1 << 20  # bytes hashed at a time
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_LAYER_TYPES = {
    Compression.NONE: _LAYER_TYPE,
    Compression.GZIP: f"{_LAYER_TYPE}+gzip",
    Compression.ZSTD: f"{_LAYER_TYPE}+zstd",
}
_CONFIG_NAME = re.compile(r"(?:.*/)?(?:sha256:)?([0-9a-f]{64})(?:\.json)?")  # what a config is called by its digest

_Json = dict[str, object]


@dataclass(frozen=True)
class _Entry:
    """One image, as manifest.json has it."""

    config: str  # path
    names: tuple[str, ...]
    layers: tuple[str, ...]  # paths


class DockerArchive:
    """An image in the archive that *files* are, as a source.

    Args:
        files: closed with it.
        which: the name of the image, or its number in manifest.json; None: the only one.
        name: the reference.
        directory: where unnamed files are made of layers whose compression OCI does not have.
    """

    streams, shares_files = None, False

    def __init__(self, files: ArchiveFiles, which: RegistryName | int | None, name: str, directory: str) -> None:
        self._files, self._which, self.name, self._directory = files, which, name, directory
        self._open = ExitStack()
        self._open.callback(files.close)
        self._blobs: dict[Extent, Blob] = {}  # of layers that stand in no layout
        self._layers: tuple[Blob, ...] | None = None  # of the image; None: they are those of the layout inside
        self._made: dict[str, bytes] = {}  # the config, and the manifest if it was made here, by digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the archive, and of what was unpacked of it."""
        self._open.close()

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image; see `composefs.oci.sources.source.Source`."""
        entry = self._choose()
        config = self._config(entry)
        descriptor = self._inside(config)
        if descriptor is None:
            descriptor = self._make_manifest(entry, config)
        return read_image(choose([descriptor], platform, self._read, self._files.name), self._read)

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of a layer; see `composefs.oci.sources.source.Source`."""
        if self._layers is not None:
            return self._layers[index]
        layer = image.manifest.layers[index]
        return Blob(self._files.place(blob_path(layer.digest)), layer.digest, layer.size, layer.compression)

    def _choose(self) -> _Entry:
        """Return the image that is meant."""
        if MANIFEST not in self._files:
            if _LEGACY not in self._files:
                raise NotFoundError(f"{self._files.name} is not what `docker save` writes: it has no {MANIFEST}")
            what = f"no {MANIFEST}: it is of Docker before 1.10; load it into a current one, and save it again"
            raise FormatError(self._files.name, 0, what)
        source = self._files.where(MANIFEST)
        entries = _parse(self._files.read(MANIFEST, source), source)
        if isinstance(self._which, int):
            if self._which >= len(entries):
                raise NotFoundError(f"{self._files.name} has no image number {self._which}; it has {len(entries)}")
            return entries[self._which]
        found = [entry for entry in entries if self._which is None or self._which in _full_names(entry)]
        names = [", ".join(entry.names) or f"@{index}" for index, entry in enumerate(entries)]
        if not found:
            wanted = f"no {self._which}" if self._which is not None else "no image"
            raise NotFoundError(f"{self._files.name} has {wanted}; {listed('it has', names)}")
        if len(found) > 1 and self._which is None:
            what = (
                f"{self._files.name} holds {len(found)} images; name one as {self._files.name_as}: {listed('', names)}"
            )
            raise UsageError(what)
        return found[-1]  # the last one has the name, where names are given in turn

    def _config(self, entry: _Entry) -> Descriptor:
        """Read the config of an image."""
        data = self._files.read(entry.config, "config")
        source = self._files.where(entry.config)
        if len(data) > limits.JSON_SIZE:
            raise LimitError(source, 0, "bytes of JSON", limits.JSON_SIZE)
        descriptor = self._keep(data, _CONFIG_TYPE)
        claimed = _CONFIG_NAME.fullmatch(entry.config)
        if claimed is not None and descriptor.digest != f"sha256:{claimed[1]}":
            raise IntegrityError(source, f"sha256:{claimed[1]}", descriptor.digest)
        return descriptor

    def _keep(self, data: bytes, media_type: str) -> Descriptor:
        digest = oci_digest(data)
        self._made[digest] = data
        return Descriptor(media_type, digest, len(data))

    def _read(self, descriptor: Descriptor, what: str) -> bytes:
        kept = self._made.get(descriptor.digest)
        return kept if kept is not None else read_blob(self._files, descriptor, what)

    def _inside(self, config: Descriptor) -> Descriptor | None:
        """Return the manifest that the layout in the archive has for the image of *config*."""
        if INDEX not in self._files:
            return None
        source = self._files.where(INDEX)
        index = parse_index(self._files.read(INDEX, source), source)
        for descriptor in manifests_of(index, self._read):
            if blob_path(descriptor.digest) in self._files:  # one for another platform need not be there
                source = f"manifest {descriptor.digest}"
                if Manifest.parse(self._read(descriptor, "manifest"), source).config.digest == config.digest:
                    return descriptor
        return None

    def _make_manifest(self, entry: _Entry, config: Descriptor) -> Descriptor:
        """Make the manifest of an image that has none."""
        source = f"config {config.digest}"
        diff_ids = Config.parse(self._made[config.digest], source).diff_ids
        if len(diff_ids) != len(entry.layers):
            what = f"{len(entry.layers)} layers, but the config has {len(diff_ids)} diff_ids"
            raise FormatError(self._files.where(MANIFEST), 0, what)
        self._layers = tuple(self._layer(path, diff_id) for path, diff_id in zip(entry.layers, diff_ids, strict=True))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _described(_CONFIG_TYPE, config.digest, config.size),
            "layers": [
                _described(_LAYER_TYPES[layer.compression], layer.digest, layer.size)
                for layer in self._layers
                if layer.compression is not None
            ],
        }
        return self._keep(json.dumps(manifest, separators=(",", ":")).encode(), MANIFEST_TYPE)

    def _layer(self, path: str, diff_id: str) -> Blob:
        """Return the layer in the file *path*; of one that is not compressed the digest is the *diff_id*."""
        extent = self._files.extent(path, f"layer {diff_id}")
        blob = self._blobs.get(extent)
        if blob is None:
            blob = self._blobs[extent] = self._blob(extent, diff_id)
        return blob

    def _blob(self, extent: Extent, diff_id: str) -> Blob:
        file = self._files.file
        packing = packing_of(os.pread(file.fd, min(MAGIC_SIZE, extent.size), extent.offset))
        match packing:
            case None:
                return Blob(self._files.place_of(extent), diff_id, extent.size, Compression.NONE)
            case Packing.GZIP | Packing.ZSTD:
                compression = Compression.GZIP if packing is Packing.GZIP else Compression.ZSTD
                return Blob(self._files.place_of(extent), _digest(file.fd, extent), extent.size, compression)
        plain = self._open.enter_context(spool_extent(file, *extent, self._directory, f"layer {diff_id}"))
        size = os.fstat(plain.fd).st_size
        return Blob(FileRange(plain.path, 0, size), diff_id, size, Compression.NONE)


def _parse(data: bytes, source: str) -> list[_Entry]:
    """Return the images in manifest.json.

    Raises:
        FormatError: it is broken.
    """
    value = parse_json(data, source, max_size=limits.JSON_SIZE)
    if not isinstance(value, list):
        raise FormatError(source, 0, "no list of images")
    return [_parse_entry(each, f"{source}, image {index}") for index, each in enumerate(value)]


def _parse_entry(value: object, source: str) -> _Entry:
    if not isinstance(value, dict):
        raise FormatError(source, 0, "not a JSON object")
    config = value.get("Config")
    if not isinstance(config, str):
        raise FormatError(source, 0, f"Config {config!r} is no path")
    layers = _texts(value.get("Layers"), "Layers", source)
    if len(layers) > limits.LAYERS:
        raise LimitError(source, 0, "layers", limits.LAYERS, len(layers))
    return _Entry(config, _texts(value.get("RepoTags"), "RepoTags", source), layers)


def _texts(value: object, key: str, source: str) -> tuple[str, ...]:
    """Return a list of texts; Go writes an empty one as null."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(source, 0, f"{key} is no list of texts")
    return tuple(value)


def _full_names(entry: _Entry) -> Sequence[RegistryName]:
    """Return the names of an image in full; what is no name is passed over."""
    names = []
    for text in entry.names:
        try:
            names.append(parse_name(text).versioned())
        except UsageError:
            continue
    return names


def _described(media_type: str, digest: str, size: int) -> _Json:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _digest(fd: int, extent: Extent) -> str:
    """Return the digest of a part of a file."""
    digest = hashlib.sha256()
    offset, left = extent.offset, extent.size
    while left and (piece := os.pread(fd, min(left, _READ_SIZE), offset)):
        digest.update(piece)
        offset, left = offset + len(piece), left - len(piece)
    return "sha256:" + digest.hexdigest()
