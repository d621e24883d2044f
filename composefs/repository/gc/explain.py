"""Why something is kept, or what is known about when that ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from composefs.digest import Digest, object_path
from composefs.errors import ComposefsError, NotFoundError, UsageError
from composefs.repository import Repository
from composefs.repository.gc import trash
from composefs.repository.gc.live import read_image, read_stream
from composefs.repository.gc.names import REFS, Names, find_roots, read_names
from composefs.repository.gc.report import as_date
from composefs.repository.gc.work import opened
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.refs import OCI_TAGS, REFERRING, encode_tag
from composefs.repository.streams import DIRECTORY as STREAMS

_OCI = (*REFERRING, "oci-layer-")  # how the names of streams begin that have an OCI digest behind that


@dataclass(slots=True)
class Explanation:
    """What keeps *subject*, a path: of an object, or of an entry of `streams/` or `images/`.

    Attributes:
        subject: from the repository's directory.
        chains: for each reference that keeps it the shortest way there: paths, the reference first, *subject* last.
        held_by: streams and images that refer to it and are not kept, either.
        stored: when the file was written, in seconds since the epoch; None: it is not there.
        batch: name of the batch in the trash that has it; the latest, if there are several.
        trashed: when it got there.
        expires: when it may be deleted there.
    """

    subject: str
    chains: list[list[str]] = field(default_factory=list)
    held_by: list[str] = field(default_factory=list)
    stored: int | None = None
    batch: str | None = None
    trashed: int | None = None
    expires: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether something keeps it."""
        return bool(self.chains)

    def as_json(self) -> dict[str, object]:
        """Return it for machines: see docs/json.md."""
        dates = {"stored": self.stored, "trashed": self.trashed, "expires": self.expires}
        return {
            "subject": self.subject,
            "alive": self.is_alive,
            "chains": self.chains,
            "held_by": self.held_by,
            "batch": self.batch,
            **{key: None if seconds is None else as_date(seconds) for key, seconds in dates.items()},
        }


class _Subject(NamedTuple):
    """What is asked about."""

    path: str
    raw: bytes  # its object


def explain(repository: Repository, what: str, *, roots: Sequence[str] = ()) -> Explanation:
    """Return what keeps *what*.

    Args:
        repository: open.
        what: an object: `sha512:HEX`, `HEX`, `xx/rest`, `objects/xx/rest`; or an entry of `streams/` or `images/`, or a
            reference, by path or name; or a tag; or the OCI digest of a manifest, config or layer, with `@` or without.
        roots: names in `images/` and `streams/` that are kept as if references stood for them.

    Raises:
        NotFoundError: there is no such thing, nor in the trash.
        RepositoryError, FormatError, IntegrityError: as of `collect_garbage`.
    """
    with opened(repository) as fd:
        images = read_names(fd, repository.path, IMAGES, repository.algorithm)
        streams = read_names(fd, repository.path, STREAMS, repository.algorithm)
        search = _Search(repository, fd, images, streams)
        return search.explain(search.resolve(what), roots)


class _Search:
    """One search in *repository*, whose directory is *fd*."""

    def __init__(self, repository: Repository, fd: int, images: Names, streams: Names) -> None:
        self._repository, self._fd, self._images, self._streams = repository, fd, images, streams
        self._names = {raw: name for name, raw in streams.entries.items()}
        self._known: dict[str, tuple[bool, list[bytes]]] = {}  # of entries by path, see _needs
        self._batches = list(reversed(trash.find_batches(fd, repository.path)[0]))

    def resolve(self, what: str) -> _Subject:
        """Return what *what* means."""
        for names in (self._images, self._streams):
            name = what.removeprefix(f"{names.directory}/")
            refs = {ref.path.removeprefix(f"{names.directory}/"): ref.entry for ref in names.refs}
            entry = name if name in names.entries else refs.get(name) or refs.get(f"{REFS}/{name}")
            if entry in names.entries:
                return _Subject(f"{names.directory}/{entry}", names.entries[entry])
        tag = self._resolve_tag(what)
        if tag is not None:
            return _Subject(f"{STREAMS}/{tag}", self._streams.entries[tag])
        for name in _streams_of(what):
            if name in self._streams.entries:
                return _Subject(f"{STREAMS}/{name}", self._streams.entries[name])
        digits = what.removeprefix(f"{self._repository.algorithm.hash_name}:").removeprefix(f"{OBJECTS}/")
        if digits[2:3] == "/":
            digits = digits.replace("/", "", 1)
        try:
            raw = Digest.from_hex(self._repository.algorithm, digits).raw
        except ValueError:
            return self._resolve_in_trash(what)
        if raw.hex() in self._images.entries and not what.startswith(f"{OBJECTS}/"):
            return _Subject(f"{IMAGES}/{raw.hex()}", self._images.entries[raw.hex()])
        return _Subject(f"{OBJECTS}/{object_path(raw)}", raw)

    def explain(self, subject: _Subject, roots: Sequence[str]) -> Explanation:
        """Return what keeps *subject*."""
        found = Explanation(subject.path)
        alive: set[str] = set()  # paths
        others = find_roots(roots, self._images, self._streams, self._repository.path)
        for names in (self._images, self._streams):
            starts = names.roots(self._repository.path)
            for name in others[names.directory]:
                starts.setdefault(name, []).append(f"--root {name}")
            for name, refs in sorted(starts.items()):
                chain = self._chain(names, name, subject, alive)
                found.chains += [[ref, *chain] for ref in refs if chain]
        found.chains.sort()
        if not found.chains:
            found.held_by = sorted(self._holders(subject, alive))
        self._find_evidence(subject, found)
        if not found.chains and found.stored is None and found.batch is None and subject.path.startswith(OBJECTS):
            raise NotFoundError(f"{self._repository.path}: no {subject.path}, and none in {trash.DIRECTORY}/")
        return found

    def _chain(self, names: Names, start: str, subject: _Subject, alive: set[str]) -> list[str]:
        """Return the shortest way from an entry to *subject*, or nothing; what is passed is added to *alive*."""
        seen = {names.entries[start]}
        ways = [(names.entries[start], [f"{names.directory}/{start}"])]
        shortest: list[str] = []
        while ways:
            following = []
            for raw, way in ways:
                alive.add(way[-1])
                if way[-1] == subject.path:
                    shortest = shortest or way
                    continue
                holds, named = self._needs(way[-1], raw, subject)
                if holds or raw == subject.raw:
                    shortest = shortest or [*way, subject.path]
                for other in named:
                    if other in self._names and other not in seen:
                        seen.add(other)
                        following.append((other, [*way, f"{STREAMS}/{self._names[other]}"]))
            ways = following
        return shortest

    def _needs(self, path: str, raw: bytes, subject: _Subject) -> tuple[bool, list[bytes]]:
        """Return whether an entry refers to *subject*, and what may be streams that it refers to, raw."""
        if path not in self._known:  # many references lead to the same layers
            self._known[path] = self._read_needs(path, raw, subject)
        return self._known[path]

    def _read_needs(self, path: str, raw: bytes, subject: _Subject) -> tuple[bool, list[bytes]]:
        directory, _, name = path.partition("/")
        if directory == IMAGES:
            return subject.raw in read_image(self._repository, name, raw), []
        table, named = read_stream(self._repository, name, raw)
        return subject.raw in named or _holds(table, subject.raw), named

    def _holders(self, subject: _Subject, alive: set[str]) -> Iterator[str]:
        """Yield the entries that are not kept and refer to *subject*; what is broken is passed over."""
        for names in (self._images, self._streams):
            for name, raw in names.entries.items():
                path = f"{names.directory}/{name}"
                if path in alive or path == subject.path:
                    continue
                try:
                    holds = raw == subject.raw or self._needs(path, raw, subject)[0]
                except (ComposefsError, OSError):
                    continue
                if holds:
                    yield path

    def _find_evidence(self, subject: _Subject, found: Explanation) -> None:
        """Add what files say."""
        path = f"{OBJECTS}/{object_path(subject.raw)}"
        try:
            found.stored = int(os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_mtime)
        except OSError:
            found.stored = None
        for batch in self._batches:
            if self._exists(f"{batch.path}/{subject.path}"):
                found.batch, found.trashed, found.expires = batch.name, batch.created.wall, batch.expires
                return

    def _resolve_tag(self, what: str) -> str | None:
        """Return the stream that the tag *what* stands for."""
        try:
            path = f"{STREAMS}/{REFS}/{OCI_TAGS}/{encode_tag(what)}"
        except UsageError:
            return None
        entry = next((ref.entry for ref in self._streams.refs if ref.path == path), None)
        return entry if entry in self._streams.entries else None

    def _resolve_in_trash(self, what: str) -> _Subject:
        """Return what *what* means, an entry that is in the trash."""
        paths = [f"{directory}/{what.removeprefix(f'{directory}/')}" for directory in (STREAMS, IMAGES)]
        paths += [f"{STREAMS}/{name}" for name in _streams_of(what)]
        for path in paths:
            directory, _, name = path.partition("/")
            for batch in self._batches:
                if "/" not in name and self._exists(f"{batch.path}/{path}"):
                    found = read_names(
                        self._fd, self._repository.path, f"{batch.path}/{directory}", self._repository.algorithm
                    )
                    if name in found.entries:
                        return _Subject(path, found.entries[name])
        raise NotFoundError(f"{self._repository.path}: no {what} among objects, streams and images, nor in the trash")

    def _exists(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except (OSError, ValueError):
            return False
        return True


def _streams_of(digest: str) -> list[str]:
    """Return the names that streams of what has an OCI digest may have."""
    return [f"{prefix}{digest.removeprefix('@')}" for prefix in _OCI]


def _holds(table: bytes, raw: bytes) -> bool:
    """Tell whether *raw* is among the digests in *table*, which are back to back."""
    at = table.find(raw)
    while at >= 0 and at % len(raw):
        at = table.find(raw, at + 1)
    return at >= 0
