"""What registries answer: headers and bodies, as the client reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from composefs.errors import FormatError, IntegrityError, RegistryError
from composefs.registry.challenge import parse_challenges
from composefs.registry.documents import OCI_INDEX, OCI_MANIFEST, read_document
from composefs.registry.endpoint import Endpoint
from composefs.registry.failures import refusal
from composefs.registry.pauses import MAX_PAUSE, retry_after
from composefs.registry.referrers import next_page, parse_referrers, parse_tags
from composefs.registry.tokens import check_realm, parse_token
from composefs.registry.urls import url_host, url_origin
from tests.fuzz.mutations import havoc, json_value
from tests.fuzz.target import Target

_DIGEST = "sha256:" + "0123456789abcdef" * 4
_TOKEN = "Geheimnis-7f3a"
_ENDPOINT = Endpoint("registry.example", "a/b")
_WORDS = [OCI_INDEX, OCI_MANIFEST, _DIGEST, _TOKEN, "application/vnd.docker.distribution.manifest.v1+json", 60, 1e9, {}]
_HEADERS = {
    "WWW-Authenticate": 'Basic realm="a, b", Bearer realm="https://auth.example/token?x=1",service="s",scope="r:a/b:pull"',
    "Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT",
    "Link": '</v2/a/b/tags/list?n=5&last=x>; rel="next"',
    "Content-Type": f"{OCI_INDEX}; charset=utf-8",
    "Location": "https://storage.example:8443/x?signature=abc",
}
_BODIES = {
    "index": {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": _DIGEST, "size": 5}]},
    "manifest": {"schemaVersion": 2, "config": {}, "layers": []},
    "tags": {"name": "a/b", "tags": ["1", "2"]},
    "token": {"token": _TOKEN, "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"},
    "error": {"errors": [{"code": "DENIED", "message": f"not with {_TOKEN}", "detail": {}}]},
}


def check(data: bytes) -> bool:
    """Read the lines of *data* up to an empty one as headers of each kind, and the rest as bodies of each kind."""
    head, _, body = data.partition(b"\n\n")
    headers = head.decode("latin-1").split("\n")
    for challenge in parse_challenges(headers):
        assert challenge.scheme
        _attempt(lambda challenge=challenge: check_realm(challenge.parameters.get("realm", ""), _ENDPOINT, "https"))
    for header in headers:
        assert 0 <= (retry_after(header) or 0) <= MAX_PAUSE
        _check_url(header)
    link = next_page(headers)
    assert link is None or link in head.decode("latin-1")
    text = str(refusal(404, body, what="x", host="h", secrets=[_TOKEN]))
    assert _TOKEN not in text
    assert text.isprintable()
    return _check_body(headers[0], body)


def _check_url(url: str) -> None:
    try:
        scheme, host, port = url_origin(url)
    except ValueError:
        return
    assert scheme in ("http", "https")
    assert host
    assert 0 < port < 1 << 16
    assert url_host(url)


def _check_body(content_type: str, body: bytes) -> bool:
    document = _attempt(lambda: read_document(body, content_type, None, "tag", "manifest"))
    assert document is None or document.data == body
    referrers = _attempt(lambda: parse_referrers(body, "referrers"))
    tags = _attempt(lambda: parse_tags(body, "tags"))
    token = _attempt(lambda: parse_token(body, 0.0, "h", "a token"))
    assert token is None or (token.value.isascii() and token.value.isprintable() and token.end >= 50)
    return any(found is not None for found in (document, referrers, tags, token))


def _attempt(call: Callable[[], Any]) -> Any:
    """Return what *call* returns; None if it refuses."""
    try:
        return call()
    except (FormatError, IntegrityError, RegistryError) as error:
        assert str(error).encode("utf-8", "backslashreplace")
        return None


def _mutate(chance: random.Random, data: bytes) -> bytes:
    head, separator, body = data.partition(b"\n\n")
    if chance.random() < 0.5:
        return havoc(chance, head) + separator + body
    return head + separator + json_value(chance, body, _WORDS)


def _make_seeds() -> dict[str, bytes]:
    head = "\n".join(_HEADERS.values()).encode()
    return {name: head + b"\n\n" + json.dumps(value).encode() for name, value in _BODIES.items()}


ANSWERS = Target("answers", check, _mutate, _make_seeds)
