"""Images in registries: `docker://HOST/NAME[:TAG][@DIGEST]`.

Rule 1: mirrors are asked in their order, then the registry itself; the first that gives manifest and config serves all.
Rule 2: what a tag names is resolved first, and fetched by its digest: a tag may move in between.
Rule 3: of the digests in a manifest only sha256 is taken, as everywhere in this package; the name of an image may have
        sha384 or sha512, which prove its manifest, that is then known by its sha256.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from composefs import limits
from composefs.errors import ComposefsError, FormatError, IntegrityError, LimitError, RegistryError
from composefs.oci.choice import check_blob, choose, read_image
from composefs.oci.manifest import Descriptor, Image, Platform
from composefs.oci.sources.access import Access
from composefs.oci.sources.registry_blob import RegistryBlob
from composefs.oci.sources.source import Blob
from composefs.oci_digest import oci_digest
from composefs.reference import RegistryName, RegistryReference
from composefs.registry.client import Client
from composefs.registry.documents import Document, is_digest
from composefs.registry.endpoint import Endpoint
from composefs.registry.pool import close_connections
from composefs.registry.referrers import Referrer
from composefs.registry.session import Notice
from composefs.registry.tokens import Tokens
from composefs.registry.urls import is_http_url

_URLS = 8  # of a layer that are asked when the registry does not have it; real ones have one
_T = TypeVar("_T")
_log = logging.getLogger(__name__)

# What makes the next place worth asking; that an image is not made for the platform, every place says.
_FAILURES = (RegistryError, IntegrityError, FormatError)


def open_registry(reference: RegistryReference, access: Access, on_notice: Notice | None = None) -> RegistrySource:
    """Return the source of the image *reference*; nothing is asked for yet.

    Args:
        reference: names the image.
        access: how registries are reached; whether the image may be used is for the caller to see.
        on_notice: told what the user should know: pauses, and warnings of the registry.

    Raises:
        PolicyError: the configuration of this host blocks it.
        FormatError, OSError: that configuration is broken, or cannot be read.
    """
    name = reference.name
    endpoints: Iterable[Endpoint]
    endpoints = (Endpoint(name.host, name.repository),) if access.host is None else access.host.endpoints(name)
    return RegistrySource(reference.text, name, endpoints, streams=access.streams, on_notice=on_notice)


class RegistrySource:
    """One image of a registry; see `composefs.oci.sources.source.Source`.

    Args:
        text: the reference, as it was given.
        name: of the image.
        endpoints: where it may be had, in order; one is taken when the ones before have failed.
        streams: connections at a time.
        on_notice: told what the user should know.
    """

    shares_files = False

    def __init__(
        self,
        text: str,
        name: RegistryName,
        endpoints: Iterable[Endpoint],
        *,
        streams: int,
        on_notice: Notice | None = None,
    ) -> None:
        self.name, self.streams = text, streams
        self._name, self._on_notice = name, on_notice
        self._endpoints: Iterator[Endpoint] = iter(endpoints)
        self._images: dict[Platform | None, Image] = {}
        self._client: Client | None = None  # of the place that serves the image
        self._others: tuple[tuple[Endpoint, Tokens], ...] | None = None  # behind it

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image for *platform*, by default that of this machine; it is fetched once.

        Raises:
            NotFoundError: there is none for it.
            RegistryError: no place gives it; notes say what went wrong at the places before the last.
            FormatError, IntegrityError: what the last place gives is broken.
        """
        if platform not in self._images:  # some registries count what is fetched
            self._images[platform] = self._ask(lambda client: self._image_at(client, platform))
        return self._images[platform]

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of layer number *index* of *image*; see `Source`."""
        layer = image.manifest.layers[index]
        if layer.data is not None:
            return Blob(DataPlace(layer.data), layer.digest, layer.size, layer.compression)
        urls = tuple(filter(is_http_url, layer.urls))[:_URLS]  # other ones say nothing, as in CVE-2020-15157
        place = RegistryBlob(self._places(), layer.digest, layer.size, urls=urls)
        return Blob(place, layer.digest, layer.size, layer.compression)

    def close(self) -> None:
        """Close the connections that are kept for more; places stay good."""
        close_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def referrers(self, artifact_type: str | None = None) -> tuple[str, tuple[Referrer, ...]]:
        """Return the digest of the manifest or index that the reference names, and what refers to that.

        Args:
            artifact_type: only those of this kind.

        Raises:
            RegistryError: no place gives it; notes say what went wrong at the places before the last.
            FormatError, IntegrityError: what the last place gives is broken.
        """

        def ask(client: Client) -> tuple[str, tuple[Referrer, ...]]:
            wanted = self._wanted(client)
            digest = wanted if is_digest(wanted) else client.manifest(wanted).digest
            return digest, client.referrers(digest, artifact_type)

        return self._ask(ask)

    def _ask(self, ask: Callable[[Client], _T]) -> _T:
        """Return what *ask* gets from the first place that gives it."""
        if self._client is not None:
            return ask(self._client)
        failures: list[ComposefsError] = []
        for endpoint in self._endpoints:
            client = Client(endpoint, on_notice=self._on_notice)
            try:
                found = ask(client)
            except _FAILURES as error:
                failures.append(error)
                continue
            self._client = client
            return found
        if not failures:
            raise RegistryError(f"{self.name}: there is no place to fetch it from", self._name.host)
        for failure in failures[:-1]:
            failures[-1].add_note(f"before that, {failure}")
        raise failures[-1]

    def _image_at(self, client: Client, platform: Platform | None) -> Image:
        document = client.manifest(self._wanted(client))
        digest = oci_digest(document.data)
        descriptor = Descriptor(document.media_type, digest, len(document.data))
        read = _Reader(client, {digest: document}).read
        return read_image(choose([descriptor], platform, read, self.name), read)

    def _wanted(self, client: Client) -> str:
        """Return the digest of what the reference names, or its tag where the registry does not say."""
        wanted = self._name.wanted
        return wanted if is_digest(wanted) else client.resolve(wanted) or wanted

    def _places(self) -> tuple[tuple[Endpoint, Tokens], ...]:
        """Return where blobs are asked for: where the manifest came from, and then at the places behind that."""
        assert self._client is not None, "image() comes first"
        if self._others is None:
            self._others = tuple((endpoint, Tokens()) for endpoint in self._rest())
        return ((self._client.endpoint, self._client.tokens), *self._others)

    def _rest(self) -> Iterator[Endpoint]:
        try:
            yield from self._endpoints
        except ComposefsError as error:  # such as of a helper for credentials: perhaps they are not needed
            (self._on_notice or _log.warning)(f"{self._name.host} is left out: {error}")


class _Reader:
    """Reads small blobs of one place, each once."""

    def __init__(self, client: Client, documents: dict[str, Document]) -> None:
        self._client, self._documents = client, documents
        self._configs: dict[str, bytes] = {}

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """Return the blob that *descriptor* describes: *what*, such as an index, manifest or config."""
        if descriptor.size > limits.REGISTRY_JSON_SIZE:
            source = f"{what} {descriptor.digest}"
            raise LimitError(source, 0, "bytes of JSON", limits.REGISTRY_JSON_SIZE, descriptor.size)
        if descriptor.data is not None:
            return check_blob(descriptor, descriptor.data, what)
        if what == "config":
            return self._config(descriptor, what)
        if descriptor.digest not in self._documents:
            self._check_count(what, descriptor)
            self._documents[descriptor.digest] = self._client.manifest(descriptor.digest)
        document = self._documents[descriptor.digest]
        if document.media_type != descriptor.media_type:
            said = f"media type {document.media_type!r}, but the index says {descriptor.media_type!r}"
            raise FormatError(f"{what} {descriptor.digest}", 0, said)
        return check_blob(descriptor, document.data, what)

    def _check_count(self, what: str, descriptor: Descriptor) -> None:
        """Refuse to ask for one more; indexes may lead to any number of them."""
        if len(self._documents) + len(self._configs) >= limits.REGISTRY_DOCUMENTS:
            source = f"{what} {descriptor.digest}"
            raise LimitError(source, 0, "indexes, manifests and configs to find an image", limits.REGISTRY_DOCUMENTS)

    def _config(self, descriptor: Descriptor, what: str) -> bytes:
        if descriptor.digest not in self._configs:
            self._check_count(what, descriptor)
            data = self._client.small_blob(descriptor.digest, descriptor.size, what)
            self._configs[descriptor.digest] = data
        return check_blob(descriptor, self._configs[descriptor.digest], what)


@dataclass(frozen=True)
class DataPlace:
    """The place of a blob that its descriptor holds; it is proved like any other."""

    data: bytes

    def open(self, label: str, streams: Callable[[], int]) -> DataStream:  # noqa: ARG002  # it is one stream
        """Open the blob; see `Place`."""
        return DataStream(self.data)

    def again(self) -> None:
        """Return None: it says the same again."""


class DataStream:
    """The bytes of a blob that are there."""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self._file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes, none only at the end."""
        return self._file.read(size)

    def close(self) -> None:
        """Let go of the bytes."""
        self._file.close()
