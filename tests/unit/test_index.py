"""The index of a layer: what each entry means to a tree, from the archive as from the stream, in bounded memory."""

import io
import stat

import pytest

from composefs import tree
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci import index
from composefs.oci.index import Indexer, KeptIndex, Kind, content_of, read_entries, read_index, split_path, stat_of
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from composefs.tar import Content, Inline, TarSplitter
from composefs.tree import NO_XATTRS, Stat
from composefs.verity import compute_digest
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import batches_of

from generator.tar import MTIME, V7, Archive, base256  # isort: skip

BIG = b"b" * 65


def rows(archive):
    """Return path, kind, value and number of every row."""
    return [
        (batch.path(row), Kind(row.kind), row.value, row.number)
        for batch in batches_of(archive.end())
        for row in batch.each()
    ]


def stats(archive):
    """Return the stat of every row."""
    found = []
    for batch in batches_of(archive.end()):
        shared = batch.stats()
        found += [shared[row.stat] for row in batch.each()]
    return found


def test_kinds():
    """Every type of entry has its kind, files by their size."""
    archive = Archive().file("empty").file("small", b"s" * 64).file("big", BIG).directory("dir").symlink("link", "to/x")
    archive.character("chr", 1, 5).block("blk", 8, 1).fifo("fifo").hardlink("hard", "small").entry("old", b"\0", b"o")
    archive.entry("seven", b"7", BIG)
    digest = compute_digest(BIG, Algorithm.SHA256).raw

    assert rows(archive) == [
        (b"empty", Kind.INLINE, b"", 0),
        (b"small", Kind.INLINE, b"s" * 64, 0),
        (b"big", Kind.OBJECT, digest, 65),
        (b"dir", Kind.DIRECTORY, b"", 0),
        (b"link", Kind.SYMLINK, b"to/x", 0),
        (b"chr", Kind.CHARACTER_DEVICE, b"", 0x105),
        (b"blk", Kind.BLOCK_DEVICE, b"", 0x801),
        (b"fifo", Kind.FIFO, b"", 0),
        (b"hard", Kind.HARD_LINK, b"small", 0),
        (b"old", Kind.INLINE, b"o", 0),
        (b"seven", Kind.OBJECT, digest, 65),
    ]


@pytest.mark.parametrize(
    ("spelled", "path"),
    [
        ("a", b"a"),
        ("/a", b"a"),
        ("./a", b"a"),
        ("a/", b"a"),
        ("a//", b"a"),
        ("//a", b"a"),
        ("d/a", b"d/a"),
        ("d//a", b"d/a"),
        ("d/./a", b"d/a"),
        ("./d/././a/.", b"d/a"),
        ("d/a/.", b"d/a"),
        ("d/.a", b"d/.a"),
        ("d/a.", b"d/a."),
        ("d/...", b"d/..."),
        ("..a/b", b"..a/b"),
        ("d/../a", b"d/../a"),
    ],
)
def test_paths(spelled, path):
    """Slashes and dots without effect go; what goes up stays, for the merge to refuse."""
    assert [row[0] for row in rows(Archive().file(spelled))] == [path]
    assert b"/".join(filter(None, split_path(spelled.encode()))) == path


@pytest.mark.parametrize("spelled", ["/", ".", "./", "/.", "..", "../", "usr/..", "./usr/../", "//"])
def test_root(spelled):
    """What has no name is the root, which can only be a directory."""
    archive = Archive().directory(spelled).file(spelled).entry(spelled, b"Z")

    assert [row[:2] for row in rows(archive)] == [(b"", Kind.ROOT), (b"", Kind.REFUSED), (b"", Kind.REFUSED)]
    assert rows(archive)[1][2] == b"is called as the root, but is no directory"
    assert split_path(spelled.encode()) == (b"", b"")


def test_whiteouts():
    """Names that begin so remove something, whatever they are; of a hard link the target counts all the same."""
    archive = Archive().file("d/.wh.a", b"x").directory("d/.wh..wh..opq").file(".wh.").file(".wh..wh.b")
    archive.hardlink("d/.wh.c", "target").file("d.wh.e").entry("d/.wh.f", b"Z")

    assert [row[:3] for row in rows(archive)] == [
        (b"d/a", Kind.WHITEOUT, b""),
        (b"d/.wh..opq", Kind.OPAQUE, b""),
        (b"", Kind.WHITEOUT, b""),
        (b".wh.b", Kind.WHITEOUT, b""),
        (b"d/.wh.c", Kind.TARGET, b"target"),
        (b"d/c", Kind.WHITEOUT, b""),
        (b"d.wh.e", Kind.INLINE, b""),
        (b"d/.wh.f", Kind.REFUSED, b"is of an unsupported type, b'Z'"),
    ]


def test_refused():
    """What no tree can hold says why."""
    archive = Archive().entry("a", b"Z").hardlink("b", "").entry("c", b"3", magic=V7).entry("d", b"\x80")

    assert [row[1:3] for row in rows(archive)] == [
        (Kind.REFUSED, b"is of an unsupported type, b'Z'"),
        (Kind.REFUSED, b"is a hard link to nothing"),
        (Kind.REFUSED, b"is a device without a number"),
        (Kind.REFUSED, b"is of an unsupported type, b'\\x80'"),
    ]


def test_metadata():
    """Modes and owners are cut to 32 bits, times have a sign; what is equal is shared."""
    archive = Archive().file("a", mode=0o104755, uid=base256(1 << 40 | 7, 8), gid=9, mtime=base256(-2, 12))
    archive.extended({"mtime": "5.25", "uid": str((1 << 32) + 3)}).file("b").file("c").file("d").file("e", uid=1)

    found = stats(archive)

    assert found == [
        Stat(0o104755, 7, 9, -2, 0),
        Stat(0o644, 3, 0, 5, 250_000_000),
        *[Stat(0o644, 0, 0, MTIME, 0)] * 2,
        Stat(0o644, 1, 0, MTIME, 0),
    ]
    assert found[2] is found[3]
    assert found[0].xattrs is NO_XATTRS


def test_xattrs():
    """Extended attributes are kept by value, in whatever order they come, and shared."""
    one = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.b": b"\0\xff"}
    archive = Archive().extended(one).file("a").extended(dict(reversed(one.items()))).file("b").file("c")
    archive.extended({"SCHILY.xattr.user.a": "2"}).file("d")

    found = [each.xattrs for each in stats(archive)]

    assert found == [{b"user.a": b"1", b"security.b": b"\0\xff"}] * 2 + [{}, {b"user.a": b"2"}]
    assert found[0] is found[1]


@pytest.mark.parametrize(
    ("major", "minor", "number"),
    [
        (0, 0, 0),
        (1, 5, 0x105),
        (8, 256, 0x100800),
        (0xFFF, 0xFFFFF, 0xFFFF_FFFF),
        (0x1000, 0, 0x1000_0000_0000),
        (0o7777777, 0o7777777, 0x1F_F001_FFFF_FFFF),
    ],
)
def test_device_numbers(major, minor, number):
    """Numbers of devices are packed as glibc does; more than 32 bits are kept, for the image to refuse."""
    assert [row[3] for row in rows(Archive().character("a", major, minor))] == [number]


def test_contents():
    """Kinds of leaves have the contents that a tree has."""
    assert content_of(Kind.OBJECT, b"d", 7) == tree.Object(7, b"d")
    assert content_of(Kind.INLINE, b"x", 0) == tree.Inline(b"x")
    assert content_of(Kind.SYMLINK, b"x", 0) == tree.Symlink(b"x")
    assert content_of(Kind.CHARACTER_DEVICE, b"", 7) == tree.Special(stat.S_IFCHR, 7)
    assert content_of(Kind.BLOCK_DEVICE, b"", 7) == tree.Special(stat.S_IFBLK, 7)
    assert content_of(Kind.FIFO, b"", 0) == tree.Special(stat.S_IFIFO, 0)


def many(count):
    archive = Archive()
    for number in range(count):
        archive.file(f"dir{number % 7}/name{number}", b"x" * (number % 90), mtime=number // 10)
    return archive


@pytest.mark.parametrize("size", [1, 3, 64, 4096])
def test_batches(monkeypatch, size):
    """Batches are of at most that size, and each stands for itself."""
    whole = rows(many(300)), stats(many(300))
    monkeypatch.setattr(index, "BATCH_SIZE", size)

    batches = batches_of(many(300).end())

    assert [batch.row_count for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert (rows(many(300)), stats(many(300))) == whole


def test_nothing():
    """An archive of nothing has no batches."""
    assert batches_of(Archive().end()) == []
    assert batches_of(b"") == []


@pytest.mark.parametrize("cut", [1, 7, 511, 512, 513, 10_000])
def test_cut(cut):
    """However the archive is cut, the index is the same."""
    archive = many(100).symlink("s", "t").extended({"SCHILY.xattr.user.a": "1"}).directory("d").end()

    assert batches_of(archive, cut=cut) == batches_of(archive)


def test_huge_metadata():
    """Entries with huge names and xattrs fill a batch by their weight, and an index that is to be kept likewise."""
    archive = Archive()
    for number in range(30):
        archive.extended({"SCHILY.xattr.user.a": str(number) + "v" * 900_000, "path": "p" * 4096}).file("short")
    data = archive.end()

    batches = batches_of(data)

    assert len(batches) > 5
    assert all(900_000 < batch.weight < 6 << 20 for batch in batches)


def test_kept(monkeypatch):
    """An index is kept until it weighs too much; then nothing of it is."""
    batches = batches_of(many(100).end()) * 3
    weight = batches[0].weight
    for limit, wanted in ((3 * weight, tuple(batches)), (3 * weight - 1, None)):
        monkeypatch.setattr(index, "_KEPT_WEIGHT", limit)
        kept = KeptIndex()
        for batch in batches:
            kept.add(batch)
        assert kept.batches() == wanted
        kept.add(batches[0])
        assert kept.batches() is None


def stream_of(archive, algorithm=Algorithm.SHA256):
    """Return a reader of the stream that an archive is stored as."""
    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    for event in TarSplitter("layer").feed(archive):
        if isinstance(event, Inline):
            writer.inline(event.data)
        else:
            writer.external(compute_digest(event.data, algorithm).raw, event.entry.size)
    return reader_of(writer, algorithm)


def reader_of(writer, algorithm=Algorithm.SHA256):
    return SplitstreamReader(io.BytesIO(b"".join(writer.finish())), algorithm, "stream", ContentType.LAYER)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_from_stream(algorithm):
    """The stream of a layer gives the index that its archive gives, without its objects."""
    archive = many(500).symlink("s", "t").extended({"SCHILY.xattr.user.a": "1"}).directory("d").end() + b"junk"

    assert list(read_index(stream_of(archive, algorithm), "layer")) == batches_of(archive, algorithm=algorithm)


def test_entries_from_stream():
    """The entries come in order, each with what it holds or the digest of its object."""
    archive = Archive().file("a", b"x").file("big", BIG).directory("d").file("b", b"y").end()

    found = [(entry.path, content) for entry, content in read_entries(stream_of(archive), "layer")]

    digest = compute_digest(BIG, Algorithm.SHA256).raw
    assert found == [(b"a", b"x"), (b"big", digest), (b"d", b""), (b"b", b"y")]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_incorrectly_stored(algorithm):
    """Large contents that stand inline, and objects where none are due, are refused with offset and entry."""
    archive = Archive().file("a", b"x").file("big", BIG).end()
    digest = compute_digest(BIG, algorithm).raw

    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    writer.inline(archive)
    with pytest.raises(FormatError) as caught:
        list(read_index(reader_of(writer, algorithm), "layer L"))
    assert str(caught.value) == "layer L, entry big, offset 1024: 65 bytes of contents, where an object is due"

    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    writer.inline(archive[:512])
    writer.external(digest, 65)
    with pytest.raises(FormatError) as caught:
        list(read_index(reader_of(writer, algorithm), "layer L"))
    assert str(caught.value) == "layer L, offset 512: an object, where no contents are due"

    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    writer.inline(archive[: 3 * 512])
    with pytest.raises(FormatError, match="archive ends 65 bytes before the contents do"):
        list(read_index(reader_of(writer, algorithm), "layer L"))


def test_stat_of():
    """An entry by itself has the stat that the index gives it."""
    data = Archive().extended({"SCHILY.xattr.user.a": "1"}).file("a", BIG, mode=0o4755, mtime=base256(-5, 12)).end()
    (entry,) = [event.entry for event in TarSplitter("x").feed(data) if isinstance(event, Content)]

    assert stat_of(entry) == Stat(0o4755, 0, 0, -5, 0, {b"user.a": b"1"})


def test_sink_is_called_in_order():
    """Batches go out as they fill, the last when it is asked for; asking again gives nothing."""
    found = []
    indexer = Indexer(found.append)
    splitter = TarSplitter("layer", indexer.add)
    for _ in splitter.feed(Archive().file("a").end()):
        pass

    assert found == []
    indexer.flush()
    indexer.flush()
    assert [batch.names for batch in found] == [b"a/"]
