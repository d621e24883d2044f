"""The files in a tar archive of images."""

from __future__ import annotations

import os

from composefs import limits
from composefs.errors import NotFoundError
from composefs.oci.sources.source import FileRange
from composefs.oci.sources.spool import PlainFile
from composefs.oci.sources.tar_index import Extent, TarIndex
from composefs.reference import Transport

_NAME_AS = {
    Transport.OCI_ARCHIVE: "oci-archive:PATH:TAG",
    Transport.DOCKER_ARCHIVE: "docker-archive:PATH:NAME",
    Transport.DOCKER_DAEMON: "docker-daemon:NAME:TAG",
    Transport.ARCHIVE: "PATH:TAG",
}


class ArchiveFiles:
    """The files of a layout in the tar archive *file*, which is closed with them, also if this fails.

    Args:
        file: the archive.
        transport: how it is called; says how one names one of its images.

    Raises:
        FormatError: it is no archive, or a broken one.
    """

    def __init__(self, file: PlainFile, transport: Transport) -> None:
        self.file, self.name, self.name_as = file, file.name, _NAME_AS[transport]
        try:
            self._index = TarIndex(file.fd, file.name)
        except BaseException:
            file.close()
            raise

    def __contains__(self, path: str) -> bool:
        """Tell whether there is a file *path*."""
        return path in self._index

    def read(self, path: str, what: str) -> bytes:
        """Return the file *path*, see `composefs.oci.layout.LayoutFiles`."""
        extent = self.extent(path, what)
        return os.pread(self.file.fd, min(extent.size, limits.JSON_SIZE + 1), extent.offset)

    def place(self, path: str) -> FileRange:
        """Return where the file *path* is; errors are those of `extent`."""
        return self.place_of(self.extent(path, path))

    def place_of(self, extent: Extent) -> FileRange:
        """Return where *extent* is, for workers."""
        return FileRange(self.file.path, extent.offset, extent.size)

    def extent(self, path: str, what: str) -> Extent:
        """Return where in the archive the file *path* is, which is *what* for messages.

        Raises:
            NotFoundError: there is none.
            FormatError: it is no regular file.
        """
        try:
            return self._index.find(path)
        except NotFoundError as error:
            raise NotFoundError(f"{what} is missing: {error}" if what != path else error.what) from None

    def where(self, path: str) -> str:
        """Return *path* for messages."""
        return f"{self.name}, {path}"

    def close(self) -> None:
        """Close the archive."""
        self.file.close()
