"""The scopes of policy.json that an image is in: names of where it is from, the most particular first.

Source: containers-policy.json(5), "Supported transports and their scopes".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from composefs.reference.names import RegistryName
from composefs.reference.values import (
    ArchiveReference,
    DaemonReference,
    DirReference,
    OciArchiveReference,
    OciReference,
    Reference,
    RegistryReference,
    StorageReference,
    Transport,
)


def scopes_of(reference: Reference, transport: str, store: str | None = None) -> tuple[str, ...]:
    """Return the scopes of *reference*, without that of its whole transport.

    Args:
        reference: the image.
        transport: which it is taken for, if it could be two.
        store: `DRIVER@ROOT` of the store, for an image of containers-storage.
    """
    if isinstance(reference, RegistryReference | DaemonReference):
        return tuple(_of_name(reference.name)) if reference.name is not None else ()
    if isinstance(reference, StorageReference):
        return tuple(_of_store(reference, store)) if store is not None else ()
    if transport == Transport.DOCKER_ARCHIVE.value:
        return ()  # it has no scopes
    if isinstance(reference, OciReference | OciArchiveReference | DirReference | ArchiveReference):
        return tuple(_of_path(reference.path))
    return ()


def _of_name(name: RegistryName) -> Iterator[str]:
    yield _versioned(name)
    path = name.without_version
    yield path
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
    domain = name.host.partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        yield f"*.{domain}"


def _of_path(path: str) -> Iterator[str]:
    path = os.path.realpath(path)
    while path != "/":
        yield path
        path = os.path.dirname(path)


def _of_store(reference: StorageReference, store: str) -> Iterator[str]:
    where, name, image_id = f"[{store}]", reference.name, reference.image_id
    if name is not None:
        if image_id is not None:
            yield f"{where}{name}@{image_id}"
        yield f"{where}{name}"
        if name.tag is not None and name.digest is not None:
            yield f"{where}{name.without_version}:{name.tag}"
        path = name.without_version
        while path:
            yield f"{where}{path}"
            path = path.rpartition("/")[0]
    elif image_id is not None:
        yield f"{where}@{image_id}"
    yield where
    yield f"[{store.partition('@')[2]}]"


def _versioned(name: RegistryName) -> str:
    """Return the name with what is fetched: a tag beside a digest is a label, and says nothing."""
    if name.digest is not None:
        return f"{name.without_version}@{name.digest}"
    return f"{name.without_version}:{name.tag or 'latest'}"
