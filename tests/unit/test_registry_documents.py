"""Manifests of registries are those that were asked for, and of the type that is said."""

import hashlib
import json

import pytest

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.registry.documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    check_digest,
    is_digest,
    read_document,
)

MANIFEST = {"schemaVersion": 2, "config": {}, "layers": []}
INDEX = {"schemaVersion": 2, "manifests": []}
SCHEMA_1 = {"schemaVersion": 1, "fsLayers": [], "history": []}


def digest_of(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def read(value, content_type=OCI_MANIFEST, said=None, wanted="tag"):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_document(data, content_type, said, wanted, "manifest x")


@pytest.mark.parametrize(
    ("value", "content_type", "expected"),
    [
        (MANIFEST, OCI_MANIFEST, OCI_MANIFEST),
        (MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        (MANIFEST, OCI_MANIFEST.upper(), OCI_MANIFEST),
        (MANIFEST, DOCKER_MANIFEST, DOCKER_MANIFEST),
        (INDEX, DOCKER_LIST, DOCKER_LIST),
        ({**MANIFEST, "mediaType": OCI_MANIFEST}, OCI_MANIFEST, OCI_MANIFEST),
        ({**MANIFEST, "mediaType": DOCKER_MANIFEST}, None, DOCKER_MANIFEST),
        ({**INDEX, "mediaType": DOCKER_LIST}, "application/json", DOCKER_LIST),
        (MANIFEST, None, OCI_MANIFEST),
        (MANIFEST, "", OCI_MANIFEST),
        (INDEX, "text/plain; charset=utf-8", OCI_INDEX),
        (INDEX, "application/octet-stream", OCI_INDEX),
    ],
)
def test_media_types(value, content_type, expected):
    """The media type: Content-Type without parameters; guessed if it is empty or generic."""
    assert read(value, content_type).media_type == expected


@pytest.mark.parametrize(
    ("value", "content_type", "message"),
    [
        ({**MANIFEST, "mediaType": DOCKER_MANIFEST}, OCI_MANIFEST, "media type"),
        ({**INDEX, "mediaType": OCI_INDEX}, OCI_MANIFEST, "media type"),
        ({**MANIFEST, "mediaType": OCI_MANIFEST}, "text/html", "media type"),
        (SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+json", "schema 1"),
        (SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (SCHEMA_1, "application/json", "schema 1"),
        (SCHEMA_1, None, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, None, "schema 1"),
        ({"schemaVersion": 2}, None, "neither"),
        ({"title": "log in first"}, "application/problem+json", "neither that of a manifest nor that of an index"),
        ({**MANIFEST, "mediaType": "text/plain"}, None, "neither that of a manifest nor that of an index"),
        ([], OCI_MANIFEST, "not a JSON object"),
        (b"<html>", None, "broken JSON"),
        (b"", OCI_MANIFEST, "broken JSON"),
    ],
)
def test_what_is_refused(value, content_type, message):
    """Another type inside, schema 1 by its name, what is no manifest."""
    with pytest.raises(FormatError, match=message):
        read(value, content_type)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_digests(algorithm):
    """What is asked for by digest is proved by it, whatever the registry says."""
    data = json.dumps(MANIFEST).encode()
    digest = digest_of(data, algorithm)

    assert read(data, wanted=digest, said="sha256:" + "0" * 64).digest == digest
    with pytest.raises(IntegrityError, match=digest):
        read(data + b" ", wanted=digest, said=digest_of(data + b" "))


def test_the_digest_of_a_tag():
    """By tag: what the registry says, if it says so, else what it is."""
    data = json.dumps(MANIFEST).encode()

    assert read(data).digest == digest_of(data)
    assert read(data, said=digest_of(data, "sha512")).digest == digest_of(data, "sha512")
    with pytest.raises(IntegrityError):
        read(data, said="sha256:" + "0" * 64)
    with pytest.raises(FormatError, match="digest 'md5:"):
        read(data, said="md5:" + "0" * 32)


def test_size(monkeypatch):
    """The row of limits: as much as registries have to take, and no more."""
    data = json.dumps(MANIFEST).encode()
    monkeypatch.setattr(limits, "REGISTRY_JSON_SIZE", len(data))

    assert read(data).data == data
    with pytest.raises(LimitError):
        read(data + b" ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sha256:" + "a" * 64, True),
        ("sha384:" + "a" * 96, True),
        ("sha512:" + "a" * 128, True),
        ("sha256:" + "a" * 63, False),
        ("sha256:" + "A" * 64, False),
        ("sha1:" + "a" * 40, False),
        ("latest", False),
    ],
)
def test_is_digest(text, expected):
    """Digests have the length of their algorithm."""
    assert is_digest(text) == expected
    if not expected:
        with pytest.raises(FormatError):
            check_digest(b"", text, "x")
