"""What an export says of itself while it runs; read as the events of an import are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from composefs.oci.progress import LayerPlan, LayerPresent, LayerProgress, Syncing


@dataclass(frozen=True)
class ExportStarted:
    """The image is known: *layers* are all of it, *total* the bytes of archives to read."""

    image: str
    destination: str
    manifest: str
    layers: tuple[LayerPlan, ...]  # present: at the destination, as far as that is known yet
    total: int


@dataclass(frozen=True)
class LayerExported:
    """The blob of layer *index* is made: *size* bytes."""

    index: int
    diff_id: str
    digest: str
    size: int


@dataclass(frozen=True)
class Sending:
    """*done* of *total* bytes of blobs have been sent to a registry."""

    done: int
    total: int


@dataclass(frozen=True)
class ExportDone:
    """The image is at its destination."""

    destination: str
    manifest: str
    seconds: float


Event = ExportStarted | LayerPresent | LayerProgress | LayerExported | Syncing | Sending | ExportDone
Listener = Callable[[Event], None]
