"""Archives split into streams, indexes and objects without a repository, in any of the ways that must agree."""

import hashlib
import io
import itertools
import struct
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

from composefs.errors import FormatError
from composefs.oci.index import Indexer
from composefs.oci.split import ArchiveSplitter
from composefs.oci.stats import Stats
from composefs.oci.storing import Storing
from composefs.splitstream import ContentType, SplitstreamWriter
from composefs.tasks import do_now
from composefs.verity import compute_digest


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield *data* in pieces of *sizes*, over and over."""
    position, lengths = 0, itertools.cycle(sizes)
    while position < len(data):
        yield data[position : (position := position + next(lengths))]


class Memory:
    """A store of objects in memory, which computes every digest anew; also the writer of one of them."""

    def __init__(self, algorithm):
        self.algorithm, self.found, self._pieces = algorithm, {}, []

    def ensure_gathered(self, pieces, digest):
        data = b"".join(pieces)
        assert compute_digest(data, self.algorithm).raw == digest
        is_new = self.found.setdefault(digest, data) is data
        return digest, is_new

    def ensure_spans(self, data, spans, digests):
        size = self.algorithm.digest_size
        for number, (start, length) in enumerate(struct.iter_unpack("=QQ", spans)):
            yield self.ensure_gathered([data[start : start + length]], digests[number * size : (number + 1) * size])

    def writer(self):
        assert not self._pieces
        return self

    def append(self, data):
        self._pieces.append(bytes(data))

    def finish(self, digest):
        pieces, self._pieces = self._pieces, []
        return self.ensure_gathered(pieces, digest)

    def close(self):
        self._pieces.clear()


def outcome(algorithm, archive, sizes, do=do_now):
    """Return what comes of an archive that comes in pieces: all of it, or the error."""
    objects, stats, batches = Memory(algorithm), Stats(), []
    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO, do)
    indexer = Indexer(batches.append)
    repository = SimpleNamespace(algorithm=algorithm, objects=objects)
    splitter = ArchiveSplitter(repository, writer, "layer L", stats, indexer=indexer, storing=Storing.in_turn(do))
    try:
        for piece in cut(archive, sizes):
            splitter.feed(piece)
        digest = splitter.finish()
    except FormatError as error:
        return str(error), error.offset
    indexer.flush()
    if isinstance(do, Later):
        do.now()
    stream = b"".join(writer.finish())
    assert digest == "sha256:" + hashlib.sha256(archive).hexdigest()
    return stream, batches, stats, objects.found, writer.inline_size


class Later:
    """Tasks that are done in order, once they are all known."""

    def __init__(self):
        self._tasks, self._is_over = [], False

    def __call__(self, task):
        if self._is_over:
            task()
        else:
            self._tasks.append(task)

    def now(self):
        self._is_over = True
        for task in self._tasks:
            task()
