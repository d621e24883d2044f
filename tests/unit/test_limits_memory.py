"""What input claims costs no memory, and what it has costs what it has: each parser at its worst."""

import io
import os
import struct
import tracemalloc
from contextlib import contextmanager, suppress

import pytest
import zstandard

from composefs import Algorithm, limits, zstd
from composefs.dialect import Dialect
from composefs.dumpfile import parse_dump
from composefs.dumpfile.parser import read_lines
from composefs.erofs import ondisk
from composefs.erofs.check import collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, LimitError
from composefs.json_text import parse_json
from composefs.oci.blobs import BlobReader, decompress
from composefs.oci.index import read_index
from composefs.oci.manifest import Compression, parse_index
from composefs.oci.merge import merge_layers
from composefs.oci.sources.source import Blob, FileRange
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from composefs.tar import TarSplitter
from tests import layouts
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.images import directory, inline
from tests.layers import chunks_of, index_of, stored

from generator.tar import Archive, base256  # isort: skip

MEBI = 1 << 20
HUGE = 1 << 40


@contextmanager
def at_most(size):
    """See that what is done takes at most *size* bytes of Python's memory at a time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def split(data):
    splitter = TarSplitter("layer x")
    for _ in splitter.feed(data):
        pass
    splitter.close()


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_claims_of_extension_headers(kind):
    """An extension header that claims to be huge is refused; one that breaks off has cost what there was of it."""
    for size in (HUGE, limits.TAR_METADATA_SIZE):
        data = Archive().entry("p", kind, size=base256(size, 12)).end(0)
        with at_most(MEBI // 4), pytest.raises(FormatError):
            split(data)


def test_claims_of_contents():
    """Contents that claim to be huge are never put together."""
    for kind in (b"0", b"5"):
        data = Archive().entry("f", kind, size=base256(HUGE, 12)).end(0)
        with at_most(MEBI), pytest.raises(FormatError, match="archive ends"):
            split(data + bytes(1000))


def test_many_xattrs():
    """Of a million bytes of attributes as short as can be, no more is kept than Linux would list."""
    archive = Archive().extended({f"SCHILY.xattr.{number}": "" for number in range(40_000)}).file("f").end()
    with at_most(24 * MEBI), pytest.raises(LimitError):
        split(archive)


def test_weight_of_xattrs():
    """Attributes count for what they take in memory, so that a batch is full in time."""
    archive = Archive()
    for number in range(20):
        archive.extended({f"SCHILY.xattr.{number}.{name}": "" for name in range(3000)}).file(f"f{number}")
    chunks = chunks_of(archive.end())

    reader = stored(chunks)
    with at_most(24 * MEBI):
        batches = sum(1 for _ in read_index(reader, "layer x"))

    assert batches > 1


def bomb(tmp_path, compression):
    """Return a blob of zeros, many times as large as what may be in memory."""
    size = 128 * MEBI
    data = layouts.layer(bytes(size), compression).blob
    path = tmp_path / compression
    path.write_bytes(data)
    return BlobReader(
        Blob(FileRange(str(path)), layouts.sha256(data), len(data), None), "layer x", lambda _: None
    ), size


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_bombs(tmp_path, compression):
    """What a blob inflates to comes in pieces."""
    blob, size = bomb(tmp_path, compression.name.lower())
    with blob, at_most(4 * MEBI):
        assert sum(map(len, decompress(blob, compression))) == size


def single_segment(size):
    """Return a frame that claims to hold *size* bytes, all of them its window, and holds none."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x01\0\0"


def windowed(exponent, mantissa):
    """Return a frame that asks for a window, and holds nothing."""
    return b"\x28\xb5\x2f\xfd\0" + bytes([exponent << 3 | mantissa]) + b"\x01\0\0"


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (single_segment, (limits.ZSTD_WINDOW_SIZE + 1,)),
        (single_segment, (1 << 63,)),
        (windowed, (17, 1)),
        (windowed, (21, 0)),
        (windowed, (31, 7)),
    ],
)
def test_windows_of_zstd(frame, size):
    """A frame that asks for too much is refused before the decoder sees that."""
    with pytest.raises(LimitError, match="bytes of memory for a zstd frame, more than 134217728") as caught:
        list(zstd.decompress(io.BytesIO(frame(*size)), "layer x"))
    assert caught.value.offset == 5


@pytest.mark.parametrize("frame", [single_segment(limits.ZSTD_WINDOW_SIZE), windowed(17, 0), windowed(16, 7)])
def test_largest_windows_of_zstd(frame):
    """What zstd makes at its best is read."""
    assert list(zstd.decompress(io.BytesIO(frame), "layer x")) == []


@pytest.mark.parametrize("content_size", [255, 256, 65535, 65536, 65791, 65792, 3 * MEBI])
def test_honest_frames_of_one_segment(content_size):
    """Sizes of contents of every width are understood."""
    data = bytes(content_size)
    frame = zstandard.ZstdCompressor(level=19).compress(data)
    assert frame[4] >> 5 & 1

    assert b"".join(zstd.decompress(io.BytesIO(frame), "layer x")) == data


def stream(names=()):
    writer = SplitstreamWriter(Algorithm.SHA256, ContentType.LAYER, io.BytesIO)
    for number, name in enumerate(names):
        writer.name(name, number.to_bytes(32, "big"))
    return b"".join(writer.finish())


@pytest.mark.parametrize("place", [24, 40, 56, 72, 88])  # ends of the info block, of the tables, and of the sections
@pytest.mark.parametrize("size", [HUGE, 1 << 62])
def test_claims_of_a_stream(tmp_path, place, size):
    """Tables that claim all of a huge file are not read: a file may be huge and all holes."""
    path = tmp_path / "stream"
    data = bytearray(stream())
    struct.pack_into("<Q", data, place, size)
    path.write_bytes(data)
    os.truncate(path, HUGE)
    with open(path, "rb") as file, at_most(16 * MEBI), suppress(FormatError):
        for _ in SplitstreamReader(file, Algorithm.SHA256, "stream x").chunks():
            pass


def test_named_references_of_a_stream():
    """Compressed names of references are inflated up to a limit."""
    most = limits.NAMED_REFS_SIZE
    data = stream([f"{number:03d}" + "n" * (1 << 19) for number in range(140)])
    with at_most(most + most // 4), pytest.raises(LimitError):
        SplitstreamReader(io.BytesIO(data), Algorithm.SHA256, "stream x")


@pytest.mark.parametrize("offset", [8, 16, 24, 40, 44, 48, 52, 56])
def test_claims_of_an_image(offset):
    """Numbers of the superblock, and of inodes, that are as large as can be cost nothing."""
    data = bytes(write_image(directory({"usr": directory({"f": inline(b"x" * 100)})}), 1))
    for at in (ondisk.SUPERBLOCK_OFFSET + offset, ondisk.INODES_OFFSET + offset):
        changed = bytearray(data)
        changed[at : at + 4] = b"\xff\xff\xff\x7f"
        for read in (load_tree, lambda image: collect_objects(ErofsReader(image))):
            with at_most(2 * MEBI), suppress(FormatError):
                read(bytes(changed))


def test_entries_of_an_image():
    """A tree costs what its entries cost; their number is limited."""
    count = 10_000
    data = bytes(write_image(directory({f"{number:x}": inline() for number in range(count)}), 2))
    with at_most(600 * count):
        load_tree(data)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "line",
    [
        b"/a " + b"9" * 1_000_000 + b" 100644 1 0 0 0 1.0 - - -\n",
        b"/" + b"a" * 1_000_000 + b" 0 100644 1 0 0 0 1.0 - - -\n",
        b"/a 0 100644 1 0 0 0 1.0 - " + b"\\x41" * 250_000 + b" -\n",
        b"/a 0 100644 1 0 0 0 1.0 - - - " + b"a=b " * 100_000 + b"\n",
        b"x" * 2_500_000,
    ],
    ids=["number", "path", "content", "xattrs", "endless"],
)
def test_lines_of_a_dump(monkeypatch, dialect, line):
    """A line costs up to 30 times its size, whatever it is made of."""
    root = b"/ 0 40755 2 0 0 0 1.0 - - -\n"
    monkeypatch.setattr(limits, "DUMP_LINE_SIZE", MEBI)
    with at_most(30 * MEBI), suppress(FormatError):
        parse_dump(read_lines(io.BytesIO(root + line)), "d", dialect=dialect)


@pytest.mark.parametrize("item", [b"[]", b'{"a":1}', b'"ab"', b"[[]]", b"1.5", b'{"\\u00e9":""}'])
def test_values_in_json(monkeypatch, item):
    """JSON at its worst takes some 100 bytes for each value that is allowed."""
    monkeypatch.setattr(limits, "JSON_VALUES", 1 << 16)
    count = limits.JSON_VALUES // (item.count(b"[") + item.count(b"{") + 1) - 2
    data = b"[" + b",".join([item] * count) + b"]"
    with at_most(120 * limits.JSON_VALUES + 3 * len(data)):
        parse_json(data, "j", max_size=limits.JSON_SIZE)

    with at_most(MEBI), pytest.raises(LimitError):
        parse_json(
            data.replace(b"]", b",[],[],[]]") if item != b"[]" else b"[" + b"[]," * (1 << 16), "j", max_size=1 << 25
        )


def test_many_manifests():
    """An index of many manifests takes some times its size."""
    item = (
        b'{"mediaType":"m","digest":"sha256:%064x","size":7,"annotations":{"org.opencontainers.image.ref.name":"t%d"}}'
    )
    data = b'{"manifests":[' + b",".join(item % (number, number) for number in range(10_000)) + b"]}"
    with at_most(10 * len(data)):
        assert len(parse_index(data, "i")) == 10_000


def test_entries_of_merged_layers():
    """A file system in the making takes some hundred bytes for each entry."""
    count = 10_000
    layer = index_of(layouts.tar({"usr/": b""} | {f"usr/{number}": b"" for number in range(count)}))
    with at_most(800 * count):
        merge_layers([layer])
