"""One layer: objects, splitstream and counts are right, and every lie about it is found out."""

import itertools
import os
import threading
import tracemalloc
from dataclasses import dataclass, replace

import pytest

from composefs import verity
from composefs.digest import Algorithm
from composefs.errors import CancelledError, FormatError, IntegrityError, NotFoundError
from composefs.oci import blobs
from composefs.oci import layer as layer_module
from composefs.oci import split as split_module
from composefs.oci import storing as storing_module
from composefs.oci.layer import LayerJob, import_layer, store_layer
from composefs.oci.manifest import Compression
from composefs.oci.progress import Board
from composefs.oci.sources.source import Blob, FileRange
from composefs.oci.stats import Stats
from composefs.repository import Repository
from composefs.repository import objects as objects_module
from composefs.splitstream import ContentType, External
from tests import layouts
from tests.layouts import noise

COMPRESSIONS = {"none": Compression.NONE, "gzip": Compression.GZIP, "zstd": Compression.ZSTD}
INLINE_MAX = 64  # bytes
MEBI = 1 << 20


@pytest.fixture
def path(tmp_path):
    """The path of an empty repository."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


def job(path, layer, compression=None, **changes):
    """Return the job of importing *layer* into the repository at *path*."""
    blob = path.parent / "blob"
    blob.write_bytes(layer.blob)
    digest, size = changes.pop("digest", layer.digest), changes.pop("size", layer.size)
    described = {
        "repository": str(path),
        "blob": Blob(FileRange(str(blob)), digest, size, compression),
        "diff_id": layer.diff_id,
        "label": "layer L",
        "board": "/nowhere",
        "index": 0,
    }
    return LayerJob(**(described | changes))


def objects(path):
    return {entry.parent.name + entry.name for entry in path.glob("objects/??/*")}


def verity_of(data):
    return verity.compute_digest(data, Algorithm.SHA256)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layer(path, compression):
    """Files above 64 bytes become objects, the rest stays inline, and the archive comes back bit for bit."""
    files = {"empty": b"", "small": b"s" * INLINE_MAX, "large": noise(INLINE_MAX + 1), "larger": noise(3 * MEBI + 5)}
    archive = layouts.tar(files)
    layer = layouts.layer(archive, compression)

    result = import_layer(job(path, layer, COMPRESSIONS[compression]))

    stored = {verity_of(files["large"]).hex, verity_of(files["larger"]).hex}
    assert objects(path) == stored | {result.stream.hex}
    with Repository.open(path) as repository, repository.streams.open_object(result.stream, "L") as stream:
        assert stream.reader.content_type == ContentType.LAYER
        assert stream.reader.size == len(archive)
        assert b"".join(map(bytes, stream.merged())) == archive
    outside = len(files["large"]) + len(files["larger"])
    assert result.stats == Stats(2, 0, outside, len(archive) - outside)


def test_no_names(path):
    """A layer's stream gets no name from the worker."""
    import_layer(job(path, layouts.files_layer({"a": noise(100)}), Compression.NONE))

    assert not (path / "streams").exists()


def test_counts(path):
    """An object that is there already, from this layer or another, counts as present."""
    twice = layouts.files_layer({"a": noise(100), "b": noise(100), "c": noise(100, 1)})

    first = import_layer(job(path, twice, Compression.NONE)).stats
    again = import_layer(job(path, twice, Compression.NONE)).stats

    assert (first.objects_new, first.objects_present, first.bytes_new) == (2, 1, 200)
    assert (again.objects_new, again.objects_present, again.bytes_new) == (0, 3, 0)
    assert first.bytes_inline == again.bytes_inline


def test_sum_of_counts():
    """Counts of layers add up to those of the image."""
    total = Stats()

    total += Stats(1, 2, 3, 4)
    total += Stats(10, 20, 30, 40)

    assert total == Stats(11, 22, 33, 44)


@pytest.mark.parametrize("limit", [0, 100, 1 << 23])
def test_sizes_of_files(path, monkeypatch, limit):
    """A file is the same object whether it comes in one piece, is gathered in memory, or is streamed."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", limit)
    sizes = [65, 4095, 4096, 4097, MEBI - 512, MEBI, MEBI + 1, 2 * MEBI + 7]
    files = {f"{size}": noise(size, size) for size in sizes}
    layer = layouts.files_layer(files)

    result = import_layer(job(path, layer, Compression.NONE))

    with Repository.open(path) as repository, repository.streams.open_object(result.stream, "L") as stream:
        found = [chunk.digest for chunk in stream.reader.chunks() if isinstance(chunk, External)]
    assert found == [verity_of(files[str(size)]) for size in sizes]
    for size, digest in zip(sizes, found, strict=True):
        assert (path / "objects" / digest.object_path).read_bytes() == files[str(size)]


def test_memory(path):
    """A file many times larger than memory may be costs no more than a small one."""
    size = 96 * MEBI
    header = layouts.tar({"zeros": b""})[:512]
    sized = bytearray(header)
    sized[124:136] = b"%011o\0" % size
    sized[148:156] = b" " * 8
    sized[148:156] = b"%06o\0 " % sum(sized)
    archive = bytes(sized) + bytes(size) + bytes(1024)
    layer = layouts.layer(archive, "gzip")
    del archive

    tracemalloc.start()
    try:
        result = import_layer(job(path, layer, Compression.GZIP))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert result.stats.bytes_new == size
    assert peak < 40 * MEBI


def test_artifact_blob(path):
    """A blob that is no archive is one object, and its stream says so."""
    data = noise(2 * MEBI + 3)
    layer = layouts.layer(data)

    result = import_layer(job(path, layer))

    assert objects(path) == {verity_of(data).hex, result.stream.hex}
    with Repository.open(path) as repository, repository.streams.open_object(result.stream, "L") as stream:
        assert stream.reader.content_type == ContentType.BLOB
        assert stream.read_body() == data
    assert result.stats == Stats(1, 0, len(data), 0)


@pytest.mark.parametrize("compression", [None, *Compression])
def test_wrong_digest(path, compression):
    """A blob that has another digest is refused, though all else is right."""
    name = {Compression.GZIP: "gzip", Compression.ZSTD: "zstd"}.get(compression, "none")
    layer = layouts.files_layer({"a": noise(100)}, name)
    wrong = layouts.sha256(b"wrong")

    with pytest.raises(IntegrityError) as caught:
        import_layer(job(path, layer, compression, digest=wrong))

    assert str(caught.value) == f"layer L, blob: wanted {wrong}, got {layer.digest}"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_wrong_diff_id(path, compression):
    """An archive that has another digest is refused, though the blob is right."""
    layer = layouts.files_layer({"a": noise(100)}, compression)
    wrong = layouts.sha256(b"wrong")

    with pytest.raises(IntegrityError) as caught:
        import_layer(job(path, layer, COMPRESSIONS[compression], diff_id=wrong))

    assert str(caught.value) == f"layer L, diff_id: wanted {wrong}, got {layer.diff_id}"


def test_damage_is_named_before_what_it_led_to(path):
    """Of a damaged blob the wrong digest is reported, not the broken archive that came out of it."""
    layer = layouts.files_layer({"a": noise(1000)}, "gzip")
    damaged = bytearray(layer.blob)
    damaged[len(damaged) // 2] ^= 1
    damaged = bytes(damaged)

    with pytest.raises(IntegrityError) as caught:
        import_layer(job(path, layouts.layer(b"", blob=damaged, digest=layer.digest), Compression.GZIP))

    assert str(caught.value) == f"layer L, blob: wanted {layer.digest}, got {layouts.sha256(damaged)}"


def test_broken_archive(path):
    """An archive that breaks tar's rules is refused with entry and offset, where the blob is as promised."""
    archive = bytearray(layouts.tar({"first": b"", "second": b""}))
    archive[512 + 148] = ord("7")
    layer = layouts.layer(bytes(archive), "gzip")

    with pytest.raises(FormatError) as caught:
        import_layer(job(path, layer, Compression.GZIP))

    assert str(caught.value).startswith("layer L, entry second, offset 512: header checksum: wanted ")


def test_wrong_compression(path):
    """The media type must name the compression that there is."""
    layer = layouts.files_layer({"a": noise(100)}, "zstd")

    with pytest.raises(FormatError) as caught:
        import_layer(job(path, layer, Compression.GZIP))

    assert str(caught.value) == "layer L, offset 0: not gzip data"


def test_bytes_behind_the_archive_count(path):
    """What follows the end of the archive belongs to the layer: diff_id, stream and size."""
    archive = layouts.tar({"a": noise(100)}) + b"behind" * 1000
    layer = layouts.layer(archive, "zstd")

    result = import_layer(job(path, layer, Compression.ZSTD))

    with Repository.open(path) as repository, repository.streams.open_object(result.stream, "L") as stream:
        assert b"".join(map(bytes, stream.merged())) == archive


def test_missing_blob(path):
    """A blob that is not there is named with its file."""
    layer = layouts.files_layer({})

    blob = Blob(FileRange("/nowhere/blob"), layer.digest, layer.size, Compression.NONE)
    with pytest.raises(NotFoundError) as caught:
        import_layer(job(path, layer, blob=blob))

    assert str(caught.value) == "layer L is missing: no file /nowhere/blob"


def test_missing_repository(path):
    """A worker that does not see the repository says so."""
    with pytest.raises(NotFoundError, match="^no repository at /nowhere; "):
        import_layer(job(path, layouts.files_layer({}), Compression.NONE, repository="/nowhere"))


def test_progress(path):
    """The bytes of the blob are reported as they are read."""
    layer = layouts.files_layer({"a": noise(5 * MEBI)}, "gzip")
    board = Board(4)

    import_layer(job(path, layer, Compression.GZIP, board=board.path, index=3))

    assert [board.read(index) for index in range(4)] == [0, 0, 0, layer.size]
    board.close()


def test_cancelled(path):
    """A worker stops when it is told to, and leaves nothing."""
    layer = layouts.files_layer({"a": noise(100)}, "gzip")
    board = Board(1)
    board.cancel()

    with pytest.raises(CancelledError):
        import_layer(job(path, layer, Compression.GZIP, board=board.path))

    assert objects(path) == set()
    board.close()


def test_cancelled_inside_a_small_blob(path, monkeypatch):
    """A worker stops in time, however much its last piece of input inflates to."""
    header = layouts.tar({"slow": b""})[:512]
    archive = header * (1 << 15)
    layer = layouts.layer(archive, "gzip")
    board, slots = Board(1), []
    original = layer_module.inflate

    def inflate(*arguments):
        for slot in original(*arguments):
            slots.append(len(slot))
            board.cancel()
            yield slot

    monkeypatch.setattr(layer_module, "inflate", inflate)

    with pytest.raises(CancelledError):
        import_layer(job(path, layer, Compression.GZIP, board=board.path))

    assert sum(slots) <= 2 * MEBI
    board.close()


def test_failure_to_store(path, monkeypatch):
    """An error of the system says which file of the archive was being stored."""
    layer = layouts.layer(layouts.tar({"dir/name": noise(100), "other": noise(100, 1)}))
    monkeypatch.setattr("composefs.repository.staging.StagingArea.store", lambda *_: [-5, -5])
    monkeypatch.setattr("composefs.repository.objects.ObjectStore.ensure_gathered", fail)

    with pytest.raises(OSError, match="Input/output error") as caught:
        import_layer(job(path, layer, Compression.NONE))

    assert caught.value.__notes__ == ["while storing dir/name, offset 0 of the archive"]


def fail(*_):
    raise OSError(5, "Input/output error", "objects")


def test_nothing_is_left_of_a_file_that_is_cut(path, monkeypatch):
    """A large file that does not come whole leaves neither an object nor a temporary file."""
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 100)
    layer = layouts.layer(layouts.tar({"large": noise(3 * MEBI)})[: 2 * MEBI])

    with pytest.raises(FormatError) as caught:
        import_layer(job(path, layer, Compression.NONE))

    what = f"archive ends {MEBI + 512} bytes before the contents do"
    assert str(caught.value) == f"layer L, entry large, offset {2 * MEBI}: {what}"
    assert [entry.name for entry in path.glob("objects/**/*")] == []


@pytest.fixture(params=["stages", "stages, sealed", "sealed"])
def threads(request, monkeypatch):
    """Each stage has its thread from the start, or sealing has many; slots are small, and nothing stays behind."""
    monkeypatch.setattr(layer_module.Pen, "has_idle_cpus", lambda *_: "stages" in request.param)
    if "sealed" in request.param:  # as far as the importer can tell
        monkeypatch.setattr(objects_module.ObjectStore, "seals", True)
        monkeypatch.setattr(storing_module, "_COUNT", 2)
    monkeypatch.setattr(blobs, "SLOT_SIZE", 5000)
    monkeypatch.setattr(split_module, "_GATHERED_MAX", 20_000)
    before = threading.enumerate(), os.listdir("/proc/self/fd")
    yield
    assert (threading.enumerate(), os.listdir("/proc/self/fd")) == before


THREADED = layouts.layer(
    layouts.tar({f"f{number}": noise(size, number) for number, size in enumerate([100, 200, 8000, 30_000] * 25)}),
    "gzip",
)


@pytest.mark.usefixtures("threads")
def test_threads(path, monkeypatch):
    """The result is that of a layer that is imported by one thread."""
    found = import_layer(job(path, THREADED, Compression.GZIP, wants_index=True))
    there = objects(path)
    monkeypatch.setattr(layer_module.Pen, "has_idle_cpus", lambda *_: False)
    monkeypatch.setattr(objects_module.ObjectStore, "seals", False)
    Repository.init(path.parent / "other", Algorithm.SHA256, require_verity=False)
    other = job(path, THREADED, Compression.GZIP, wants_index=True, repository=str(path.parent / "other"))

    assert import_layer(other) == found
    assert objects(path.parent / "other") == there


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [0, 1, 7, 20])
@pytest.mark.parametrize(
    "method", ["ObjectStore.ensure_spans", "ObjectStore.ensure_gathered", "ObjectWriter.append", "ObjectWriter.finish"]
)
def test_failure_in_a_thread(path, monkeypatch, method, number):
    """What fails behind comes out once, with the entry that it was about; what was stored is whole, and has no name."""
    calls = itertools.count()
    owner, name = method.split(".")
    original = getattr(getattr(objects_module, owner), name)

    def fails(*arguments):
        return fail() if next(calls) == number else original(*arguments)

    monkeypatch.setattr(getattr(objects_module, owner), name, fails)

    with pytest.raises(OSError, match="Input/output error") as caught:
        import_layer(job(path, THREADED, Compression.GZIP))

    (note,) = caught.value.__notes__
    assert note.startswith("while storing f")
    assert next(calls) > number
    for file in path.glob("objects/**/*"):
        assert file.is_dir() or verity_of(file.read_bytes()).object_path == str(file.relative_to(path / "objects"))
    assert not (path / "streams").exists()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("stage", ["decompress", "compress", "cancel"])
def test_failure_ahead_and_behind(path, monkeypatch, stage):
    """So it is with what comes in damaged, with what is compressed, and with an import that is stopped."""
    board = Board(1)
    made, wanted = job(path, THREADED, Compression.GZIP, board=board.path), OSError
    if stage == "decompress":
        damaged = THREADED.blob[: THREADED.size // 2] + b"!!!!" + THREADED.blob[THREADED.size // 2 + 4 :]
        layer = layouts.layer(b"", blob=damaged, digest=THREADED.digest)
        made, wanted = job(path, layer, Compression.GZIP, board=board.path), IntegrityError
    elif stage == "compress":
        monkeypatch.setattr("composefs.splitstream._CHUNKS_MAX", 1)
        monkeypatch.setattr("composefs.splitstream._Section.write", fail)
    else:
        original = layer_module.inflate

        def inflate(*arguments):
            for number, slot in enumerate(original(*arguments)):
                if number == 20:
                    board.cancel()
                yield slot

        monkeypatch.setattr(layer_module, "inflate", inflate)
        wanted = CancelledError

    try:
        with pytest.raises(wanted):
            import_layer(made)
    finally:
        board.close()

    assert not (path / "streams").exists()


@dataclass(frozen=True)
class Doubtful(FileRange):
    """A file that may be read elsewhere if it is wrong."""

    elsewhere: FileRange | None = None

    def again(self):
        return self.elsewhere


@pytest.mark.parametrize("in_repository", [False, True])
def test_a_wrong_blob_is_read_once_more(path, in_repository):
    """Elsewhere, if there is such a place; for whoever imports a layer, or mends one."""
    layer = layouts.files_layer({"a": noise(100)}, "gzip")
    right = job(path, layer, Compression.GZIP)
    wrong = path.parent / "wrong"
    wrong.write_bytes(bytes(len(layer.blob)))

    def done(elsewhere):
        place = Doubtful(str(wrong), 0, None, elsewhere)
        doubtful = replace(right, blob=replace(right.blob, place=place))
        if not in_repository:
            return import_layer(doubtful)
        with Repository.open(path) as repository:
            return store_layer(repository, doubtful)

    with pytest.raises(IntegrityError) as caught:
        done(None)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(IntegrityError) as caught:
        done(FileRange(str(wrong)))
    assert "it was fetched twice" in caught.value.__notes__[0]
    assert done(right.blob.place).stats.objects_new == 1
