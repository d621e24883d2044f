"""The place of a blob in a registry, as a worker gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from composefs.registry.client import Client
from composefs.registry.download import Download
from composefs.registry.endpoint import Endpoint
from composefs.registry.foreign import ForeignBlob
from composefs.registry.origins import BlobSource
from composefs.registry.tokens import Tokens


@dataclass(frozen=True)
class RegistryBlob:
    """The blob *digest* of *size* bytes.

    Attributes:
        places: the registry, or mirrors of it, in the order in which they are asked, each with what lets us in; the
            registry itself is the last.
        digest: of the blob.
        size: bytes.
        urls: where else it is said to be; asked last, by anybody.
        is_second: it was read before, and was another blob.
    """

    places: tuple[tuple[Endpoint, Tokens], ...]
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    is_second: bool = False

    def __str__(self) -> str:
        return self.places[-1][0].address

    def open(self, label: str, streams: Callable[[], int]) -> Download:
        """Begin to fetch it; see `composefs.oci.sources.source.Place`."""
        sources: list[BlobSource] = [Client(endpoint, tokens=tokens) for endpoint, tokens in self.places]
        sources += [ForeignBlob(url, self.places[-1][0].proxies) for url in self.urls]
        return Download(sources, self.digest, self.size, label, streams)

    def again(self) -> RegistryBlob | None:
        """Return the place at the registry itself, once."""
        return None if self.is_second else replace(self, places=self.places[-1:], is_second=True)
