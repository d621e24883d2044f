"""Manifests and indexes as registries give them: bytes, proved by a digest, and the media type that they are."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.json_text import parse_json
from composefs.oci_digest import oci_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"  # json, and prettyjws where it is signed

# Registries answer 404, 400 or schema 1 for what is not named here.
_TAKEN = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
ACCEPT = ", ".join(_TAKEN)
_GENERIC = frozenset(["", "application/json", "application/octet-stream", "text/plain", "text/json"])
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Document:
    """A manifest or index."""

    media_type: str
    data: bytes = field(repr=False)
    digest: str  # which proved it, or that of the bytes: sha256, unless it was asked for by another


def is_digest(text: str) -> bool:
    """Return whether *text* is a digest that can be checked, and not a tag."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(data: bytes, digest: str, subject: str) -> None:
    """Check that *data* are those that *digest* is of.

    Raises:
        IntegrityError: they are not.
        FormatError: the digest is none, or of an algorithm that is not known.
    """
    if not is_digest(digest):
        raise FormatError(subject, 0, f"digest {digest!r} is not sha256, sha384 or sha512 and its hexadecimal digits")
    algorithm = digest.partition(":")[0]
    got = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if got != digest:
        raise IntegrityError(subject, digest, got)


def read_document(data: bytes, content_type: str | None, said_digest: str | None, wanted: str, source: str) -> Document:
    """Return the manifest or index in an answer.

    Args:
        data: the body.
        content_type: its header; None: there is none.
        said_digest: the header Docker-Content-Digest; None: there is none.
        wanted: the digest or tag that was asked for.
        source: for messages.

    Raises:
        IntegrityError: it is not what the digest says.
        LimitError: it is larger than is taken from a registry.
        FormatError: it is neither, or of schema 1, or says to be of another type than the registry says.
    """
    if len(data) > limits.REGISTRY_JSON_SIZE:
        raise LimitError(source, 0, "bytes of JSON", limits.REGISTRY_JSON_SIZE)
    digest = wanted if is_digest(wanted) else said_digest
    if digest is None:
        digest = oci_digest(data)
    else:
        check_digest(data, digest, source)
    return Document(_media_type(data, content_type, source), data, digest)


def _media_type(data: bytes, content_type: str | None, source: str) -> str:
    said = (content_type or "").partition(";")[0].strip().lower()
    _refuse_schema_1(said, source)
    value = parse_json(data, source, max_size=limits.REGISTRY_JSON_SIZE)
    if not isinstance(value, dict):
        raise FormatError(source, 0, "not a JSON object")
    inside = value.get("mediaType")
    if isinstance(inside, str) and said not in _GENERIC and inside != said:
        raise FormatError(source, 0, f"media type {inside!r}, but the registry says {said!r}")
    if said not in _GENERIC:
        found = said
    elif isinstance(inside, str):
        found = inside
    elif value.get("schemaVersion") == 1:
        found = f"{_SCHEMA_1}json"
    elif "manifests" in value:
        found = OCI_INDEX
    elif "config" in value and "layers" in value:
        found = OCI_MANIFEST
    else:
        raise FormatError(source, 0, "neither a manifest nor an index")
    _refuse_schema_1(found, source)
    if found not in _TAKEN:
        raise FormatError(source, 0, f"media type {found!r} is neither that of a manifest nor that of an index")
    return found


def _refuse_schema_1(media_type: str, source: str) -> None:
    if media_type.startswith(_SCHEMA_1):
        what = (
            "a Docker manifest of schema 1, which is not supported; have the image pushed again, by any newer program"
        )
        raise FormatError(source, 0, what)
