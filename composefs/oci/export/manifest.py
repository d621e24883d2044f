"""The manifest of an image whose blobs are not all those that its stored manifest names.

Rule 1: the config stays byte for byte, so the image keeps its id, and every layer its diff_id.
Rule 2: all that is said of the image stays; of a layer whose blob is another one, what was said of the old blob goes.
Rule 3: the annotation `REMADE_FROM` says from which manifest it was made, and `ENCODING` at each layer that was made
        here how its blob can be made again.
Rule 4: it is an OCI manifest; equal ones come of equal layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from composefs.oci.export.encoding import Encoding
from composefs.oci.manifest import Compression, Descriptor, parse_object
from composefs.oci.schema2 import to_oci

REMADE_FROM = "containers.composefs.remade-from"  # annotation of a manifest: digest of the one that it was made from
ENCODING = "containers.composefs.encoding"  # annotation of a layer: how its blob was made, such as zstd-3

_LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_TYPES = {Compression.NONE: _LAYER, Compression.GZIP: f"{_LAYER}+gzip", Compression.ZSTD: f"{_LAYER}+zstd"}
# What says something of the bytes of a blob: tables of contents, and the like.
_OF_BLOB = (
    ENCODING,
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
    "io.containers.zstd-chunked.",
    "io.github.containers.zstd-chunked.",
)


@dataclass(frozen=True)
class NewBlob:
    """What takes the place of a layer's blob."""

    digest: str
    size: int
    encoding: Encoding


def convert_manifest(data: bytes, digest: str) -> bytes:
    """Return the OCI manifest for *data*, the manifest of that *digest*: the same if it is one."""
    return to_oci(data, digest, f"manifest {digest}") or data


def remake_manifest(data: bytes, digest: str, layers: Sequence[Descriptor | NewBlob]) -> bytes:
    """Return the manifest for an image whose stored manifest is *data*.

    Args:
        data: the stored manifest.
        digest: of it.
        layers: for each of its layers what takes the place of the blob, or its own descriptor.

    Raises:
        FormatError: the stored manifest is broken.
    """
    manifest = parse_object(convert_manifest(data, digest), f"manifest {digest}")
    manifest["layers"] = [
        layer if isinstance(new, Descriptor) else _remade(layer, new)
        for layer, new in zip(manifest["layers"], layers, strict=True)
    ]
    annotations = manifest.get("annotations")
    manifest["annotations"] = {**(annotations if isinstance(annotations, dict) else {}), REMADE_FROM: digest}
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()


def _remade(layer: dict[str, Any], new: NewBlob) -> dict[str, Any]:
    said = layer.get("annotations")
    annotations = {
        key: text for key, text in (said if isinstance(said, dict) else {}).items() if not key.startswith(_OF_BLOB)
    }
    if new.encoding.hint is not None:
        annotations[ENCODING] = new.encoding.hint
    descriptor = {
        "mediaType": LAYER_TYPES[new.encoding.compression],
        "digest": new.digest,
        "size": new.size,
    }
    return descriptor | ({"annotations": annotations} if annotations else {})
