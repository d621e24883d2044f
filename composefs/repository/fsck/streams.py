"""Streams: headers and tables, content types, and whether what they refer to is there."""

from __future__ import annotations

from composefs.digest import Algorithm
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.repository.fsck.entries import Entry
from composefs.repository.fsck.files import open_object
from composefs.repository.fsck.findings import Kind, Report
from composefs.repository.fsck.index import ObjectIndex
from composefs.splitstream import ContentType, SplitstreamReader

_TYPES = {  # by how the names begin
    "oci-layer-": (ContentType.LAYER, ContentType.BLOB),
    "oci-config-": (ContentType.CONFIG,),
    "oci-manifest-": (ContentType.MANIFEST,),
    "oci-blob-": (ContentType.BLOB,),
}


def check_stream(repository_fd: int, entry: Entry, algorithm: Algorithm, index: ObjectIndex, report: Report) -> bool:
    """Check a stream; its contents, which are compressed, are not looked at.

    Returns:
        Whether it can be read, missing objects aside.
    """
    try:
        with open_object(repository_fd, entry.digest) as file:
            reader = SplitstreamReader(file, algorithm, entry.path)
    except OSError as error:
        report.add(Kind.STREAM_OPEN_FAILED, entry.path, error.strerror or str(error))
        return False
    except LimitError as error:  # it is not broken for that
        report.add(Kind.STREAM_OPEN_FAILED, entry.path, error.what)
        return False
    except FormatError as error:
        report.add(Kind.STREAM_OPEN_FAILED, entry.path, f"offset {error.offset}: {error.what}")
        return False
    is_right = True
    try:
        check_type(entry.name, reader.content_type)
    except IntegrityError as error:
        is_right = False
        report.add(Kind.STREAM_TYPE_MISMATCH, entry.path, wanted=error.wanted, got=error.got)
    if (problem := _problem_of_tables(entry.name, reader)) is not None:
        is_right = False
        report.add(Kind.STREAM_REFS_INVALID, entry.path, problem)
    for raw in index.missing(reader.object_refs.raw()):
        report.add(Kind.MISSING_OBJECT_REF, entry.path, object_id=raw.hex())
        report.counts.missing_objects += 1
    for name, digest in reader.named_refs.items():
        if digest.raw not in index:
            report.add(Kind.MISSING_NAMED_REF, entry.path, object_id=digest.hex, ref=name)
            report.counts.missing_objects += 1
    return is_right


def _problem_of_tables(name: str, reader: SplitstreamReader) -> str | None:
    """Return what is wrong with the order of references, at which readers do not look; of OCI streams it is known."""
    if not name.startswith("oci-"):
        return None
    for table, what in ((reader.object_refs, "object"), (reader.stream_refs, "stream")):
        if len(table.raw()) != len(table):
            return f"the table of {what} references has one twice"
    names = [*reader.named_refs]
    if names != sorted(names, key=str.encode):
        return "the names of references are not in order"
    return None


def check_type(name: str, content_type: bytes) -> None:
    """Check that the stream *name* may be of *content_type*; of names that are not known, nothing is.

    Raises:
        IntegrityError: it may not.
    """
    wanted = next((types for prefix, types in _TYPES.items() if name.startswith(prefix)), None)
    if wanted is not None and content_type not in wanted:
        raise IntegrityError(f"stream {name}", " or ".join(map(_text, wanted)), _text(content_type))


def _text(content_type: bytes) -> str:
    return content_type.decode("ascii", "backslashreplace")
