"""Tables of contents of layers: those that others made are understood, and no wrong one is believed or costs much."""

import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError
from composefs.oci.blobs import decompress
from composefs.oci.manifest import Compression
from composefs.oci.toc import TocEntry, read_toc
from tests import chunked
from tests.layouts import sha256

GOLDEN = Path(__file__).parents[1] / "golden/chunked"
LAYERS = json.loads((GOLDEN / "layers.json").read_text())
TYPES = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}
TYPES |= {tarfile.REGTYPE: "reg", tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char"}
FILE = {"type": "reg", "name": "f", "size": 5, "digest": sha256(b"hello"), "offset": 0, "endOffset": 9}
KINDS = pytest.mark.parametrize("kind", ["zstd:chunked", "estargz"])
MEBI = 1 << 20


class Blob:
    """Bytes that are read where somebody asks for them."""

    source = "layer"

    def __init__(self, data):
        self.data, self.requests, self.offset = data, [], 0

    def read_at(self, offset, size):
        self.requests.append((offset, size))
        return self.data[offset : offset + size]

    def read(self, size):
        piece = self.data[self.offset : self.offset + size]
        self.offset += len(piece)
        return piece


def layer(entries, kind):
    """Return a layer of nothing but a table: its blob and annotations."""
    if kind == "estargz":
        return chunked.toc_of_estargz(entries, 0)[:2]
    return chunked.toc_of_zstd(entries, 0)


def read(blob, annotations):
    return read_toc(annotations, len(blob), Blob(blob).read_at)


def table(entries, kind="zstd:chunked"):
    return list(read(*layer(entries, kind)).entries())


@pytest.mark.parametrize("name", LAYERS)
def test_what_others_made(name):
    """The table of a layer says of each entry what the archive says."""
    blob, compression = Blob((GOLDEN / name).read_bytes()), Compression.ZSTD if "zstd" in name else Compression.GZIP
    toc = read(blob.data, LAYERS[name]["annotations"])
    archive = b"".join(decompress(blob, compression))
    assert sha256(archive) == LAYERS[name]["diff_id"]

    entries = list(toc.entries())

    wanted = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            size = info.size if info.isreg() else 0
            has_digest = size or (info.isreg() and name.startswith("estargz"))  # zstd:chunked has none of empty files
            digest = sha256(tar.extractfile(info).read()) if has_digest else None
            path = info.name + "/" * info.isdir()
            if path != "stargz.index.json":
                wanted.append((path, TYPES[info.type], size, digest))
    assert [(entry.name, entry.type, entry.size, entry.digest) for entry in entries if entry.type != "chunk"] == wanted
    assert list(toc.files()) == [entry for entry in entries if entry.type == "reg"]
    assert len([entry for entry in entries if entry.type == "chunk"]) >= ("zstd" in name)
    for entry in toc.files():
        assert (entry.offset is not None) == (entry.size > 0)


@pytest.mark.parametrize("name", LAYERS)
def test_offsets_of_what_others_made(name):
    """Where the table says that contents are, a decoder finds them."""
    data = (GOLDEN / name).read_bytes()
    toc = read(data, LAYERS[name]["annotations"])
    found = 0
    for file in toc.files():
        if file.digest is not None and file.end_offset is not None:
            inflated = b"".join(decompress(Blob(data[file.offset : file.end_offset]), Compression.ZSTD))
            found += sha256(inflated) == file.digest
        elif file.digest is not None:
            first = next(decompress(Blob(data[file.offset :]), Compression.GZIP))
            found += sha256(first[: file.size]) == file.digest
    assert found >= 5


@pytest.mark.parametrize("annotations", [{}, {"org.example": "x"}, {chunked.ZSTD_CHUNKED + "manifest-checksum": "x"}])
def test_no_table(annotations):
    """A layer that says nothing of a table is not looked into."""
    assert read_toc(annotations, 10**9, None) is None


def test_entries():
    """Numbers and digests are those that are there."""
    link = {"type": "symlink", "name": "l", "linkName": "f", "xattrs": {"user.a": '{[\\"', "user.b": "]}"}}
    empty = {"type": "reg", "name": "e", "digest": ""}
    for kind in ("zstd:chunked", "estargz"):
        assert table([FILE, link, empty], kind) == [
            TocEntry("f", "reg", 5, 0, 9, FILE["digest"]),
            TocEntry("l", "symlink", 0, None, None, None),
            TocEntry("e", "reg", 0, None, None, None),
        ]


def test_requests():
    """A table is read by one request; one of eStargz that is large by two, for bytes that are not asked for twice."""
    files = {f"f{number}": b"%d" % number * 50 for number in range(40)}
    chunky, starry = chunked.zstd_chunked(files), chunked.estargz(files)
    entries = [FILE | {"name": f"f{number}", "digest": sha256(b"%d" % number)} for number in range(20_000)]
    blob, annotations, _ = chunked.toc_of_estargz(entries, 1000)
    for data, notes, count in (
        (chunky.blob, chunky.annotations, 1),
        (starry.blob, starry.annotations, 1),
        (bytes(1000) + blob, annotations, 2),
    ):
        source = Blob(data)
        toc = read_toc(notes, len(data), source.read_at)
        assert len(list(toc.files())) >= 40
        assert len(source.requests) == count
        assert sum(size for _, size in source.requests) <= len(data)


@KINDS
def test_many_entries(kind):
    """The table of a large layer takes little more memory than its text."""
    entries = [FILE | {"name": f"usr/lib/{number}"} for number in range(50_000)]
    blob, annotations = layer(entries, kind)
    tracemalloc.start()
    try:
        toc = read(blob, annotations)
        count = sum(1 for _ in toc.entries())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == 50_000
    assert peak < 5 * len(toc.data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"version":2,"entries":[]}',
        b'{"version":1,"entries":{}}',
        b'{"version":1,"entries":null}',
        b'{"version":1,"entries":[]}',
        b'{"version":1,"entries":[1]}',
        b'{"version":1,"entries":[[]]}',
        b'{"version":1,"entries":[{}]}',
        b'{"version":1,"entries":[{"name":"a"}]}',
        b'{"version":1,"entries":[{"name":1,"type":"reg"}]}',
        b'{"version":1,"entries":[{"name":"","type":"reg"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"other"}]}',
        b'{"version":1,"entries":[{"name":"a","type":["reg"]}]}',
        b'{"version":1,"entries":[{"name":"a","type":{"reg":1}}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","size":-1}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","size":1.5}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","size":true}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","size":null}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","size":9223372036854775808}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","offset":"1"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","endOffset":{}}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","digest":"sha256:12"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","digest":5}]}',
        b'{"version":1,"entries":[{"name":"a","type":"reg","xattrs":{"a":{}}}]}',
        b'{"version":1,"entries":[{"name":"a","name":"b","type":"reg"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"},]}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}{"name":"a","type":"dir"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}]',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}]}}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}],"version":1}',
        b'{"version":1,"entries":[{"name":"\xff","type":"dir"}]}',
        b'{"version":1,"entries":[{"name":"\\ud800","type":"dir"}]}',
        b'{"version":1,"entries":[{"name":"a","type":"dir",]}',
    ],
)
def test_broken_tables(text):
    """Text that is no table is refused, however far it was one."""
    with pytest.raises(FormatError, match="^layer, table of contents"):
        table(text)


@KINDS
def test_absurd_entries(kind):
    """Entries that would take much memory are refused before they do."""
    many = b",".join(b'"%d":1' % number for number in range(3_000_000))
    for text in (
        b'{"version":1,"entries":[{%b}]}' % many,
        b'{"version":1,"entries":[{"name":"a","type":"dir"}],%b}' % many,
    ):
        blob, annotations = layer(text, kind)
        toc = read(blob, annotations)
        tracemalloc.start()
        try:
            with pytest.raises(LimitError):
                list(toc.entries())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(text)


def test_quotes_that_do_not_end():
    """Text that is hard to match is refused in no time."""
    for text in (
        b'"' * 200_000,
        b'{"a":"' * 50_000,
        b"\\" * 200_000,
        b'"\\' * 100_000,
        b"{" * 200_000,
        b" ," * 100_000,
    ):
        with pytest.raises(FormatError):
            table(b'{"version":1,"entries":[' + text)


@KINDS
def test_another_table(kind):
    """A table that is not the one of the annotations is refused."""
    blob, annotations = layer([FILE], kind)
    other, _ = layer([FILE | {"size": 6}], kind)
    wrong = {key: sha256(b"") if value.startswith("sha256:") else value for key, value in annotations.items()}

    with pytest.raises(IntegrityError, match="^layer, table of contents: wanted sha256:"):
        read(blob, wrong)
    if len(other) == len(blob):
        with pytest.raises(IntegrityError):
            read(other, annotations)


@pytest.mark.parametrize("kind", ["zstd:chunked", "estargz"])
def test_damage_everywhere(kind):
    """No byte of the table can be changed unnoticed."""
    blob, annotations = layer([FILE], kind)
    wanted = list(read(blob, annotations).entries())
    for offset in range(len(blob)):
        damaged = bytearray(blob)
        damaged[offset] ^= 0x15
        try:
            assert list(read(bytes(damaged), annotations).entries()) == wanted  # what nobody reads
        except (FormatError, IntegrityError) as error:
            assert str(error).startswith("layer, table of contents")  # noqa: PT017  # either way is right


@pytest.mark.parametrize(
    "position",
    ["", "1:2:3", "1:2:3:2", "-1:2:3:1", "1:2:3:1:1", "a:b:c:1", "1:2:3:1 ", "9" * 30 + ":1:1:1", "²:1:1:1"],
)
def test_wrong_positions(position):
    """A position that is none is refused."""
    annotations = {
        chunked.ZSTD_CHUNKED + "manifest-checksum": sha256(b""),
        chunked.ZSTD_CHUNKED + "manifest-position": position,
    }

    with pytest.raises(FormatError, match="is not OFFSET:SIZE:SIZE INFLATED:1"):
        read(bytes(100), annotations)


def test_places_beyond_the_end():
    """Nothing is asked for that is not in the blob, or that is too much."""
    prefix, blob = chunked.ZSTD_CHUNKED, Blob(bytes(100))
    for position, error in (
        ("90:11:5:1", FormatError),
        ("101:0:5:1", FormatError),
        (f"{10**18}:1:1:1", FormatError),
        (f"0:{limits.TOC_SIZE + 1}:5:1", LimitError),
        (f"0:5:{limits.TOC_SIZE + 1}:1", LimitError),
    ):
        with pytest.raises(error):
            read_toc({prefix + "manifest-checksum": "x", prefix + "manifest-position": position}, 100, blob.read_at)
    assert not blob.requests


def test_sizes_that_are_others():
    """What is read or inflated has the size that was promised."""
    blob, annotations = chunked.toc_of_zstd([FILE], 0)
    key = chunked.ZSTD_CHUNKED + "manifest-position"
    offset, size, inflated, _ = annotations[key].split(":")
    for wrong, error in ((int(inflated) + 1, IntegrityError), (int(inflated) - 1, LimitError)):
        with pytest.raises(error):
            read(blob, annotations | {key: f"{offset}:{size}:{wrong}:1"})
    with pytest.raises(IntegrityError, match="bytes at 8, got 5 bytes"):
        read_toc(annotations, len(blob), lambda *_: b"short")


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        bytes(51),
        b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0" + b"x" * 16 + b"STARGZ\x01\0\0\xff\xff" + bytes(8),
        b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0" + b"f" * 16 + b"STARGZ\x01\0\0\xff\xff" + bytes(8),
        b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0" + b"%016x" % 300 + b"STARGZ\x01\0\0\xff\xff" + bytes(8),
    ],
)
def test_wrong_footers(footer):
    """The footer of eStargz leads to a table, or is refused."""
    with pytest.raises(FormatError):
        read(bytes(500) + footer, {chunked.STARGZ_DIGEST: sha256(b"")})


def test_other_archive_of_estargz():
    """Where another archive is in the place of the table, that is no table."""
    blob = chunked.member(bytes(2048))
    _, annotations, _ = chunked.toc_of_estargz([FILE], 0)
    tail, _, _ = chunked.toc_of_estargz(b"x" * 100, 0)
    footer = tail[-51:]

    with pytest.raises(IntegrityError):
        read(blob + footer, annotations)


@KINDS
def test_bombs(monkeypatch, kind):
    """A table that inflates to too much is given up early."""
    monkeypatch.setattr(limits, "TOC_SIZE", MEBI)
    text = b'{"version":1,"entries":[' + bytes(100 * MEBI)
    blob, annotations = layer(text, kind)
    annotations = {key: value.replace(f":{len(text)}:", ":1000:") for key, value in annotations.items()}
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            read(blob, annotations)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 6 * MEBI


def test_errors_of_the_source():
    """What reading raises comes through."""

    def read_at(offset, size):
        raise OSError("no connection")

    _, annotations = chunked.toc_of_zstd([FILE], 0)
    with pytest.raises(OSError, match="no connection"):
        read_toc(annotations, 10**6, read_at)


def test_text_is_not_shown():
    """The text of a table, which may be large, is not part of what is shown of it."""
    blob, annotations = chunked.toc_of_zstd([FILE], 0)

    assert len(repr(read(blob, annotations))) < 200
    assert hashlib.sha256(read(blob, annotations).data).hexdigest()
