"""The tagged images of a repository, read back from its streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from composefs.errors import ComposefsError, FormatError
from composefs.oci.manifest import Manifest, parse_object
from composefs.oci.names import config_name
from composefs.repository import Repository
from composefs.repository.refs import OCI_TAGS, decode_tag
from composefs.splitstream import ContentType

_REFERRERS = "oci-referrers"  # directory below streams/refs
_MANIFEST_PREFIX = "oci-manifest-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedImage:
    """One tag, and what it stands for."""

    name: str
    manifest: str  # digest
    is_container: bool
    architecture: str  # empty for artifacts, as is the next
    os: str
    created: str | None
    layer_count: int
    referrer_count: int

    def as_json(self) -> dict[str, object]:
        """Return the fields under the names that `cfsctl oci images --json` gives them."""
        return {
            "name": self.name,
            "manifest_digest": self.manifest,
            "is_container": self.is_container,
            "architecture": self.architecture,
            "os": self.os,
            "created": self.created,
            "layer_count": self.layer_count,
            "referrer_count": self.referrer_count,
        }


def list_images(repository: Repository) -> Iterator[TaggedImage]:
    """Yield the tagged images, sorted by tag; one that cannot be read is logged and passed over."""
    for tag, stream in repository.streams.refs(OCI_TAGS):
        try:
            yield _read(repository, decode_tag(tag), stream)
        except ComposefsError as error:
            _log.warning("tag %s: %s", decode_tag(tag), error)


def _read(repository: Repository, tag: str, stream: str) -> TaggedImage:
    if not stream.startswith(_MANIFEST_PREFIX):
        raise FormatError(f"tag {tag}", 0, f"stands for {stream}, which is no manifest")
    digest = stream.removeprefix(_MANIFEST_PREFIX)
    with repository.streams.open(stream, ContentType.MANIFEST) as opened:
        manifest = Manifest.parse(opened.read_body(), f"manifest {digest}")
    config: dict[str, object] = {}
    if manifest.is_container:
        with repository.streams.open(config_name(manifest.config.digest), ContentType.CONFIG) as opened:
            config = parse_object(opened.read_body(), f"config {manifest.config.digest}")
    created = config.get("created")
    return TaggedImage(
        name=tag,
        manifest=digest,
        is_container=manifest.is_container,
        architecture=str(config.get("architecture", "")),
        os=str(config.get("os", "")),
        created=created if isinstance(created, str) else None,
        layer_count=len(manifest.layers),
        referrer_count=sum(1 for _ in repository.streams.refs(f"{_REFERRERS}/{digest}")),
    )
