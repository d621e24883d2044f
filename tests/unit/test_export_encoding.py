"""Blobs of archives: the same bytes every time, however the work is cut and shared; other decoders read them."""

import gzip
import random
import zlib

import pytest
import zstandard

from composefs.errors import UsageError
from composefs.oci.export.encoding import Gzip, Stored, Zstd, describe_library, make_encoding, parse_hint
from composefs.oci.manifest import Compression
from tests.layouts import noise

MEGABYTE = 1 << 20
SIZES = [0, 1, 511, MEGABYTE - 1, MEGABYTE, MEGABYTE + 1, 5 * MEGABYTE + 7]
ENCODINGS = [
    Stored(),
    Gzip(1),
    Gzip(6),
    Gzip(9, in_blocks=False, extra=b"\2\x03"),
    Zstd(3),
    Zstd(9),
    Zstd(3, in_jobs=False, has_size=False, has_checksum=True),
]


def archive(size):
    """Return *size* bytes of which some come again, near and far."""
    words = [noise(length, length) for length in range(20, 4000, 97)]
    chosen = random.Random(size)
    data = bytearray()
    while len(data) < size:
        data += chosen.choice(words)
    return bytes(data[:size])


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def encoded(encoding, data, *, threads=1, piece=MEGABYTE):
    return b"".join(bytes(piece) for piece in encoding.encode(cut(data, piece), len(data), threads))


def decoded(compression, blob):
    match compression:
        case Compression.NONE:
            return blob
        case Compression.GZIP:
            return gzip.decompress(blob)
        case Compression.ZSTD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(blob)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_same_bytes(encoding, size):
    """Neither the number of threads nor the way in which the archive comes makes another blob; readers get it back."""
    data = archive(size)

    blob = encoded(encoding, data)

    assert decoded(encoding.compression, blob) == data
    for threads, piece in ((1, 1 << 16), (2, 777_777), (3, MEGABYTE), (8, 10 * MEGABYTE)):
        assert encoded(encoding, data, threads=threads, piece=piece) == blob


def test_blobs_stay_what_they_were():
    """What was exported once is made again by later versions, as long as the libraries are the same."""
    data = archive(3 * MEGABYTE)
    sums = {encoding: zlib.crc32(encoded(encoding, data)) for encoding in (Gzip(6), Gzip(9), Zstd(3), Zstd(19))}

    if zlib.ZLIB_RUNTIME_VERSION == "1.2.13":
        assert (sums[Gzip(6)], sums[Gzip(9)]) == (4152144263, 2321281846)
    if zstandard.ZSTD_VERSION == (1, 5, 7):
        assert (sums[Zstd(3)], sums[Zstd(19)]) == (2530052120, 1326528062)


def test_gzip_in_one_go_is_that_of_zlib():
    """The known forms are what Python's own functions make, byte for byte."""
    data = archive(2 * MEGABYTE)

    zlib_form = zlib.compress(data, 6, wbits=31)
    python_form = gzip.compress(data, 9, mtime=0)

    assert encoded(Gzip(6, in_blocks=False, extra=b"\0\x03"), data, piece=1000) == zlib_form
    assert encoded(Gzip(9, in_blocks=False, extra=python_form[8:10]), data, piece=1000) == python_form


def test_nothing_of_the_host_in_gzip():
    """The header has no time, no name and no system."""
    assert encoded(Gzip(6), b"data")[:10] == bytes.fromhex("1f8b 08 00 00000000 00 ff")


def test_blocks_cost_little():
    """Blocks for threads make the blob no more than a hundredth longer."""
    data = archive(8 * MEGABYTE)

    assert len(encoded(Gzip(6), data)) < 1.01 * len(encoded(Gzip(6, in_blocks=False), data))


@pytest.mark.parametrize("wrong", [zlib.error, RuntimeError])
def test_a_failing_archive_ends_the_threads(wrong):
    """What reading raises comes out, whatever the threads are about."""

    def pieces():
        yield bytes(5 * MEGABYTE)
        raise wrong("no more")

    for encoding in (Gzip(6), Zstd(3)):
        with pytest.raises(wrong, match="no more"):
            for _ in encoding.encode(pieces(), 10 * MEGABYTE, 2):
                pass


@pytest.mark.parametrize("encoding", [Gzip(1), Gzip(9), Zstd(3), Zstd(19)], ids=str)
def test_hint(encoding):
    """Our own encodings have a name that leads back to them, for their compression only."""
    other = Compression.ZSTD if encoding.compression is Compression.GZIP else Compression.GZIP

    assert parse_hint(encoding.hint, encoding.compression) == encoding
    assert parse_hint(encoding.hint, other) is None


def test_no_hint():
    """Those of others have none, and what is no hint is passed over."""
    assert Stored().hint is None
    assert Gzip(6, in_blocks=False).hint is None
    assert Zstd(3, has_checksum=True).hint is None
    for text in (None, "", "gzip", "gzip-0", "gzip-10", "gzip-6\n", "zstd-20", "zstd--1", "lz4-1"):
        assert parse_hint(text, Compression.GZIP) is None
        assert parse_hint(text, Compression.ZSTD) is None


@pytest.mark.parametrize(
    ("compression", "level", "message"),
    [
        (Compression.NONE, 1, "a compression level needs gzip or zstd"),
        (Compression.GZIP, 10, "gzip has the levels 1 to 9, not 10"),
        (Compression.ZSTD, 20, "zstd has the levels 1 to 19, not 20"),
        (Compression.ZSTD, -5, "zstd has the levels 1 to 19, not -5"),
    ],
)
def test_levels(compression, level, message):
    """A level that does not exist is refused."""
    with pytest.raises(UsageError) as caught:
        make_encoding(compression, level)
    assert str(caught.value) == message


def test_defaults():
    """Without a level it is a quick one that compresses well."""
    assert make_encoding(Compression.NONE) == Stored()
    assert make_encoding(Compression.GZIP) == Gzip(4)
    assert make_encoding(Compression.ZSTD) == Zstd(3)


def test_library():
    """The library is named with its version; who stores an archive needs none."""
    assert describe_library(Compression.GZIP) == f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    assert describe_library(Compression.ZSTD).startswith("libzstd 1.")
    assert describe_library(Compression.NONE) is None
