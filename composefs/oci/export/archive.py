"""An OCI layout of one image as a tar archive, in a file or on its way to somebody who reads.

The same image gives the same archive: first `oci-layout` and `index.json`, then manifest, config and layers in the
order of the manifest, each once; all of mode 0644, of user and group 0 without names, and of the year 1970.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO, Protocol

from composefs.oci.export.destination import Destination, Export, check_tag, file_name
from composefs.oci.export.events import Listener
from composefs.oci.export.layout import INDEX_FILE, LAYOUT_BYTES, LAYOUT_FILE, new_index
from composefs.oci.export.spool import Spool, flush_names
from composefs.oci.progress import Syncing
from composefs.tar import BLOCK

_END = bytes(2 * BLOCK)  # of an archive
_MODE = 0o644


class Output(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object:
        """Write all of *data*."""


class ArchiveDestination(Destination):
    """An archive of the image, called *tag* in it.

    Args:
        name: the reference, for messages.
        output: an open stream; or the path of a file, which is replaced in one step when the archive is whole.
        tag: of the image.
        spool: directory for the blobs that are compressed, before the stream takes them.
    """

    takes_streams = True

    def __init__(self, name: str, output: str | BinaryIO, tag: str | None, spool: str) -> None:
        super().__init__(name)
        check_tag(tag, name)
        self._output, self._tag, self._directory = output, tag, spool
        if isinstance(output, str):
            self._output = output = os.path.realpath(output)
            if os.path.isdir(output):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), output)
            if _is_replaced(output):
                self._directory = os.path.dirname(output)

    def spool(self) -> Spool:
        """Return a new file."""
        return Spool(self._directory)

    def finish(self, export: Export, listener: Listener) -> None:
        """Write the archive."""
        pieces = archive_pieces(export, self._tag)
        if not isinstance(self._output, str):
            with _named(self.name):
                _write(self._output, pieces)
                self._output.flush()
        elif _is_replaced(self._output):
            _replace(self._output, pieces, lambda: listener(Syncing()))
        else:
            with _named(self._output), open(self._output, "wb") as file:
                _write(file, pieces)


def archive_pieces(export: Export, tag: str | None) -> Iterator[bytes]:
    """Yield the archive of an image that is called *tag*."""
    manifest = export.manifest
    yield from _member(LAYOUT_FILE, len(LAYOUT_BYTES), [LAYOUT_BYTES])
    index = new_index(manifest, tag)
    yield from _member(INDEX_FILE, len(index), [index])
    for blob in export.files:
        assert blob.contents is not None  # nothing is there
        yield from _member(f"blobs/sha256/{file_name(blob.digest)}", blob.size, blob.contents.pieces())
    yield _END


def _member(name: str, size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, _MODE
    yield entry.tobuf(tarfile.PAX_FORMAT)  # beyond 8 GiB, a header more
    yield from pieces
    yield bytes(-size % BLOCK)


def _write(output: Output, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        output.write(piece)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Let an error that names no file, as those of writing, name *where*."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, where) from None


def _is_replaced(path: str) -> bool:
    """Tell whether a new file takes the place of *path*; a pipe or a device is written to."""
    return os.path.isfile(path) or not os.path.exists(path)


def _replace(path: str, pieces: Iterable[bytes], before_sync: Callable[[], None]) -> None:
    directory, name = os.path.split(path)
    with closing(Spool(directory)) as spool:
        _write(spool, pieces)
        before_sync()
        spool.flush()
        spool.link(name)
        flush_names(directory)
