"""The archive of a stored layer, or the blob of an artifact, rebuilt bit for bit and proved while it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError, NotFoundError
from composefs.oci.contents import unproved_contents
from composefs.oci.work import layer_label
from composefs.repository import Repository


def read_archive(
    repository: Repository, digest: str, stream: Digest, advance: Callable[[int], None]
) -> Iterator[bytes]:
    """Yield the archive in pieces, the last of them when all is proved.

    Args:
        repository: where the layer is.
        digest: the layer's diff_id, or that of an artifact's blob.
        stream: of the layer.
        advance: called with the size of each piece; may raise what ends the work.

    Raises:
        IntegrityError: it is not what the digest says; names the object that is to blame, if one is.
        FormatError: the stream is broken.
        NotFoundError: a part of it is missing.
        OSError: something could not be read.
    """
    label = layer_label(digest)
    sha256, size, ready = hashlib.sha256(), 0, b""
    objects = repository.open_objects()
    try:
        with repository.streams.open_object(stream, label) as opened:
            for piece in unproved_contents(opened, objects, repository.path, label):
                advance(len(piece))
                sha256.update(piece)
                if ready:
                    yield ready
                ready = bytes(piece)
                size += len(piece)
            got = "sha256:" + sha256.hexdigest()
            if got != digest:
                for _ in opened.merged():  # proves every object, and says which one is broken
                    advance(0)
                raise IntegrityError(f"{label}, diff_id", digest, got)
            if size != opened.reader.size:
                raise FormatError(label, 0, f"has {size} bytes, not the {opened.reader.size} that its stream says")
    except FileNotFoundError as error:
        raise NotFoundError(f"{label}: no object {error.filename}") from None
    finally:
        os.close(objects)
    if ready:
        yield ready


def archive_size(repository: Repository, digest: str, stream: Digest) -> int:
    """Return how many bytes the archive has, as its stream says; `read_archive` sees whether that is so.

    Raises:
        NotFoundError, FormatError, IntegrityError: the stream is missing or broken.
    """
    with repository.streams.open_object(stream, layer_label(digest)) as opened:
        return opened.reader.size
