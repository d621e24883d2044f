"""Reading many entries at a time is reading one after another: the same index, or the same error."""

import io
import itertools
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from composefs import zstd
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.oci import index
from composefs.oci.index import read_index
from composefs.splitstream import ContentType, SplitstreamReader, SplitstreamWriter
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import chunks_of, slow_index, stored

from generator.tar import BLOCK, GNU, USTAR, V7, Archive, base256  # isort: skip

PLAIN = st.sampled_from(["a", "usr/b", "./usr/c", "/usr//d", "usr/lib/e/", "n" * 100])
ODD = st.sampled_from(["", "/", ".", "..", "x/..", "usr/.", ".wh.a", "usr/.wh..wh..opq", "usr/.wh.", b"\xff\\\n", "-"])
NAMES = st.one_of(PLAIN, PLAIN, PLAIN, ODD)
KINDS = st.sampled_from([b"0", b"0", b"0", b"5", b"2", b"1", b"\0", b"7", b"3", b"6", b"S", b"Z"])
CONTENTS = st.sampled_from([0, 0, 1, 63, 64, 65, 512, 1000]).map(bytes)
NUMBERS = st.sampled_from(
    [
        b"",
        b"7",
        b"0000644\0",
        b"1234567 ",
        b"12345670",
        b" 644\0",
        b"+644\0",
        b"64 4\0",
        b"8",
        b"-1",
        b"0x1",
        b"1\0 2",
        base256(9, 8),
    ]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "mode": NUMBERS,
        "uid": NUMBERS,
        "gid": NUMBERS,
        "mtime": st.one_of(NUMBERS, st.sampled_from([5, base256(-5, 12)])),
        "major": NUMBERS,
        "minor": NUMBERS,
        "magic": st.sampled_from([USTAR, GNU, V7]),
        "link": st.sampled_from(["", "a", "l" * 100]),
        "prefix": st.sampled_from(["p", "usr/", "/", "." * 155]),
        "checksum": st.sampled_from([0, b" 1234\0"]),
        "pax": st.sampled_from([{"path": "p"}, {"uid": "7"}, {"SCHILY.xattr.user.x": "y"}, {"size": "100"}]),
    },
)
HARMLESS = st.sampled_from([{}, {}, {"prefix": "p/q"}, {"prefix": "p", "magic": GNU}, {"magic": GNU}, {"link": ""}])
MEMBERS = st.tuples(NAMES, KINDS, CONTENTS, st.one_of(HARMLESS, HARMLESS, FIELDS))
TAILS = st.sampled_from([b"", bytes(100), bytes(512), bytes(1024), bytes(1024) + b"junk"])


@st.composite
def archives(draw):
    """Archives of which most entries are plain, and some refused."""
    archive = Archive()
    for name, kind, content, fields in draw(st.lists(MEMBERS, max_size=12)):
        archive.entry(name, kind, content, **({"link": "target"} | fields))
    return archive.end(0) + draw(TAILS)


def outcome(read, reader):
    """Return the index, or the error."""
    try:
        return list(read(reader, "layer x"))
    except FormatError as error:
        return str(error), error.offset


def check(make_reader, slot_size=1 << 20, batch_size=index.BATCH_SIZE):
    """Both ways agree, however much is decompressed at a time."""
    with patch.object(index, "BATCH_SIZE", batch_size):
        wanted = outcome(slow_index, make_reader())
        assert outcome(read_index, make_reader()) == wanted
        with patch.object(zstd, "_PIECE", slot_size):
            assert outcome(read_index, make_reader()) == wanted


def chunks_or_inline(archive):
    """Return the chunks of *archive*; one that is refused stays inline."""
    try:
        return chunks_of(archive)
    except FormatError:
        return [archive]


@settings(max_examples=400)
@given(archives(), st.integers(400, 5000), st.integers(1, 20))
def test_archives(archive, slot_size, batch_size):
    """Archives as they are stored, also refused ones."""
    chunks = chunks_or_inline(archive)

    check(lambda: stored(chunks), slot_size, batch_size)


def with_change(chunk, place, value):
    """Return *chunk* with a byte of a header changed, and the checksum made right again."""
    starts = [at for at in range(0, len(chunk) - BLOCK + 1, 4) if chunk[at + 257 :].startswith(b"ustar")]
    if not starts:
        return chunk
    start = starts[place % len(starts)]
    block = bytearray(chunk[start : start + BLOCK])
    block[place % BLOCK] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return chunk[:start] + bytes(block) + chunk[start + BLOCK :]


CHANGES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=400)
@given(archives(), CHANGES)
def test_headers(archive, changes):
    """Headers with any byte in any field, whose checksum is right."""
    chunks = chunks_or_inline(archive)
    for number, place, value in changes:
        inline = [at for at, chunk in enumerate(chunks) if isinstance(chunk, bytes)]
        if inline:
            at = inline[number % len(inline)]
            chunks[at] = with_change(chunks[at], place, value)

    check(lambda: stored(chunks))


def section_reader(section):
    """Return a reader of a stream with two objects, whose decompressed chunks are *section*, right or wrong."""
    algorithm = Algorithm.SHA256
    writer = SplitstreamWriter(algorithm, ContentType.LAYER, io.BytesIO)
    for raw in (b"0", b"1"):
        writer.external(raw * algorithm.digest_size, 0)
    reader = SplitstreamReader(io.BytesIO(b"".join(writer.finish())), algorithm, "stream")
    compressor = zstd.compressor()
    compressed = compressor.compress(section) + compressor.flush()
    return WithSection(reader, compressed)


class WithSection:
    """A stream of which all but the chunks is that of *reader*."""

    def __init__(self, reader, compressed):
        self._reader, self._compressed = reader, compressed

    def open_chunks(self):
        chunks = self._reader.open_chunks()
        slots = zstd.decompress(io.BytesIO(self._compressed), "stream, chunks")
        chunks._source._slots = slots
        return chunks

    def chunks(self):
        return iter(self.open_chunks().next, None)


def section_of(chunks):
    """Return the chunks as they are before they are compressed, every object the second one."""
    found = b""
    for chunk in chunks:
        if isinstance(chunk, bytes):
            found += (-len(chunk)).to_bytes(8, "little", signed=True) + chunk
        else:
            found += (1).to_bytes(8, "little")
    return found


HEADS = st.sampled_from([-(1 << 63), -1, -511, -512, -513, -1024, 0, 1, 2, (1 << 63) - 1])
JUNK = st.one_of(st.binary(max_size=9), HEADS.map(lambda number: number.to_bytes(8, "little", signed=True)))
EDITS = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 600), JUNK), max_size=3)


@settings(max_examples=600)
@given(archives(), EDITS, st.integers(0, 20_000), st.integers(400, 5000))
@example(Archive().file("a", b"x" * 65).file("b").file("c").end(), [(520, 8, bytes([2]) + bytes(7))], 0, 5000)
@example(Archive().file("a", b"x" * 65).file("b").file("c").end(), [(520, 8, b"\xff" * 8)], 0, 5000)
def test_sections(archive, edits, cut, slot_size):
    """Chunks with anything replaced, put in, left out or cut off, their heads as well as what they hold."""
    section = section_of(chunks_or_inline(archive))
    for place, size, junk in edits:
        at = place % (len(section) + 1)
        section = section[:at] + junk + section[at + size :]
    if cut:
        section = section[: cut % (len(section) + 1)]

    check(lambda: section_reader(section), slot_size)


@given(archives(), st.lists(st.integers(1, 700), min_size=1, max_size=5), st.integers(400, 5000))
def test_cut_chunks(archive, sizes, slot_size):
    """Inline data that stand in many chunks."""
    cut = []
    for chunk in chunks_or_inline(archive):
        start, lengths = 0, itertools.cycle(sizes)
        while isinstance(chunk, bytes) and start < len(chunk):
            cut.append(chunk[start : (start := start + next(lengths))])
        if not isinstance(chunk, bytes):
            cut.append(chunk)
    section = section_of(cut)

    check(lambda: section_reader(section), slot_size)
