"""What the user calls an image."""

from composefs.reference.names import RegistryName, parse_name
from composefs.reference.parsing import names_transport, parse_reference
from composefs.reference.values import (
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
    Store,
    Transport,
)

__all__ = [
    "ArchiveReference",
    "DaemonReference",
    "DirReference",
    "DockerArchiveReference",
    "OciArchiveReference",
    "OciReference",
    "OtherReference",
    "Reference",
    "RegistryName",
    "RegistryReference",
    "StorageReference",
    "Store",
    "Transport",
    "names_transport",
    "parse_name",
    "parse_reference",
]
