"""EROFS images: their structure, and whether what they refer to is there."""

from __future__ import annotations

from composefs.erofs.check import check_and_collect
from composefs.erofs.reader import ErofsReader
from composefs.erofs.superblock import read_image
from composefs.errors import FormatError, LimitError
from composefs.repository.fsck.entries import Entry
from composefs.repository.fsck.files import open_object
from composefs.repository.fsck.findings import Kind, Report
from composefs.repository.fsck.index import ObjectIndex


def check_image(repository_fd: int, entry: Entry, index: ObjectIndex, report: Report) -> bool:
    """Check an image.

    Returns:
        Whether it can be read, missing objects aside, and is what its name says.
    """
    has_right_name = entry.name == entry.digest.hex
    if not has_right_name:
        report.add(Kind.IMAGE_NAME_MISMATCH, entry.path, wanted=entry.name, got=entry.digest.hex)
    try:
        objects = read_objects(repository_fd, entry, report)
    except LimitError as error:  # it is not broken for that
        report.add(Kind.IMAGE_READ_FAILED, entry.path, error.what)
        return False
    except FormatError as error:
        report.add(Kind.IMAGE_INVALID, entry.path, f"offset {error.offset}: {error.what}")
        return False
    if objects is None:
        return False
    for raw in index.missing(objects):
        report.add(Kind.IMAGE_MISSING_OBJECT, entry.path, object_id=raw.hex())
        report.counts.missing_objects += 1
    return has_right_name


def read_objects(repository_fd: int, entry: Entry, report: Report) -> set[bytes] | None:
    """Return the raw digests of the objects that a sound image names; None: it cannot be read.

    Raises:
        FormatError: it is not sound.
    """
    try:
        file = open_object(repository_fd, entry.digest)
    except OSError as error:
        report.add(Kind.IMAGE_OPEN_FAILED, entry.path, error.strerror or str(error))
        return None
    with file:
        try:
            # Not mapped: a disk that cannot read it would end the process.
            data = read_image(file)
        except OSError as error:
            report.add(Kind.IMAGE_READ_FAILED, entry.path, error.strerror or str(error))
            return None
    return check_and_collect(ErofsReader(data, entry.path))
