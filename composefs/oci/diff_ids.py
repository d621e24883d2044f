"""Prove stored layers by their diff_ids: all that a layer's archive is, joined and hashed, on threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from composefs.cpus import available_cpus
from composefs.digest import Digest
from composefs.errors import CancelledError, ComposefsError, FormatError, LimitError
from composefs.oci.contents import unproved_contents
from composefs.oci.index import read_index
from composefs.oci.work import layer_label
from composefs.repository import Repository
from composefs.repository.fsck.damage import message_of
from composefs.repository.objects import DIRECTORY
from composefs.splitstream import ContentType


class StoredLayer(NamedTuple):
    """A layer, or a blob of an artifact, as it is stored."""

    digest: str  # the diff_id; of a blob its digest
    stream: Digest


class Proof(NamedTuple):
    """What became of the proof of a layer: what it is, or why that cannot be told."""

    got: str | None  # digest
    problem: str = ""  # a message: the error itself would keep alive all that it came through
    is_unknown: bool = False  # whether nothing is known of the layer: the system failed, or it is more than is taken


def prove_layers(
    repository: Repository, layers: Iterable[StoredLayer], *, workers: int | None = None
) -> Iterator[tuple[StoredLayer, Proof]]:
    """Yield each layer, the largest first, with what it turned out to be.

    Objects are taken for what they are called: whether they are is another question, which `check_repository` answers.

    Args:
        repository: where they are.
        layers: which.
        workers: layers at the same time; by default one for each CPU this process may use.
    """
    by_size = sorted(layers, key=lambda layer: (-_size(repository, layer), layer))
    fd = os.open(f"{repository.path}/{DIRECTORY}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if by_size else -1
    stopped = threading.Event()

    def prove(layer: StoredLayer) -> Proof:
        try:
            got = _merged_sha256(repository, layer, fd, stopped)
            if got == layer.digest:
                _check_entries(repository, layer, stopped)
            return Proof(got)
        except CancelledError:
            raise
        except (ComposefsError, OSError) as error:
            return Proof(None, message_of(error), isinstance(error, (OSError, LimitError)))

    try:
        with ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="fsck-layer") as pool:
            try:
                futures = [pool.submit(prove, layer) for layer in by_size]
                for layer, future in zip(by_size, futures, strict=True):
                    yield layer, future.result()
            finally:  # also where the caller has seen enough
                stopped.set()
                pool.shutdown(cancel_futures=True)
    finally:
        if fd >= 0:
            os.close(fd)


def _size(repository: Repository, layer: StoredLayer) -> int:
    """Return how many bytes the archive of a layer has, as its stream says; of what is broken, none."""
    try:
        with repository.streams.open_object(layer.stream, layer_label(layer.digest)) as stream:
            return stream.reader.size
    except (ComposefsError, OSError):
        return 0


def _merged_sha256(repository: Repository, layer: StoredLayer, objects_fd: int, stopped: threading.Event) -> str:
    """Return the digest of the archive, or of the blob.

    Raises:
        NotFoundError, IntegrityError, FormatError: the stream is missing or broken.
        OSError: an object is missing, or cannot be read.
    """
    sha256, size, label = hashlib.sha256(), 0, layer_label(layer.digest)
    with repository.streams.open_object(layer.stream, label) as stream:
        size_told = stream.reader.size
        for piece in unproved_contents(stream, objects_fd, repository.path, label):
            if stopped.is_set():
                raise CancelledError("nobody wants to know any more")
            size += len(piece)
            sha256.update(piece)
    got = "sha256:" + sha256.hexdigest()
    if got == layer.digest and size != size_told:
        raise FormatError(label, 0, f"{size} bytes, where the stream says {size_told}")
    return got


def _check_entries(repository: Repository, layer: StoredLayer, stopped: threading.Event) -> None:
    """Check that a layer is cut as its readers want it: they merge layers by it, and the diff_id does not tell.

    Raises:
        FormatError: it is not.
    """
    label = layer_label(layer.digest)
    with repository.streams.open_object(layer.stream, label) as stream:
        if stream.reader.content_type == ContentType.LAYER:
            for _ in read_index(stream.reader, label):
                if stopped.is_set():
                    raise CancelledError("nobody wants to know any more")
