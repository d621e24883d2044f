"""The images of a repository, read back from its streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from composefs.digest import Digest
from composefs.errors import ComposefsError, FormatError, IntegrityError, NotFoundError
from composefs.oci.manifest import MANIFEST_TYPE, Descriptor, Image, Manifest, parse_object
from composefs.oci.names import config_name, manifest_name
from composefs.oci.slots import Slot, key_order
from composefs.oci.tags import NamedBy, find, require_manifest
from composefs.oci_digest import oci_digest
from composefs.repository import Repository
from composefs.repository.refs import OCI_REFERRERS, OCI_TAGS, decode_tag
from composefs.splitstream import ContentType

_MANIFEST_PREFIX, _CONFIG_PREFIX = manifest_name(""), config_name("")

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


@dataclass(frozen=True)
class StoredImage:
    """An image in a repository."""

    manifest: str  # digest
    manifest_bytes: bytes
    config: str  # digest
    config_bytes: bytes
    layers: dict[str, Digest]  # streams by diff_id, the lowest first; of an artifact by digest
    erofs: dict[Slot, Digest]  # the EROFS images that its config records
    referrers: tuple[str, ...]  # digests of the manifests that refer to it

    def erofs_image(self, version: int, *, bootable: bool = False) -> Digest | None:
        """Return the EROFS image that is recorded for the format *version*, with the usual extended attributes."""
        return self.erofs.get(Slot(2 if version == 2 else 1, bootable))


def open_image(repository: Repository, image: str) -> StoredImage:
    """Read an image: its manifest, its config, and what they refer to.

    Args:
        repository: where it is.
        image: a tag, or the digest of a manifest or config.

    Raises:
        UsageError: *image* can be no image.
        NotFoundError: there is no such image, or no manifest of it.
        FormatError: a part of it is broken.
        IntegrityError: the manifest of that digest has another one, or so has the config.
    """
    found = find(repository, image)
    manifest = require_manifest(repository, found)
    with repository.streams.open(manifest_name(manifest), ContentType.MANIFEST) as stream:
        manifest_bytes = stream.read_body()
    if found.by is not NamedBy.TAG:
        # By tag it is taken: skopeo converts Docker's manifests, and composefs-rs keeps the old digest.
        check_sha256(f"manifest {manifest}", manifest_bytes, manifest)
    with repository.streams.open(config_name(found.config), ContentType.CONFIG) as stream:
        config_bytes, refs = stream.read_body(), stream.reader.named_refs
    check_sha256(f"config {found.config}", config_bytes, found.config)
    parsed = Image.parse(Descriptor(MANIFEST_TYPE, manifest, len(manifest_bytes)), manifest_bytes, config_bytes)
    for diff_id in parsed.diff_ids:
        if diff_id not in refs:
            raise FormatError(f"config {found.config}", 0, f"refers to no layer {diff_id}")
    return StoredImage(
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        config=found.config,
        config_bytes=config_bytes,
        layers={diff_id: refs[diff_id] for diff_id in parsed.diff_ids},
        erofs=_erofs_images(refs),
        referrers=tuple(name for name, _ in repository.streams.refs(f"{OCI_REFERRERS}/{manifest}")),
    )


def linked_images(repository: Repository, digest: Digest) -> dict[Slot, Digest]:
    """Return all EROFS images of the OCI image to which the EROFS image *digest* belongs, tagged or not.

    Raises:
        NotFoundError: it belongs to none.
    """
    for name, stream in repository.streams.names():
        if not name.startswith(_CONFIG_PREFIX):
            continue
        try:
            with repository.streams.open_object(stream, name, ContentType.CONFIG) as opened:
                images = _erofs_images(opened.reader.named_refs)
        except ComposefsError as error:
            _log.warning("%s: %s", name, error)
            continue
        if digest in images.values():
            return images
    raise NotFoundError(f"{repository.path}: image not found: {digest.hex}")


def _erofs_images(refs: Mapping[str, Digest]) -> dict[Slot, Digest]:
    keys = {key: slot for key in sorted(refs, key=key_order) if (slot := Slot.parse(key)) is not None}
    return {slot: refs[key] for key, slot in keys.items()}


def check_sha256(what: str, data: bytes, digest: str) -> None:
    """Check that *data* are what their *digest*, sha256:..., says.

    Raises:
        IntegrityError: they are not.
    """
    got = oci_digest(data)
    if got != digest:
        raise IntegrityError(what, digest, got)


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
        referrer_count=sum(1 for _ in repository.streams.refs(f"{OCI_REFERRERS}/{digest}")),
    )
