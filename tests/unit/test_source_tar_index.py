"""The index of a tar archive: what it finds, as tarfile would unpack it, and what it refuses, with its place."""

import contextlib
import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composefs import limits
from composefs.errors import ComposefsError, FormatError, LimitError, NotFoundError
from composefs.oci.sources.tar_index import TarIndex
from tests.archives import pack

HARD, SOFT, FIFO = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE
LONG = "d/" * 100 + "name" * 50


class Indexed:
    """An archive in a file, and its index."""

    def __init__(self, directory, data):
        self.path = directory / "archive.tar"
        self.path.write_bytes(data)
        self.data = data
        fd = os.open(self.path, os.O_RDONLY)
        try:
            self.index = TarIndex(fd, "archive.tar")
        finally:
            os.close(fd)

    def __getitem__(self, name):
        offset, size = self.index.find(name)
        return self.data[offset : offset + size]


@pytest.fixture
def indexed(tmp_path):
    return lambda *members, **options: Indexed(tmp_path, pack(members, **options))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [0, 1, 64, 65, 511, 512, 513, 5000])
def test_contents(indexed, form, size):
    """Every file is found where its contents are."""
    files = {f"dir/file{number}": bytes([number]) * (size + number) for number in range(3)}

    archive = indexed(("dir/", b""), *files.items(), form=form)

    assert {name: archive[name] for name in files} == files


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(indexed, form):
    """Names and targets that take extension headers are read from them."""
    archive = indexed((LONG, b"contents"), ("link", (HARD, LONG)), ("b", b"B"), form=form)

    assert archive[LONG] == archive["link"] == b"contents"
    assert archive["b"] == b"B"


@pytest.mark.parametrize("name", ["a/b", "./a/b", "/a/b", "a//b", "a/./b", "./a/b/"])
@pytest.mark.parametrize("wanted", ["a/b", "./a/b", "a//./b"])
def test_clean_names(indexed, name, wanted):
    """What says nothing in a name is passed over, in the archive and by who asks."""
    archive = indexed((name.rstrip("/"), b"contents"))

    assert archive[wanted] == b"contents"
    assert wanted in archive.index


def test_later_replaces(indexed):
    """The last entry of a name counts, whatever the ones before were."""
    assert indexed(("a", b"1"), ("./a", b"2"))["a"] == b"2"
    assert indexed(("b", b"0"), ("a", (SOFT, "b")), ("a", b"3"))["a"] == b"3"
    assert indexed(("b", b"4"), ("a", b"1"), ("a", (SOFT, "b")))["a"] == b"4"
    with pytest.raises(FormatError, match="entry a, offset 1024: no regular file"):
        indexed(("a", b"1"), ("a/", b""))["a"]


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("c", (HARD, "a/b")),
        ("c", (HARD, "./a/b")),
        ("c", (SOFT, "a/b")),
        ("x/y/c", (SOFT, "../../a/b")),
        ("a/c", (SOFT, "b")),
        ("a/c", (SOFT, ".//b")),
        ("x/c", (SOFT, "y/../../a/b")),
    ],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_links(indexed, name, link, is_before):
    """Links are followed inside the archive, also forward: hard ones from its root, soft ones from where they are."""
    members = [("a/b", b"contents"), (name, link)]

    assert indexed(*(reversed(members) if is_before else members))[name] == b"contents"


@pytest.mark.parametrize("link", [(SOFT, "../a"), (SOFT, "/a"), (SOFT, "b"), (HARD, "../a"), (SOFT, "."), (HARD, "")])
def test_links_that_lead_nowhere(indexed, link):
    """What leads out of the archive is not there, whatever lies outside."""
    with pytest.raises(NotFoundError, match="archive.tar has link as a link only, whose target is not there"):
        indexed(("a", b"contents"), ("link", link))["link"]


def test_linked_directory(indexed):
    """Nothing is found through a directory that is a link."""
    with pytest.raises(NotFoundError, match="archive.tar has no blobs/a"):
        indexed(("real/a", b"contents"), ("blobs", (SOFT, "real")))["blobs/a"]


def test_chains(indexed):
    """A chain of links is followed to a limit, which one that has no end exceeds."""
    chain = [(f"link{number}", (SOFT, f"link{number + 1}")) for number in range(8)]
    archive = indexed(*chain, ("link8", b"contents"), ("x", (SOFT, "y")), ("y", (HARD, "x")))

    assert archive["link0"] == b"contents"
    for name in ("x", "y"):
        with pytest.raises(FormatError, match="more than 8 links, one after the other"):
            archive[name]


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "", ".", "/", "nothing"])
def test_names_that_lead_out(indexed, name):
    """A name with `..` means nothing, in the archive or to who asks."""
    archive = indexed(("../a", b"1"), ("a/../b", b"2"))

    with pytest.raises(NotFoundError, match="archive.tar has no"):
        archive[name]
    assert name not in archive.index
    assert "a" not in archive.index
    assert "b" not in archive.index


def test_other_kinds(indexed):
    """What is neither file nor link is refused where a file is asked for."""
    archive = indexed(("dir/", b""), ("fifo", (FIFO, "")), ("link", (SOFT, "fifo")))

    for name in ("dir", "fifo", "link"):
        with pytest.raises(FormatError, match="no regular file"):
            archive[name]


def test_no_contents_are_read(tmp_path):
    """Headers are read, and nothing else: an archive that seems to hold a terabyte takes no time."""
    path = tmp_path / "archive.tar"
    info = tarfile.TarInfo("large")
    info.size = 1 << 40
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(info.size, io.SEEK_CUR)
        file.write(pack([("small", b"contents")]))
    fd = os.open(path, os.O_RDONLY)
    try:
        index = TarIndex(fd, "archive.tar")
    finally:
        os.close(fd)

    assert index.find("large") == (512, 1 << 40)
    assert index.find("small") == ((1 << 40) + 1024, 8)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_cuts(tmp_path, form):
    """An archive that is cut is refused with the offset where it ends, or has all of what it still has."""
    files = {"a": b"A" * 700, LONG: b"B" * 10, "c": b"C" * 512}
    data = pack(files.items(), form=form)
    whole = Indexed(tmp_path, data)
    last = data.rstrip(b"\0").rfind(b"C") + 1
    refused = {}
    for end in range(0, len(data), 64):
        try:
            cut = Indexed(tmp_path, data[:end])
        except FormatError as error:
            refused[end] = error
            continue
        found = {name for name in files if name in cut.index}
        assert {name: cut[name] for name in found} == {name: whole[name] for name in found}
        assert end % 512 == 0 or end > last + 1024  # between two entries, or behind the end marker
    assert len(refused) > last // 64 - 10
    assert all(error.offset <= end and "archive" in error.what for end, error in refused.items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: archive is empty"),
        (b"x", "offset 0: archive ends 1 bytes into a header block"),
        (b"x" * 512, "offset 0: no tar archive: numeric field"),
        (bytes(512), "offset 512: archive ends after a single zero block"),
        (pack([("a", b"b" * 600)])[:1536], "offset 1536: archive ends 0 bytes before|"),
        (pack([("a", b"b" * 600)])[:1000], "entry a, offset 1000: archive ends 112 bytes before the contents do"),
        (pack([("a", b"b" * 600)])[:1200], "offset 1200: archive ends 336 bytes before the padding does"),
        (pack([(LONG, b"")])[:512], "offset 512: archive ends inside long name data"),
        (pack([(LONG, b"")])[:1024], "offset 1024: archive ends between an extension header and its entry"),
    ],
)
def test_broken(tmp_path, data, message):
    """What is no archive, or a part of one, is refused with its place."""
    if message.endswith("|"):  # cut between two entries: what is there is there
        assert Indexed(tmp_path, data)["a"] == b"b" * 600
        return
    with pytest.raises(FormatError, match=f"^archive.tar.*{message}"):
        Indexed(tmp_path, data)


def test_extension_twice(tmp_path):
    """Two long names for one entry are refused, as in a layer."""
    header = pack([(LONG, b"")])[:1024]

    with pytest.raises(FormatError, match="offset 1024: second long name for one entry"):
        Indexed(tmp_path, header + pack([(LONG, b"")]))


def test_limits(indexed, monkeypatch):
    """Headers, also of one name, and the extensions of one, are taken up to a limit."""
    monkeypatch.setattr(limits, "ARCHIVE_HEADERS", 3)
    indexed(*[("name", b"")] * 3)
    for members, offset in [([("name", b"")] * 4, 1536), ([(LONG, b"")] * 2, 2560)]:
        with pytest.raises(LimitError, match=f"offset {offset}: more than 3 headers in an archive of images"):
            indexed(*members)
    monkeypatch.setattr(limits, "TAR_METADATA_SIZE", 100)
    with pytest.raises(LimitError, match="offset 0: .* bytes of extension headers, more than 100"):
        indexed((LONG, b""))


def test_global_header(tmp_path):
    """A global header, as `git archive` writes, changes nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        info = tarfile.TarInfo("a")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"A"))

    assert Indexed(tmp_path, buffer.getvalue())["a"] == b"A"


NAMES = st.sampled_from(["a", "b", "./a", "d/a", "d/../a", "../b", "d", "e/f/g"])
TARGETS = st.tuples(
    st.sampled_from([HARD, SOFT, FIFO]), st.sampled_from(["a", "b", "../a", "d/a", "..", "/a", "d/../b"])
)


@settings(max_examples=300)
@given(members=st.lists(st.tuples(NAMES, st.binary(max_size=600) | TARGETS), max_size=8), name=NAMES)
def test_like_tarfile(tmp_path_factory, members, name):
    """What is found is what the standard library finds, as far as that goes: the last regular file of that name."""
    archive = Indexed(tmp_path_factory.mktemp("archive"), pack(members))
    clean = "/".join(part for part in name.split("/") if part != ".")
    same = [contents for other, contents in members if other in (clean, f"./{clean}")]
    try:
        found = archive[name]
    except ComposefsError:
        found = None

    if ".." in name or not same:
        assert found is None
    elif isinstance(same[-1], bytes):
        assert found == same[-1]
    elif found is not None:
        assert found in [contents for _, contents in members if isinstance(contents, bytes)]


@settings(max_examples=300)
@given(
    members=st.lists(st.tuples(NAMES, st.binary(max_size=100) | TARGETS), min_size=1, max_size=4),
    place=st.integers(0, 2000),
    byte=st.binary(min_size=1, max_size=1),
)
def test_any_bytes(tmp_path_factory, members, place, byte):
    """An archive in which something was changed is read, or refused by an error of ours."""
    data = bytearray(pack(members))
    data[place : place + 1] = byte
    with contextlib.suppress(ComposefsError):
        archive = Indexed(tmp_path_factory.mktemp("archive"), bytes(data))
        for name, _ in members:
            with contextlib.suppress(ComposefsError):
                archive[name]
