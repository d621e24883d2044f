"""Small OCI layouts, right, or wrong in the one way that a test needs."""

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from composefs.oci.manifest import REF_NAME
from composefs.oci.platforms import host_platform

Json = dict[str, Any]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP = f"{TAR}+gzip"
TAR_ZSTD = f"{TAR}+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_TAR_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_COMPRESSED = {
    "none": (TAR, bytes),
    "gzip": (TAR_GZIP, lambda data: gzip.compress(data, mtime=0)),
    "zstd": (TAR_ZSTD, lambda data: zstandard.ZstdCompressor().compress(data)),
}
_HOST = host_platform()


def sha256(data: bytes) -> str:
    """Return the digest of *data* as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes that do not compress, the same for each *seed*."""
    return random.Random(seed).randbytes(size)


def tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of regular files, and of directories, whose names end in a slash.

    It is the same for the same *files*.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def rooted(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return *files* and what an image needs beside them: /usr, and the directories that they are in."""
    found = {"usr/": b""}
    for name, data in files.items():
        parts = name.rstrip("/").split("/")
        found |= {"/".join(parts[:depth]) + "/": b"" for depth in range(1, len(parts))}
        found[name] = data
    return found


@dataclass(frozen=True)
class Layer:
    """A layer as it is stored (*blob*) and as it is described, which may be a lie."""

    blob: bytes
    media_type: str
    diff_id: str
    digest: str
    size: int

    @property
    def descriptor(self) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def layer(archive: bytes, compression: str = "none", *, blob: bytes | None = None, **forged: Any) -> Layer:
    """Return the layer of a tar *archive*; *blob* is stored in place of its compressed form, *forged* are lies."""
    media_type, compress = _COMPRESSED[compression]
    blob = compress(archive) if blob is None else blob
    honest = {"media_type": media_type, "diff_id": sha256(archive), "digest": sha256(blob), "size": len(blob)}
    return Layer(blob, **(honest | forged))


def files_layer(files: Mapping[str, bytes], compression: str = "none", **forged: Any) -> Layer:
    """Return the layer of a tar archive of *files*, with all that an image needs."""
    return layer(tar(rooted(files)), compression, **forged)


def slow_layer(seed: int, megabytes: int = 96) -> Layer:
    """Return a layer that takes long to split and little to store: an empty file, *megabytes* * 2048 times.

    Its blob is small, since its gzip members are all alike.
    """
    header = tar({f"slow{seed}": b""})[:512]
    member = gzip.compress(header * 2048, mtime=0)
    sum_of_archive = hashlib.sha256()
    for _ in range(megabytes):
        sum_of_archive.update(header * 2048)
    blob = member * megabytes
    return Layer(blob, TAR_GZIP, "sha256:" + sum_of_archive.hexdigest(), sha256(blob), len(blob))


def tagged(descriptor: Json, tag: str) -> Json:
    """Return *descriptor* with a tag."""
    return descriptor | {"annotations": {REF_NAME: tag}}


def for_platform(descriptor: Json, platform: str) -> Json:
    """Return *descriptor* for the *platform* written as OS/ARCH[/VARIANT]."""
    keys = ("os", "architecture", "variant")
    return descriptor | {"platform": dict(zip(keys, platform.split("/"), strict=False))}


class Layout:
    """The layout in the directory *path*: put blobs, then write the index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob_path(self, digest: str) -> Path:
        return self.path / "blobs" / digest.replace(":", "/")

    def blob(self, data: bytes, media_type: str, digest: str | None = None) -> Json:
        """Store *data*, under a false *digest* if one is given, and return its descriptor."""
        digest = digest or sha256(data)
        self.blob_path(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def json(self, value: object, media_type: str) -> Json:
        """Store *value* as JSON, and return its descriptor."""
        return self.blob(json.dumps(value).encode(), media_type)

    def image(
        self, layers: Sequence[Layer], *, platform: str | None = None, docker: bool = False, **config: Any
    ) -> Json:
        """Store an image, by default for this machine, and return the descriptor of its manifest."""
        os, architecture, *variant = (platform or f"{_HOST.os}/{_HOST.architecture}").split("/")
        about = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        config_descriptor = self.json({**about, "rootfs": rootfs, **config}, DOCKER_CONFIG if docker else CONFIG)
        return self.manifest(config_descriptor, layers, DOCKER_MANIFEST if docker else MANIFEST)

    def artifact(self, layers: Sequence[Layer]) -> Json:
        """Store an artifact, and return the descriptor of its manifest."""
        return self.manifest(self.blob(b"{}", EMPTY), layers)

    def manifest(self, config: Json, layers: Sequence[Layer], media_type: str = MANIFEST) -> Json:
        for layer in layers:
            self.blob_path(layer.digest).write_bytes(layer.blob)
        value = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": [layer.descriptor for layer in layers],
        }
        return self.json(value, media_type)

    def nested_index(self, descriptors: Sequence[Json], *, docker: bool = False) -> Json:
        """Store an index as a blob, and return its descriptor."""
        return self.json({"schemaVersion": 2, "manifests": list(descriptors)}, DOCKER_INDEX if docker else INDEX)

    def write(self, *descriptors: Json) -> "Layout":
        """Write index.json with *descriptors*."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(descriptors)}
        (self.path / "index.json").write_text(json.dumps(index))
        return self

    def __str__(self) -> str:
        return f"oci:{self.path}"


def image_layout(path: Path, layers: Sequence[Layer], tag: str | None = None, **options: Any) -> Layout:
    """Write the layout of one image."""
    layout = Layout(path)
    descriptor = layout.image(layers, **options)
    return layout.write(tagged(descriptor, tag) if tag else descriptor)
