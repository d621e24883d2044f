"""JSON documents: image indexes, manifests, configs, and the `meta.json` of a repository."""

from __future__ import annotations

import json
import random
import re

from composefs.digest import Algorithm
from composefs.errors import FormatError, RepositoryError
from composefs.oci.manifest import Config, Descriptor, Image, Manifest, parse_index
from composefs.oci.schema2 import SOURCE_DIGEST, to_oci
from composefs.repository.meta import Meta
from tests import layouts
from tests.fuzz.mutations import json_value
from tests.fuzz.target import Target

_DIGEST = "sha256:" + "0123456789abcdef" * 4
_MEDIA_TYPES = (layouts.INDEX, layouts.MANIFEST, layouts.CONFIG, layouts.TAR, layouts.TAR_GZIP, layouts.TAR_ZSTD)
_MEDIA_TYPES += (layouts.EMPTY, layouts.DOCKER_INDEX, layouts.DOCKER_MANIFEST, layouts.DOCKER_CONFIG)
_MEDIA_TYPES += (layouts.TAR + "+xz", layouts.TAR.upper(), layouts.TAR + " ", "application/json")
WORDS = [
    *_MEDIA_TYPES, _DIGEST, _DIGEST.upper(), _DIGEST[:-1], _DIGEST + "\n", "sha512:" + "0" * 128,
    "sha256:../../../etc/passwd",
    "linux", "amd64", "arm64", "v8", {"os": "linux", "architecture": "amd64"},
    {"org.opencontainers.image.ref.name": "a/b"},
    {"mediaType": layouts.TAR, "digest": _DIGEST, "size": 5}, {"org.opencontainers.image.ref.name": "\udcff"},
    *(algorithm.value for algorithm in Algorithm), "fsverity-sha256-10", "v1_erofs", "v9_erofs",
    {"default": 2}, {"default": 1},
]  # fmt: skip


def check_oci(data: bytes) -> bool:
    """Parse as each of the documents: values have the types and bounds that they are said to have."""
    taken = False
    manifest = _attempt(lambda: Manifest.parse(data, "manifest"))
    if manifest is not None:
        taken = True
        for descriptor in (manifest.config, *manifest.layers):
            _check_descriptor(descriptor)
        _attempt(lambda: Image.parse(manifest.config, data, data))
        config = _config_for(manifest)
        image = _attempt(lambda: Image.parse(manifest.config, data, config))
        assert image is None or len(image.diff_ids) == len(manifest.layers)
        _check_conversion(data, manifest)
    config = _attempt(lambda: Config.parse(data, "config"))
    if config is not None:
        taken = True
        assert all(_is_digest(diff_id) for diff_id in config.diff_ids)
        assert config.platform is None or (config.platform.os and config.platform.architecture)
    for descriptor in _attempt(lambda: parse_index(data, "index")) or ():
        taken = True
        _check_descriptor(descriptor)
    return taken


def _check_conversion(data: bytes, manifest: Manifest) -> None:
    """What becomes of a manifest with parts of Docker's is one of OCI's, of the same blobs."""
    converted = to_oci(data, _DIGEST, "manifest")
    if converted is not None:
        ours = Manifest.parse(converted, "ours")
        blobs, same = (
            [(blob.digest, blob.size, blob.urls) for blob in (each.config, *each.layers)] for each in (manifest, ours)
        )
        assert blobs == same
        assert to_oci(converted, _DIGEST, "ours") is None
        assert json.loads(converted)["annotations"][SOURCE_DIGEST] == _DIGEST


def _config_for(manifest: Manifest) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [layer.digest for layer in manifest.layers]}}).encode()


def _attempt(parse):
    """Return what *parse* returns; None if it refuses."""
    try:
        return parse()
    except FormatError as error:
        assert error.offset >= 0, error
        assert str(error).encode("utf-8", "backslashreplace")
        return None


def _check_descriptor(descriptor: Descriptor) -> None:
    assert type(descriptor.size) is int
    assert 0 <= descriptor.size < 1 << 63
    assert _is_digest(descriptor.digest)
    assert isinstance(descriptor.media_type, str)
    assert descriptor.tag is None or isinstance(descriptor.tag, str)
    hash(descriptor)
    assert not (descriptor.is_index and descriptor.is_manifest)


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch("sha256:[0-9a-f]{64}", text) is not None and text[-1] != "\n"


def check_meta(data: bytes) -> bool:
    """Parse, check, write, and parse again."""
    meta = _attempt(lambda: Meta.parse(data, "meta.json"))
    if meta is None:
        return False
    assert Meta.parse(meta.pack()) == meta
    assert meta.erofs_versions
    assert set(meta.erofs_versions) <= {0, 1, 2}
    assert isinstance(meta.unknown_features, list)
    try:
        meta.check("repository")
    except RepositoryError as error:
        assert str(error).encode("utf-8", "backslashreplace")
    return True


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change values, keys, or the text."""
    return json_value(chance, data, WORDS)


def _oci_seeds() -> dict[str, bytes]:
    layer = {"mediaType": layouts.TAR_GZIP, "digest": _DIGEST, "size": 1234}
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    config = {"mediaType": layouts.CONFIG, "digest": _DIGEST, "size": 300}
    manifest = {"schemaVersion": 2, "mediaType": layouts.MANIFEST, "config": config, "layers": [layer, layer]}
    artifact = {"schemaVersion": 2, "config": {**config, "mediaType": layouts.EMPTY}, "layers": [layer]}
    named = {"org.opencontainers.image.ref.name": "latest"}
    item = {"mediaType": layouts.MANIFEST, "digest": _DIGEST, "size": 500, "platform": platform, "annotations": named}
    documents = {
        "manifest": manifest,
        "artifact": artifact,
        "docker-manifest": {**manifest, "mediaType": layouts.DOCKER_MANIFEST},
        "config": {
            **platform,
            "rootfs": {"type": "layers", "diff_ids": [_DIGEST, _DIGEST]},
            "config": {"Labels": {"a": "b"}},
        },
        "index": {
            "schemaVersion": 2,
            "mediaType": layouts.INDEX,
            "manifests": [item, {**item, "mediaType": layouts.INDEX}],
        },
    }
    return {f"{name}.json": json.dumps(value).encode() for name, value in documents.items()}


def _meta_seeds() -> dict[str, bytes]:
    found = {}
    for algorithm in Algorithm:
        for version in (1, 2):
            found[f"{algorithm.hash_name}-v{version}.json"] = Meta.new(algorithm, version).pack()
    features = {"compatible": ["x"], "read-only-compatible": ["v1_erofs", "y"], "incompatible": ["z"]}
    formats = {"default": 2, "extra": [1, 0]}
    value = {"version": 1, "algorithm": Algorithm.SHA512.value, "features": features, "erofs_formats": formats}
    found["features.json"] = json.dumps(value).encode()
    found["old.json"] = json.dumps({"version": 1, "algorithm": Algorithm.SHA256.value}).encode()
    return found


OCI = Target("oci", check_oci, mutate, _oci_seeds, share=30)
META = Target("meta", check_meta, mutate, _meta_seeds, share=20)
