"""Docker's manifests as OCI's: what changes, what stays, and what is refused."""

import json

import pytest

from composefs.errors import FormatError
from composefs.oci.manifest import Compression, Manifest
from composefs.oci.schema2 import SOURCE_DIGEST, to_oci
from tests import layouts
from tests.layouts import CONFIG, DOCKER_CONFIG, DOCKER_MANIFEST, DOCKER_TAR_GZIP, MANIFEST, TAR, TAR_GZIP

CONFIG_DIGEST, LAYER_DIGEST = layouts.sha256(b"config"), layouts.sha256(b"layer")
DOCKER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
PLUGIN = "application/vnd.docker.plugin.v1+json"


def layer(media_type=DOCKER_TAR_GZIP, **more):
    return {"mediaType": media_type, "size": 5, "digest": LAYER_DIGEST, **more}


def schema2(*layers, config_type=DOCKER_CONFIG, **more):
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": config_type, "size": 6, "digest": CONFIG_DIGEST},
        "layers": list(layers),
    }
    return json.dumps(value | more).encode()


def converted(data):
    result = to_oci(data, layouts.sha256(data), "manifest")
    assert result is not None
    return json.loads(result)


def test_bytes():
    """The manifest that comes out is always the same, and as short as JSON can be."""
    data = schema2(layer())

    assert to_oci(data, "sha256:" + 64 * "0", "manifest") == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":6},'
        b'"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":5}],'
        b'"annotations":{"containers.composefs.source-digest":"sha256:%s"}}'
        % (CONFIG_DIGEST.encode(), LAYER_DIGEST.encode(), 64 * b"0")
    )


@pytest.mark.parametrize(
    ("docker", "oci", "compression"),
    [
        (DOCKER_TAR, TAR, Compression.NONE),
        (DOCKER_TAR_GZIP, TAR_GZIP, Compression.GZIP),
        (f"{DOCKER_TAR}.zstd", f"{TAR}+zstd", Compression.ZSTD),
        (DOCKER_FOREIGN, FOREIGN, Compression.NONE),
        (f"{DOCKER_FOREIGN}.gzip", f"{FOREIGN}+gzip", Compression.GZIP),
        (TAR_GZIP, TAR_GZIP, Compression.GZIP),
        ("text/plain", "text/plain", None),
    ],
)
def test_layer_types(docker, oci, compression):
    """A layer is called what OCI calls it, and is compressed as before; what OCI does not know stays."""
    manifest = converted(schema2(layer(docker)))

    assert manifest["layers"] == [{"mediaType": oci, "digest": LAYER_DIGEST, "size": 5}]
    (parsed,) = Manifest.parse(json.dumps(manifest).encode(), "manifest").layers
    assert parsed.compression is compression


def test_more_stays():
    """Layers keep where else they are and what is said of them, the manifest what is said of it."""
    more = {"urls": ["https://example.com/layer"], "annotations": {"a": "b"}}

    manifest = converted(schema2(layer(**more), annotations={"c": "d", SOURCE_DIGEST: "a lie"}, other=1))

    assert manifest["layers"] == [{**layer(TAR_GZIP), **more}]
    assert manifest["annotations"].keys() == {"c", SOURCE_DIGEST}
    assert manifest["annotations"][SOURCE_DIGEST].startswith("sha256:")
    assert manifest.keys() == {"schemaVersion", "mediaType", "config", "layers", "annotations"}


def test_plugin():
    """What is an artifact stays one."""
    manifest = converted(schema2(layer(), config_type=PLUGIN))

    assert (manifest["mediaType"], manifest["config"]["mediaType"]) == (MANIFEST, PLUGIN)


@pytest.mark.parametrize("part", ["manifest", "config", "layer", "none"])
def test_mixed(part):
    """One part of Docker's type is enough, for composefs-rs would misread it; without any there is nothing to do."""
    value = json.loads(schema2(layer(TAR_GZIP if part != "layer" else DOCKER_TAR_GZIP), mediaType=MANIFEST))
    value["config"]["mediaType"] = DOCKER_CONFIG if part == "config" else CONFIG
    if part == "manifest":
        value["mediaType"] = DOCKER_MANIFEST
    data = json.dumps(value).encode()

    result = to_oci(data, layouts.sha256(data), "manifest")

    assert (result is None) == (part == "none")
    if result is not None:
        assert b"docker" not in result
        assert to_oci(result, layouts.sha256(result), "again") is None


def test_no_type():
    """Registries may give the type of a manifest beside it: then its parts tell."""
    value = json.loads(schema2(layer()))
    del value["mediaType"]

    assert converted(json.dumps(value).encode())["mediaType"] == MANIFEST


SCHEMA_1 = {"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": []}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (SCHEMA_1, "a Docker manifest of schema 1, which is not supported; have the image pushed again"),
        ([], "no manifest: no object"),
        ({"schemaVersion": 2, "config": {}}, "layers is no list"),
        ({"schemaVersion": 2, "config": [], "layers": []}, "no manifest: no object"),
        ({"schemaVersion": 2, "config": {}, "layers": [7]}, "no manifest: no object"),
    ],
)
def test_refused(value, message):
    """What is no manifest that could be converted is named."""
    with pytest.raises(FormatError, match=f"^manifest, offset 0: {message}"):
        to_oci(json.dumps(value).encode(), LAYER_DIGEST, "manifest")
