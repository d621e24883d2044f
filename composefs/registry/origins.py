"""Where blobs can be asked for, and what was learned of such a place meanwhile."""

from __future__ import annotations

import threading
from typing import Protocol

from composefs.registry.blobs import BlobResponse


class BlobSource(Protocol):
    """What blobs can be asked of, such as a `composefs.registry.client.Client`."""

    @property
    def host(self) -> str:
        """Its name, for messages."""

    def refusals(self) -> int:
        """Return how often it was too much so far."""

    def open_blob(
        self, digest: str, *, start: int = 0, end: int | None = None, stop: threading.Event | None = None
    ) -> BlobResponse:
        """Return an answer with bytes of a blob; see `composefs.registry.client.Client.open_blob`."""


class Origin:
    """One source of the blob, and what was learned of it.

    Attributes:
        has_ranges: it gives ranges, as far as is known.
    """

    def __init__(self, source: BlobSource) -> None:
        self.source, self.has_ranges = source, True
        self._refusals = source.refusals()

    def most(self, streams: int) -> int:
        """Return how many of *streams* connections to use: half of them for each time it was too much."""
        if not self.has_ranges:
            return 1
        return max(1, streams >> min(self.source.refusals() - self._refusals, 16))
