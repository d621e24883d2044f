"""Set aside what is itself broken: it is moved, and neither removed nor changed.

    quarantine/1/manifest.jsonl    why, a JSON object a line, written before anything is moved
    quarantine/1/objects/xx/rest   what was moved, where it was
    quarantine/1/streams/...

A name that is sound stays, though what it stands for is broken: it is whole again once the image is imported again.
Each move is one rename: after a stop everything is in one place or the other, and the next run moves the rest.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import NamedTuple

from composefs import _native
from composefs.digest import Algorithm, Digest
from composefs.errors import RepositoryError
from composefs.repository import Repository, refs
from composefs.repository.directories import Missing, open_directory
from composefs.repository.fsck.check import check_repository
from composefs.repository.fsck.damage import Damage, message_of, object_of_entry, object_path_of
from composefs.repository.fsck.entries import REFS
from composefs.repository.fsck.files import open_object
from composefs.repository.fsck.findings import Finding, Kind
from composefs.repository.notes import write_note
from composefs.verity import compute_file_digest

DIRECTORY = "quarantine"
MANIFEST = "manifest.jsonl"
_MODE = 0o700
_MANIFEST_MODE = 0o600
_NOWHERE = frozenset([errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG])  # why a link leads nowhere but to nothing

# What is wrong wherever it leads.
_WRONG = frozenset(
    [
        Kind.OBJECT_INVALID_NAME,
        Kind.OBJECT_DIGEST_MISMATCH,
        Kind.ENTRY_NOT_SYMLINK,
        Kind.LINK_INVALID,
        Kind.IMAGE_NAME_MISMATCH,
        Kind.REF_INVALID,
    ]
)
_CONTENTS = frozenset(
    [Kind.STREAM_OPEN_FAILED, Kind.STREAM_TYPE_MISMATCH, Kind.STREAM_REFS_INVALID, Kind.IMAGE_INVALID]
)  # names that are wrong, if their objects are right


class WrongName(NamedTuple):
    """A name that is wrong, though only what it stands for tells."""

    path: str  # from the repository's directory
    kind: str  # of what is wrong with it
    detail: str
    target: str  # what it led to when that was found: the last part of its link


@dataclass(frozen=True, slots=True)
class Moved:
    """Something that was set aside.

    Attributes:
        path: where it was, from the repository's directory.
        to: where it is, from there, too.
        kind: of what is wrong with it.
        detail: a message; perhaps empty.
        target: the text of a link; None: it is none.
    """

    path: str
    to: str
    kind: str
    detail: str
    target: str | None


@dataclass(slots=True)
class Quarantine:
    """What became of what is itself broken.

    Attributes:
        moved: what was set aside.
        failed: paths of what was not, and why.
        hurt: paths of names that are sound, and stay, but cannot be read whole: of references, streams, images.
    """

    moved: list[Moved] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    hurt: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the fields as they are printed."""
        failed = [{"path": path, "why": why} for path, why in self.failed.items()]
        return {"moved": [asdict(each) for each in self.moved], "failed": failed, "hurt": self.hurt}


def set_aside(
    repository: Repository,
    findings: Collection[Finding],
    *,
    wrong: Collection[WrongName] = (),
    wait: float | None = 0,
) -> Quarantine:
    """Move what *findings* say is itself broken into a new directory below `quarantine/`.

    What was found is looked for again when nobody else can change it.

    Args:
        repository: open, and writable.
        findings: of a check of it.
        wrong: more that is wrong, unless it leads to something else by then.
        wait: seconds to wait until nobody else has the repository open; None: as long as it takes.

    Raises:
        RepositoryError: it cannot be written.
        BusyError: others have it open.
        OSError: it cannot be read.
    """
    repository.check_writable()
    damage = Damage.of(repository, findings)
    with repository.exclusive(wait=wait):
        suspects = {*damage.objects, *_leads_to(repository, findings)}
        found = check_repository(repository, only=suspects).findings
        fd = repository.open_directory()
        try:
            return _Mover(repository, fd, found).move(wrong)
        finally:
            os.close(fd)


def _leads_to(repository: Repository, findings: Iterable[Finding]) -> set[bytes]:
    """Return the objects of names that stand for no stream or image, so that one tells which of both is wrong."""
    found = set()
    for finding in findings:
        if finding.kind in _CONTENTS and (raw := object_of_entry(repository, finding.path)) is not None:
            found.add(raw)
    return found


class _Mover:
    """Moves what is wrong by *findings* in *repository*, whose directory is *fd*."""

    def __init__(self, repository: Repository, fd: int, findings: Collection[Finding]) -> None:
        self._repository, self._fd = repository, fd
        self._findings, self._broken = findings, Damage.of(repository, findings).objects
        self._result = Quarantine()

    def move(self, names: Iterable[WrongName]) -> Quarantine:
        """Move it, and the wrong *names*, but those that lead to something else by now."""
        wrong = {each.path: (each.kind, each.detail) for each in names if self._last_part(each.path) == each.target}
        hurt: set[str] = set()
        for finding in self._findings:
            if self._is_wrong(finding):
                detail = finding.detail or (f"wanted {finding.wanted}, got {finding.got}" if finding.got else "")
                wrong.setdefault(finding.path, (finding.kind.value, detail))
                hurt.update(finding.hurts)
        if wrong:
            where = self._new_directory()
            moves = [
                Moved(path, f"{where}/{path}", kind, detail, self._text(path))
                for path, (kind, detail) in sorted(wrong.items())
            ]
            self._write_manifest(where, moves)
            for each in moves:
                self._move(each)
            self._repository.sync()
            _native.syncfs(self._fd)  # the other one is of the file system of objects
        moved = {each.path for each in self._result.moved}
        self._result.hurt = sorted(hurt - moved, key=lambda path: (path.split("/")[1] != REFS, path))
        return self._result

    def _is_wrong(self, finding: Finding) -> bool:
        """Tell whether what a finding is about is itself broken."""
        path, kind = finding.path, finding.kind
        is_wrong = kind in _WRONG
        if kind in (Kind.OBJECT_INVALID_NAME, Kind.LINK_INVALID):
            is_wrong = not self._is_of_other_algorithm(path)
        elif kind in _CONTENTS:
            # Of what the system could not read, for want of memory, say, or what is too large for us, nothing is known.
            is_known = kind is not Kind.STREAM_OPEN_FAILED or finding.detail.startswith("offset ")
            is_wrong = is_known and object_of_entry(self._repository, path) not in self._broken
        elif kind is Kind.OBJECT_VERITY_FAILED:
            is_wrong = self._cannot_be_read(finding)
        elif kind is Kind.OBJECT_OPEN_FAILED:
            is_wrong = self._is_no_file(path, is_object=finding.object_id is not None)
        elif kind is Kind.OBJECT_VERITY_MISSING:
            is_wrong = self._has_other_contents(finding)
        elif kind is Kind.UNEXPECTED_FILE_TYPE:  # who has made a link of the whole directory may want it so
            is_wrong = path.count("/") > 1
        elif kind is Kind.BROKEN_SYMLINK:
            is_wrong = self._leads_nowhere(finding)
        elif kind is Kind.STAT_FAILED:
            is_wrong = self._is_loop(path)
        return is_wrong

    def _is_of_other_algorithm(self, path: str) -> bool:
        """Tell whether an object has the name, or a link the target, that it would have in another repository.

        More likely than that all of it was put here is that `meta.json` names the wrong algorithm.
        """
        text = self._text(path) or path
        for algorithm in {*Algorithm} - {self._repository.algorithm}:
            with suppress(RepositoryError):
                refs.object_of(f"../{text}", algorithm, path)
                self._result.failed[path] = f"is right where meta.json names {algorithm.value}"
                return True
        return False

    def _is_no_file(self, path: str, *, is_object: bool) -> bool:
        """Tell whether something stands at *path* that can be no object, or no directory of objects."""
        mode = self._mode(path)
        return mode is not None and not (stat.S_ISREG(mode) if is_object else stat.S_ISDIR(mode))

    def _cannot_be_read(self, finding: Finding) -> bool:
        """Tell whether the disk still refuses an object; that there is no memory, say, tells nothing of it."""
        assert finding.object_id is not None
        digest = Digest.from_hex(self._repository.algorithm, finding.object_id)
        try:
            with open_object(self._fd, digest) as file:
                return compute_file_digest(file.fileno(), digest.algorithm) != digest
        except OSError as error:
            if error.errno != errno.EIO:
                self._result.failed[finding.path] = message_of(error)
            return error.errno == errno.EIO

    def _has_other_contents(self, finding: Finding) -> bool:
        """Tell whether an object that is not sealed holds what it must not; otherwise it can be sealed."""
        assert finding.object_id is not None
        digest = Digest.from_hex(self._repository.algorithm, finding.object_id)
        try:
            with open_object(self._fd, digest) as file:
                is_right = compute_file_digest(file.fileno(), digest.algorithm) == digest
        except OSError as error:
            self._result.failed[finding.path] = message_of(error)
            return False
        if is_right:
            self._result.failed[finding.path] = "its contents are right; to import or to mend it seals it"
        return not is_right

    def _leads_nowhere(self, finding: Finding) -> bool:
        """Tell whether a link leads to nothing; but one to what was set aside before is sound, and stays."""
        path = finding.path
        directory, _, name = path.partition("/")
        if name.startswith(f"{REFS}/"):
            target = f"{directory}/{finding.wanted}"
            is_sound = os.path.normpath(f"{os.path.dirname(path)}/{self._text(path)}") == target
            if is_sound and self._mode(target) is not None:
                return False
        elif finding.object_id is not None:
            target = object_path_of(bytes.fromhex(finding.object_id))
        else:
            return True
        return not self._was_set_aside(target)

    def _was_set_aside(self, path: str) -> bool:
        try:
            top = open_directory(self._fd, DIRECTORY, self._repository.path, flags=os.O_RDONLY)
        except (OSError, RepositoryError):
            return False
        try:
            numbers = os.listdir(top)
        finally:
            os.close(top)
        return any(self._mode(f"{DIRECTORY}/{number}/{path}") is not None for number in numbers)

    def _is_loop(self, path: str) -> bool:
        """Tell whether *path* is a link that leads to itself, or to what has nothing below it."""
        try:
            os.stat(path, dir_fd=self._fd)
        except OSError as error:
            return error.errno in _NOWHERE and self._text(path) is not None
        return False

    def _mode(self, path: str) -> int | None:
        try:
            return os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_mode
        except OSError:
            return None

    def _text(self, path: str) -> str | None:
        try:
            return os.readlink(path, dir_fd=self._fd)
        except OSError:
            return None

    def _last_part(self, path: str) -> str | None:
        """Return the last part of the link *path*; None: it is none."""
        text = self._text(path)
        return None if text is None else os.path.basename(text)

    def _new_directory(self) -> str:
        """Make the next directory below `quarantine/`, and return its path."""
        top = self._open(DIRECTORY)
        try:
            for number in count(1):
                try:
                    _native.make_directory(top, str(number), _MODE)
                except FileExistsError:
                    continue
                return f"{DIRECTORY}/{number}"
        finally:
            os.close(top)
        raise AssertionError("numbers do not end")

    def _write_manifest(self, where: str, moves: Iterable[Moved]) -> None:
        """Write down durably what will be moved; what is not there then was not moved."""
        directory = self._open(where)
        try:
            lines = [json.dumps(asdict(each)).encode() + b"\n" for each in moves]
            write_note(directory, MANIFEST, lines, _MANIFEST_MODE)
            os.fsync(directory)
        except OSError as error:
            with suppress(OSError):
                os.unlink(MANIFEST, dir_fd=directory)
            for path in (where, DIRECTORY):
                with suppress(OSError):  # others may lie there
                    os.rmdir(path, dir_fd=self._fd)
            raise OSError(error.errno, error.strerror, f"{self._repository.path}/{where}/{MANIFEST}") from None
        finally:
            os.close(directory)

    def _move(self, each: Moved) -> None:
        try:
            source = open_directory(self._fd, os.path.dirname(each.path), self._repository.path)
            try:
                target = self._open(os.path.dirname(each.to))
                try:
                    _native.rename(source, os.path.basename(each.path), target, os.path.basename(each.to))
                finally:
                    os.close(target)
            finally:
                os.close(source)
        except (OSError, RepositoryError) as error:
            self._result.failed[each.path] = message_of(error)
        else:
            self._result.moved.append(each)

    def _open(self, path: str) -> int:
        """Open the directory *path*, which is made, for the owner alone, where it is missing."""
        where = self._repository.path
        return open_directory(self._fd, path, where, flags=os.O_RDONLY, missing=Missing.MAKE, mode=_MODE)
