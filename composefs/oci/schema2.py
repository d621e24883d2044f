"""Docker's "Image Manifest V 2, Schema 2" as an OCI manifest; no I/O.

Repositories hold OCI manifests: composefs-rs takes a config of Docker's type for that of an artifact, and layers of
Docker's types for data, and makes no image of them.  So a manifest of ours takes the place of Docker's:

Rule 1: the config stays byte for byte what it was, so that the image has the id that its registry, Docker and podman
        show.  Its fields are those of OCI's, and others, which readers pass over.
Rule 2: digests and sizes stay, of the config and of the layers; only media types change, to those that OCI has for the
        same contents.  A type that OCI has no other for stays as it is: Docker's plugins are artifacts.
Rule 3: the annotation `SOURCE_DIGEST` says what the manifest was called where it came from.
Rule 4: one manifest always gives the same bytes.

For composefs-rs 0.9.4 such an image is an OCI image as any other: it lists, shows, mounts and checks it, by its tag and
by the digest of the manifest here.  The digest that the registry has is found in the annotation alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from composefs import limits
from composefs.errors import FormatError
from composefs.json_text import parse_json
from composefs.oci.manifest import MANIFEST_TYPE

SOURCE_DIGEST = "containers.composefs.source-digest"  # annotation: of the manifest that this one stands for

_OCI_TYPES = {
    "application/vnd.docker.distribution.manifest.v2+json": MANIFEST_TYPE,
    "application/vnd.docker.container.image.v1+json": "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
_MANIFEST_KEPT = ("artifactType", "subject")  # of a manifest, beside what is made anew
_DESCRIPTOR_KEPT = ("digest", "size", "urls", "annotations")  # of a descriptor, beside its type

_Json = dict[str, Any]


def to_oci(data: bytes, digest: str, source: str) -> bytes | None:
    """Return the OCI manifest that stands for the manifest *data*, or None: that is OCI's throughout.

    Args:
        data: a manifest of schema 2, or OCI's own, perhaps with parts of Docker's types.
        digest: of *data*: sha256:...
        source: for messages.

    Raises:
        FormatError: it is no manifest, or one of schema 1.
    """
    value = _object(parse_json(data, source, max_size=limits.JSON_SIZE), source)
    refuse_schema1(value, source)
    layers = value.get("layers")
    if not isinstance(layers, list):
        raise FormatError(source, 0, "layers is no list")
    parts = [_object(part, source) for part in (value.get("config"), *layers)]
    types = [part.get("mediaType") for part in parts]
    if not any(isinstance(name, str) and name in _OCI_TYPES for name in (value.get("mediaType"), *types)):
        return None
    config, *converted = (_converted(part) for part in parts)
    annotations = value.get("annotations")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        **{key: value[key] for key in _MANIFEST_KEPT if key in value},
        "config": config,
        "layers": converted,
        "annotations": {**(annotations if isinstance(annotations, dict) else {}), SOURCE_DIGEST: digest},
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def refuse_schema1(value: Mapping[str, object], source: str) -> None:
    """Refuse the manifest *value* if it is of schema 1, which names neither a config nor diff_ids.

    Raises:
        FormatError: it is.
    """
    if value.get("schemaVersion") == 1:
        what = (
            "a Docker manifest of schema 1, which is not supported; have the image pushed again, by any newer program"
        )
        raise FormatError(source, 0, what)


def _object(value: object, source: str) -> _Json:
    if not isinstance(value, dict):
        raise FormatError(source, 0, "no manifest: no object, where one is due")
    return value


def _converted(descriptor: _Json) -> _Json:
    media_type = descriptor.get("mediaType")
    known = _OCI_TYPES.get(media_type, media_type) if isinstance(media_type, str) else media_type
    return {"mediaType": known, **{key: descriptor[key] for key in _DESCRIPTOR_KEPT if key in descriptor}}
