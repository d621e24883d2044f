"""Images in directories as skopeo's transport `dir:` has them: one image, or the images of one index.

    version                 Directory Transport Version: 1.1
    manifest.json           the manifest, or the index
    <hex>.manifest.json     manifests of that index
    <hex>                   configs and layers, by their sha256

Source: containers-transports(5), and what skopeo 1.9.3 writes.
"""

from __future__ import annotations

import os
import re
from typing import Self

from composefs import limits
from composefs.errors import FormatError, LimitError, NotFoundError
from composefs.oci.choice import check_blob, check_size, choose, describe, read_image
from composefs.oci.manifest import Compression, Descriptor, Image, Platform
from composefs.oci.sources.files import open_regular
from composefs.oci.sources.source import Blob, FileRange
from composefs.oci_digest import oci_digest

_MANIFEST = "manifest.json"
_VERSION = "version"
_VERSION_LINE = re.compile(rb"Directory Transport Version: ([0-9]{1,9})\.([0-9]{1,9})\n")
_KNOWN = (1, 2)  # 1.2 has names for other digests than sha256, which no image here has


class DirImage:
    """The image in the directory *path*, as a source; *name* is the reference.

    Raises:
        NotFoundError: there is no directory, or no manifest in it.
        FormatError: it is of a version that is not known.
    """

    streams, shares_files = None, False

    def __init__(self, path: str, name: str) -> None:
        self._path, self.name = path, name
        if not os.path.isdir(path):
            raise NotFoundError(f"no directory {path}")
        if not os.path.exists(self._file(_MANIFEST)):
            raise NotFoundError(f"{path} holds no image: it has no {_MANIFEST}")
        self._check_version()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: files are opened when they are read."""

    def image(self, platform: Platform | None = None) -> Image:
        """Return the image; see `composefs.oci.sources.source.Source`."""
        source = self._file(_MANIFEST)
        data = self._load(source, source)
        if len(data) > limits.JSON_SIZE:
            raise LimitError(source, 0, "bytes of JSON", limits.JSON_SIZE)
        top = describe(data, oci_digest(data), source)

        def read(descriptor: Descriptor, what: str) -> bytes:
            return data if descriptor.digest == top.digest else self._read(descriptor, what)

        return read_image(choose([top], platform, read, self._path), read)

    def blob(self, image: Image, index: int) -> Blob:
        """Return what to read of a layer; see `composefs.oci.sources.source.Source`."""
        layer = image.manifest.layers[index]
        # podman writes plain archives here, and says that they are compressed by gzip; then one digest is the other.
        is_plain = image.manifest.is_container and layer.digest == image.diff_ids[index]
        compression = Compression.NONE if is_plain else layer.compression
        place = FileRange(os.path.abspath(self._file(_hex(layer.digest))))
        return Blob(place, layer.digest, layer.size, compression)

    def _read(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a manifest, index or config, proved by its descriptor."""
        check_size(descriptor, what)
        suffix = f".{_MANIFEST}" if descriptor.is_manifest or descriptor.is_index else ""
        data = self._load(self._file(_hex(descriptor.digest) + suffix), f"{what} {descriptor.digest}")
        return check_blob(descriptor, data, what)

    def _check_version(self) -> None:
        path = self._file(_VERSION)
        if not os.path.exists(path):
            return  # so it was before there were versions
        data = self._load(path, path)
        match = _VERSION_LINE.fullmatch(data)
        if match is None:
            raise FormatError(path, 0, f"{data[:80]!r} is no version of a dir: directory")
        if (int(match[1]), int(match[2])) > _KNOWN:
            wanted = ".".join(map(str, _KNOWN))
            raise FormatError(
                path, 0, f"version {match[1].decode()}.{match[2].decode()}, known are those up to {wanted}"
            )

    def _load(self, path: str, what: str) -> bytes:
        with open(open_regular(path, what), "rb") as file:
            return file.read(limits.JSON_SIZE + 1) or b""

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


def _hex(digest: str) -> str:
    return digest.partition(":")[2]
