"""What of a repository has to be made again, by the findings of a check."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple, Self

from composefs.errors import ComposefsError, RepositoryError
from composefs.repository import Repository, refs
from composefs.repository.fsck.entries import REFS
from composefs.repository.fsck.findings import Finding, Kind
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.streams import DIRECTORY as STREAMS
from composefs.text import describe_failure

_OF_OBJECTS = frozenset(
    [
        Kind.OBJECT_OPEN_FAILED,
        Kind.OBJECT_DIGEST_MISMATCH,
        Kind.OBJECT_VERITY_FAILED,
        Kind.OBJECT_VERITY_MISSING,
        Kind.MISSING_OBJECT_REF,
        Kind.MISSING_NAMED_REF,
        Kind.IMAGE_MISSING_OBJECT,
        Kind.BROKEN_SYMLINK,
    ]
)  # that name an object which is broken or missing
_OF_LINKS = frozenset([Kind.ENTRY_NOT_SYMLINK, Kind.LINK_INVALID, Kind.STAT_FAILED, Kind.BROKEN_SYMLINK])
_OF_CONTENTS = frozenset(
    [Kind.STREAM_OPEN_FAILED, Kind.STREAM_TYPE_MISMATCH, Kind.STREAM_REFS_INVALID, Kind.IMAGE_INVALID]
)


class Damage(NamedTuple):
    """What is broken or missing, itself and not for want of something else."""

    objects: frozenset[bytes]  # raw digests
    entries: frozenset[str]  # paths of links in streams/ and images/ that are missing, or lead to the wrong thing

    @classmethod
    def of(cls, repository: Repository, findings: Iterable[Finding]) -> Self:
        """Return what *findings* about *repository* come to."""
        size = repository.algorithm.digest_size
        objects: set[bytes] = set()
        entries: set[str] = set()
        suspects: set[str] = set()
        for finding in findings:
            directory, _, name = finding.path.partition("/")
            if finding.kind in _OF_OBJECTS and finding.object_id is not None:
                raw = bytes.fromhex(finding.object_id)
                objects.update([raw] if len(raw) == size else [])
            elif directory not in (STREAMS, IMAGES):
                continue
            elif name.startswith(f"{REFS}/"):
                if finding.kind is Kind.BROKEN_SYMLINK and finding.wanted:
                    suspects.add(f"{directory}/{finding.wanted}")
            elif finding.kind in _OF_LINKS:
                entries.add(finding.path)
            elif finding.kind in _OF_CONTENTS:
                suspects.add(finding.path)
        # The others are wrong only because the objects that they lead to are.
        entries.update(path for path in suspects if object_of_entry(repository, path) not in objects)
        return cls(frozenset(objects), frozenset(entries))

    def without(self, other: Damage) -> Damage:
        """Return what is not in *other*."""
        return Damage(self.objects - other.objects, self.entries - other.entries)

    def plus(self, other: Damage) -> Damage:
        """Return what is in either."""
        return Damage(self.objects | other.objects, self.entries | other.entries)

    @property
    def paths(self) -> set[str]:
        """Where all of it is, from the repository's directory."""
        return {object_path_of(raw) for raw in self.objects} | self.entries

    def __bool__(self) -> bool:
        return bool(self.objects or self.entries)


NOTHING = Damage(frozenset(), frozenset())


def object_path_of(raw: bytes) -> str:
    """Return where the object *raw* is, from the repository's directory."""
    return f"{OBJECTS}/{raw[:1].hex()}/{raw[1:].hex()}"


def is_entry(path: str) -> bool:
    """Tell whether *path* is that of an entry of `streams/` or `images/`."""
    directory, _, name = path.partition("/")
    return directory in (STREAMS, IMAGES) and "/" not in name and name != REFS


def object_of_entry(repository: Repository, path: str) -> bytes | None:
    """Return the object, raw, that the entry *path* leads to, whether it exists or not; None: it is no link to any."""
    try:
        text = os.readlink(f"{repository.path}/{path}")
        return refs.object_of(text, repository.algorithm, path).raw
    except (RepositoryError, OSError):
        return None


def message_of(error: ComposefsError | OSError) -> str:
    """Return what is said of *error* beside other things."""
    return describe_failure(error) if isinstance(error, OSError) else str(error)
