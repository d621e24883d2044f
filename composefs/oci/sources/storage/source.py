"""An image in container storage, as a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from composefs.errors import NotFoundError, UsageError
from composefs.oci.choice import check_blob, check_size, choose, describe, read_image
from composefs.oci.manifest import Compression, Descriptor, Image, Platform
from composefs.oci.sources.access import Access
from composefs.oci.sources.source import Blob, Source
from composefs.oci.sources.storage.files import UNSHARE
from composefs.oci.sources.storage.finding import find_candidates
from composefs.oci.sources.storage.layers import SharedArchive, StoredArchive, archive_size
from composefs.oci.sources.storage.names import find_image
from composefs.oci.sources.storage.store import (
    FILES,
    MANIFEST,
    Store,
    StoredImage,
    find_stores,
    is_composefs,
    other_drivers,
)
from composefs.reference.values import StorageReference


class StorageSource:
    """The image *reference* in one of *stores*.

    Args:
        reference: of the image.
        stores: where it may be, the likely ones first.
        access: says what objects are to share with the files of layers, and which images are taken.
        unreadable: directories that may be stores, too.
    """

    streams = None

    def __init__(
        self,
        reference: StorageReference,
        stores: Sequence[Store],
        access: Access,
        unreadable: Sequence[str] = (),
    ) -> None:
        self.name, self._reference, self._stores = reference.text, reference, stores
        self._access, self._unreadable = access, unreadable
        self.shares_files = access.local_fetch != "disabled"
        self._found: tuple[Store, StoredImage] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: each part is closed when it was read."""

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image; see `Source`.  Without *platform* it may be for any: there is but one of that name."""
        store, _ = self._at()
        if self._access.host is not None:
            self._access.host.check_policy(self._reference, store=f"{store.driver}@{store.root}")
        descriptor = self._manifest()
        if descriptor.is_index or platform is not None:
            descriptor = choose([descriptor], platform, self._read, self.name)
        return read_image(descriptor, self._read)

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of a layer; see `Source`.

        Raises:
            NotFoundError: no store has the layer.
            UsageError: it is kept in a way that cannot be read here.
        """
        diff_id = image.diff_ids[index]
        label = f"layer {diff_id}"
        store, layer = self._layer(image.diff_ids, index)
        if is_composefs(store, layer):
            raise UsageError(f"{label}: {store.root} keeps it as a composefs; skopeo can read that: --via skopeo")
        directories = tuple(map(store.files, store.ids_of(layer)))
        place = StoredArchive(store.tar_split(layer), directories, store.layers_lock)
        size = store.layers[layer].size
        if size is None:
            size = archive_size(place, label)
        if self._access.local_fetch != "disabled":
            place = SharedArchive(place.tar_split, place.directories, place.lock, self._access.local_fetch)
        return Blob(place, diff_id, size, Compression.NONE)

    def _at(self) -> tuple[Store, StoredImage]:
        if self._found is None:
            try:
                self._found = find_image(self._stores, self._reference.image, self._reference.image_id)
            except NotFoundError as error:
                if self._unreadable:
                    error.add_note(f"{', '.join(self._unreadable)} cannot be read: {UNSHARE}")
                raise
        return self._found

    def _manifest(self) -> Descriptor:
        """Return the descriptor of the manifest, or of the list of manifests, that is meant."""
        store, image = self._at()
        wanted = self._reference.image.partition("@")[2]
        digest = wanted if wanted in image.digests else image.digest
        if digest is None:
            raise NotFoundError(f"{store.root}: image {image.id} has no digest of its manifest")
        return describe(self._big_data(digest, "manifest"), digest, f"manifest of {self.name}")

    def _read(self, descriptor: Descriptor, what: str) -> bytes:
        check_size(descriptor, what)
        return check_blob(descriptor, self._big_data(descriptor.digest, what), what)

    def _big_data(self, digest: str, what: str) -> bytes:
        """Return the small blob *digest*, which is not proved yet."""
        store, image = self._at()
        label = f"{what} {digest} of image {image.id}"
        if what == "config":
            return store.read(image, digest, label)
        try:
            return store.read(image, f"{MANIFEST}-{digest}", label)
        except NotFoundError:
            return store.read(image, MANIFEST, label)  # as old programs wrote it

    def _layer(self, diff_ids: Sequence[str], index: int) -> tuple[Store, str]:
        """Return the store and the id of a layer."""
        store, image = self._at()
        ids = store.ids_of(image.layer)[::-1] if image.layer is not None else []
        if len(ids) == len(diff_ids) and store.layers[ids[index]].diff_id in (None, diff_ids[index]):
            return store, ids[index]
        for each in dict.fromkeys((store, *self._stores)):  # its lower layers may be in another store
            for layer in each.layers.values():
                if layer.diff_id == diff_ids[index]:
                    return each, layer.id
        raise NotFoundError(f"no layer {diff_ids[index]} in {', '.join(each.root for each in self._stores)}")


def open_storage(reference: StorageReference, access: Access) -> Source:
    """Return the image *reference* as a source.

    A store of a driver that is not known here is left to skopeo.

    Raises:
        NotFoundError: there is no store.
        FormatError: a storage.conf is broken.
        OSError: something cannot be read.
    """
    roots, driver = find_candidates(reference.store, access.environ, os.geteuid())
    stores: list[Store] = []
    unreadable: list[str] = []
    for root in roots:
        try:
            stores += find_stores(root, driver)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            if reference.store is not None:
                raise OSError(error.errno, f"{error.strerror}; {UNSHARE}", root) from None
            unreadable.append(root)
    if stores:
        return StorageSource(reference, stores, access, unreadable)
    if (driver is not None and driver not in FILES) or any(map(other_drivers, roots)):
        from composefs.oci.sources.skopeo import SkopeoSource  # noqa: PLC0415  # takes time, and is seldom needed

        return SkopeoSource(reference, access)
    more = f"; cannot be read: {', '.join(unreadable)}; {UNSHARE}" if unreadable else ""
    raise NotFoundError(f"no container storage in {', '.join(roots)}{more}")
