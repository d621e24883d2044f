"""An archive split into a real repository: objects, counts, and what is said and left when storing fails."""

import errno
import hashlib
import os
from contextlib import closing

import pytest

from composefs import _native
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci import split as split_module
from composefs.oci.index import Indexer
from composefs.oci.split import ArchiveSplitter
from composefs.oci.stats import Stats
from composefs.oci.storing import Storing
from composefs.repository import Repository
from composefs.repository.objects import ObjectStore
from composefs.splitstream import ContentType
from composefs.verity import compute_digest
from tests import layouts
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layouts import noise

from generator.tar import Archive  # isort: skip

FILES = {f"dir/file{number}": noise(100 + 4000 * number, number) for number in range(5)}
PLAIN = layouts.tar(FILES)


@pytest.fixture(params=Algorithm, ids=lambda algorithm: algorithm.hash_name)
def repository(request, tmp_path):
    Repository.init(tmp_path / "repository", request.param, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture(params=["by C", "by Python"])
def way(request, monkeypatch):
    """Plain entries are taken at once, or all one by one."""
    if request.param == "by Python":
        monkeypatch.setattr(_native.TarCutter, "cut", lambda *_: None)
    return request.param


def split(repository, archive, stats=None, sizes=1 << 20, **options):
    """Split *archive* in slots of *sizes*; return digest, merged content, and the names of its entries."""
    batches, stats = [], Stats() if stats is None else stats
    indexer = Indexer(batches.append)
    with closing(repository.streams.writer(ContentType.LAYER)) as writer:
        splitter = ArchiveSplitter(repository, writer, "layer L", stats, indexer=indexer, **options)
        with closing(splitter):
            for start in range(0, len(archive), sizes):
                splitter.feed(archive[start : start + sizes])
            digest = splitter.finish()
        stream = repository.streams.store(writer)
    indexer.flush()
    with repository.streams.open_object(stream, "L") as opened:
        merged = b"".join(map(bytes, opened.merged()))
    return digest, merged, [batch.path(row) for batch in batches for row in batch.each()]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", [1 << 20, 9000, 700])
def test_archive(repository, tmp_path, sizes):
    """Objects are in the store, counted once as new and then as present, and the archive comes back."""
    stats = [Stats(), Stats()]

    for each in stats:
        digest, merged, names = split(repository, PLAIN, each, sizes)
        assert digest == "sha256:" + hashlib.sha256(PLAIN).hexdigest()
        assert merged == PLAIN
        assert names == [name.encode() for name in FILES]

    for data in FILES.values():
        path = tmp_path / "repository/objects" / compute_digest(data, repository.algorithm).object_path
        assert path.read_bytes() == data
    assert stats == [Stats(5, 0, sum(map(len, FILES.values()))), Stats(0, 5, 0)]


def test_without_an_index(repository):
    """The stream does not depend on whether somebody wants an index."""
    streams = []
    for indexer in (None, Indexer(lambda _: None)):
        with closing(repository.streams.writer(ContentType.LAYER)) as writer:
            splitter = ArchiveSplitter(repository, writer, "layer L", Stats(), indexer=indexer)
            splitter.feed(PLAIN)
            splitter.finish()
            streams.append(repository.streams.store(writer))

    assert streams[0] == streams[1]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", [1 << 20, 1024])
@pytest.mark.parametrize("end", [100, 512 + 50, 512 + 150, 1024 + 100, 1536 + 150, 2048 + 100])
def test_cut_archive(repository, end, sizes):
    """An archive that ends too early names the entry that it ends in, or behind, whichever slot that is in."""
    with pytest.raises(FormatError) as caught:
        split(repository, layouts.tar({"a": noise(100), "b": noise(100)})[:end], sizes=sizes)

    what = {
        100: ", offset 100: archive ends 100 bytes into a header block",
        562: ", entry a, offset 562: archive ends 50 bytes before the contents do",
        662: ", entry a, offset 662: archive ends 362 bytes before the contents and their padding do",
        1124: ", entry a, offset 1124: archive ends 100 bytes into a header block",
        1686: ", entry b, offset 1686: archive ends 362 bytes before the contents and their padding do",
        2148: ", entry b, offset 2148: archive ends 100 bytes into a header block",
    }
    assert str(caught.value) == "layer L" + what[end]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "objects")


class FullAt:
    """A store that fails at the object *size* bytes long; the others are stored."""

    def __init__(self, monkeypatch, size):
        self._size = size
        self._objects = 0
        ensure_spans, ensure_gathered = ObjectStore.ensure_spans, ObjectStore.ensure_gathered
        monkeypatch.setattr(ObjectStore, "ensure_spans", lambda *call: self._spans(ensure_spans, *call))
        monkeypatch.setattr(ObjectStore, "ensure_gathered", lambda *call: self._gathered(ensure_gathered, *call))

    def _spans(self, ensure, store, data, spans, digests):
        sizes = memoryview(spans).cast("Q")[1::2]
        for size, stored in zip(sizes, ensure(store, data, spans, digests), strict=True):
            if size == self._size:
                full()
            yield stored

    def _gathered(self, ensure, store, pieces, digest):
        if sum(map(len, pieces)) == self._size:
            full()
        return ensure(store, pieces, digest)


MIXED = (
    Archive()
    .directory("d")
    .file("d/plain", b"p" * 101)
    .file("d/small", b"s")
    .file("d/other", b"o" * 102)
    .extended({"path": "d/\N{LATIN SMALL LETTER E WITH ACUTE}"})
    .file("x", b"x" * 103)
    .symlink("d/link", "other")
    .file(b"d/\xff", b"b" * 104)
    .file("d/last", b"l" * 105)
    .end()
)
PLACES = {101: ("d/plain", 512), 102: ("d/other", 2560), 103: ("d/é", 4608), 104: ("d/\\xff", 6144)}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", PLACES)
@pytest.mark.parametrize("sizes", [1 << 20, 5000, 600])
def test_failure_names_its_entry(repository, monkeypatch, size, sizes):
    """An error says which entry was being stored, and where that is, whatever was stored together with it."""
    FullAt(monkeypatch, size)

    with pytest.raises(OSError, match="No space left") as caught:
        split(repository, MIXED, sizes=sizes)

    name, offset = PLACES[size]
    assert caught.value.__notes__ == [f"while storing {name}, offset {offset} of the archive"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("method", ["append", "finish"])
def test_failure_of_a_large_file_names_its_entry(repository, monkeypatch, method):
    """So it is with a file that is too large for memory."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 100)
    monkeypatch.setattr("composefs.repository.objects.ObjectWriter." + method, full)

    with pytest.raises(OSError, match="No space left") as caught:
        split(repository, MIXED, sizes=600)

    assert caught.value.__notes__ == ["while storing d/plain, offset 512 of the archive"]


def test_no_file_for_a_large_file(repository, monkeypatch):
    """Also when not even its file can be made."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 100)
    monkeypatch.setattr(ObjectStore, "writer", full)

    with pytest.raises(OSError, match="No space left") as caught:
        split(repository, MIXED, sizes=600)

    assert caught.value.__notes__ == ["while storing d/plain, offset 512 of the archive"]


@pytest.mark.parametrize("fails_at", range(8))
def test_nothing_stays_open(repository, monkeypatch, fails_at):
    """Large files whose tasks were given up are closed, however many of them there are."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 100)
    monkeypatch.setattr(_native.TarCutter, "cut", lambda *_: None)
    repository.objects.ensure(b"opens the directory")
    given, before = [], os.listdir("/proc/self/fd")

    def store(task):
        if len(given) == fails_at:
            full()
        given.append(task)

    with closing(repository.streams.writer(ContentType.LAYER)) as writer:
        splitter = ArchiveSplitter(repository, writer, "layer L", Stats(), storing=Storing.in_turn(store))
        with pytest.raises(OSError, match="No space left"), closing(splitter):
            splitter.feed(PLAIN)

    assert os.listdir("/proc/self/fd") == before
