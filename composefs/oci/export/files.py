"""Blobs as files of a directory, before they have their names."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from composefs.oci.export.destination import Blob, file_name
from composefs.oci.export.spool import Spool


def files_of(blobs: Iterable[Blob], directory: str, stack: ExitStack) -> dict[str, Spool]:
    """Return the files of those *blobs* that are new in *directory*, by the names that they are to have.

    What is no file yet is written; *stack* closes that.
    """
    return {
        file_name(blob.digest): blob.contents
        if isinstance(blob.contents, Spool)
        else new_file(directory, blob.contents.pieces(), stack)
        for blob in blobs
        if blob.contents is not None
    }


def new_file(directory: str, pieces: Iterable[bytes], stack: ExitStack) -> Spool:
    """Return a new file of *pieces* in *directory*, which *stack* closes."""
    spool = Spool(directory)
    stack.callback(spool.close)
    for piece in pieces:
        spool.write(piece)
    return spool
