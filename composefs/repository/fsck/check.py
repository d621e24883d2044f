"""The check of a whole repository."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from composefs.collector import paused_collector
from composefs.errors import FormatError, IntegrityError, RepositoryError
from composefs.repository import Repository, meta
from composefs.repository.fsck.entries import Checked, check_entries, check_refs
from composefs.repository.fsck.findings import Finding, Kind, Report
from composefs.repository.fsck.hurts import add_hurts
from composefs.repository.fsck.images import check_image
from composefs.repository.fsck.index import ObjectIndex
from composefs.repository.fsck.objects import Listing, ObjectCheck, list_objects
from composefs.repository.fsck.streams import check_stream
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.streams import DIRECTORY as STREAMS

Progress: TypeAlias = Callable[[str, int, int], None]  # what is looked at, how many were, and how many are


def check_repository(
    repository: Repository,
    *,
    contents: bool = True,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Check *repository*: `meta.json`, objects, streams, images, and the references to them.

    What an object holds is hashed, or measured and read where the kernel enforces its digest: that checks each block
    that comes from the disk.  The chunks of streams are not decompressed: their digests say that they are what was
    written.

    Args:
        repository: open; of `open_damaged`, too.
        contents: look into objects; without, only at their names, and into streams and images.
        workers: threads that read and hash; by default one for each CPU this process may use, but at least four.
        on_progress: called now and then, by this thread.

    Raises:
        OSError: `objects`, `streams` or `images` itself cannot be read.
        MemoryError: there is none.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(repository.path, flags)
    try:
        with paused_collector():
            return _Check(fd, repository).run(contents=contents, workers=workers, on_progress=on_progress)
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = f"{repository.path}/{error.filename}"
        raise
    finally:
        os.close(fd)


class _Check:
    """The check of *repository*, whose directory is *fd*."""

    def __init__(self, fd: int, repository: Repository) -> None:
        self._fd, self._repository, self._algorithm = fd, repository, repository.algorithm
        self._stopped = threading.Event()
        self._streams = self._images = Checked(set(), [], 0)

    def run(self, *, contents: bool, workers: int | None, on_progress: Progress | None) -> Report:
        report = Report(contents=contents)
        _check_metadata(self._fd, self._repository, report)
        listing = list_objects(self._fd, self._algorithm)
        index = ObjectIndex(listing.digests, self._algorithm.digest_size)
        # Python looks at names while the threads hash.
        with ThreadPoolExecutor(1, thread_name_prefix="fsck-names") as pool:
            names = pool.submit(self._check_names, index)
            try:
                report.findings += listing.findings
                if contents:
                    report.findings += self._check_contents(listing, workers, on_progress)
                of_names = names.result()
            except BaseException:
                self._stopped.set()
                raise
        counts = report.counts = of_names.counts
        counts.objects_checked = len(index) + len(listing.findings)
        counts.objects_corrupted = sum(finding.path.startswith("objects/") for finding in report.findings)
        report.findings += of_names.findings
        report.findings = add_hurts(self._fd, self._algorithm, self._streams, self._images, report.findings)
        return report

    def _check_contents(self, listing: Listing, workers: int | None, on_progress: Progress | None) -> list[Finding]:
        check = ObjectCheck(self._fd, self._algorithm, listing, require_verity=self._repository.verity, workers=workers)
        findings, done = [], 0
        try:
            for count, found in check.results():
                findings += found
                done += count
                if on_progress is not None:
                    on_progress("objects", done, listing.object_count)
        finally:
            check.close()
        return findings

    def _check_names(self, index: ObjectIndex) -> Report:
        """Check streams, images and references."""
        report = Report()
        counts = report.counts
        streams = self._streams = check_entries(self._fd, STREAMS, self._algorithm, report)
        counts.streams_checked, counts.streams_corrupted = len(streams.names), streams.corrupted
        for entry in streams.entries:
            if not self._stopped.is_set() and not check_stream(self._fd, entry, self._algorithm, index, report):
                counts.streams_corrupted += 1
        check_refs(self._fd, STREAMS, streams.names, report)
        images = self._images = check_entries(self._fd, IMAGES, self._algorithm, report)
        counts.images_checked, counts.images_corrupted = len(images.names), images.corrupted
        for entry in images.entries:
            if not self._stopped.is_set() and not check_image(self._fd, entry, index, report):
                counts.images_corrupted += 1
        check_refs(self._fd, IMAGES, images.names, report)
        return report


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
