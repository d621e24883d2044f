"""composefs: content-addressed repositories of OCI images, every file named by its fs-verity digest.

repository = composefs.Repository.open("/sysroot/composefs")
result = composefs.import_image(repository, "oci:/srv/fedora:42", name="os", progress=print)

A name is imported when it is used: `import composefs` costs next to nothing.
"""

TYPE_CHECKING = False  # as in typing, whose import would take most of the time
if TYPE_CHECKING:
    from composefs.digest import Algorithm, Digest
    from composefs.errors import (
        AuthenticationError,
        BusyError,
        CancelledError,
        ComposefsError,
        FormatError,
        IntegrityError,
        LimitError,
        MountError,
        NotFoundError,
        PolicyError,
        RegistryError,
        RepositoryError,
        RoomError,
        TreeError,
        UsageError,
    )
    from composefs.hostconfig import AccessOptions, HostConfig
    from composefs.image import Extraction, Image, extract
    from composefs.mount import mount_image
    from composefs.oci.importer import ImportResult, ImportStats, import_image
    from composefs.oci.manifest import Platform
    from composefs.oci.sources.access import Access
    from composefs.repository import Repository

_MODULES = {
    "composefs.digest": ("Algorithm", "Digest"),
    "composefs.errors": (
        "AuthenticationError",
        "BusyError",
        "CancelledError",
        "ComposefsError",
        "FormatError",
        "IntegrityError",
        "LimitError",
        "MountError",
        "NotFoundError",
        "PolicyError",
        "RegistryError",
        "RepositoryError",
        "RoomError",
        "TreeError",
        "UsageError",
    ),
    "composefs.hostconfig": ("AccessOptions", "HostConfig"),
    "composefs.image": ("Extraction", "Image", "extract"),
    "composefs.mount": ("mount_image",),
    "composefs.oci.importer": ("ImportResult", "ImportStats", "import_image"),
    "composefs.oci.manifest": ("Platform",),
    "composefs.oci.sources.access": ("Access",),
    "composefs.repository": ("Repository",),
}
_ORIGINS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Access",
    "AccessOptions",
    "Algorithm",
    "AuthenticationError",
    "BusyError",
    "CancelledError",
    "ComposefsError",
    "Digest",
    "Extraction",
    "FormatError",
    "HostConfig",
    "Image",
    "ImportResult",
    "ImportStats",
    "IntegrityError",
    "LimitError",
    "MountError",
    "NotFoundError",
    "Platform",
    "PolicyError",
    "RegistryError",
    "Repository",
    "RepositoryError",
    "RoomError",
    "TreeError",
    "UsageError",
    "extract",
    "import_image",
    "mount_image",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  # the commands do not need it

    value = getattr(import_module(_ORIGINS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
