"""Image indexes, manifests, configs, and the images that they make, as values; no I/O.

Source: OCI image specification 1.1 (descriptor.md, image-index.md, manifest.md, config.md), and Docker's "Image
Manifest V 2, Schema 2", whose fields are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from composefs import limits
from composefs.errors import FormatError, LimitError, UsageError
from composefs.json_text import parse_json

REF_NAME = "org.opencontainers.image.ref.name"  # annotation of a descriptor: its tag in a layout

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_INDEX_TYPES = frozenset(
    [
        INDEX_TYPE,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_MANIFEST_TYPES = frozenset(
    [
        MANIFEST_TYPE,
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
_CONFIG_TYPES = frozenset(
    [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    ]
)


class Compression(Enum):
    """How the blob of a layer holds its tar archive; the value is for messages."""

    NONE = "uncompressed tar"
    GZIP = "gzip"
    ZSTD = "zstd"


_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_LAYER_TYPES = {
    **dict.fromkeys((_OCI_LAYER, _OCI_FOREIGN_LAYER, _DOCKER_LAYER), Compression.NONE),
    **{f"{name}+gzip": Compression.GZIP for name in (_OCI_LAYER, _OCI_FOREIGN_LAYER)},
    **{f"{name}.gzip": Compression.GZIP for name in (_DOCKER_LAYER, _DOCKER_FOREIGN_LAYER)},
    **{f"{name}+zstd": Compression.ZSTD for name in (_OCI_LAYER, _OCI_FOREIGN_LAYER)},
    f"{_DOCKER_LAYER}.zstd": Compression.ZSTD,
}

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_Json = dict[str, Any]
_NO_TEXTS: Mapping[str, str] = {}  # one for all: an index may have 100,000 descriptors


@dataclass(frozen=True)
class Platform:
    """An operating system and CPU, in the words of Go: `linux`, `amd64`, and perhaps a variant such as `v8`."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform written as OS/ARCH[/VARIANT].

        Raises:
            UsageError: it is not written so.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise UsageError(f"platform {text!r} is not of the form OS/ARCH[/VARIANT], such as linux/arm64/v8")
        return cls(*parts)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True)
class Descriptor:
    """What is said of a blob before it is read."""

    media_type: str
    digest: str  # sha256:...
    size: int  # bytes
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_TEXTS, compare=False)
    data: bytes | None = field(default=None, compare=False)  # the blob itself, if it is small
    urls: tuple[str, ...] = field(default=(), compare=False)  # where else it is

    @property
    def tag(self) -> str | None:
        """What the image is called in its layout."""
        return self.annotations.get(REF_NAME)

    @property
    def is_index(self) -> bool:
        """Whether it describes an image index or manifest list."""
        return self.media_type in _INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """Whether it describes an image manifest."""
        return self.media_type in _MANIFEST_TYPES

    @property
    def compression(self) -> Compression | None:
        """How the tar archive of a layer is compressed; None if the media type is not one of a layer."""
        return _LAYER_TYPES.get(self.media_type)


@dataclass(frozen=True)
class Manifest:
    """An image manifest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def is_container(self) -> bool:
        """Whether it is a container image; otherwise it is an artifact, whose layers may be anything."""
        return self.config.media_type in _CONFIG_TYPES

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Return the manifest in *data*.

        Raises:
            FormatError: it is none.
        """
        value = parse_object(data, source)
        version, media_type = value.get("schemaVersion"), value.get("mediaType")
        if not isinstance(version, int) or version != 2:
            raise FormatError(source, 0, f"schemaVersion {version!r}, wanted 2")
        if media_type is not None and (not isinstance(media_type, str) or media_type not in _MANIFEST_TYPES):
            raise FormatError(source, 0, f"media type {media_type!r} is not that of a manifest")
        layers = value.get("layers")
        if not isinstance(layers, list):
            raise FormatError(source, 0, "layers is no list")
        if len(layers) > limits.LAYERS:
            raise LimitError(source, 0, "layers", limits.LAYERS, len(layers))
        config = _descriptor(value.get("config"), f"{source}, config")
        return cls(config, tuple(_descriptor(item, f"{source}, layer {i}") for i, item in enumerate(layers, 1)))


@dataclass(frozen=True)
class Config:
    """The part of an image config that an import needs."""

    platform: Platform | None
    diff_ids: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Return the config in *data*.

        Raises:
            FormatError: it is none.
        """
        value = parse_object(data, source)
        rootfs = value.get("rootfs")
        diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(diff_ids, list):
            raise FormatError(source, 0, "rootfs.diff_ids is no list")
        if len(diff_ids) > limits.LAYERS:
            raise LimitError(source, 0, "layers", limits.LAYERS, len(diff_ids))
        return cls(
            _platform(value), tuple(_digest(item, f"{source}, diff_id {i}") for i, item in enumerate(diff_ids, 1))
        )


@dataclass(frozen=True)
class Image:
    """One image: its manifest and config, checked and parsed, and their bytes as they are stored."""

    descriptor: Descriptor
    manifest: Manifest
    manifest_bytes: bytes
    config_bytes: bytes
    diff_ids: tuple[str, ...]  # of the layers; of an artifact, whose blobs have none, their digests
    source_digest: str | None = None  # of the manifest where it comes from, if ours was made of that

    @classmethod
    def parse(cls, descriptor: Descriptor, manifest_bytes: bytes, config_bytes: bytes) -> Self:
        """Return the image of a manifest and config, which their digests are known to be those of.

        Raises:
            FormatError: one of them is broken, or they do not belong together.
        """
        source = f"manifest {descriptor.digest}"
        manifest = Manifest.parse(manifest_bytes, source)
        if manifest.is_container:
            diff_ids = Config.parse(config_bytes, f"config {manifest.config.digest}").diff_ids
        else:
            diff_ids = tuple(layer.digest for layer in manifest.layers)
        if len(diff_ids) != len(manifest.layers):
            raise FormatError(source, 0, f"{len(manifest.layers)} layers, but the config has {len(diff_ids)} diff_ids")
        return cls(descriptor, manifest, manifest_bytes, config_bytes, diff_ids)


def parse_index(data: bytes, source: str) -> tuple[Descriptor, ...]:
    """Return the descriptors of the image index in *data*.

    Raises:
        FormatError: it is none.
    """
    manifests = parse_object(data, source).get("manifests")
    if not isinstance(manifests, list):
        raise FormatError(source, 0, "manifests is no list")
    return tuple(_descriptor(item, f"{source}, manifest {i}") for i, item in enumerate(manifests, 1))


def parse_object(data: bytes, source: str) -> _Json:
    """Return the JSON object in *data*.

    Raises:
        FormatError: it is none.
    """
    value = parse_json(data, source, max_size=limits.JSON_SIZE)
    if not isinstance(value, dict):
        raise FormatError(source, 0, "not a JSON object")
    return value


def _descriptor(value: object, source: str) -> Descriptor:
    if not isinstance(value, dict):
        raise FormatError(source, 0, "no descriptor")
    media_type, size = value.get("mediaType"), value.get("size")
    if not isinstance(media_type, str):
        raise FormatError(source, 0, f"mediaType {media_type!r} is no text")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise FormatError(source, 0, f"size {size!r} is no number of bytes")
    return Descriptor(
        media_type=media_type,
        digest=_digest(value.get("digest"), source),
        size=size,
        platform=_platform(value.get("platform")),
        annotations=_texts(value.get("annotations")),
        data=_data(value.get("data"), source),
        urls=_urls(value.get("urls")),
    )


def _texts(value: object) -> Mapping[str, str]:
    """Return annotations; what is none is passed over."""
    if not isinstance(value, dict) or not value:
        return _NO_TEXTS
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _data(value: object, source: str) -> bytes | None:
    if not isinstance(value, str):
        return None
    import base64  # noqa: PLC0415  # it is rare

    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise FormatError(source, 0, "data is no base64") from None


def _urls(value: object) -> tuple[str, ...]:
    return tuple(url for url in value if isinstance(url, str)) if isinstance(value, list) else ()


def _digest(value: object, source: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise FormatError(source, 0, f"digest {value!r} is not sha256: and 64 hexadecimal digits")
    return value


def _platform(value: object) -> Platform | None:
    """Return the platform in a JSON object that may have one: a descriptor's, or a config itself."""
    if not isinstance(value, Mapping):
        return None
    os, architecture, variant = (value.get(key) for key in ("os", "architecture", "variant"))
    if not isinstance(os, str) or not isinstance(architecture, str) or not os or not architecture:
        return None
    return Platform(os, architecture, variant if isinstance(variant, str) and variant else None)
