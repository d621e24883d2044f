"""Streams: headers and tables, content types, and whether what they refer to is there."""

from __future__ import annotations

from composefs.digest import Algorithm
from composefs.errors import FormatError
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
    except FormatError as error:
        report.add(Kind.STREAM_OPEN_FAILED, entry.path, f"offset {error.offset}: {error.what}")
        return False
    wanted = next((types for prefix, types in _TYPES.items() if entry.name.startswith(prefix)), None)
    is_right = wanted is None or reader.content_type in wanted
    if wanted is not None and not is_right:
        texts = [" or ".join(map(_text, wanted)), _text(reader.content_type)]
        report.add(Kind.STREAM_TYPE_MISMATCH, entry.path, wanted=texts[0], got=texts[1])
    for raw in index.missing(reader.object_refs.raw()):
        report.add(Kind.MISSING_OBJECT_REF, entry.path, object_id=raw.hex())
        report.counts.missing_objects += 1
    for name, digest in reader.named_refs.items():
        if digest.raw not in index:
            report.add(Kind.MISSING_NAMED_REF, entry.path, object_id=digest.hex, ref=name)
            report.counts.missing_objects += 1
    return is_right


def _text(content_type: bytes) -> str:
    return content_type.decode("ascii", "backslashreplace")
