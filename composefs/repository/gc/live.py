"""What is alive: what references keep, directly or through what streams and images say of themselves.

The set is that of composefs-rs 0.9.4:

1. what a reference in `images/refs` stands for, and all objects that this EROFS image names;
2. what a reference in `streams/refs` stands for, all objects of its table, and what it refers to by name.  If that is
   a stream with a name, this goes on there; if not, such as an EROFS image, that object alone is kept.

An image or stream is proved before its list is believed: half of a list would cost the other half its objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from composefs.digest import Digest
from composefs.errors import ComposefsError
from composefs.repository import Repository
from composefs.repository.gc.names import Names
from composefs.repository.gc.objects import ObjectSet
from composefs.repository.images import DIRECTORY as IMAGES
from composefs.repository.streams import DIRECTORY as STREAMS


def read_stream(repository: Repository, name: str, raw: bytes) -> tuple[bytes, list[bytes]]:
    """Return what the stream *name*, the object *raw*, refers to: objects, back to back, and what it does by name.

    Raises:
        NotFoundError: there is no such object.
        IntegrityError, FormatError: it is broken.
    """
    try:
        with repository.streams.open_object(Digest(repository.algorithm, raw), name) as stream:
            return stream.reader.object_refs.data, [digest.raw for digest in stream.reader.named_refs.values()]
    except (ComposefsError, OSError) as error:
        error.add_note(f"{STREAMS}/{name} is needed by a reference")
        raise


def read_image(repository: Repository, name: str, raw: bytes) -> set[bytes]:
    """Return the objects that the image *name*, the object *raw*, names; errors are those of `read_stream`."""
    from composefs.erofs.check import collect_objects  # noqa: PLC0415  # most repositories refer to streams only
    from composefs.erofs.reader import ErofsReader  # noqa: PLC0415  # likewise
    from composefs.erofs.superblock import read_image as read_bytes  # noqa: PLC0415  # likewise

    try:
        with repository.objects.open(Digest(repository.algorithm, raw)) as file:
            return collect_objects(ErofsReader(read_bytes(file), f"image {name}"))
    except (ComposefsError, OSError) as error:
        error.add_note(f"{IMAGES}/{name} is needed by a reference")
        raise


def mark_images(repository: Repository, images: Names, roots: Iterable[str], objects: ObjectSet) -> None:
    """Let the images *roots*, and all objects that they name, be alive; errors are those of `read_image`."""
    for raw, name in {images.entries[name]: name for name in roots}.items():
        objects.mark(b"".join([raw, *read_image(repository, name, raw)]))


def mark_streams(
    repository: Repository, streams: Names, roots: Iterable[str], objects: ObjectSet, pool: ThreadPoolExecutor
) -> None:
    """Let the streams *roots*, and all that they refer to, be alive; errors are those of `read_stream`."""
    names = {raw: name for name, raw in streams.entries.items()}

    def walk(raw: bytes) -> list[bytes]:
        """Mark a stream and what it refers to, and return the streams among that."""
        table, named = read_stream(repository, names[raw], raw)
        objects.mark(table)
        objects.mark(b"".join([raw, *named]))
        return [other for other in named if other in names]

    walked: set[bytes] = set()
    pending = {streams.entries[name] for name in roots}
    while pending:
        walked |= pending
        found = pool.map(walk, sorted(pending))
        pending = {raw for named in found for raw in named} - walked
