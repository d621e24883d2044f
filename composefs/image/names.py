"""What people call an image, and which one that is."""

from __future__ import annotations

from composefs.digest import Digest
from composefs.errors import NotFoundError
from composefs.repository import Repository


def resolve(repository: Repository, name: str) -> Digest:
    """Return the image that *name* stands for.

    Args:
        repository: where it is.
        name: the first of these that there is: the id of an image in hexadecimal; `refs/NAME` or just `NAME`, as the
            image was called when it was made; the tag of an OCI image, or `@` and the digest of its manifest or
            config, which means the image that was made of it, but not that for booting.

    Raises:
        NotFoundError: there is none.
        FormatError, IntegrityError, RepositoryError: what the name leads to is broken.
    """
    try:
        return repository.images.resolve(name)
    except NotFoundError:
        made = None if name.startswith("refs/") else _made_of(repository, name)
        if made is None:
            raise
        return made


def _made_of(repository: Repository, name: str) -> Digest | None:
    """Return the image that was made of the OCI image *name*, or None if there is no such OCI image."""
    # Importing these takes longer than reading an image that has a name of its own.
    from composefs.oci import tags  # noqa: PLC0415  # see above
    from composefs.oci.names import config_name  # noqa: PLC0415  # see above
    from composefs.oci.slots import Slot  # noqa: PLC0415  # see above
    from composefs.splitstream import ContentType  # noqa: PLC0415  # see above

    try:
        found = tags.find(repository, name)
    except NotFoundError:
        return None
    with repository.streams.open(config_name(found.config), ContentType.CONFIG) as stream:
        images = stream.reader.named_refs
    for epoch in (2, 1) if repository.meta.erofs_versions[0] == 2 else (1, 2):
        if (key := Slot(epoch).key) in images:
            return images[key]
    raise NotFoundError(f"{repository.path}: no image was made of {name}; import it again")
