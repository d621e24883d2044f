"""composefs: content-addressed repositories of OCI images, every file named by its fs-verity digest.

repository = composefs.Repository.open("/sysroot/composefs")
result = composefs.import_image(repository, "oci:/srv/fedora:42", name="os", progress=print)
"""

from composefs.digest import Algorithm, Digest
from composefs.errors import (
    CancelledError,
    ComposefsError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RepositoryError,
    UsageError,
)
from composefs.oci import ImportResult, ImportStats, import_image
from composefs.oci.manifest import Platform
from composefs.repository import Repository

__all__ = [
    "Algorithm",
    "CancelledError",
    "ComposefsError",
    "Digest",
    "FormatError",
    "ImportResult",
    "ImportStats",
    "IntegrityError",
    "NotFoundError",
    "Platform",
    "Repository",
    "RepositoryError",
    "UsageError",
    "import_image",
]
__version__ = "0.1.0"
