"""The calls of the registry API that put blobs and manifests there.

Source: OCI distribution specification 1.1, "Push".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, urljoin

from composefs import limits
from composefs.errors import ConnectionLostError, IntegrityError, RegistryError
from composefs.oci_digest import oci_digest
from composefs.registry.client import PUSH, Client
from composefs.registry.connection import Answer
from composefs.registry.documents import check_digest, is_digest
from composefs.registry.endpoint import Endpoint
from composefs.registry.pauses import backoff
from composefs.registry.session import PASSING, TRIES, Notice
from composefs.registry.tokens import Tokens
from composefs.registry.urls import url_origin

_PATIENCE = 300.0  # seconds: a registry may copy what it has got, before it answers
_FIRST_BACKOFF = 1.0  # seconds
_BYTES = "application/octet-stream"


class PushClient(Client):
    """A `Client` that may put blobs and manifests into its repository, too."""

    def __init__(self, endpoint: Endpoint, *, tokens: Tokens | None = None, on_notice: Notice | None = None) -> None:
        super().__init__(endpoint, tokens=tokens, on_notice=on_notice, actions=PUSH)

    def upload_blob(self, digest: str, size: int, pieces: Iterable[bytes]) -> None:
        """Put the blob *digest* there, in one request, which every registry takes.

        Args:
            digest: of the blob.
            size: bytes of the blob.
            pieces: the blob.  If they can be gone through again (so not a generator), the blob is sent again where the
                connection is lost: what is left of a try that failed cannot be gone on with.

        Raises:
            IntegrityError: *pieces* have another size, or the registry another digest.
            RegistryError: the registry does not take it.
        """
        body = _Once(pieces, _what(digest), self.host) if iter(pieces) is pieces else pieces
        for failures in range(1, TRIES + 1):
            location = self._begin(digest)
            try:
                self._finish(location, digest, body, size)
            except RegistryError as error:
                if not _may_pass(error) or failures == TRIES:
                    raise
                self._cancel(location, digest)
                time.sleep(backoff(failures, _FIRST_BACKOFF))
            else:
                return

    def put_manifest(self, tag_or_digest: str, data: bytes, media_type: str) -> str:
        """Put a manifest or index there, under a tag or its digest, and return its digest.

        Raises:
            IntegrityError: *data* are not what *tag_or_digest* says, or what the registry says to have got.
            RegistryError: the registry does not take it; it may lack blobs.
        """
        digest = tag_or_digest if is_digest(tag_or_digest) else oci_digest(data)
        subject = f"manifest {tag_or_digest} of {self.endpoint.repository}"
        check_digest(data, digest, subject)
        answer = self.session.request(
            "PUT",
            f"/v2/{self.endpoint.repository}/manifests/{quote(tag_or_digest, safe=':')}",
            what=subject,
            scopes=(self.scope,),
            expected=(201,),
            headers={"Content-Type": media_type},
            body=[data],
            body_size=len(data),
            max_size=limits.REGISTRY_ERROR_SIZE,
            patience=_PATIENCE,
        )
        self._check_said(answer, digest, subject)
        return digest

    def _begin(self, digest: str) -> str:
        """Begin an upload; return where."""
        return self._location(self._send("POST", self._uploads, digest, (202,)))

    def _finish(self, location: str, digest: str, body: Iterable[bytes], size: int) -> None:
        """Send *body*, the blob, and give it its name."""
        url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe=':')}"
        headers = {"Content-Type": _BYTES}
        answer = self._send("PUT", url, digest, (201, 204), headers=headers, body=body, size=size, tries=1)
        self._check_said(answer, digest, _what(digest))

    def _cancel(self, location: str, digest: str) -> None:
        with suppress(RegistryError):  # it ends by itself, some time
            self._send("DELETE", location, digest, (200, 202, 204, 404), tries=1)

    def _send(
        self,
        method: str,
        location: str,
        digest: str,
        expected: tuple[int, ...],
        *,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
        size: int = 0,
        tries: int = TRIES,
    ) -> Answer:
        return self.session.request(
            method,
            location,
            what=_what(digest),
            scopes=(self.scope,),
            expected=expected,
            headers=headers,
            body=body,
            body_size=size,
            max_size=limits.REGISTRY_ERROR_SIZE,
            patience=_PATIENCE,
            tries=tries,
        )

    @property
    def _uploads(self) -> str:
        return f"/v2/{self.endpoint.repository}/blobs/uploads/"

    def _location(self, answer: Answer) -> str:
        """Return where the registry wants the rest."""
        try:
            url = urljoin(answer.url, answer.header("Location") or "")
            scheme = url_origin(url)[0]
        except ValueError:
            scheme = ""
        if answer.header("Location") is None or scheme not in ("https", self.session.tokens.scheme):
            what = f"{answer.what}: the registry does not say where to send it, or not by {self.session.tokens.scheme}"
            raise RegistryError(what, answer.host, answer.status)
        return url

    def _check_said(self, answer: Answer, digest: str, subject: str) -> None:
        said = answer.header("Docker-Content-Digest")
        is_comparable = said is not None and is_digest(said) and said.partition(":")[0] == digest.partition(":")[0]
        if is_comparable and said != digest:
            raise IntegrityError(f"{subject} at {answer.host}", digest, str(said))


class _Once:
    """Pieces that can be gone through once only."""

    def __init__(self, pieces: Iterable[bytes], what: str, host: str) -> None:
        self._pieces: Iterable[bytes] | None = pieces
        self._what, self._host = what, host

    def __iter__(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            raise RegistryError(f"{self._what}: it would have to be sent again, and cannot be", self._host)
        return iter(pieces)


def _what(digest: str) -> str:
    return f"upload of blob {digest}"


def _may_pass(error: RegistryError) -> bool:
    return isinstance(error, ConnectionLostError) or error.status in PASSING
