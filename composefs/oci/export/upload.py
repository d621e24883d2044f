"""An image that goes to a registry: blobs as they get ready, several at a time, and the manifest when all are there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeVar

from composefs.errors import CancelledError, UsageError
from composefs.oci.daemons import Daemons
from composefs.oci.export.destination import Blob, Contents, Destination, Export
from composefs.oci.export.events import Listener, Sending
from composefs.oci.export.spool import Spool
from composefs.oci.manifest import Descriptor
from composefs.oci.sources.access import Access
from composefs.reference import RegistryName
from composefs.registry.endpoint import Endpoint
from composefs.registry.pool import close_connections
from composefs.registry.upload import PushClient

_TICK = 0.1  # seconds between two looks at how much was sent
_STOP_TIME = 0.5  # seconds to wait for threads that are to stop; a registry that does not answer has minutes

_Result = TypeVar("_Result")


class RegistryDestination(Destination):
    """The repository of a registry that *image* names, where it is to have the tag or digest of that."""

    takes_docker = True

    def __init__(self, name: str, image: RegistryName, access: Access) -> None:
        super().__init__(name)
        self._image, self._directory = image, access.spool
        if access.host is None:
            endpoint = Endpoint(image.host, image.repository)
        else:
            endpoint = access.host.endpoint_to_push(image)
        self._client = PushClient(endpoint)
        self._threads = Daemons(access.streams, "composefs-push")
        self._stop = threading.Event()
        self._tasks: set[Future[Any]] = set()
        self._uploads: dict[str, Future[None]] = {}  # by digest
        self._sent: dict[str, int] = {}  # bytes, by digest

    def holds(self, blobs: Sequence[Descriptor]) -> set[str]:
        """Return those that the registry says to have."""
        digests = list(dict.fromkeys(blob.digest for blob in blobs))
        asked = [self._begin(partial(self._client.has_blob, digest)) for digest in digests]
        return {digest for digest, answer in zip(digests, asked, strict=True) if answer.result()}

    def spool(self) -> Spool:
        """Return a new file, which is sent when it is written."""
        return Spool(self._directory)

    def add(self, blob: Blob) -> None:
        """Begin to send a blob, unless that was begun."""
        if blob.contents is not None and blob.digest not in self._uploads:
            self._uploads[blob.digest] = self._begin(partial(self._send, blob, blob.contents))

    def check(self) -> None:
        """Raise what sending has raised."""
        for upload in self._uploads.values():
            if upload.done():
                upload.result()

    def finish(self, export: Export, listener: Listener) -> None:
        """Send what is left, then the manifest, which is the name."""
        wanted, got = self._image.digest, export.manifest.digest
        if wanted is not None and wanted != got:
            raise UsageError(f"{self.name} is for the manifest of that digest; the manifest of this image is {got}")
        for blob in export.blobs:
            self.add(blob)
        total = sum(blob.size for blob in export.blobs if blob.contents is not None)
        pending = set(self._uploads.values())
        while pending:
            _, pending = wait(pending, timeout=_TICK)
            self.check()
            listener(Sending(sum(self._sent.values()), total))
        self._client.put_manifest(self._image.tag or got, export.manifest_bytes, export.manifest.media_type)

    def stop(self) -> None:
        """Stop sending; what the registry has of a blob that is not complete it forgets."""
        if not self._stop.is_set():
            self._stop.set()
            wait(self._tasks, timeout=_STOP_TIME)

    def close(self) -> None:
        """Stop sending, and let go of connections."""
        self.stop()
        close_connections()

    def _begin(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Have *task* done by a thread, as soon as there is room, unless nobody wants it any more."""

        def run() -> _Result:
            self._check_wanted()
            return task()

        future = self._threads.begin(run)
        self._tasks.add(future)
        return future

    def _send(self, blob: Blob, contents: Contents) -> None:
        if self._client.has_blob(blob.digest):
            self.found.add(blob.digest)
        else:
            self._client.upload_blob(blob.digest, blob.size, _Watched(self, blob.digest, contents))

    def progress(self, digest: str, sent: int) -> None:
        """Take notice that *sent* bytes of a blob have been sent.

        Raises:
            CancelledError: nobody wants the rest.
        """
        self._check_wanted()
        self._sent[digest] = sent

    def _check_wanted(self) -> None:
        if self._stop.is_set():
            raise CancelledError("the export was stopped")


class _Watched:
    """The bytes of a blob, as often as they are to be sent."""

    def __init__(self, destination: RegistryDestination, digest: str, contents: Contents) -> None:
        self._destination, self._digest, self._contents = destination, digest, contents

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for piece in self._contents.pieces():
            self._destination.progress(self._digest, sent)
            yield piece
            sent += len(piece)
        self._destination.progress(self._digest, sent)
