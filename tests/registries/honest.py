"""What a registry that does everything right answers; its contents are a few dictionaries."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tests.layouts import INDEX, sha256
from tests.registries.wire import Reply, Request

_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_BLOB = re.compile(r"/v2/(.+)/blobs/([^/]+)")
_REFERRERS = re.compile(r"/v2/(.+)/referrers/([^/]+)")
_TAGS = re.compile(r"/v2/(.+)/tags/list")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Json = dict[str, Any]


@dataclass
class Contents:
    """What a registry has.

    Attributes:
        manifests: media type and bytes, by repository and tag or digest.
        blobs: by digest; each repository has them all.
        referrers: descriptors, by digest; None: the registry does not know of that.
    """

    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    referrers: dict[str, list[Json]] | None = None

    def put_manifest(self, repository: str, data: bytes, media_type: str, *tags: str) -> str:
        """Add a manifest under its digest and *tags*, and return the digest."""
        digest = sha256(data)
        for name in (digest, *tags):
            self.manifests[repository, name] = media_type, data
        return digest

    def put_layout(self, path: Path, repository: str, tag: str) -> str:
        """Add the one image (or index) of the layout at *path* and all blobs, and return its digest."""
        (descriptor,) = json.loads((path / "index.json").read_bytes())["manifests"]
        blobs = {f"{file.parent.name}:{file.name}": file.read_bytes() for file in (path / "blobs").glob("*/*")}
        self._put_tree(blobs, descriptor, repository)
        self.blobs |= blobs
        self.manifests[repository, tag] = self.manifests[repository, descriptor["digest"]]
        return str(descriptor["digest"])

    def _put_tree(self, blobs: Mapping[str, bytes], descriptor: Json, repository: str) -> None:
        data = blobs[descriptor["digest"]]
        self.manifests[repository, descriptor["digest"]] = descriptor["mediaType"], data
        for child in json.loads(data).get("manifests", []):
            if child["digest"] in blobs:
                self._put_tree(blobs, child, repository)

    def answer(self, request: Request) -> Reply:
        """Return the answer to *request*."""
        if request.path == "/v2/":
            return Reply(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
        for pattern, answer in (
            (_MANIFEST, self._manifest),
            (_BLOB, self._blob),
            (_REFERRERS, self._referrers),
            (_TAGS, self._tags),
        ):
            if found := pattern.fullmatch(request.path):
                return answer(request, *found.groups())
        return refusal(404, "NOT_FOUND", "no such path")

    def _manifest(self, request: Request, repository: str, name: str) -> Reply:
        if (found := self.manifests.get((repository, name))) is None:
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        if media_type not in request.headers.get("accept", ""):
            return refusal(404, "MANIFEST_UNKNOWN", "not in the Accept of the request")
        return Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": sha256(data)}, data)

    def _blob(self, request: Request, _: str, digest: str) -> Reply:
        if (data := self.blobs.get(digest)) is None:
            return refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return ranged(request, data, {"Docker-Content-Digest": digest})

    def _referrers(self, request: Request, _: str, digest: str) -> Reply:
        if self.referrers is None:
            return refusal(404, "NOT_FOUND", "no such path")
        found = self.referrers.get(digest, [])
        wanted = parse_qs(request.query).get("artifactType")
        headers = {"Content-Type": INDEX}
        if wanted:
            found = [descriptor for descriptor in found if descriptor.get("artifactType") in wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        return Reply(200, headers, _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}))

    def _tags(self, request: Request, repository: str) -> Reply:
        tags = sorted({name for owner, name in self.manifests if owner == repository and ":" not in name})
        query = parse_qs(request.query)
        rest = [tag for tag in tags if tag > query.get("last", [""])[0]]
        page = rest[: int(query["n"][0])] if "n" in query else rest
        headers = {"Content-Type": "application/json"}
        if len(page) < len(rest):
            headers["Link"] = f'</v2/{repository}/tags/list?n={len(page)}&last={page[-1]}>; rel="next"'
        return Reply(200, headers, _json({"name": repository, "tags": page}))


def ranged(request: Request, data: bytes, headers: Mapping[str, str]) -> Reply:
    """Return *data*, or the one range of it that *request* asks for."""
    about = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    found = _RANGE.fullmatch(request.range or "")
    if found is None:
        return Reply(200, about, data)
    start, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
    if start >= len(data):
        return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
    return Reply(206, {**about, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1], data)


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an error as the specification has it."""
    body = _json({"errors": [{"code": code, "message": message}]})
    return Reply(status, {"Content-Type": "application/json", **(headers or {})}, body)


class Tokens:
    """Bearer tokens: as a gate before a registry, and as the server that gives them out.

    Attributes:
        realm: where they are given out; None: at /token of the server itself.
        users: passwords by user; empty: anybody gets one.
        expires_in: seconds, which the answer claims; None: it does not say.
        uses: requests that a token is good for; None: any number.  So it ends in the middle of a pull.
        given: tokens given out so far.
    """

    def __init__(
        self,
        realm: str | None = None,
        users: Mapping[str, str] | None = None,
        expires_in: int | None = 300,
        uses: int | None = None,
    ) -> None:
        self.realm, self.users, self.expires_in, self.uses = realm, dict(users or {}), expires_in, uses
        self.given: list[str] = []
        self._left: dict[str, int | None] = {}
        self._lock = threading.Lock()

    def revoke(self) -> None:
        """Let no token that was given out be good any more."""
        with self._lock:
            self._left.clear()

    def challenge(self, request: Request) -> Reply:
        """Return the 401 to *request*."""
        host = request.headers.get("host", "")
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|referrers|tags)/.*", request.path)
        scope = f',scope="repository:{found[1]}:pull"' if found else ""
        value = f'Bearer realm="{self.realm or f"http://{host}/token"}",service="a test"{scope}'
        return refusal(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": value})

    def check(self, request: Request) -> Reply | None:
        """Return what *request* gets in place of an answer; None: it has a good token."""
        kind, _, token = (request.authorization or "").partition(" ")
        with self._lock:
            left = self._left.get(token, 0)
            if kind != "Bearer" or left == 0:
                return self.challenge(request)
            self._left[token] = None if left is None else left - 1
        return None

    def give(self, request: Request) -> Reply:
        """Return the answer to a request for a token."""
        if self.users and not is_known(request, self.users):
            return refusal(401, "UNAUTHORIZED", "incorrect username or password")
        with self._lock:
            token = f"token-{len(self.given)}-secret"
            self.given.append(token)
            self._left[token] = self.uses
        about = {"token": token} | ({} if self.expires_in is None else {"expires_in": self.expires_in})
        return Reply(200, {"Content-Type": "application/json"}, _json(about))


def is_known(request: Request, users: Mapping[str, str]) -> bool:
    """Tell whether *request* has the name and password of one of *users*, as basic authentication sends them."""
    return any(
        request.authorization == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        for user, password in users.items()
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
