"""What a broken or missing object takes with it: streams and images that need it, the names of those, and files.

This is looked for only where something is wrong: it reads all tables a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from composefs.digest import Algorithm
from composefs.erofs.reader import ErofsReader
from composefs.erofs.superblock import read_image
from composefs.errors import FormatError
from composefs.repository.fsck.entries import Checked, refs_by_entry
from composefs.repository.fsck.files import open_object
from composefs.repository.fsck.findings import Finding, Kind, Report
from composefs.repository.fsck.images import read_objects
from composefs.repository.fsck.paths import find_files
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.streams import DIRECTORY as STREAMS
from composefs.splitstream import SplitstreamReader
from composefs.text import printable

_OF_CONTENTS = frozenset(
    [Kind.STREAM_OPEN_FAILED, Kind.IMAGE_OPEN_FAILED, Kind.IMAGE_READ_FAILED, Kind.IMAGE_INVALID]
)  # of an entry, by which it is no stream or image at all


def add_hurts(
    repository_fd: int, algorithm: Algorithm, streams: Checked, images: Checked, findings: list[Finding]
) -> list[Finding]:
    """Return *findings*, each with what it hurts."""
    if not findings:
        return []
    needs = _Needs(repository_fd, algorithm, streams, images, findings)
    return [replace(finding, hurts=needs.of(finding), files=needs.files_of(finding)) for finding in findings]


class _Needs:
    """Which streams and images need what is wrong by *findings*, directly or through other streams."""

    def __init__(
        self, repository_fd: int, algorithm: Algorithm, streams: Checked, images: Checked, findings: list[Finding]
    ) -> None:
        self._digests = {entry.path: entry.digest.raw for entry in (*streams.entries, *images.entries)}
        wanted = {bytes.fromhex(finding.object_id) for finding in findings if finding.object_id is not None}
        wanted.update(self._digests.values())
        self._needed_by: dict[bytes, set[str]] = {raw: set() for raw in wanted}  # paths of entries by object
        self._named_by: dict[bytes, set[str]] = {raw: set() for raw in wanted}  # of those that need it as an entry
        for path, objects, entries in _tables(repository_fd, algorithm, streams, images):
            for raw in wanted & (objects | entries | {self._digests[path]}):
                self._needed_by[raw].add(path)
            for raw in wanted & entries:
                self._named_by[raw].add(path)
        self._files = self._find_files(repository_fd, images)
        self._refs: dict[str, list[str]] = {}  # paths of references, by that of what they stand for
        for directory in (STREAMS, IMAGES):
            for path, name in refs_by_entry(repository_fd, directory):
                self._refs.setdefault(f"{directory}/{name}", []).append(path)

    def of(self, finding: Finding) -> tuple[str, ...]:
        """Return the paths of what *finding* hurts: references, streams, images."""
        if finding.object_id is not None:
            pending = set(self._needed_by[bytes.fromhex(finding.object_id)])
        elif finding.kind in _OF_CONTENTS:  # the object of that entry may still be good for something else
            pending = set(self._named_by[self._digests[finding.path]])
        else:
            pending = set()
        hurt: set[str] = set()
        while pending:
            path = pending.pop()
            hurt.add(path)
            pending |= self._needed_by[self._digests[path]] - hurt
        refs = {ref for path in (finding.path, *hurt) for ref in self._refs.get(path, [])}
        hurt.discard(finding.path)
        return (*sorted(refs), *sorted(hurt, key=lambda path: (path.startswith(IMAGES), path)))

    def files_of(self, finding: Finding) -> tuple[str, ...]:
        """Return the paths in images of the files whose content the object of *finding* is, as text for people."""
        if finding.object_id is None:
            return ()
        return tuple(map(printable, sorted(self._files.get(bytes.fromhex(finding.object_id), ()))))

    def _find_files(self, repository_fd: int, images: Checked) -> dict[bytes, set[bytes]]:
        found: dict[bytes, set[bytes]] = {}
        for entry in images.entries:
            objects = {raw for raw, paths in self._needed_by.items() if entry.path in paths} - {entry.digest.raw}
            if not objects:
                continue
            with open_object(repository_fd, entry.digest) as file:
                reader = ErofsReader(read_image(file), entry.path)
            for raw, paths in find_files(reader, objects).items():
                found.setdefault(raw, set()).update(paths)
        return found


def _tables(
    repository_fd: int, algorithm: Algorithm, streams: Checked, images: Checked
) -> Iterator[tuple[str, set[bytes], set[bytes]]]:
    """Yield of each stream and image the path, and what it refers to: objects, and entries by theirs."""
    for entry in streams.entries:
        try:
            with open_object(repository_fd, entry.digest) as file:
                reader = SplitstreamReader(file, algorithm, entry.path)
            yield entry.path, reader.object_refs.raw(), reader.stream_refs.raw()
        except (OSError, FormatError):
            yield entry.path, set(), set()
    unused = Report()
    for entry in images.entries:
        try:
            yield entry.path, read_objects(repository_fd, entry, unused) or set(), set()
        except FormatError:
            yield entry.path, set(), set()
