"""The calls of the registry API that a puller needs, for one repository of one registry.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from urllib.parse import quote, urljoin

from composefs import limits
from composefs.errors import IntegrityError, LimitError, RegistryError
from composefs.registry.blobs import (
    BLOB_HEADERS,
    BlobResponse,
    blob_response,
    range_headers,
    range_statuses,
    refuse_encoded,
)
from composefs.registry.connection import Answer
from composefs.registry.documents import (
    ACCEPT,
    DOCKER_LIST,
    OCI_INDEX,
    Document,
    check_digest,
    is_digest,
    read_document,
)
from composefs.registry.endpoint import Endpoint
from composefs.registry.pauses import PAUSES, waiting
from composefs.registry.referrers import Referrer, fallback_tag, next_page, parse_referrers, parse_tags
from composefs.registry.session import PASSING, REDIRECTS, Notice, Session, Wait
from composefs.registry.tokens import Tokens
from composefs.registry.urls import url_origin

PULL = "pull"
PUSH = "pull,push"
_PAGE = 1000  # tags of a list that are asked for at a time


class Client:
    """One repository of one registry.  Threads may share it; connections are those of the process.

    Args:
        endpoint: registry and repository.
        tokens: what is known of how to get in; another process may go on with `tokens` of this one.
        on_notice: told what the user should know: pauses, and warnings of the registry.
        actions: what is to be done in it: `PULL` or `PUSH`.

    Attributes:
        endpoint: as given.
        session: what requests are made with.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tokens: Tokens | None = None,
        on_notice: Notice | None = None,
        actions: str = PULL,
    ) -> None:
        self.endpoint = endpoint
        self.session = Session(endpoint, tokens or Tokens(), on_notice)
        self.scope = f"repository:{endpoint.repository}:{actions}"

    @property
    def tokens(self) -> Tokens:
        """What is known of how to get in: for a worker that goes on."""
        return self.session.tokens

    @property
    def host(self) -> str:
        """The host[:port] of the registry, for messages."""
        return self.endpoint.address

    def refusals(self) -> int:
        """Return how often servers said to this process that it asks too much."""
        return PAUSES.count

    def resolve(self, tag: str) -> str | None:
        """Return the digest of what *tag* names, without fetching it; None: the registry does not say, but may give it.

        Raises:
            RegistryError: it does not answer.
        """
        statuses = (200, *REDIRECTS, 400, 401, 403, 404, 405, 501, *PASSING)  # HEAD says not why: GET will
        with self._get(self._manifest_path(tag), self._manifest_name(tag), method="HEAD", expected=statuses) as answer:
            digest = answer.header("Docker-Content-Digest") if answer.status == 200 else None
        return digest if digest is not None and is_digest(digest) else None

    def manifest(self, tag_or_digest: str) -> Document:
        """Return the manifest or index *tag_or_digest*, proved by its digest.

        Raises:
            IntegrityError: it is another one.
            FormatError: it is none, or of a kind that is not supported.
            RegistryError: there is none, or the registry does not give it.
        """
        name = self._manifest_name(tag_or_digest)
        answer = self._get(self._manifest_path(tag_or_digest), name, max_size=limits.REGISTRY_JSON_SIZE)
        refuse_encoded(answer)
        content_type, digest = answer.header("Content-Type"), answer.header("Docker-Content-Digest")
        return read_document(answer.body, content_type, digest, tag_or_digest, f"{name} at {answer.host}")

    def small_blob(self, digest: str, size: int, what: str) -> bytes:
        """Return the blob *digest* of *size* bytes, proved: *what* is in it, such as a config.

        Raises:
            LimitError: it is larger than is taken for such a thing.
            IntegrityError: it is not what its digest says.
            RegistryError: the registry does not give it.
        """
        if size > limits.REGISTRY_JSON_SIZE:
            raise LimitError(f"{what} {digest}", 0, "bytes of JSON", limits.REGISTRY_JSON_SIZE, size)
        answer = self._get(self._blob_path(digest), f"{what} {digest}", headers=BLOB_HEADERS, max_size=size)
        refuse_encoded(answer)
        subject = f"{what} {digest} at {answer.host}"
        if len(answer.body) != size:
            got = f"{len(answer.body)} bytes" if len(answer.body) < size else "more"
            raise IntegrityError(subject, f"{size} bytes", got)
        check_digest(answer.body, digest, subject)
        return answer.body

    def open_blob(
        self, digest: str, *, start: int = 0, end: int | None = None, stop: threading.Event | None = None
    ) -> BlobResponse:
        """Ask for bytes of the blob *digest*, which nobody has checked.

        Args:
            digest: of the blob.
            start: the first byte wanted.
            end: behind the last byte wanted; None: all the rest.
            stop: ends the waiting between tries, once it is set.

        Raises:
            RangeError: the server gives no ranges, or not this one; it may give the whole blob.
            ConnectionLostError: there was no answer, in several tries.
            CancelledError: *stop* was set.
            RegistryError: the registry does not give it.
        """
        answer = self._get(
            self._blob_path(digest),
            f"blob {digest}",
            headers=range_headers(start, end),
            expected=range_statuses(start, end),
            wait=waiting(stop),
        )
        return blob_response(answer, start, end)

    def has_blob(self, digest: str) -> bool:
        """Return whether the registry has the blob *digest* in this repository.

        Raises:
            RegistryError: it does not say.
        """
        statuses = (200, 404, *REDIRECTS)  # it has what it sends us for; the other server may not know HEAD
        with self._get(self._blob_path(digest), f"blob {digest}", method="HEAD", expected=statuses) as answer:
            return answer.status != 404

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Referrer, ...]:
        """Return what refers to the manifest *digest*, of one kind if *artifact_type* says which.

        Raises:
            FormatError: the registry answers what is no list of them.
            RegistryError: it does not answer.
        """
        what = f"referrers of {digest}"
        query = "" if artifact_type is None else f"?artifactType={quote(artifact_type, safe='')}"
        location = f"/v2/{self.endpoint.repository}/referrers/{digest}{query}"
        found: list[Referrer] = []
        for answer in self._pages(location, what, (200, 404)):
            if answer.status == 404:
                found = self._referrers_of_tag(digest)
                break
            found += parse_referrers(answer.body, f"{what} at {answer.host}")
        # Whether the registry has left out the others, which it says in OCI-Filters-Applied, makes no difference.
        return tuple(each for each in found if artifact_type in (None, each.artifact_type))

    def tags(self) -> tuple[str, ...]:
        """Return the tags of the repository, in the order of the registry.

        Raises:
            FormatError: the registry answers what is no list of them.
            RegistryError: it does not answer, or there is no such repository.
        """
        what = f"tags of {self.endpoint.repository}"
        found: list[str] = []
        for answer in self._pages(f"/v2/{self.endpoint.repository}/tags/list?n={_PAGE}", what, (200,)):
            found += parse_tags(answer.body, f"{what} at {answer.host}")
        return tuple(found)

    def _referrers_of_tag(self, digest: str) -> list[Referrer]:
        tag = fallback_tag(digest)
        try:
            document = self.manifest(tag)
        except RegistryError as error:
            if error.status == 404:
                return []
            raise
        if document.media_type not in (OCI_INDEX, DOCKER_LIST):
            raise RegistryError(f"the tag {tag}, for referrers, names no index", self.host)
        return parse_referrers(document.data, self._manifest_name(tag))

    def _pages(self, location: str, what: str, expected: tuple[int, ...]) -> Iterator[Answer]:
        """Yield the pages of a list."""
        size = 0
        for _ in range(limits.REGISTRY_PAGES):
            answer = self._get(location, what, expected=expected, max_size=limits.REGISTRY_JSON_SIZE)
            refuse_encoded(answer)
            size += len(answer.body)
            if size > limits.REGISTRY_LIST_SIZE:
                raise LimitError(f"{what} at {self.host}", 0, "bytes of all pages", limits.REGISTRY_LIST_SIZE)
            yield answer
            following = next_page(answer.all_headers("Link"))
            if following is None:
                return
            try:
                location = urljoin(answer.url, following)
                is_here = url_origin(location) == url_origin(answer.url)
            except ValueError:
                is_here = False
            if not is_here:
                raise RegistryError(f"{what}: the next page is at another server", answer.host, answer.status)
        raise LimitError(f"{what} at {self.host}", 0, "pages", limits.REGISTRY_PAGES)

    def _get(
        self,
        location: str,
        what: str,
        *,
        method: str = "GET",
        expected: tuple[int, ...] = (200,),
        headers: dict[str, str] | None = None,
        max_size: int | None = None,
        wait: Wait = time.sleep,
    ) -> Answer:
        return self.session.request(
            method,
            location,
            what=what,
            scopes=(self.scope,),
            expected=expected,
            headers=headers or {"Accept": ACCEPT, **BLOB_HEADERS},
            max_size=max_size,
            wait=wait,
        )

    def _manifest_path(self, tag_or_digest: str) -> str:
        return f"/v2/{self.endpoint.repository}/manifests/{quote(tag_or_digest, safe=':')}"

    def _manifest_name(self, tag_or_digest: str) -> str:
        return f"manifest {tag_or_digest} of {self.endpoint.repository}"

    def _blob_path(self, digest: str) -> str:
        return f"/v2/{self.endpoint.repository}/blobs/{quote(digest, safe=':')}"
