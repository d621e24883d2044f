"""Split the archive of a layer: its contents become objects, the rest a splitstream and an index.

C takes the plain entries of a slot, which are most, at once: headers, digests, files.  All else goes through
`TarSplitter`, one entry at a time, and both give the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from composefs import _native
from composefs._native import StreamHash
from composefs.digest import Algorithm
from composefs.errors import IntegrityError
from composefs.oci.index import Indexer, Kind
from composefs.oci.rows import Rows
from composefs.oci.stats import Stats
from composefs.oci.storing import Storing
from composefs.repository import Repository
from composefs.repository.objects import ObjectStore, ObjectWriter, Stored
from composefs.splitstream import SplitstreamWriter
from composefs.tar import BLOCK, Content, Entry, Inline, TarSplitter
from composefs.tasks import Task, do_now
from composefs.verity import DigestBuilder

_GATHERED_MAX = 1 << 23  # bytes of a file that is put together in memory; a guess: larger ones are few
_PAUSE_MAX = 64  # entries; a guess


class ArchiveSplitter:
    """Store the objects of an archive that comes in slots, write its stream, and compute its digest.

    Args:
        repository: gets the objects.
        writer: of the stream.
        label: of the archive, for messages.
        stats: counts the objects.
        indexer: is told each entry.
        storing: does what stores objects; by default that is done at once.
    """

    def __init__(
        self,
        repository: Repository,
        writer: SplitstreamWriter,
        label: str,
        stats: Stats,
        *,
        indexer: Indexer | None = None,
        storing: Storing | None = None,
    ) -> None:
        storing = storing if storing is not None else Storing.in_turn(do_now)
        algorithm = repository.algorithm
        self._objects, self._writer, self._stats, self._indexer = repository.objects, writer, stats, indexer
        self._digest_size = algorithm.digest_size
        self._hash = StreamHash(algorithm.kernel_id)
        self._splitter = TarSplitter(label, indexer.add if indexer is not None else None)
        self._cutter = _native.TarCutter(algorithm.kernel_id, algorithm.digest_size)
        self._storing = storing
        self._counting = threading.Lock()  # of the stats
        self._contents = _Contents(repository.objects, algorithm, self._count, self._hash, storing)
        self._offset = 0  # of the next slot in the archive
        self._pause = 1

    def feed(self, slot: bytes) -> None:
        """Take the next piece of the archive.

        Raises:
            FormatError: the archive is broken.
            OSError: an object could not be written.
        """
        position, size = 0, len(slot)
        splitter = self._splitter
        self._hash.begin(slot)
        while position < size:
            entries = 1
            if (boundary := splitter.boundary) is not None:
                part = self._cut(slot, position, boundary)
                if part is not None:
                    position, self._pause = part.end, 1
                    continue
                entries, self._pause = self._pause, min(2 * self._pause, _PAUSE_MAX)
            for event in splitter.feed(slot, position, entries):
                if isinstance(event, Inline):
                    self._writer.inline(event.data)
                elif (digest := self._contents.take(event)) is not None:
                    self._writer.external(digest, event.entry.size)
                    if self._indexer is not None:
                        self._indexer.add(event.entry, digest)
            position = splitter.offset - self._offset
        self._hash.finish()
        self._offset += size

    def finish(self) -> str:
        """Say that no more comes, and return the digest of the archive, sha256:...

        Raises:
            FormatError: the archive ends where it must not.
        """
        self._splitter.close()
        return "sha256:" + self._hash.hexdigest()

    def close(self) -> None:
        """Give up what is not whole, once nothing is being stored."""
        self._contents.close()

    def _cut(self, slot: bytes, position: int, boundary: tuple[int, int]) -> _native.TarPart | None:
        """Take plain entries of *slot* from *position* on; None: the next one is not plain, or not all here."""
        indexer = self._indexer
        room = indexer.room if indexer is not None else self._cutter.CAPACITY
        if room <= 0:
            return None
        part = self._cutter.cut(slot, (position, *boundary), room, self._hash)
        if part is None:
            return None
        rows = Rows.of(part.texts)
        if part.spans:
            self._store_part(slot, part)
        self._writer.mixed(memoryview(slot), position, part.end, part.spans, part.digests)
        if indexer is not None:
            indexer.add_rows(rows)
        last = rows.offsets[-1]
        start = last - self._offset
        self._splitter.skip_entries(len(rows.kinds), part.offset, part.padding, (last, slot[start : start + BLOCK]))
        return part

    def _store_part(self, slot: bytes, part: _native.TarPart) -> None:
        """Have the objects of *part*, which lie in *slot*, stored."""
        count, count_max = len(part.spans) // _native.SPAN_SIZE, self._storing.count_max
        for first in range(0, count, count_max):
            self._storing.apart(partial(self._store_some, slot, part, first, min(first + count_max, count)), len(slot))

    def _store_some(self, slot: bytes, part: _native.TarPart, first: int, end: int) -> None:
        """Store the objects of *part* from number *first* up to *end*, which is not one of them."""
        digest_size = self._digest_size
        spans = part.spans[first * _native.SPAN_SIZE : end * _native.SPAN_SIZE]
        digests = part.digests[first * digest_size : end * digest_size]
        done: list[Stored] = []
        try:
            done.extend(self._objects.ensure_spans(slot, spans, digests))
        except (OSError, IntegrityError) as error:
            rows = Rows.of(part.texts)
            row = [row for row, kind in enumerate(rows.kinds) if kind == Kind.OBJECT][first + len(done)]
            name = rows.path(row).decode("utf-8", "backslashreplace")
            error.add_note(_while_storing(name, rows.offsets[row]))
            raise
        sizes = memoryview(spans).cast("Q")[1::2]
        with self._counting:
            for size, stored in zip(sizes, done, strict=True):
                self._stats.count(stored, size)

    def _count(self, stored: Stored, entry: Entry) -> None:
        with self._counting:
            self._stats.count(stored, entry.size)


def _while_storing(name: str, offset: int) -> str:
    return f"while storing {name}, offset {offset} of the archive"


class _Contents:
    """Make objects of the contents that come out of a splitter, in memory if they are small enough."""

    def __init__(
        self,
        objects: ObjectStore,
        algorithm: Algorithm,
        count: Callable[[Stored, Entry], object],
        archive_hash: StreamHash,
        storing: Storing,
    ) -> None:
        self._objects, self._algorithm, self._count = objects, algorithm, count
        self._hash, self._storing = archive_hash, storing
        self._builder = DigestBuilder(algorithm)
        self._pieces: list[memoryview] = []
        self._writer: ObjectWriter | None = None
        self._open: set[ObjectWriter] = set()  # those that are not finished

    def take(self, content: Content) -> bytes | None:
        """Take a piece of a file; return the digest of the object once the file is whole."""
        entry, position, data = content
        if position == 0:
            self._builder, self._pieces = DigestBuilder(self._algorithm), []
        self._builder.update(data, self._hash)
        is_whole = position + len(data) == entry.size
        digest = self._builder.finish().raw if is_whole else None
        if entry.size <= _GATHERED_MAX:
            self._pieces.append(data)
            if digest is not None:
                store = partial(self._store_gathered, self._pieces, digest, entry)
                self._storing.apart(partial(_told, entry.name, entry.offset, store), entry.size)
        else:
            if position == 0:
                _told(entry.name, entry.offset, self._begin)
            writer = self._writer
            assert writer is not None
            self._do_in_order(entry, lambda: writer.append(data))
            if digest is not None:
                self._do_in_order(entry, lambda: self._finish(writer, digest, entry))
        return digest

    def close(self) -> None:
        """Give up what is not whole."""
        for writer in self._open:
            writer.close()

    def _begin(self) -> None:
        self._writer = self._objects.writer()
        self._open.add(self._writer)

    def _store_gathered(self, pieces: list[memoryview], digest: bytes, entry: Entry) -> None:
        self._count(self._objects.ensure_gathered(pieces, digest), entry)

    def _finish(self, writer: ObjectWriter, digest: bytes, entry: Entry) -> None:
        self._count(writer.finish(digest), entry)
        self._open.discard(writer)

    def _do_in_order(self, entry: Entry, task: Task) -> None:
        """Have *task* done; an error names *entry*."""
        self._storing.in_order(lambda: _told(entry.name, entry.offset, task))


def _told(name: str, offset: int, task: Task) -> None:
    """Do *task*, which stores the contents of an entry."""
    try:
        task()
    except (OSError, IntegrityError) as error:
        error.add_note(_while_storing(name, offset))
        raise
