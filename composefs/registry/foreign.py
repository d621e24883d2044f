"""Blobs at URLs that their descriptors name, such as of layers that may not be distributed: no credentials go there."""

from __future__ import annotations

import threading

from composefs.errors import RegistryError
from composefs.registry.blobs import BlobResponse, blob_response, range_headers, range_statuses
from composefs.registry.endpoint import Endpoint, Proxies
from composefs.registry.pauses import PAUSES, waiting
from composefs.registry.session import Notice, Session
from composefs.registry.tokens import Tokens
from composefs.registry.urls import url_host, url_origin


class ForeignBlob:
    """A blob at *url*, where a download may use it in the place of a `Client`.  Certificates are checked, always.

    Raises:
        RegistryError: this is no URL of HTTP.
    """

    def __init__(self, url: str, proxies: Proxies, on_notice: Notice | None = None) -> None:
        try:
            url_origin(url)
        except ValueError:
            raise RegistryError("a layer is said to be at what is no URL of HTTP", "elsewhere") from None
        self.host = url_host(url)
        self._url = url
        self._session = Session(Endpoint(self.host, "", proxies=proxies), Tokens(), on_notice)

    def refusals(self) -> int:
        """Return how often servers said to this process that it asks too much."""
        return PAUSES.count

    def open_blob(
        self, digest: str, *, start: int = 0, end: int | None = None, stop: threading.Event | None = None
    ) -> BlobResponse:
        """Ask for bytes of the blob, as `Client.open_blob` does; errors are the same."""
        answer = self._session.ask_anyone(
            self._url,
            what=f"blob {digest}",
            expected=range_statuses(start, end),
            headers=range_headers(start, end),
            wait=waiting(stop),
        )
        return blob_response(answer, start, end)
