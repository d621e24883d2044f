"""Images in archives: OCI layouts, and what `docker save` writes, each in a tar archive, perhaps compressed.

The archive is not unpacked: what an import reads of it, it reads where it is.  One that is compressed, or comes from a
pipe, is written to an unnamed file first, see `composefs.oci.sources.spool`.
"""

from __future__ import annotations

from composefs.errors import NotFoundError
from composefs.oci.layout import INDEX, OciLayout
from composefs.oci.sources.archive_files import ArchiveFiles
from composefs.oci.sources.docker_archive import MANIFEST, DockerArchive
from composefs.oci.sources.source import Source
from composefs.oci.sources.spool import open_plain
from composefs.reference import ArchiveReference, DockerArchiveReference, OciArchiveReference


def open_archive(reference: OciArchiveReference | DockerArchiveReference | ArchiveReference, directory: str) -> Source:
    """Open the image *reference*.

    Args:
        reference: a file, or a pipe.
        directory: where unnamed files are made.

    Raises:
        NotFoundError: there is no such file, or no index in it.
        FormatError: it is no archive, or a broken one.
        UsageError: it is a directory, or what is said of the image makes no sense for such an archive.
        OSError: something could not be read or written.
    """
    files = ArchiveFiles(open_plain(reference.path, directory), reference.transport)
    try:
        if isinstance(reference, ArchiveReference):
            reference = reference.as_docker_archive() if _is_dockers(files, reference) else reference.as_oci_archive()
        if isinstance(reference, DockerArchiveReference):
            which = reference.index if reference.index is not None else reference.name
            return DockerArchive(files, which, reference.text, directory)
        if INDEX not in files:
            raise NotFoundError(f"{files.name} holds no OCI layout: it has no {INDEX}")
        return OciLayout(files, reference.index if reference.index is not None else reference.tag, reference.text)
    except BaseException:
        files.close()
        raise


def _is_dockers(files: ArchiveFiles, reference: ArchiveReference) -> bool:
    """Tell what an archive is by what is in it.

    Since Docker 25 it is both: then a name is one of Docker's, and without one the layout says more of the platforms.
    """
    return MANIFEST in files and (INDEX not in files or reference.version is not None)
