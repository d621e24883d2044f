"""Formats: any cut of the input gives the same, what was written is read, and any bytes parse or raise FormatError."""

import contextlib
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from composefs import zstd
from composefs.digest import Algorithm
from composefs.errors import FormatError
from composefs.repository.meta import Meta
from composefs.splitstream import External, SplitstreamReader, SplitstreamWriter
from composefs.tar import Content, TarSplitter
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable

from generator.tar import GNU, USTAR, V7, Archive  # isort: skip

NAMES = st.binary(min_size=1, max_size=90).filter(lambda name: b"\0" not in name)
MEMBERS = st.tuples(
    NAMES,
    st.sampled_from([b"0", b"\0", b"5", b"2", b"7", b"Z"]),
    st.integers(0, 1500),
    st.sampled_from([USTAR, GNU, V7]),
    st.sampled_from([None, {"path": "p"}, {"uid": "7", "SCHILY.xattr.user.x": "y"}]),
)


@st.composite
def archives(draw):
    archive = Archive()
    for name, kind, size, magic, pax in draw(st.lists(MEMBERS, max_size=6)):
        archive.entry(name, kind, bytes(size), magic=magic, pax=pax, link="x")
    return archive.end(draw(st.sampled_from([0, 2, 3]))) + draw(st.binary(max_size=20))


def cut(data, sizes):
    """Yield *data* in pieces of *sizes*, over and over."""
    position = 0
    while position < len(data):
        for size in sizes:
            yield data[position : position + size]
            position += size


def split(pieces):
    """Return the joined events, and the contents of each file."""
    splitter, joined, contents = TarSplitter(), b"", {}
    for piece in pieces:
        for event in splitter.feed(piece):
            joined += event.data
            if isinstance(event, Content):
                key = (event.entry.offset, event.entry)
                assert len(contents.setdefault(key[0], (event.entry, bytearray()))[1]) == event.position
                contents[key[0]][1].extend(event.data)
    splitter.close()
    return joined, contents


@given(archives(), st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_tar_cut(data, sizes):
    """However an archive is cut, the same files come out, and nothing is lost."""
    try:
        whole = split([data])
    except FormatError as error:
        with contextlib.suppress(FormatError):
            split(cut(data, sizes))
            raise AssertionError(f"refused whole ({error}), taken in pieces") from None
        return

    assert whole[0] == data
    assert split(cut(data, sizes)) == whole
    assert all(len(content) == entry.size > 64 for entry, content in whole[1].values())


@given(archives(), st.integers(0, 5000), st.binary(min_size=1, max_size=8))
def test_tar_damage(data, offset, junk):
    """A damaged archive is taken whole or refused; nothing else happens."""
    damaged = data[:offset] + junk + data[offset + len(junk) :]

    with contextlib.suppress(FormatError):
        assert split([damaged])[0] == damaged


@given(st.binary(max_size=3000))
def test_tar_any(data):
    """So are bytes that never were an archive."""
    with contextlib.suppress(FormatError):
        assert split([data])[0] == data


OBJECTS = {bytes([number]) * 32: bytes([number]) * (number + 1) for number in range(5)}
CHUNKS = st.lists(st.one_of(st.binary(max_size=300), st.sampled_from(sorted(OBJECTS)).map(lambda key: (key,))))


@given(CHUNKS, st.dictionaries(st.text(max_size=8).filter(lambda t: "\0" not in t), st.sampled_from(sorted(OBJECTS))))
def test_splitstream(chunks, names):
    """What is written is read: content, references, names."""
    writer = SplitstreamWriter(Algorithm.SHA256, b"12345678", io.BytesIO)
    merged = b""
    try:
        list(map(str.encode, names))
    except UnicodeEncodeError:
        return
    for chunk in chunks:
        if isinstance(chunk, tuple):
            writer.external(chunk[0], len(OBJECTS[chunk[0]]))
            merged += OBJECTS[chunk[0]]
        else:
            writer.inline(chunk)
            merged += chunk
    for name, digest in names.items():
        writer.name(name, digest)

    reader = SplitstreamReader(io.BytesIO(b"".join(writer.finish())), Algorithm.SHA256, "x", b"12345678")

    assert b"".join(map(bytes, reader.merged(lambda digest: io.BytesIO(OBJECTS[digest.raw])))) == merged
    assert reader.size == len(merged)
    assert {name: digest.raw for name, digest in reader.named_refs.items()} == names
    assert {chunk.digest.raw for chunk in reader.chunks() if isinstance(chunk, External)} == {
        digest.raw for digest in reader.object_refs
    }


@given(st.lists(st.binary(max_size=200)), st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_splitstream_cut(parts, sizes):
    """However inline data are cut, the file is the same."""
    files = []
    for pieces in (parts, cut(b"".join(parts), sizes)):
        writer = SplitstreamWriter(Algorithm.SHA512, bytes(8), io.BytesIO)
        for piece in pieces:
            writer.inline(piece)
        files.append(b"".join(writer.finish()))

    assert files[0] == files[1]


def sample():
    writer = SplitstreamWriter(Algorithm.SHA256, bytes(8), io.BytesIO)
    writer.inline(b"inline " * 30)
    writer.external(b"x" * 32, 100)
    writer.name("name", b"y" * 32)
    return b"".join(writer.finish())


SAMPLE = sample()


@given(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(SAMPLE)))
def test_splitstream_damage(offset, junk, size):
    """A damaged stream is read or refused; nothing else happens."""
    damaged = (SAMPLE[:offset] + junk + SAMPLE[offset + len(junk) :])[:size]

    with contextlib.suppress(FormatError):
        for _ in SplitstreamReader(io.BytesIO(damaged), Algorithm.SHA256, "x").chunks():
            pass


@given(st.binary(max_size=400))
def test_zstd_any(data):
    """Bytes that are no frames are refused, behind a good frame too."""
    compressor = zstd.compressor()
    good = compressor.compress(b"good") + compressor.flush()

    for start in (b"", good):
        with contextlib.suppress(FormatError):
            assert b"".join(map(bytes, zstd.decompress(io.BytesIO(start + data), "x"))).startswith(
                b"good"[: len(start)]
            )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.integers(-1, 3) | JSON,
            "algorithm": st.sampled_from([algorithm.value for algorithm in Algorithm]) | JSON,
            "features": st.fixed_dictionaries({}, optional={"incompatible": st.lists(st.text(max_size=3)) | JSON})
            | JSON,
            "erofs_formats": st.fixed_dictionaries({"default": st.integers(-1, 3)}, optional={"extra": JSON}) | JSON,
        },
    )
)
def test_meta(value):
    """Any JSON is metadata or refused, and metadata are written as they were read."""
    with contextlib.suppress(FormatError):
        found = Meta.parse(json.dumps(value).encode())
        assert Meta.parse(found.pack()) == found
