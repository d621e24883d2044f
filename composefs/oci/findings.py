"""What can be wrong with OCI images, in the words of `cfsctl oci fsck`, and in some more."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from composefs.repository.fsck import Report
from composefs.repository.fsck.quarantine import WrongName


class OciKind(Enum):
    """What is wrong; the value is stable, and that of composefs-rs where that knows it."""

    INVALID_REF_NAME = "invalid-ref-name"
    REF_RESOLVE_FAILED = "ref-resolve-failed"
    MANIFEST_READ_FAILED = "manifest-read-failed"
    MANIFEST_DIGEST_MISMATCH = "manifest-digest-mismatch"
    MANIFEST_PARSE_FAILED = "manifest-parse-failed"
    CONFIG_REF_MISSING = "config-ref-missing"
    CONFIG_READ_FAILED = "config-read-failed"
    CONFIG_DIGEST_MISMATCH = "config-digest-mismatch"
    CONFIG_PARSE_FAILED = "config-parse-failed"
    LAYER_REF_MISSING = "layer-ref-missing"
    LAYER_STREAM_MISSING = "layer-stream-missing"
    LAYER_CHECK_FAILED = "layer-check-failed"
    LAYER_OBJECT_MISSING = "layer-object-missing"
    SEAL_IMAGE_MISSING = "seal-image-missing"
    ARTIFACT_LAYER_REF_MISSING = "artifact-layer-ref-missing"
    ARTIFACT_LAYER_OBJECT_MISSING = "artifact-layer-object-missing"
    # What composefs-rs 0.9.4 does not find:
    LAYER_DIGEST_MISMATCH = "layer-digest-mismatch"  # its archive, or an artifact's blob, is not what it is called
    CONFIG_STREAM_MISSING = "config-stream-missing"  # it has no name, by which imports find it
    EROFS_IMAGE_INVALID = "erofs-image-invalid"  # what a config records is no image of that format
    EROFS_IMAGE_UNNAMED = "erofs-image-unnamed"  # what a config records has no name in images/
    REFERRER_INVALID = "referrer-invalid"  # its reference leads to another manifest, or that has another subject


@dataclass(frozen=True, slots=True)
class OciFinding:
    """One thing that is wrong with an image.

    Attributes:
        kind: what.
        name: the tag; of what has none, its stream.
        detail: a message; empty where the other fields say it all.
        digest: of the config, layer or image that it is about.
        wanted: what should be there, where that is one value, and `got` what is.
        got: see `wanted`.
    """

    kind: OciKind
    name: str
    detail: str = ""
    digest: str | None = None
    wanted: str | None = None
    got: str | None = None

    def __str__(self) -> str:
        """The line that `cfsctl oci fsck` would print."""
        values = f"expected {self.wanted}, got {self.got}" if self.wanted is not None else None
        parts = (f"fsck: {self.kind.value}", self.name, self.digest, values, self.detail)
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """Return the fields as they are printed."""
        return {"kind": self.kind.value} | {each.name: getattr(self, each.name) for each in fields(self)[1:]}


@dataclass(slots=True)
class OciReport:
    """What a check came to.

    Attributes:
        repository: of what lies below the images.
        images_checked: tags.
        images_corrupted: of them.
        layers_checked: layers and blobs that were proved by their digests; none of a check without contents.
        layers_corrupted: of them.
        findings: by tag; then of what has none.
        untagged_checked: manifests and configs without a tag, and referrers.
        untagged_corrupted: of them.
        layers_unchanged: layers that were proved before, and not now.
        proved: of the layers that were proved, now or before, as records have them.
        wrong: names that are wrong, though the repository's check does not find that.
        stale: paths of names of what is right itself, but is to be made again with what it refers to.
    """

    repository: Report
    images_checked: int = 0
    images_corrupted: int = 0
    layers_checked: int = 0
    layers_corrupted: int = 0
    findings: list[OciFinding] = field(default_factory=list)
    untagged_checked: int = 0
    untagged_corrupted: int = 0
    layers_unchanged: int = 0
    proved: set[bytes] = field(default_factory=set)
    wrong: list[WrongName] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, with the repository either."""
        return self.repository.ok and not self.findings

    def as_json(self) -> dict[str, object]:
        """Return it under the names of `cfsctl oci fsck --json`, and what that does not know."""
        return {
            "ok": self.ok,
            "images_checked": self.images_checked,
            "images_corrupted": self.images_corrupted,
            "layers_checked": self.layers_checked,
            "layers_corrupted": self.layers_corrupted,
            "layers_unchanged": self.layers_unchanged,
            "untagged_checked": self.untagged_checked,
            "untagged_corrupted": self.untagged_corrupted,
            "errors": [str(finding) for finding in self.findings],
            "findings": [finding.as_json() for finding in self.findings],
            "repo": self.repository.as_json(),
        }
