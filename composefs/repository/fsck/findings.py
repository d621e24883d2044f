"""What can be wrong with a repository, in the words of `cfsctl fsck`, and in some more."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composefs.repository.fsck.record import Record


class Kind(Enum):
    """What is wrong; the value is stable, and that of composefs-rs where that knows it."""

    METADATA_PARSE_FAILED = "metadata-parse-failed"
    METADATA_ALGORITHM_MISMATCH = "metadata-algorithm-mismatch"  # any demand of meta.json that cannot be met
    OBJECT_INVALID_NAME = "object-invalid-name"
    OBJECT_OPEN_FAILED = "object-open-failed"
    OBJECT_DIGEST_MISMATCH = "object-digest-mismatch"
    OBJECT_VERITY_FAILED = "object-verity-failed"  # its digest could not be computed
    OBJECT_VERITY_MISSING = "object-verity-missing"  # where fs-verity is required
    ENTRY_NOT_SYMLINK = "entry-not-symlink"
    BROKEN_SYMLINK = "broken-symlink"
    STAT_FAILED = "stat-failed"
    UNEXPECTED_FILE_TYPE = "unexpected-file-type"
    STREAM_OPEN_FAILED = "stream-open-failed"
    MISSING_OBJECT_REF = "missing-object-ref"
    MISSING_NAMED_REF = "missing-named-ref"
    IMAGE_OPEN_FAILED = "image-open-failed"
    IMAGE_READ_FAILED = "image-read-failed"
    IMAGE_INVALID = "image-invalid"
    IMAGE_MISSING_OBJECT = "image-missing-object"
    # What composefs-rs 0.9.4 does not find:
    LINK_INVALID = "link-invalid"  # an entry of streams/ or images/ that leads elsewhere than to an object
    IMAGE_NAME_MISMATCH = "image-name-mismatch"  # an image called otherwise than its object
    STREAM_TYPE_MISMATCH = "stream-type-mismatch"  # contents of another type than the name says
    STREAM_REFS_INVALID = "stream-refs-invalid"  # tables of references in another order than any program writes them
    REF_INVALID = "ref-invalid"  # a reference that leads elsewhere than to an entry; collecting garbage fails


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what.
        path: where, from the repository's directory.
        detail: a message; empty where the other fields say it all.
        object_id: the object that it is about, in hexadecimal digits.
        ref: the name of the reference to that object, if it has one.
        wanted: what should be there, where that is one value, and `got` what is.
        got: see `wanted`.
        hurts: paths of what cannot be read whole for that: names below `refs/` first, then streams, then images.
        files: paths in these images of the files that cannot be read.
    """

    kind: Kind
    path: str
    detail: str = ""
    object_id: str | None = None
    ref: str | None = None
    wanted: str | None = None
    got: str | None = None
    hurts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The line that `cfsctl fsck` would print."""
        parts = [f"fsck: {self.kind.value}", self.path]
        if self.kind is Kind.OBJECT_DIGEST_MISMATCH:
            parts.append(f"measured {self.got}")
        elif self.kind is Kind.METADATA_ALGORITHM_MISMATCH and not self.detail:
            parts.append(f"expected {self.wanted}, repository opened as {self.got}")
        elif self.kind in _WITH_OBJECT:
            parts += [f"ref {self.ref}"] if self.ref is not None else []
            parts += [self.object_id or ""]
        parts += [self.detail] if self.detail else []
        if self.kind in _WITH_VALUES:
            parts.append(f"wanted {self.wanted}, got {self.got}")
        return ": ".join(parts)

    def as_json(self) -> dict[str, object]:
        """Return the fields as they are printed."""
        found = {"kind": self.kind.value} | {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        return found | {"hurts": list(self.hurts), "files": list(self.files)}


_WITH_OBJECT = frozenset([Kind.MISSING_OBJECT_REF, Kind.MISSING_NAMED_REF, Kind.IMAGE_MISSING_OBJECT])
_WITH_VALUES = frozenset([Kind.IMAGE_NAME_MISMATCH, Kind.STREAM_TYPE_MISMATCH])


@dataclass(slots=True)
class Counts:
    """How much was looked at; what is corrupted is counted in what is checked, too."""

    objects_checked: int = 0
    objects_corrupted: int = 0
    streams_checked: int = 0
    streams_corrupted: int = 0
    images_checked: int = 0
    images_corrupted: int = 0
    broken_links: int = 0
    missing_objects: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(slots=True)
class Report:
    """What a check came to.

    Attributes:
        has_metadata: whether there is a `meta.json` that can be read.
        contents: whether the contents of objects were looked at.
        counts: how much was looked at.
        findings: in the order of the counts, and of each sort by path.
        objects_unchanged: objects that were not looked into, since they had not changed.
        record: what was seen of the objects, if that was asked for.
    """

    has_metadata: bool = True
    contents: bool = True
    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    objects_unchanged: int = 0
    record: Record | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def add(self, kind: Kind, path: str, detail: str = "", **more: str | None) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, path, detail, **more))  # type: ignore[arg-type]  # of these none is a tuple

    def as_json(self) -> dict[str, object]:
        """Return it under the names of `cfsctl fsck --json`, and the findings field by field."""
        return {
            "ok": self.ok,
            "has_metadata": self.has_metadata,
            **asdict(self.counts),
            "objects_unchanged": self.objects_unchanged,
            "errors": [str(finding) for finding in self.findings],
            "findings": [finding.as_json() for finding in self.findings],
        }
