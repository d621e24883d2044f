"""Open the source that a reference names.

The module of a transport is imported when it is asked for: what an OCI layout needs is next to nothing.
"""

from __future__ import annotations

from composefs.oci.layout import open_layout
from composefs.oci.sources.access import Access
from composefs.oci.sources.source import Source
from composefs.reference import (
    ArchiveReference,
    DaemonReference,
    DirReference,
    DockerArchiveReference,
    OciArchiveReference,
    OciReference,
    OtherReference,
    Reference,
    RegistryReference,
    StorageReference,
    parse_reference,
)

# ruff: noqa: PLC0415  # see above


def open_source(reference: str, access: Access) -> Source:
    """Return the source that *reference* names, open.

    Args:
        reference: as `composefs.reference` has it.
        access: how images are reached.

    Raises:
        UsageError: the reference means nothing, or two things.
        NotFoundError: there is nothing at such a path.
        PolicyError: the policy of this host forbids it.
        FormatError, IntegrityError: what is there is broken.
        RegistryError: a registry, or a program that has the image, refuses.
        OSError: something could not be read, or an archive not be unpacked for want of room.
    """
    return _open(parse_reference(reference), access)


def _open(reference: Reference, access: Access) -> Source:
    if access.via_skopeo or isinstance(reference, OtherReference):
        from composefs.oci.sources.skopeo import open_by_skopeo

        return open_by_skopeo(reference, access)
    if isinstance(reference, StorageReference):
        from composefs.oci.sources.storage import open_storage

        return open_storage(reference, access)  # which has to be found before it can be told what policy it is under
    if access.host is not None:
        access.host.check_policy(reference)
    if isinstance(reference, RegistryReference):
        from composefs.oci.sources.registry import open_registry

        return open_registry(reference, access)
    return _open_files(reference, access)


def _open_files(
    reference: OciReference
    | DirReference
    | DaemonReference
    | ArchiveReference
    | OciArchiveReference
    | DockerArchiveReference,
    access: Access,
) -> Source:
    """Open what is a file, or a directory, or becomes one."""
    match reference:
        case OciReference():
            which = reference.index if reference.index is not None else reference.tag
            return open_layout(reference.path, which, reference.text)
        case DirReference():
            from composefs.oci.sources.dir import DirImage

            return DirImage(reference.path, reference.text)
        case DaemonReference():
            from composefs.oci.sources.docker_daemon import open_daemon

            return open_daemon(reference, access.environ, access.spool)
        case _:
            from composefs.oci.sources.archive import open_archive

            return open_archive(reference, access.spool)
