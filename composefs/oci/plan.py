"""Which layers an image has, and which of them are in the repository already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composefs.digest import Digest
from composefs.errors import FormatError
from composefs.oci.manifest import Compression, Descriptor, Image
from composefs.oci.names import find_layers
from composefs.oci.stats import Stats
from composefs.repository import Repository
from composefs.splitstream import ContentType


@dataclass(frozen=True)
class Plan:
    """One layer to have: its place in the manifest, and its stream if that exists."""

    index: int
    digest: str
    diff_id: str
    size: int
    compression: Compression | None
    present: Digest | None


class Layers:
    """The layers of an image: at first those that are there, and in the end all.

    Attributes:
        missing: the others, in the order of the image.
        streams: of those that are there, by diff_id.
        imported: the diff_ids of the new ones.
        stats: what storing these came to.
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.missing = [plan for plan in plans if plan.present is None]
        self.streams = {plan.diff_id: plan.present for plan in plans if plan.present is not None}
        self.imported: set[str] = set()
        self.stats = Stats()


def plan_layers(repository: Repository | None, image: Image) -> list[Plan]:
    """Return the distinct layers of *image*, in its order; without a *repository* all are missing.

    Raises:
        FormatError: one of them is of an unknown kind.
    """
    layers: dict[str, tuple[int, Descriptor]] = {}
    for index, (descriptor, diff_id) in enumerate(zip(image.manifest.layers, image.diff_ids, strict=True)):
        layers.setdefault(diff_id, (index, descriptor))
    content_types = {}
    for diff_id, (_, descriptor) in layers.items():
        compression = descriptor.compression
        if compression is None and image.manifest.is_container:
            what = f"media type {descriptor.media_type!r} is not one of a layer"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        if compression not in (None, Compression.NONE) and not image.manifest.is_container:
            # An archive among an artifact's blobs is named by the digest of the blob, which only a plain one has.
            what = f"an artifact's archive of type {descriptor.media_type!r} has no digest of its contents"
            raise FormatError(f"layer {descriptor.digest}", 0, what)
        content_types[diff_id] = ContentType.BLOB if compression is None else ContentType.LAYER
    present = find_layers(repository, content_types) if repository is not None else {}
    return [
        Plan(index, descriptor.digest, diff_id, descriptor.size, descriptor.compression, present.get(diff_id))
        for diff_id, (index, descriptor) in layers.items()
    ]
