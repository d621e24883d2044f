"""The check of a whole repository."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeAlias

from composefs.collector import paused_collector
from composefs.digest import object_path
from composefs.errors import FormatError, IntegrityError, RepositoryError
from composefs.repository import Repository, meta
from composefs.repository.directories import open_directory
from composefs.repository.fsck.entries import Checked, Entry, check_entries, check_refs
from composefs.repository.fsck.findings import Finding, Kind, Report
from composefs.repository.fsck.hurts import add_hurts
from composefs.repository.fsck.images import check_image
from composefs.repository.fsck.index import ObjectIndex
from composefs.repository.fsck.objects import Listing, ObjectCheck, list_objects
from composefs.repository.fsck.record import Record, stamp_objects, stamp_time
from composefs.repository.fsck.streams import check_stream
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.repository.streams import DIRECTORY as STREAMS

_TICK = 0.2  # seconds between two looks at how far the other thread has come
_STAMP = 8  # bytes
Progress: TypeAlias = Callable[[str, int, int], None]  # what is looked at, how many were, and how many are


def check_repository(
    repository: Repository,
    *,
    contents: bool = True,
    only: Collection[bytes] | None = None,
    last: Record | None = None,
    records: bool = False,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Check *repository*: `meta.json`, objects, streams, images, and the references to them.

    What an object holds is hashed, or measured and read where the kernel enforces its digest: that checks each block
    that comes from the disk.  The chunks of streams are not decompressed: their digests say that they are what was
    written.

    Others may import meanwhile, and move names: what is there whole is never found to be missing.

    Args:
        repository: open; of `open_damaged`, too.
        contents: look into objects; without, only at their names, and into streams and images.
        only: look into no objects but these, by raw digest.
        last: of a clean check: what has not changed since then is not looked into, but for its name.
        records: tell in the report what was seen, for later checks.
        workers: threads that read and hash; by default one for each CPU this process may use, but at least four.
        on_progress: called now and then, by this thread.

    Raises:
        RepositoryError: `objects`, `streams` or `images` is no directory.
        OSError: one of them cannot be read.
        MemoryError: there is none.
    """
    fd = repository.open_directory()
    try:
        with paused_collector():
            check = _Check(fd, repository, workers, on_progress or (lambda *_: None))
            return check.run(contents=contents, only=only, last=last, records=records)
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = f"{repository.path}/{error.filename}"
        raise
    except RepositoryError as error:
        raise RepositoryError(os.path.join(repository.path, error.path), error.what) from None
    finally:
        os.close(fd)


class _Check:
    """The check of *repository*, whose directory is *fd*."""

    def __init__(self, fd: int, repository: Repository, workers: int | None, on_progress: Progress) -> None:
        self._fd, self._repository, self._algorithm = fd, repository, repository.algorithm
        self._workers, self._on_progress = workers, on_progress
        self._stopped = threading.Event()
        self._streams = self._images = Checked(set(), [], 0)
        self._came: dict[str, tuple[int, int]] = {}  # how far the other thread has come, by what it looks at
        self._told: dict[str, tuple[int, int]] = {}

    def run(self, *, contents: bool, only: Collection[bytes] | None, last: Record | None, records: bool) -> Report:
        report = Report(contents=contents)
        _check_metadata(self._fd, self._repository, report)
        listing = list_objects(self._fd, self._algorithm)
        index = ObjectIndex(listing.digests, self._algorithm.digest_size, self._exists)
        # Python looks at names while the threads hash.
        with ThreadPoolExecutor(1, thread_name_prefix="fsck-names") as pool:
            names = pool.submit(self._check_names, index)
            try:
                report.findings += listing.findings
                if contents and only is not None:
                    report.findings += self._check_contents(listing.only(raw for raw in only if raw in index))
                elif contents and last is not None:
                    report.findings += self._check_contents(self._choose(listing, index, last, report))
                elif contents:
                    stamps = bytearray(_STAMP * len(index)) if records else None
                    report.findings += self._check_contents(listing, stamps)
                    if stamps is not None:
                        report.record = self._record(index, array("Q", bytes(stamps)))
                while wait([names], _TICK).not_done:
                    self._tell()
                of_names = names.result()
                self._tell()
            except BaseException:
                self._stopped.set()
                raise
        counts = report.counts = of_names.counts
        counts.objects_checked = len(index) + len(listing.findings)
        counts.objects_corrupted = sum(finding.path.startswith("objects/") for finding in report.findings)
        report.findings += of_names.findings
        report.findings = add_hurts(self._fd, self._algorithm, self._streams, self._images, report.findings)
        return report

    def _choose(self, listing: Listing, index: ObjectIndex, last: Record, report: Report) -> Listing:
        """Return *listing* with what is to be looked into, and note in *report* what is there."""
        stamps = array("Q")
        if listing.object_count:
            objects_fd = open_directory(self._fd, OBJECTS, "", flags=os.O_RDONLY)
            try:
                stamps = stamp_objects(objects_fd, listing, self._workers)
            finally:
                os.close(objects_fd)
        report.record = self._record(index, stamps)
        marks = last.changed(report.record, listing)
        report.objects_unchanged = marks.count(0)
        return listing._replace(marks=marks)

    def _record(self, index: ObjectIndex, stamps: array[int]) -> Record:
        return Record(self._algorithm, index.prefixes, stamps, sealed=self._repository.verity)

    def _tell(self) -> None:
        """Pass on how far the other thread has come."""
        for what, came in self._came.copy().items():
            if self._told.get(what) != came:
                self._told[what] = came
                self._on_progress(what, *came)

    def _exists(self, digest: bytes) -> bool:
        path = f"{OBJECTS}/{object_path(digest)}"
        try:
            os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _check_contents(self, listing: Listing, stamps: bytearray | None = None) -> list[Finding]:
        check = ObjectCheck(
            self._fd,
            self._algorithm,
            listing,
            require_verity=self._repository.verity,
            stamps=stamps,
            time=stamp_time() if stamps is not None else None,
            workers=self._workers,
        )
        findings, done = [], 0
        try:
            for count, found in check.results():
                findings += found
                done += count
                self._on_progress("objects", done, listing.wanted_count)
                self._tell()
        finally:
            check.close()
        return findings

    def _check_names(self, index: ObjectIndex) -> Report:
        """Check streams, images and references."""
        report = Report()
        counts = report.counts
        streams = self._streams = check_entries(self._fd, STREAMS, self._algorithm, report)
        counts.streams_checked, counts.streams_corrupted = len(streams.names), streams.corrupted
        for entry in self._each("streams", streams.entries):
            if not check_stream(self._fd, entry, self._algorithm, index, report):
                counts.streams_corrupted += 1
        check_refs(self._fd, STREAMS, report)
        images = self._images = check_entries(self._fd, IMAGES, self._algorithm, report)
        counts.images_checked, counts.images_corrupted = len(images.names), images.corrupted
        for entry in self._each("images", images.entries):
            if not check_image(self._fd, entry, index, report):
                counts.images_corrupted += 1
        check_refs(self._fd, IMAGES, report)
        return report

    def _each(self, what: str, entries: Sequence[Entry]) -> Iterator[Entry]:
        """Yield *entries* until the check is stopped, and note how far that came."""
        for done, entry in enumerate(entries):
            if self._stopped.is_set():
                return
            self._came[what] = (done, len(entries))
            yield entry
        if entries:
            self._came[what] = (len(entries), len(entries))


def _check_metadata(fd: int, repository: Repository, report: Report) -> None:
    """Check `meta.json`; what is none yet is none that is broken."""
    try:
        found, _ = meta.read(fd, repository.path)
    except FileNotFoundError:
        report.has_metadata = False
    except FormatError as error:
        report.has_metadata = False
        report.add(Kind.METADATA_PARSE_FAILED, meta.NAME, f"offset {error.offset}: {error.what}")
    except IntegrityError as error:
        report.add(Kind.METADATA_ALGORITHM_MISMATCH, meta.NAME, wanted=error.wanted, got=error.got)
    except OSError as error:
        report.has_metadata = False
        report.add(Kind.METADATA_PARSE_FAILED, meta.NAME, error.strerror or str(error))
    else:
        if found.algorithm is not repository.algorithm:
            wanted, got = found.algorithm.value, repository.algorithm.hash_name
            report.add(Kind.METADATA_ALGORITHM_MISMATCH, meta.NAME, wanted=wanted, got=got)
        try:
            found.check(repository.path)
        except RepositoryError as error:
            report.add(Kind.METADATA_ALGORITHM_MISMATCH, meta.NAME, error.what)
