"""Make the blob of one layer: the whole of what a worker does.

One pass: the archive out of its stream and objects, its diff_id, the encoding, the digest of the blob.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Self

from composefs._native import Buffer
from composefs.digest import Digest
from composefs.oci.export.encoding import Encoding, Stored
from composefs.oci.export.reading import read_archive
from composefs.oci.progress import Pen
from composefs.oci.stages import Ahead
from composefs.oci.work import layer_label
from composefs.repository import Repository

_DEPTH = 8  # pieces of the archive that reading may be ahead of encoding; a guess
_BUFFER = 1 << 18  # bytes of a blob written at a time


@dataclass(frozen=True)
class ExportJob:
    """What a worker needs to know."""

    repository: str  # path
    stream: Digest
    diff_id: str  # of the archive; of an artifact's blob its digest
    size: int  # of that, bytes
    encoding: Encoding
    target: str  # file to write
    where: str  # what is full if there is no room for that file
    threads: int  # to encode by
    board: str
    index: int  # on the board

    @property
    def label(self) -> str:
        """The layer, for messages."""
        return layer_label(self.diff_id)


@dataclass(frozen=True)
class MadeBlob:
    """The blob of a layer."""

    digest: str
    size: int  # bytes


def make_blob(job: ExportJob) -> MadeBlob:
    """Write the blob of one layer.

    Raises:
        IntegrityError: the layer is not what its diff_id says, or an object is broken.
        FormatError: its stream is broken.
        NotFoundError: a part of it is missing.
        CancelledError: the work is to stop.
        OSError: something could not be read or written.
    """
    pen = Pen(job.board, job.index)
    try:
        with Repository.open(job.repository) as repository:
            return _write(job, repository, pen)
    finally:
        pen.close()


def _write(job: ExportJob, repository: Repository, pen: Pen) -> MadeBlob:
    archive = Ahead(_pieces(job, repository, pen), _DEPTH, pen.has_idle_cpus)
    is_stored = isinstance(job.encoding, Stored)
    sha256, size = hashlib.sha256(), 0
    encoded = job.encoding.encode(archive, job.size, job.threads)
    with closing(archive), closing(encoded), _Output(job.target, job.where) as output:
        for piece in encoded:
            if not is_stored:  # what is stored has the digest of the archive
                sha256.update(piece)
            size += len(piece)
            output.write(piece)
    return MadeBlob(job.diff_id if is_stored else "sha256:" + sha256.hexdigest(), size)


def _pieces(job: ExportJob, repository: Repository, pen: Pen) -> Generator[bytes]:
    yield from read_archive(repository, job.diff_id, job.stream, pen.advance)


class _Output:
    """The file *path*, which messages call *where*."""

    def __init__(self, path: str, where: str) -> None:
        self._fd, self._where = os.open(path, os.O_WRONLY | os.O_CLOEXEC), where
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            os.close(self._fd)

    def write(self, data: Buffer) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        data, self._buffer = memoryview(self._buffer), bytearray()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._where) from None
