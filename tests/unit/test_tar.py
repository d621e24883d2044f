"""The tar splitter: what it makes of each kind of header, and how it names what it refuses."""

import io
import subprocess
import tarfile

import pytest

from composefs.errors import FormatError
from composefs.tar import Content, Inline, TarSplitter
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.tools import require_tool

from generator.tar import GNU, USTAR, V7, Archive, base256, header  # isort: skip


def split(data, cut=None):
    """Return the events of an archive, pieces of one file joined: entry and content, or inline bytes."""
    splitter = TarSplitter("layer x")
    found = []
    step = cut or len(data) or 1
    for start in range(0, len(data), step):
        for event in splitter.feed(data[start : start + step]):
            if isinstance(event, Content) and event.position:
                assert found[-1][0] == event.entry
                found[-1][1].extend(event.data)
            elif isinstance(event, Content):
                found.append((event.entry, bytearray(event.data)))
            elif found and found[-1][0] is None:
                found[-1][1].extend(event.data)
            else:
                assert isinstance(event, Inline)
                found.append((None, bytearray(event.data)))
    splitter.close()
    return found


def entries(data):
    return [entry for entry, _ in split(data) if entry is not None]


@pytest.mark.parametrize("cut", [1, 7, 511, 512, 513, 5000])
def test_threshold(cut):
    """Contents above 64 bytes become objects, others stay inline, with headers and padding around them."""
    data = Archive().file("small", b"s" * 64).file("large", b"l" * 65).end()

    events = split(data, cut)

    assert [(entry and entry.name, len(content)) for entry, content in events] == [
        (None, 512 + 512 + 512),
        ("large", 65),
        (None, 512 - 65 + 1024),
    ]
    assert b"".join(content for _, content in events) == data


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_regular_kinds(kind):
    """Three type flags mean a regular file."""
    assert len(entries(Archive().entry("a", kind, b"x" * 100).end())) == 1


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"Z"])
def test_other_kinds(kind):
    """Contents of anything else stay inline, whatever its size."""
    assert entries(Archive().entry("a", kind, b"x" * 1000, link="b").end()) == []


@pytest.mark.parametrize("cut", [1, 7, 511, 512, 513, 5000])
def test_every_entry(cut):
    """Entries whose contents stay inline are told of, with what files hold, in order with those that come out."""
    archive = Archive().directory("d").file("empty").file("small", b"s" * 64).file("large", b"l" * 65)
    archive.extended({"path": "x" * 200}).symlink("short", "to").entry("odd", b"Z", b"o" * 100).file("last", b"l")
    data = archive.end()
    found = []

    def tell(entry, content):
        found.append((entry.path, content))

    splitter = TarSplitter("layer x", tell)
    for start in range(0, len(data), cut):
        for event in splitter.feed(data[start : start + cut]):
            if isinstance(event, Content) and event.position == 0:
                tell(event.entry, None)
    splitter.close()

    assert found == [
        (b"d", b""), (b"empty", b""), (b"small", b"s" * 64), (b"large", None), (b"x" * 200, b""), (b"odd", b""),
        (b"last", b"l"),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [1, 511, 512, 5000])
def test_without_contents(cut):
    """Contents that come out can be skipped, if all the rest is fed: that is how a stream keeps an archive."""
    data = Archive().file("a", b"a" * 600).file("b", b"b").file("c", b"c" * 65).end()
    whole, found = split(data), []
    splitter = TarSplitter("layer x", lambda entry, _: found.append(entry.name))

    for entry, content in whole:
        if entry is not None:
            assert splitter.skip_contents() == entry
            found.append(entry.name)
        else:
            for start in range(0, len(content), cut):
                splitter.feed_inline(content[start : start + cut])
    splitter.close()

    assert found == ["a", "b", "c"]


def test_contents_where_none_are_due():
    """What does not follow the headers is refused, with offset."""
    data = Archive().file("a", b"a" * 600).file("b", b"b").end()
    splitter = TarSplitter("layer x")
    with pytest.raises(FormatError, match="^layer x, offset 0: an object, where no contents are due$"):
        splitter.skip_contents()
    splitter.feed_inline(data[:512])
    splitter.skip_contents()
    with pytest.raises(FormatError, match="^layer x, offset 1112: an object, where no contents are due$"):
        splitter.skip_contents()

    splitter = TarSplitter("layer x")
    with pytest.raises(
        FormatError, match="^layer x, entry a, offset 0: 600 bytes of contents, where an object is due$"
    ):
        splitter.feed_inline(data)
    splitter = TarSplitter("layer x")
    assert [type(event) for event in splitter.feed(data[:700])] == [Inline, Content]
    with pytest.raises(FormatError, match="^layer x, offset 700: an object, where no contents are due$"):
        splitter.skip_contents()


def test_fields():
    """Numbers and names are those of the header."""
    data = Archive().file("a", b"x" * 100, mode=0o4755, uid=7, gid=base256(1 << 40, 8), mtime=base256(-1, 12)).end()

    (entry,) = entries(data)

    assert (entry.path, entry.size, entry.mode, entry.uid, entry.gid) == (b"a", 100, 0o4755, 7, 1 << 40)
    assert entry.mtime == (1 << 64) - 1
    assert entry.offset == 0
    assert entry.device == (0, 0)


def test_pax():
    """An extended header goes over the header, and over GNU's long name."""
    records = {
        "path": "p" * 300,
        "uid": "+12",
        "size": "100",
        "mtime": "5.25",
        "SCHILY.xattr.user.a": "v",
        "LIBARCHIVE.xattr.user.b": "w",
    }
    data = Archive().gnu_long_name("n" * 200).extended(records).file("short", b"x" * 100, size=0).end()

    (entry,) = entries(data)

    assert entry.path == b"p" * 300
    assert (entry.uid, entry.mtime, entry.nanoseconds) == (12, 5, 250_000_000)
    assert entry.xattrs == {b"user.a": b"v"}


def test_global_header_drops_what_waits():
    """A global header between an extended header and its entry loses the former, as in the reference."""
    data = Archive().extended({"path": "lost"}).extended({"path": "never"}, b"g").file("kept", b"x" * 100).end()

    assert [entry.name for entry in entries(data)] == ["kept"]


def test_prefix():
    """ustar's prefix goes before the name, a GNU header has none."""
    data = Archive().file("name", b"x" * 100, prefix="some/where").file("n", b"x" * 100, magic=GNU, prefix="p").end()

    assert [entry.name for entry in entries(data)] == ["some/where/name", "n"]


def test_v7():
    """A header without a magic knows no extensions and no devices."""
    data = Archive().entry("x-like", b"x", b"data", magic=V7).file("a", b"x" * 100, magic=V7).end()

    (entry,) = entries(data)

    assert (entry.name, entry.device) == ("a", None)


def test_end():
    """Nothing behind the end marker is looked at; one zero block between entries is passed over."""
    data = Archive().raw(bytes(512)).file("a", b"x" * 100).end() + b"junk" * 1000

    assert [entry and entry.name for entry, _ in split(data)] == [None, "a", None]


@pytest.mark.parametrize("kind", ["x", "x pax", "L", "global"])
def test_not_text(kind):
    """A name that is no UTF-8 is kept as bytes, and shown with escapes."""
    data = Archive().file(b"\xff\xfe", b"x" * 100).end()

    (entry,) = entries(data)

    assert entry.path == b"\xff\xfe"
    assert entry.name == "\\xff\\xfe"


HEADER = Archive().file("first", b"x" * 100)


@pytest.mark.parametrize(
    ("archive", "entry", "offset", "what"),
    [
        (Archive().file("first").file("bad", checksum=1), "bad", 512, "header checksum: wanted 1, got "),
        (Archive().file("bad", mode=b"0000888"), "bad", 0, "is not octal"),
        (Archive().file("bad", mode=b"0_0644"), "bad", 0, "is not octal"),
        (Archive().file("bad", major=b"zz"), "bad", 0, "is not octal"),
        (Archive().file("", b"x"), "", 0, "empty name"),
        (Archive().file("bad", size=base256(-1, 12)), "bad", 0, "size of 18446744073709551615 bytes"),
        (Archive().entry("bad", b"S"), "bad", 0, "sparse"),
        (Archive().extended({"GNU.sparse.map": ""}).file("bad"), "bad", 1024, "sparse"),
        (Archive().extended({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}).file("bad"), "bad", 1024, "sparse"),
        (Archive().extended({"uid": "-1"}).file("bad"), "bad", 1024, "pax uid of b'-1'"),
        (Archive().extended({"mtime": ".5"}).file("bad"), "bad", 1024, "pax mtime of b''"),
        (Archive().entry("p", b"x", b"99 a=b\n").file("bad"), "bad", 1024, "malformed pax record"),
        (Archive().entry("p", b"x", b"7 \xff\xfe=v\n").file("bad"), "bad", 1024, "is not UTF-8"),
        (Archive().extended({"a": "b"}).extended({"a": "b"}), "PaxHeaders/entry", 1024, "second extended header"),
        (Archive().gnu_long_name("a").gnu_long_name("b"), "././@LongLink", 1024, "second long name"),
        (
            Archive().entry("p", b"x", size=(1 << 20) + 1),
            "p",
            0,
            "1048577 bytes of extension headers, more than 1048576",
        ),
        (Archive().entry("p", b"g", size=(1 << 20) + 1), "p", 0, "1048577 bytes of extension headers"),
        (Archive().extended({"a": "b"}), None, 1536, "between an extension header and its entry"),
    ],
)
def test_refused(archive, entry, offset, what):
    """What is refused is named: entry, offset in the archive, and what is wrong."""
    with pytest.raises(FormatError) as caught:
        split(archive.end())

    assert caught.value.entry == entry
    assert caught.value.offset == offset
    assert what in caught.value.what
    assert str(caught.value).startswith("layer x, ")


WHOLE = Archive().extended({"a": "b"}).file("large", b"x" * 700).directory("dir").end()


@pytest.mark.parametrize(
    ("size", "what"),
    [
        (100, "100 bytes into a header block"),
        (514, "inside extended header data"),
        (1024, "between an extension header and its entry"),
        (1600, "636 bytes before the contents do"),
        (2236, "324 bytes before the contents and their padding do"),
        (2600, "40 bytes into a header block"),
        (3072 + 512, "after a single zero block"),
    ],
)
def test_cut(size, what):
    """An archive that ends where it must not is refused, with the offset of its end."""
    with pytest.raises(FormatError) as caught:
        split(WHOLE[:size])

    assert caught.value.offset == size
    assert what in caught.value.what


@pytest.mark.parametrize("size", [0, 2560, 3072, len(WHOLE)])
def test_not_cut(size):
    """It may end between entries, with or without an end marker."""
    assert b"".join(content for _, content in split(WHOLE[:size])) == WHOLE[:size]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_python(form):
    """Python's tarfile reads the same from what it wrote itself."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for number, name in enumerate(["a", "d/" * 60 + "name", "e/" * 40 + "n" * 90]):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = 100 + number, 0o640 + number, number, 99, 10**9
            archive.addfile(info, io.BytesIO(bytes(info.size)))

    found = entries(out.getvalue())

    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert [(e.name, e.size, e.mode, e.uid, e.gid, e.mtime) for e in found] == [
            (m.name, m.size, m.mode, m.uid, m.gid, m.mtime) for m in archive
        ]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_agrees_with_gnu_tar(form, tmp_path):
    """GNU tar's archives, of every form, come apart as Python's tarfile reads them, and lose nothing."""
    for number in range(20):
        file = tmp_path / "tree" / f"d{number % 3}" / ("n" * 40) / f"file{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * (number * 37))
    data = subprocess.run(
        [require_tool("tar"), "-C", tmp_path, f"--format={form}", "-cf", "-", "tree"], check=True, capture_output=True
    ).stdout

    found = split(data, 1000)

    assert b"".join(content for _, content in found) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = {m.name: (m.size, archive.extractfile(m).read()) for m in archive if m.isfile() and m.size > 64}
    assert {e.name: (e.size, bytes(content)) for e, content in found if e is not None} == wanted


def test_builder_is_right():
    """The archives of these tests are what Python's tarfile takes for archives."""
    assert header("a", magic=USTAR)[257:265] == USTAR
    with tarfile.open(fileobj=io.BytesIO(HEADER.end())) as archive:
        assert archive.getnames() == ["first"]
