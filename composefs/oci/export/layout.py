"""An OCI layout directory, new or with other images, that gets one more.

    oci-layout             says that it is one
    index.json             which manifests there are: replaced in one step, last of all
    blobs/sha256/<hex>     what was there stays, if it is what its name says

Source: OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from composefs import limits
from composefs.cpus import available_cpus
from composefs.errors import UsageError
from composefs.oci.export.destination import Destination, Export, check_tag, file_name
from composefs.oci.export.events import Listener
from composefs.oci.export.files import files_of, new_file
from composefs.oci.export.spool import NewDirectories, Spool, flush, flush_names
from composefs.oci.manifest import REF_NAME, Descriptor, parse_index, parse_object
from composefs.oci.progress import Syncing

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYOUT_FILE, LAYOUT_BYTES = "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
INDEX_FILE = "index.json"
_BLOBS = "blobs/sha256"
_PIECE = 1 << 20  # bytes of a blob read at a time


def index_entry(manifest: Descriptor, tag: str | None) -> dict[str, Any]:
    """Return what an index says of *manifest*, which is called *tag*."""
    entry: dict[str, Any] = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size}
    return entry | ({"annotations": {REF_NAME: tag}} if tag is not None else {})


def new_index(manifest: Descriptor, tag: str | None) -> bytes:
    """Return the index of a layout of one image."""
    return _dump({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [index_entry(manifest, tag)]})


def add_to_index(data: bytes, source: str, manifest: Descriptor, tag: str | None) -> bytes:
    """Return the index *data* with *manifest* called *tag*; what was called so is not in it any more.

    All else stays, whatever it is.  Without a tag, the same manifest is there once.

    Raises:
        FormatError: the index is broken.
    """
    index = parse_object(data, source)
    entry = index_entry(manifest, tag)
    found = parse_index(data, source)
    index["manifests"] = [
        value
        for value, descriptor in zip(index["manifests"], found, strict=True)
        if (descriptor.tag != tag if tag is not None else descriptor.tag or descriptor.digest != manifest.digest)
    ]
    index["manifests"].append(entry)
    return _dump(index)


class LayoutDestination(Destination):
    """The layout in the directory *path*, made if it is missing, where the image is to be called *tag*.

    Raises:
        UsageError: the directory has something else in it.
    """

    def __init__(self, name: str, path: str, tag: str | None) -> None:
        super().__init__(name)
        check_tag(tag, name)
        self._path, self._tag = os.path.abspath(path), tag
        self._blobs = os.path.join(self._path, _BLOBS)
        if not _may_be_layout(path):
            raise UsageError(f"{path} is no OCI layout, and not empty: it has no {INDEX_FILE}")
        self._made = NewDirectories(self._blobs)

    def holds(self, blobs: Sequence[Descriptor]) -> set[str]:
        """Return those whose files have the right contents."""
        stopped = threading.Event()
        with ThreadPoolExecutor(available_cpus(), "composefs-blobs") as pool:
            try:
                found = list(pool.map(lambda blob: self._has(blob, stopped), blobs))
            except BaseException:
                stopped.set()
                raise
        return {blob.digest for blob, is_there in zip(blobs, found, strict=True) if is_there}

    def spool(self) -> Spool:
        """Return a new file, which becomes a blob."""
        return Spool(self._blobs)

    def finish(self, export: Export, listener: Listener) -> None:
        """Write what is small, flush all, then make the names: those of blobs first, that of the index last."""
        with ExitStack() as stack:
            blobs = files_of(export.files, self._blobs, stack)
            stack.enter_context(self._locked())
            index = new_file(self._path, [self._index(export.manifest)], stack)
            layout = new_file(self._path, [LAYOUT_BYTES], stack)
            listener(Syncing())
            flush(self._blobs)
            self._made.keep()
            for name, spool in blobs.items():
                spool.link(name)
            if not os.path.exists(os.path.join(self._path, LAYOUT_FILE)):
                layout.link(LAYOUT_FILE)
            for directory in (self._blobs, os.path.dirname(self._blobs), self._path, os.path.dirname(self._path)):
                flush_names(directory)
            index.link(INDEX_FILE)
            flush_names(self._path)

    def close(self) -> None:
        """Remove the directories that were made for nothing."""
        self._made.close()

    def _has(self, blob: Descriptor, stopped: threading.Event) -> bool:
        """Tell whether there is a file of *blob*, and is what it should be; *stopped* ends that."""
        try:
            fd = os.open(os.path.join(self._blobs, file_name(blob.digest)), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        sha256 = hashlib.sha256()
        try:
            if os.fstat(fd).st_size != blob.size:
                return False
            while (piece := os.read(fd, _PIECE)) and not stopped.is_set():
                sha256.update(piece)
        except OSError:  # a directory, or a disk that fails
            return False
        finally:
            os.close(fd)
        return "sha256:" + sha256.hexdigest() == blob.digest

    def _index(self, manifest: Descriptor) -> bytes:
        """Return what the index is to be."""
        path = os.path.join(self._path, INDEX_FILE)
        try:
            with open(path, "rb") as file:
                return add_to_index(file.read(limits.JSON_SIZE + 1), path, manifest, self._tag)
        except FileNotFoundError:
            return new_index(manifest, self._tag)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let exports into this layout wait for each other; other programs take no notice."""
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _may_be_layout(path: str) -> bool:
    """Tell whether *path* is a layout, or nothing that could not become one, such as a directory with blobs only."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        return True
    return not names.isdisjoint((INDEX_FILE, LAYOUT_FILE)) or names <= {"blobs"}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
