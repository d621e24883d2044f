"""Reading the entries of a stored layer many at a time: which ones, and what is left to the splitter."""

import pytest

from composefs import _native
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci.index import Indexer, read_index
from composefs.oci.rows import RowReader
from composefs.splitstream import External, Inline
from composefs.tar import TarSplitter
from composefs.verity import compute_digest
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import chunks_of, slow_index, stored

from generator.tar import GNU, MTIME, V7, Archive, base256  # isort: skip

BIG = b"b" * 65


def reader_of(archive, algorithm=Algorithm.SHA256):
    """Return what reads rows of *archive*, and its splitter."""
    splitter = TarSplitter("layer", lambda *_: None)
    return RowReader(stored(chunks_of(archive, algorithm), algorithm).open_chunks(), splitter), splitter


def read(archive, limit=100):
    reader, splitter = reader_of(archive.end())
    return reader.read(splitter.boundary, limit)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_columns(algorithm):
    """Every kind of plain entry has what the index has of it; the last one is left."""
    archive = Archive().directory("usr/").file("usr/big", BIG, uid=7).file("/usr/small", b"s" * 64, magic=GNU)
    archive.symlink("usr/link", "to").hardlink("hard", "usr/small").entry("old", b"\0").entry("seven", b"7", BIG)
    reader, splitter = reader_of(archive.end(), algorithm)

    found = reader.read((0, 0), 100)

    digest = compute_digest(BIG, algorithm).raw
    assert found.offsets == tuple(512 * block for block in (0, 1, 3, 5, 6, 7))
    assert found.names == [b"usr", b"big", b"small", b"link", b"hard", b"old"]
    assert found.directories == [b"", b"usr", b""]
    assert found.directory_numbers == (0, 1, 1, 1, 2, 2)
    assert found.kinds == (2, 0, 1, 3, 7, 1)
    assert found.numbers == (0, 65, 0, 0, 0, 0)
    assert found.joined_values == digest + b"s" * 64 + b"to" + b"usr/small"
    ends = [len(digest), 64, 2, 9]
    assert found.value_ends == (0, ends[0], sum(ends[:2]), sum(ends[:3]), sum(ends), sum(ends))
    assert {stat[4:8] for stat in found.stats} == {bytes(4), b"\7\0\0\0"}
    assert int.from_bytes(found.stats[0][12:20], "little") == MTIME
    assert splitter.boundary == (8 * 512, 0)


ODD = {
    "extended header": lambda archive: archive.file("x", pax={"uid": "7"}),
    "global header": lambda archive: archive.extended({"a": "b"}, b"g").file("x"),
    "long name": lambda archive: archive.gnu_long_name("x" * 200).file("x"),
    "long link": lambda archive: archive.gnu_long_link("x" * 200).symlink("x", "x"),
    "sparse": lambda archive: archive.entry("x", b"S", magic=GNU),
    "device": lambda archive: archive.character("x", 1, 5),
    "fifo": lambda archive: archive.fifo("x"),
    "unknown type": lambda archive: archive.entry("x", b"Z"),
    "v7": lambda archive: archive.file("x", magic=V7),
    "binary number": lambda archive: archive.file("x", uid=base256(7, 8)),
    "number with a blank": lambda archive: archive.file("x", mode=b" 644\0"),
    "major": lambda archive: archive.file("x", major=b"x"),
    "minor": lambda archive: archive.file("x", minor=b"x"),
    "contents that look like an object": lambda archive: archive.file("x", bytes(65)),
    "checksum": lambda archive: archive.file("x", checksum=7),
    "whiteout": lambda archive: archive.file("usr/.wh.x"),
    "root": lambda archive: archive.directory("./"),
    "upwards": lambda archive: archive.directory("usr/.."),
    "no name": lambda archive: archive.file(""),
    "hard link to nothing": lambda archive: archive.hardlink("x", ""),
    "contents of a directory": lambda archive: archive.entry("x", b"5", b"contents"),
    "contents of a link": lambda archive: archive.entry("x", b"2", b"contents"),
    "zero block": lambda archive: archive.raw(bytes(512)).file("x"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd(name):
    """Entries with something odd are left, and all behind them, until the splitter was fed them."""
    archive = ODD[name](Archive().file("a").file("b")).file("c").file("d")
    chunks = [archive.end(), (b"d" * 32, 1)]  # all inline, and an object
    row_reader = RowReader(stored(chunks).open_chunks(), TarSplitter("layer"))

    assert row_reader.read((0, 0), 100).names == [b"a"]
    assert row_reader.read((512, 0), 100) is None


def test_prefix():
    """The prefix stands before the name where the magic says that there is one, and is all of it if that is empty."""
    archive = Archive().file("a", prefix="p/q").file("b", prefix="p/q", magic=GNU).file("", prefix="p/q").file("c")
    found = read(archive)

    assert found.names == [b"a", b"b", b"q"]
    assert [found.directories[number] for number in found.directory_numbers] == [b"p/q", b"", b"p"]


def test_limit():
    """No more than wanted, and of these the last is left."""
    archive = Archive().file("a").file("b").file("c").file("d")

    assert read(archive, 3).names == [b"a", b"b"]
    assert read(archive).names == [b"a", b"b", b"c"]
    for limit in (-1, 0, 1):
        assert read(archive, limit) is None
    assert read(Archive()) is None


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_most_go_the_fast_way(monkeypatch, count):
    """Of plain entries only a few go through the splitter: those where decompressed data end."""
    archive = Archive()
    for number in range(count):
        archive.file(f"dir{number // 100}/name{number}", BIG if number % 2 else b"s", mtime=number)
    chunks = chunks_of(archive.end())
    slow = []
    add = Indexer.add
    monkeypatch.setattr(Indexer, "add", lambda self, entry, content: (slow.append(entry), add(self, entry, content)))

    batches = list(read_index(stored(chunks), "layer"))

    assert sum(batch.row_count for batch in batches) == count
    assert len(slow) <= 1 + count // 400
    assert batches == slow_index(stored(chunks), "layer")


def test_rare_ones_in_between(monkeypatch):
    """After an entry for the splitter, plain ones are looked for at once; not after each of many, which would cost."""
    looks = []
    read = RowReader.read
    monkeypatch.setattr(RowReader, "read", lambda *arguments: looks.append(1) or read(*arguments))
    archive = Archive()
    for number in range(2000):
        archive.file(f"name{number}", BIG, pax={"uid": "7"} if number > 1000 or number % 100 == 0 else None)
    chunks = chunks_of(archive.end())

    found = list(read_index(stored(chunks), "layer"))

    assert found == slow_index(stored(chunks), "layer")
    assert 10 < len(looks) < 200


def test_boundary():
    """A splitter is between two entries, or it is not."""
    data = Archive().file("a", b"a").file("b", pax={"uid": "7"}).file("c", BIG).end()
    splitter = TarSplitter("layer", lambda *_: None)
    found = []
    for start in range(0, len(data), 256):
        for _ in splitter.feed(data[start : start + 256]):
            pass
        found.append(splitter.boundary)

    between = {at: place for at, place in enumerate(found, 1) if place is not None}
    assert between == {
        3: (768, 256),
        4: (1024, 0),
        10: (2560, 0),
        13: (3328, 256),
        14: (3584, 0),
    }


def test_skip_entries():
    """Offsets go on behind what somebody else has read."""
    splitter = TarSplitter("layer", lambda *_: None)
    splitter.skip_entries(2, 5120, 100)

    assert splitter.boundary == (5120, 100)
    with pytest.raises(FormatError) as caught:
        splitter.feed_inline(bytes(100) + b"x" * 512)
    assert caught.value.offset == 5220


def test_contents_beyond_all_offsets():
    """Contents of a size that no file can have are refused, although no object is read."""
    archive = Archive().file("a", pax={"size": str((1 << 63) - 1)}).end(0)
    digest = bytes(32)

    with pytest.raises(FormatError) as caught:
        list(read_index(stored([archive, (digest, 1), archive, (digest, 1)]), "layer"))
    assert str(caught.value) == "layer, entry a, offset 1024: contents of 9223372036854775807 bytes"


def test_chunks():
    """A reader of chunks gives pieces, shows what comes, and goes over what somebody else has read."""
    chunks = stored([b"inline", (b"d" * 32, 5), b"more"]).open_chunks()

    assert bytes(chunks.ahead()[8:14]) == b"inline"
    assert bytes(chunks.next(2).data) == b"in"
    assert chunks.inline_left == 4
    assert bytes(chunks.ahead()[:4]) == b"line"
    chunks.skip(3, 1)
    assert bytes(chunks.next().data) == b"e"
    assert isinstance(chunks.next(), External)
    chunks.skip(8 + 3, 1)
    assert chunks.next() == Inline(memoryview(b"e"))
    assert chunks.next() is None


def test_impossible_place():
    """C refuses digests that are longer than it has place for."""
    with pytest.raises(OSError, match="Invalid argument"):
        _native.TarReader(bytes(300), 300).read(b"", (0, 0, 0), 1)
