"""A directory as the transport `dir:` has it: one image, its blobs as files beside each other.

    version             says that it is one
    manifest.json       the manifest, last of all
    <hex>               config and layers

Source: `skopeo copy` 1.9.3 to and from `dir:`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from composefs.errors import UsageError
from composefs.oci.export.destination import Destination, Export
from composefs.oci.export.events import Listener
from composefs.oci.export.files import files_of, new_file
from composefs.oci.export.spool import NewDirectories, Spool, flush, flush_names
from composefs.oci.progress import Syncing

_VERSION_FILE, _VERSION = "version", b"Directory Transport Version: 1.1\n"
_MANIFEST_FILE = "manifest.json"


class DirectoryDestination(Destination):
    """The directory *path*, which is empty, or not there yet.

    Raises:
        UsageError: there is something in it.
    """

    takes_docker = True

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = os.path.abspath(path)
        self._made = NewDirectories(self._path)
        if os.listdir(self._path):
            raise UsageError(f"{path} is not empty, and what has one image cannot have another in one step")

    def spool(self) -> Spool:
        """Return a new file, which becomes a blob."""
        return Spool(self._path)

    def finish(self, export: Export, listener: Listener) -> None:
        """Write what is small, flush all, then make the names: that of the manifest last."""
        with ExitStack() as stack:
            blobs = files_of(export.blobs, self._path, stack)
            version = new_file(self._path, [_VERSION], stack)
            manifest = new_file(self._path, [export.manifest_bytes], stack)
            listener(Syncing())
            flush(self._path)
            self._made.keep()
            for name, spool in {**blobs, _VERSION_FILE: version}.items():
                spool.link(name)
            flush_names(self._path)
            manifest.link(_MANIFEST_FILE)
            flush_names(self._path)

    def close(self) -> None:
        """Remove the directories that were made for nothing."""
        self._made.close()
