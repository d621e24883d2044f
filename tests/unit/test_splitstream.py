"""Splitstreams are those of composefs-rs, byte for byte, and nothing broken is taken for one."""

import io
import struct

import pytest

from composefs import splitstream, verity, zstd
from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError
from composefs.splitstream import ContentType, External, Inline, SplitstreamReader, SplitstreamWriter

# Files with sha256, as composefs-rs 0.9.4 writes them.
VECTOR_A = bytes.fromhex(
    "53706c697453747265616d000000010c2000000000000000700000000000000070000000000000007000000000000000"
    "700000000000000070000000000000007900000000000000820000000000000070000000000000007900000000000000"
    "0000000000000000000000000000000028b52ffd200001000028b52ffd2000010000"
)
VECTOR_B = bytes.fromhex(
    "53706c697453747265616d000000010c2000000000000000700000000000000070000000000000007000000000000000"
    "7000000000000000700000000000000079000000000000008f0000000000000070000000000000007900000000000000"
    "0000000000000000050000000000000028b52ffd200001000028b52ffd0058690000fbffffffffffffff68656c6c6f"
)
VECTOR_C = bytes.fromhex(
    "53706c697453747265616d000000010c2000000000000000700000000000000070000000000000007000000000000000"
    "700000000000000090000000000000009900000000000000aa0000000000000090000000000000009900000000000000"
    "6f63695f626c6f62640000000000000035756600d50f1d1f17a54424462386c0ad3aa315f5fb219963a3ea4653bc471e"
    "28b52ffd200001000028b52ffd00584100000000000000000000"
)
VECTOR_D = bytes.fromhex(
    "53706c697453747265616d000000010c200000000000000070000000000000007000000000000000b000000000000000"
    "b000000000000000b000000000000000d200000000000000db00000000000000b000000000000000d200000000000000"
    "efbeadde000000000000000000000000bce75948b9e7510293f8f2720412af9697c1479281323f3f220623fb8e94b557"
    "a69c9750a36dc72ee600de98ee0a8ecc947a7b9f2109a08ee42a045a07d0b74c28b52ffd0058c90000313a6669727374"
    "00303a7365636f6e6400303a74686972640028b52ffd2000010000"
)
VECTOR_E = bytes.fromhex(
    "53706c697453747265616d000000010c2000000000000000700000000000000070000000000000007000000000000000"
    "700000000000000090000000000000009900000000000000ed0000000000000090000000000000009900000000000000"
    "6f63696c61796572000a000000000000f6fa43bbc0a7908e2ef77438244159e9dec289dfc4c49d229237f9797a6a9b79"
    "28b52ffd200001000028b52ffd00585d0200440200feff616c7068610030303030373030303137353637353100307573"
    "746172003030e8fb0e00144105c080186e2898200624e7a80000831b3463660d45c0cd6280df95d62c98d28221"
)
VECTOR_G = bytes.fromhex(
    "53706c697453747265616d000000010c200000000000000070000000000000007000000000000000d000000000000000"
    "d000000000000000f00000000000000084010000000000009501000000000000f0000000000000008401000000000000"
    "6f6369636f6e66672b0100000000000061c07629b8a41273f190744a8545c132e6b784dcb2235bb31ade307a83e092ff"
    "ce472620ab69da46e385b0936865ef22f940e6bf55a083d3be37b1003795e22199ce11df4bb808a1e80ce69425dae527"
    "b64aa7a270bf99c4a6e24d66be270f3f1dc5a7ea2c7a2d322c8ab613e8427bfe3fec9e6775b3c85896421a588d7c0e17"
    "28b52ffd00585d0400d2cc1f149025c903c7c00a21cc8cf097ed2e89a4ff7f011b41b3dcbb2813ebc773a216d5c4abeb"
    "9aa696bdd8b68f842c7683a4f4c8d2c1064e804377588e5257542f7705c90ba51413541fda319dad1db928e4f8e6bb5b"
    "7d373c18be917083712e437f7a3969552caad9d6141093303f75b87ca344083c09de060b81b349808080040200019058"
    "9a229c0128b52ffd00584100000000000000000000"
)


def sha256(data):
    return verity.compute_digest(data, Algorithm.SHA256).raw


def pattern(size):
    return bytes((7 * i + i // 256) & 0xFF for i in range(size))


def written(fill, content_type=bytes(8), algorithm=Algorithm.SHA256):
    """Return the file that *fill* makes of a new writer."""
    writer = SplitstreamWriter(algorithm, content_type, io.BytesIO)
    fill(writer)
    return b"".join(writer.finish())


def read(data, **options):
    return SplitstreamReader(io.BytesIO(data), Algorithm.SHA256, "stream x", **options)


def fill_c(writer):
    writer.external(sha256(pattern(100)), 100)


def fill_d(writer):
    writer.name("second", sha256(b"a"))
    writer.name("first", sha256(b"b"))
    writer.name("third", sha256(b"a"))


def fill_e(writer):
    header = bytearray(512)
    header[0:5], header[100:108], header[108:116], header[116:124] = b"alpha", b"0000700\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148], header[156:157] = b"00000001750\0", b"00000000000\0", b"0"
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[148:156] = b"%07o\0" % sum(header)
    writer.inline(header)
    writer.external(sha256(bytes(1000)), 1000)
    writer.inline(bytes(24 + 1024))


@pytest.mark.parametrize(
    ("fill", "content_type", "vector"),
    [
        (lambda _: None, bytes(8), VECTOR_A),
        (lambda writer: writer.inline(b"hello"), bytes(8), VECTOR_B),
        (fill_c, ContentType.BLOB, VECTOR_C),
        (fill_d, struct.pack("<Q", 0xDEADBEEF), VECTOR_D),
        (fill_e, ContentType.LAYER, VECTOR_E),
    ],
    ids=["empty", "inline", "blob", "names", "layer"],
)
def test_vector(fill, content_type, vector):
    """The writer makes the bytes that composefs-rs makes."""
    assert written(fill, content_type) == vector


@pytest.mark.parametrize(
    ("algorithm", "wanted"),
    [
        (Algorithm.SHA256, "3924e71e234d44a82ed131428f713e8847c51d5dd0d7c773523bd6123f7412cd"),
        (
            Algorithm.SHA512,
            "cae298ad6e54ffdce33f9649312224c2d811c9e91a37faca82286ac7433d91311579c145505414026f936a9513aeb3b9f531580bf23786ddd"
            "3f3447bfba2062c",
        ),
    ],
)
def test_libzstd(algorithm, wanted):
    """libzstd is 1.5.7: another one compresses a long inline run differently, and every stream id would change."""
    data = written(lambda writer: writer.inline(pattern(1_000_000)), algorithm=algorithm)

    assert verity.compute_digest(data, algorithm).hex == wanted


def test_config_stream():
    """The one splitstream whose id composefs-rs publishes, a config over three layers, reads and writes the same."""
    reader = read(VECTOR_G, content_type=ContentType.CONFIG)
    assert sha256(VECTOR_G).hex() == "4839518dea22749f8ff233e7f7baec65f23dd5336462f46ad6884769af84bf95"
    assert len(reader.named_refs) == 3
    assert all(name.startswith("sha256:") for name in reader.named_refs)

    def fill(writer):
        for digest in reader.stream_refs:
            (name,) = [name for name, found in reader.named_refs.items() if found == digest]
            writer.name(name, digest.raw)
        writer.external(reader.object_refs[0].raw, 299)

    assert written(fill, ContentType.CONFIG) == VECTOR_G


def test_read_chunks():
    """Chunks come out in order, with the tables beside them."""
    reader = read(VECTOR_E, content_type=ContentType.LAYER)

    chunks = [bytes(chunk.data) if isinstance(chunk, Inline) else chunk.digest for chunk in reader.chunks()]

    assert [len(chunk) for chunk in chunks if isinstance(chunk, bytes)] == [512, 1048]
    assert chunks[1] == Digest(Algorithm.SHA256, sha256(bytes(1000)))
    assert list(reader.object_refs) == [chunks[1]]
    assert reader.size == 2560


def test_merged():
    """The merged content is the archive that was split."""
    reader = read(VECTOR_E)

    merged = b"".join(map(bytes, reader.merged(lambda _: io.BytesIO(bytes(1000)))))

    assert merged[:5] == b"alpha"
    assert len(merged) == 2560
    assert merged[512:] == bytes(2048)


def test_old_header():
    """The header of bootc 1.15 and older is read."""
    magic, version, flags, algorithm, block, start, end = struct.unpack("<11sBHBBQQ", VECTOR_D[:32])
    old = struct.pack("<QQH11sBBB", start, end, flags, magic, version, algorithm, block) + VECTOR_D[32:]

    assert read(old).named_refs == read(VECTOR_D).named_refs


def test_long_runs_spill(monkeypatch):
    """What does not fit memory goes through a file, and gives the same bytes."""

    def fill(writer):
        for number in range(50):
            writer.inline(pattern(number * 40))
            if number % 10 == 0:
                writer.external(sha256(bytes([number])), 1)

    wanted = written(fill)
    monkeypatch.setattr(splitstream, "_RUN_MAX", 1000)
    monkeypatch.setattr(splitstream, "_SECTION_MAX", 10)
    monkeypatch.setattr(splitstream, "_CHUNKS_MAX", 10)

    assert written(fill) == wanted


def replaced(offset, data):
    return VECTOR_E[:offset] + data + VECTOR_E[offset + len(data) :]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no splitstream"),
        (VECTOR_E[:31], "no splitstream"),
        (replaced(0, b"x"), "not a splitstream"),
        (replaced(11, b"\1"), "version 1, wanted 0"),
        (replaced(14, b"\2"), "algorithm 2, wanted 1"),
        (replaced(15, b"\x10"), "block size 16, wanted 12"),
        (replaced(24, struct.pack("<Q", 60)), "info block of 28 bytes"),
        (replaced(16, struct.pack("<Q", 1 << 40)), "info block"),
        (replaced(40, struct.pack("<Q", 113)), "no whole digests"),
        (replaced(72, struct.pack("<Q", 1 << 62)), "of 237 bytes"),
        (VECTOR_E[:112], "object references"),
        (VECTOR_E[:150], "of 150 bytes"),
    ],
)
def test_broken_file(data, what):
    """A file that breaks a rule of the format is refused, with the stream's name and an offset."""
    with pytest.raises(FormatError, match=what) as caught:
        read(data)
    assert caught.value.source.startswith("stream x")


def with_chunks(data):
    """Return a stream whose chunks are the bytes *data*."""
    compressor = zstd.compressor()
    section = compressor.compress(data) + compressor.flush()
    start = struct.unpack("<Q", VECTOR_A[64:72])[0]
    return VECTOR_A[:64] + struct.pack("<QQ", start, start + len(section)) + VECTOR_A[80:start] + section


@pytest.mark.parametrize(
    ("chunks", "what"),
    [
        (struct.pack("<q", 0), "object 0 of 0"),
        (struct.pack("<q", -6) + b"hello", "1 bytes of inline data are missing"),
        (struct.pack("<q", -(1 << 63)), "missing"),
        (b"\0" * 7, "inside a chunk header"),
    ],
)
def test_broken_chunks(chunks, what):
    """Chunks that are cut, or refer to nothing, are refused."""
    reader = read(with_chunks(chunks))

    with pytest.raises(FormatError, match=what):
        list(reader.chunks())


def test_content_type():
    """A stream of another kind than wanted is refused."""
    with pytest.raises(FormatError, match=r"ocilayer.*ociconfg"):
        read(VECTOR_E, content_type=ContentType.CONFIG)


@pytest.mark.parametrize(
    "record", [b"0:x", b"1:x\0", b"x\0", b"-1:x\0", b"0:\xff\0", b":x\0", b"99999999999999999999999:x\0"]
)
def test_broken_names(record):
    """Named references that are no records, or refer to nothing, are refused."""
    compressor = zstd.compressor()
    frame = compressor.compress(record) + compressor.flush()
    fill = written(lambda writer: writer.name("a", sha256(b"a")))
    start, end = struct.unpack("<QQ", fill[80:96])
    moved = len(frame) - (end - start)
    section = struct.unpack("<QQ", fill[64:80])
    ranges = struct.pack("<QQQQ", section[0] + moved, section[1] + moved, start, start + len(frame))
    data = fill[:64] + ranges + fill[96:start] + frame + fill[end:]

    with pytest.raises(FormatError, match="named references"):
        read(data)


def test_external_is_a_chunk():
    """A reference to the same object twice is one entry of the table and two chunks."""

    def fill(writer):
        for _ in range(2):
            writer.external(sha256(b"x" * 100), 100)

    reader = read(written(fill))

    assert len(reader.object_refs) == 1
    assert [chunk for chunk in reader.chunks() if isinstance(chunk, External)] == [External(reader.object_refs[0])] * 2
