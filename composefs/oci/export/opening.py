"""Open the destination that a reference names."""

from __future__ import annotations

import os

from composefs.errors import UsageError
from composefs.oci.export.archive import ArchiveDestination
from composefs.oci.export.destination import Destination
from composefs.oci.export.directory import DirectoryDestination
from composefs.oci.export.layout import LayoutDestination
from composefs.oci.sources.access import Access
from composefs.reference import (
    ArchiveReference,
    DirReference,
    OciArchiveReference,
    OciReference,
    Reference,
    RegistryReference,
    names_transport,
    parse_reference,
)
from composefs.reference.parsing import STDIN

_WANTED = "wanted oci:PATH[:TAG], oci-archive:PATH[:TAG], dir:PATH or docker://HOST/NAME[:TAG]"


def open_destination(reference: str, access: Access) -> Destination:
    """Return the destination *reference*, open.

    Args:
        reference: `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]`, `dir:PATH`, `docker://HOST/NAME[:TAG]`, or a bare path or
            name that can only be a layout's or a registry's.
        access: how a registry is reached, and where there is room for what is compressed before it is sent.

    Raises:
        UsageError: nothing can be exported there.
        PolicyError: the registry is blocked on this host.
        OSError: a directory cannot be made.
    """
    match parse_destination(reference):
        case OciReference(path=path, tag=tag, index=None):
            return LayoutDestination(reference, path, tag)
        case OciArchiveReference(path=path, tag=tag, index=None):
            if path == STDIN:
                raise UsageError(f"{reference!r} is standard output only for the command; open an ArchiveDestination")
            return ArchiveDestination(reference, path, tag, access.spool)
        case DirReference(path=path):
            return DirectoryDestination(reference, path)
        case RegistryReference(name=name):
            from composefs.oci.export.upload import RegistryDestination  # noqa: PLC0415  # network code

            return RegistryDestination(reference, name, access)
        case OciReference() | OciArchiveReference():
            raise UsageError(f"{reference!r}: a number stands for an image that is there already; {_WANTED}")
        case ArchiveReference(path=path) if path == STDIN:
            raise UsageError(f"{reference!r} is a file; write oci-archive:- for standard output")
        case ArchiveReference(path=path):
            raise UsageError(f"{reference!r} is a file; write oci-archive:{path} to replace it")
        case other:
            raise UsageError(f"nothing is exported to {other.transport.value}: here; {_WANTED}")


def parse_destination(text: str) -> Reference:
    """Return what *text* means as something that need not be there yet: then a path ends at the first colon.

    Raises:
        UsageError: it means nothing, or two things.
    """
    found = parse_reference(text)
    if (
        names_transport(text)
        and isinstance(found, OciReference | OciArchiveReference)
        and not os.path.exists(found.path)
    ):
        return parse_reference(text, exists=lambda _: True, is_directory=lambda _: True)
    return found
