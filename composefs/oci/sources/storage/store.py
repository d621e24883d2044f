"""One container store: what images and layers it has, and the manifests and configs of images.

All of it is somebody else's: what is read is checked, whoever reads it, and no link is followed.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError
from composefs.json_text import parse_json
from composefs.oci.sources.storage.locking import locked

MANIFEST = "manifest"  # key of big data; of one of several: `manifest-DIGEST`
# Where the files of a layer are, by driver: of overlay what the layer changes, of vfs those below it, too.
FILES = {"overlay": "overlay/{}/diff", "vfs": "vfs/dir/{}"}
_OTHER_DRIVERS = ("btrfs", "zfs", "aufs", "devicemapper", "windowsfilter")
_KINDS = ("images", "layers")
_ID = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PLAIN_KEY = re.compile(r"[0-9a-z.]*")  # what is a name of a file as it stands


@dataclass(frozen=True)
class StoredImage:
    """What images.json says of an image."""

    id: str
    digest: str | None  # of the manifest
    names: tuple[str, ...]
    layer: str | None  # id of the last one
    digests: frozenset[str]  # of all its manifests


@dataclass(frozen=True)
class StoredLayer:
    """What layers.json says of a layer."""

    id: str
    parent: str | None  # id
    diff_id: str | None  # unknown of some that were fetched by their parts
    size: int | None  # of its archive, in bytes


class Store:
    """The store in the directory *root*, kept by *driver*."""

    def __init__(self, root: str, driver: str) -> None:
        self.root, self.driver = root, driver
        self._images, self._layers = f"{root}/{driver}-images", f"{root}/{driver}-layers"

    @cached_property
    def images(self) -> tuple[StoredImage, ...]:
        """Its images.

        Raises:
            FormatError: images.json is broken.
            OSError: it cannot be read.
        """
        return tuple(map(_image, self._records(self._images, "images")))

    @cached_property
    def layers(self) -> dict[str, StoredLayer]:
        """Its layers by their ids; errors are those of `images`."""
        found = map(_layer, self._records(self._layers, "layers"))
        return {layer.id: layer for layer in found}

    @property
    def layers_lock(self) -> str:
        """The file that is locked while layers are read."""
        return f"{self._layers}/layers.lock"

    def tar_split(self, layer: str) -> str:
        """Return the file that has what is no contents in the archive of the layer with the id *layer*."""
        return f"{self._layers}/{layer}.tar-split.gz"

    def files(self, layer: str) -> str:
        """Return the directory that has the files of the layer with the id *layer*."""
        return f"{self.root}/{FILES[self.driver].format(layer)}"

    def ids_of(self, layer: str) -> list[str]:
        """Return the ids of the layer with the id *layer* and of those below it, as far as they are here."""
        found: list[str] = []
        at: str | None = layer
        while at is not None and at in self.layers and len(found) < limits.LAYERS:
            found.append(at)
            at = self.layers[at].parent
        return found

    def read(self, image: StoredImage, key: str, what: str) -> bytes:
        """Return what the store keeps of *image* as *key*; *what* for messages.

        Raises:
            NotFoundError: it keeps none.
            LimitError: it is too large.
        """
        name = key if _PLAIN_KEY.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()
        path = f"{self._images}/{image.id}/{name}"
        with locked(f"{self._images}/images.lock", _go_on):
            return _read(path, what)

    def _records(self, directory: str, kind: str) -> Iterable[dict[str, Any]]:
        path = f"{directory}/{kind}.json"
        with locked(f"{directory}/{kind}.lock", _go_on):
            try:
                data = _read(path, path)
            except NotFoundError:
                return []  # none was ever there
        value = parse_json(data, path, max_size=limits.JSON_SIZE)
        if value is None:
            return []  # the last one was removed
        if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
            raise FormatError(path, 0, "no list of objects")
        for record in value:
            if not isinstance(record.get("id"), str) or not _ID.fullmatch(record["id"]):
                raise FormatError(path, 0, f"id {record.get('id')!r} is not 64 hexadecimal digits")
        return value


def find_stores(root: str, driver: str | None) -> list[Store]:
    """Return the stores in the directory *root*, those of *driver* or of all that can be read; none if it has none.

    Raises:
        OSError: the directory is missing, or cannot be looked into.
    """
    os.stat(f"{root}/.")  # or say why not
    drivers = FILES if driver is None else FILES.keys() & {driver}
    return [Store(root, name) for name in drivers if all(os.path.isdir(f"{root}/{name}-{kind}") for kind in _KINDS)]


def is_composefs(store: Store, layer: str) -> bool:
    """Tell whether the layer with the id *layer* is itself a composefs, whose files are called by their digests."""
    return store.driver == "overlay" and os.path.isdir(f"{store.root}/overlay/{layer}/composefs-data")


def other_drivers(root: str) -> list[str]:
    """Return the drivers that have stores in the directory *root*, and of which no files are known here."""
    return [name for name in _OTHER_DRIVERS if os.path.isdir(f"{root}/{name}-images")]


def _image(record: dict[str, Any]) -> StoredImage:
    names, digest, digests = (record.get(key) for key in ("names", "digest", "big-data-digests"))
    return StoredImage(
        id=record["id"],
        digest=digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None,
        names=tuple(filter(_text, names)) if isinstance(names, list) else (),
        layer=_text(record.get("layer")),
        digests=frozenset(
            digest
            for key, digest in (digests.items() if isinstance(digests, dict) else ())
            if key.startswith(MANIFEST) and isinstance(digest, str)
        ),
    )


def _layer(record: dict[str, Any]) -> StoredLayer:
    size = record.get("diff-size")
    return StoredLayer(
        id=record["id"],
        parent=_text(record.get("parent")),
        diff_id=_text(record.get("diff-digest")),
        size=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _read(path: str, what: str) -> bytes:
    """Return the small file *path*."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{what} is missing: no file {path}") from None
    with open(fd, "rb") as file:
        data = file.read(limits.JSON_SIZE + 1) or b""
    if len(data) > limits.JSON_SIZE:
        raise LimitError(what, 0, "bytes of JSON", limits.JSON_SIZE)
    return data


def _go_on() -> None:
    """Wait on: Ctrl-C is heard all the same."""
