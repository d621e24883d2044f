"""Layers in segments: the same stream, index and digest as of the archive, and every lie about them is found out."""

import base64
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import pytest

from composefs import Digest, Repository
from composefs.digest import Algorithm
from composefs.errors import CancelledError, FormatError, IntegrityError, LimitError
from composefs.oci.index import Indexer, KeptIndex
from composefs.oci.layer import LayerJob, import_layer
from composefs.oci.manifest import Compression
from composefs.oci.progress import Board
from composefs.oci.segments import FileSegment, PartsWriter, SegmentTaker
from composefs.oci.sources.source import Blob, FileRange
from composefs.oci.stats import Stats
from composefs.repository import objects as objects_module
from composefs.repository.files import Sharing
from composefs.splitstream import ContentType
from tests.layouts import noise, sha256, tar
from tests.storages import tar_split

FILES = {"d/": b"", "d/a": noise(3_000_000), "d/b": b"x" * 64, "d/c": b"y" * 65, "empty": b"", "d/d": noise(5000, 1)}
ARCHIVE = tar(FILES)


def cut(archive):
    """Return the segments of *archive*: bytes, or the name of a file."""
    return [
        base64.b64decode(line["payload"]) if line["type"] == 2 else line["name"]
        for line in tar_split(archive)
        if line["type"] == 2 or line.get("size")
    ]


@dataclass(frozen=True)
class Place:
    """A layer in *segments*: bytes, or names of files in *directory*."""

    directory: str
    segments_: tuple = field(default_factory=lambda: tuple(cut(ARCHIVE)))
    local_fetch: str = "zerocopy"

    @contextmanager
    def segments(self, label, checkpoint):
        checkpoint()
        with closing(self._each()) as segments:
            yield segments

    def again(self):
        return None

    def _each(self):
        for segment in self.segments_:
            if isinstance(segment, bytes):
                yield segment
                continue
            with open(f"{self.directory}/{segment}", "rb") as file:
                yield FileSegment(file.fileno(), os.fstat(file.fileno()).st_size, segment)


@pytest.fixture
def files(tmp_path):
    """The files of the layer."""
    for name, data in FILES.items():
        path = tmp_path / "files" / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.write_bytes(data)
    return tmp_path / "files"


@pytest.fixture
def path(tmp_path):
    """The path of an empty repository."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


def job(path, place, archive=ARCHIVE, **changes):
    described = {
        "repository": str(path),
        "blob": Blob(place, sha256(archive), len(archive), Compression.NONE),
        "diff_id": sha256(archive),
        "label": "layer L",
        "board": "/nowhere",
        "index": 0,
    }
    return LayerJob(**(described | changes))


@pytest.mark.parametrize("wants_index", [False, True])
@pytest.mark.parametrize("local_fetch", ["disabled", "auto", "zerocopy"])
def test_the_same_as_an_archive(path, files, tmp_path, local_fetch, wants_index):
    """Stream, index and counts are those of the archive, whatever is shared."""
    Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)
    (tmp_path / "archive").write_bytes(ARCHIVE)

    got = import_layer(job(path, Place(str(files), local_fetch=local_fetch), wants_index=wants_index))
    wanted = import_layer(job(tmp_path / "other", FileRange(str(tmp_path / "archive")), wants_index=wants_index))

    assert got == wanted
    stored = [each.read_bytes() for each in sorted((path / "objects").glob("??/*"))]
    assert stored == [each.read_bytes() for each in sorted((tmp_path / "other/objects").glob("??/*"))]
    links = {(files / name).stat().st_nlink for name in ("d/a", "d/c", "d/d")}
    assert links == {2 if local_fetch == "zerocopy" else 1}
    assert (files / "d/b").stat().st_nlink == 1  # is kept inline


def test_links_where_the_kernel_enforces_digests(path, files, monkeypatch):
    """There a hard link is as safe as a copy, so that it is made without a demand."""
    asked = []
    monkeypatch.setattr(objects_module.ObjectStore, "seals", True)
    monkeypatch.setattr(
        objects_module.ObjectStore,
        "take_file",
        lambda self, fd, sharing, look, *, may_copy: asked.append((sharing, may_copy)) or look(b""),
    )
    with Repository.open(path) as repository:
        for local_fetch in ("disabled", "auto", "zerocopy"):
            parts = PartsWriter(None, "layer L", Stats(), None)
            taker = SegmentTaker(repository, parts, "layer L", 1000, local_fetch=local_fetch, advance=lambda _: None)
            with open(files / "d/c", "rb") as file, pytest.raises(IntegrityError, match="wanted 65 bytes, got 0 bytes"):
                taker.take(FileSegment(file.fileno(), 65, "d/c"))

    assert asked == [(Sharing.COPY, True), (Sharing.HARD_LINK, True), (Sharing.HARD_LINK, False)]


def test_segments_are_cut_anywhere(path, files):
    """How the bytes between files come does not matter."""
    pieces = []
    for segment in cut(ARCHIVE):
        if isinstance(segment, bytes):
            pieces += [segment[start : start + 100] for start in range(0, len(segment), 100)]
        else:
            pieces.append(segment)

    result = import_layer(job(path, Place(str(files), tuple(pieces)), wants_index=True))

    assert result.stats.objects_new == 3


def without(name):
    return tuple(segment for segment in cut(ARCHIVE) if segment != name)


@pytest.mark.parametrize(
    ("segments", "error", "what"),
    [
        (without("d/a"), FormatError, "bytes that are no object"),
        (without("d/b"), FormatError, "an object, where no contents are due"),
        (tuple(cut(ARCHIVE))[:-1], FormatError, "archive ends"),
        (("d/a", *cut(ARCHIVE)), FormatError, "an object, where no contents are due"),
        (tuple("d/d" if segment == "d/c" else segment for segment in cut(ARCHIVE)), FormatError, "where 65 are wanted"),
        ((*cut(ARCHIVE), b"more"), IntegrityError, f"layer L: wanted {len(ARCHIVE)} bytes of archive, got more"),
    ],
)
def test_segments_that_are_not_the_archive(path, files, segments, error, what):
    """They are refused for what is wrong with them."""
    with pytest.raises(error, match=what):
        import_layer(job(path, Place(str(files), segments)))


def test_contents_between_the_bytes(path, files):
    """Contents that are no file cannot be an object."""
    segments = [FILES["d/c"] if segment == "d/c" else segment for segment in cut(ARCHIVE)]

    with pytest.raises(FormatError, match="65 bytes that are no object") as caught:
        import_layer(job(path, Place(str(files), tuple(segments))))

    assert caught.value.entry == "d/c"


def test_a_file_that_was_changed(path, files):
    """The diff_id does not fit."""
    (files / "d/a").write_bytes(noise(3_000_000, 7))

    with pytest.raises(IntegrityError, match=f"layer L, diff_id: wanted {sha256(ARCHIVE)}, got sha256:"):
        import_layer(job(path, Place(str(files))))


def test_a_small_file_that_grows(path, files, monkeypatch):
    """It is not read as if it had another size."""
    real = os.pread

    def grow(fd, size, offset):
        return real(fd, size, offset) + b"!" if size == 65 else real(fd, size, offset)

    monkeypatch.setattr(os, "pread", grow)

    with pytest.raises(IntegrityError, match="file d/b: wanted 64 bytes, got 65 bytes"):
        import_layer(job(path, Place(str(files))))


def test_what_cannot_be_shared(path, files, monkeypatch):
    """The error names the file, and says what sharing takes."""

    def refuse(*_, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(objects_module.ObjectStore, "take_file", refuse)

    for local_fetch in ("zerocopy", "auto"):
        with pytest.raises(OSError, match="cross-device") as caught:
            import_layer(job(path, Place(str(files), local_fetch=local_fetch)))
        notes = getattr(caught.value, "__notes__", [])
        assert caught.value.filename == "d/a"
        assert ["on the file system of the store" in note for note in notes] == [True] * (local_fetch == "zerocopy")


def test_a_full_disk(path, files, monkeypatch):
    """The error has the object, and says whose contents it is to hold."""

    def full(*_, **options):
        raise OSError(28, "No space left on device", "/repository/objects/xx")

    monkeypatch.setattr(objects_module.ObjectStore, "take_file", full)

    with pytest.raises(OSError, match="No space") as caught:
        import_layer(job(path, Place(str(files), local_fetch="auto")))

    assert (caught.value.filename, caught.value.__notes__) == ("/repository/objects/xx", ["while storing d/a"])


def test_a_limit(path, files):
    """One that was set holds here, too, and is told before anything is read."""
    with pytest.raises(LimitError) as caught:
        import_layer(job(path, Place("/nowhere"), archive_size_max=len(ARCHIVE) - 1))

    assert caught.value.raised_by == "max_layer_size"


def test_the_work_may_be_stopped(path, files):
    """Between two pieces, also those of a large file; what was read is told."""
    board = Board(1)
    try:
        import_layer(job(path, Place(str(files)), board=board.path))
        assert board.read(0) == len(ARCHIVE)
        board.cancel()
        with pytest.raises(CancelledError):
            import_layer(job(path, Place(str(files)), board=board.path))
    finally:
        board.close()


def test_parts_writer(repository):
    """What it writes is what a reader gets, and without an index there is none."""
    stats, kept = Stats(), KeptIndex()
    with closing(repository.streams.writer(ContentType.LAYER)) as writer:
        parts = PartsWriter(writer, "layer L", stats, Indexer(kept.add))
        for segment in cut(ARCHIVE):
            data = segment if isinstance(segment, bytes) else FILES[segment]
            if isinstance(segment, bytes) or len(data) <= 64:
                parts.inline(data)
            else:
                parts.contents(repository.objects.ensure(data), len(data))
        parts.finish()
        stream = repository.streams.store(writer)

    assert isinstance(stream, Digest)
    with repository.streams.open_object(stream, "layer L", ContentType.LAYER) as opened:
        assert b"".join(map(bytes, opened.merged())) == ARCHIVE
    assert sum(batch.row_count for batch in kept.batches()) == len(FILES)
    assert stats == replace(stats, objects_new=3, bytes_new=3_000_000 + 65 + 5000)
