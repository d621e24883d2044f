"""Import one layer from its tar archive alone, without an image: for those who have the layers and no layout."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from composefs.digest import Digest
from composefs.errors import FormatError, IntegrityError, UsageError
from composefs.oci.names import find_layer, layer_name
from composefs.oci.split import ArchiveSplitter
from composefs.oci.stats import Stats
from composefs.oci.storing import Sealers
from composefs.repository import Repository
from composefs.repository.holding import holding
from composefs.repository.refs import OCI_REFERRERS, OCI_TAGS, check_ref
from composefs.splitstream import ContentType
from composefs.tasks import do_now

_SLOT_SIZE = 1 << 18  # bytes read at a time
_MAGIC_NUMBERS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class ArchiveResult:
    """What became of a layer."""

    stream: Digest
    status: str  # imported, or present: it was there already, and the archive was not read
    stats: Stats


@holding
def import_archive(
    repository: Repository, archive: BinaryIO, diff_id: str, *, name: str | None = None
) -> ArchiveResult:
    """Import the layer *diff_id*, unless it is there.

    Args:
        repository: open, and writable.
        archive: the tar archive, not compressed; read once, from where it stands.
        diff_id: the digest that the archive must have: sha256:...
        name: what to call the stream: the ref is `streams/refs/NAME`.  Without one, and before an image with that layer
            is imported, the next collection of garbage removes it.

    Raises:
        IntegrityError: the archive is another one.
        FormatError: it is broken.
        UsageError: nothing can be called *name*.
        RepositoryError: the repository cannot be written.
        OSError: something could not be read or written.
    """
    if name is not None:
        check_ref(name)
        if name.partition("/")[0] in (OCI_TAGS, OCI_REFERRERS):
            raise UsageError(f"the name {name!r} is for images, not for a layer")
    repository.check_writable()
    stats = Stats()
    stream = find_layer(repository, diff_id, ContentType.LAYER)
    status = "present"
    if stream is None:
        stream = _store(repository, archive, diff_id, stats)
        status = "imported"
        repository.name({layer_name(diff_id): stream})
    if name is not None:
        repository.streams.set_ref(name, layer_name(diff_id))
    return ArchiveResult(stream, status, stats)


def _store(repository: Repository, archive: BinaryIO, diff_id: str, stats: Stats) -> Digest:
    label = f"layer {diff_id}"
    first = slot = archive.read(_SLOT_SIZE)
    with closing(repository.streams.writer(ContentType.LAYER)) as writer:
        try:
            sealers = Sealers(repository)
            splitter = ArchiveSplitter(repository, writer, label, stats, storing=sealers.storing(do_now))
            with closing(splitter), closing(sealers):
                while slot:
                    splitter.feed(slot)
                    sealers.check()
                    slot = archive.read(_SLOT_SIZE)
                got = splitter.finish()
                sealers.finish()
        except FormatError:
            for magic, kind in _MAGIC_NUMBERS.items():
                if first.startswith(magic):
                    raise FormatError(label, 0, f"{kind} data, where a tar archive is wanted: decompress it") from None
            raise
        if got != diff_id:
            raise IntegrityError(f"{label}, diff_id", diff_id, got)
        stream = repository.streams.store(writer)
    stats.bytes_inline = writer.inline_size
    return stream
