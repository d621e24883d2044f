"""Names are symbolic links with the texts of composefs-rs, replaced atomically."""

import errno
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError, NotFoundError, RepositoryError, UsageError
from composefs.repository import Repository, refs
from composefs.splitstream import ContentType


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "target", "text"),
    [
        ("streams/x", "objects/ab/cd", "../objects/ab/cd"),
        ("images/x", "objects/ab/cd", "../objects/ab/cd"),
        ("streams/refs/a", "streams/x", "../x"),
        ("streams/refs/a/b", "streams/x", "../../x"),
        ("streams/refs/oci/myimage:latest", "streams/oci-manifest-sha256:0", "../../oci-manifest-sha256:0"),
        ("streams/refs/oci-referrers/a/b", "streams/x", "../../../x"),
    ],
)
def test_text(fd, tmp_path, path, target, text):
    """Links are relative; directories are made on the way, and a second call changes nothing."""
    for _ in range(2):
        refs.link(fd, path, target, "repo")

        assert os.readlink(tmp_path / path) == text
    assert os.listdir(tmp_path) == [path.partition("/")[0]]


def test_no_current_directory(fd, tmp_path, monkeypatch):
    """The current directory plays no part; it may have been removed."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    refs.link(fd, "streams/refs/a", "streams/x", "repo")

    assert os.readlink(tmp_path / "streams/refs/a") == "../x"


def test_replace(fd, tmp_path):
    """Another link is replaced, and no temporary one stays."""
    refs.link(fd, "streams/x", "objects/ab/cd", "repo")
    refs.link(fd, "streams/x", "objects/ef/01", "repo")

    assert os.readlink(tmp_path / "streams/x") == "../objects/ef/01"
    assert os.listdir(tmp_path) == ["streams"]


def test_replace_fails(fd, tmp_path):
    """A directory is not replaced, and no temporary link stays."""
    (tmp_path / "streams/refs/a").mkdir(parents=True)

    with pytest.raises(RepositoryError, match="^repo/streams/refs/a: is no symbolic link$"):
        refs.link(fd, "streams/refs/a", "streams/x", "repo")

    assert os.listdir(tmp_path) == ["streams"]


@pytest.mark.parametrize("target", ["objects", "objects/ab/cd", "nowhere"])
def test_name_below_a_name(fd, tmp_path, target):
    """No name is made below another one, wherever that leads: not out of the directory, nor out of the repository."""
    (tmp_path / "objects/ab").mkdir(parents=True)
    (tmp_path / "objects/ab/cd").touch()
    (tmp_path / "streams/refs").mkdir(parents=True)
    (tmp_path / "streams/refs/a").symlink_to(tmp_path / target)

    with pytest.raises(
        RepositoryError, match="^repo/streams/refs/a/b/c: cannot be made: repo/streams/refs/a is no dir"
    ):
        refs.link(fd, "streams/refs/a/b/c", "streams/x", "repo")

    assert sorted(os.listdir(tmp_path)) == ["objects", "streams"]
    assert os.listdir(tmp_path / "objects") == ["ab"]


def test_walk_deep(fd, tmp_path, monkeypatch):
    """A name may have more slashes than Python has levels of calls, or a process open files."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # of each directory
    name = "a/" * 1200 + "b"
    try:
        refs.link(fd, f"streams/refs/{name}", "streams/x", "repo")

        assert list(refs.walk(fd, "streams/refs")) == [(name, "../" * 1201 + "x")]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "streams"], check=True)  # which Python is not able to do


def test_read_fails(fd, monkeypatch):
    """A name that may not be read is not called something else than a link; the error has its path."""
    os.mkdir("streams", dir_fd=fd)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "streams/x")

    monkeypatch.setattr(os, "readlink", refuse)

    with pytest.raises(PermissionError) as caught:
        refs.read(fd, "streams/x", "repo")

    assert caught.value.filename == "repo/streams/x"


def test_walk(fd):
    """All links below a directory are found, sorted, at any depth."""
    for name in ("b", "a/d", "a/c", "e/f/g"):
        refs.link(fd, f"streams/refs/{name}", "streams/x", "repo")

    assert [path for path, _ in refs.walk(fd, "streams/refs")] == ["a/c", "a/d", "b", "e/f/g"]
    assert list(refs.walk(fd, "streams/none")) == []


@pytest.mark.parametrize(
    ("tag", "encoded"),
    [
        ("myimage:latest", "myimage:latest"),
        ("docker://registry.example/a/b:c", "docker:%2F%2Fregistry.example%2Fa%2Fb:c"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
    ],
)
def test_tag(tag, encoded):
    """Tags are encoded as composefs-rs does."""
    assert refs.encode_tag(tag) == encoded
    assert refs.decode_tag(encoded) == tag


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_tag_round_trip(tag):
    """Every tag that is taken is read back, and stays one path component."""
    if tag in (".", "..") or tag.startswith("@") or len(refs_bytes := tag.encode()) > 255:
        return
    if len(refs_bytes) + 2 * (tag.count("/") + tag.count("%")) > 255:
        return

    encoded = refs.encode_tag(tag)

    assert "/" not in encoded
    assert refs.decode_tag(encoded) == tag


@pytest.mark.parametrize("tag", ["", ".", "..", "@sha256:0", "a\0b", "x" * 256, "/" * 86, "\ud800"])
def test_bad_tag(tag):
    """Names that no tag can have are refused before anything is written."""
    with pytest.raises(UsageError):
        refs.encode_tag(tag)


@pytest.mark.parametrize("ref", ["", "a//b", "/a", "a/", "a/../b", "./a", "a\0b", "a/" + "x" * 256, "a/\ud800"])
def test_bad_ref(ref):
    """A name of which no file can be made, or one elsewhere, is refused."""
    with pytest.raises(UsageError, match="is no name for a reference"):
        refs.check_ref(ref)


def test_streams(tmp_path):
    """Streams are stored, named, found and read; a broken name is told apart from a missing one."""
    Repository.init(tmp_path, Algorithm.SHA256)
    with Repository.open(tmp_path) as repository:
        streams = repository.streams
        writer = streams.writer(ContentType.LAYER)
        writer.inline(b"inline")
        writer.external(repository.objects.ensure(b"object" * 20)[0], 120)
        digest = streams.store(writer)
        assert list(streams.names()) == []
        streams.link("oci-layer-x", digest)
        streams.set_ref("oci/tag", "oci-layer-x")

        assert streams.find("oci-layer-x") == digest
        assert list(streams.names()) == [("oci-layer-x", digest)]
        assert streams.ref("oci/tag") == "oci-layer-x"
        for name in ("oci-layer-x", "refs/oci/tag"):
            with streams.open(name, ContentType.LAYER) as stream:
                assert b"".join(map(bytes, stream.merged())) == b"inline" + b"object" * 20
        with streams.open("oci-layer-x") as stream, stream.merged_file() as file:
            file.seek(-123, os.SEEK_END)
            assert file.read(6) == b"ineobj"
            assert file.seek(2) == 2
            assert file.read(5) == b"line" + b"o"
            assert file.read() == b"bject" + b"object" * 19
            with pytest.raises(ValueError, match="seek"):
                file.seek(-1)
        with pytest.raises(NotFoundError, match="no stream refs/oci/none"):
            streams.open("refs/oci/none")
        with pytest.raises(FormatError, match="content type"):
            streams.open("oci-layer-x", ContentType.CONFIG)
        (tmp_path / "streams/file").write_text("x")
        (tmp_path / "streams/link").symlink_to("../elsewhere")
        for name in ("file", "link"):
            with pytest.raises(RepositoryError, match=name):
                streams.find(name)
        assert [name for name, _ in streams.names()] == ["oci-layer-x"]


def test_body_of_one_object(tmp_path):
    """A config or manifest must be one object."""
    Repository.init(tmp_path, Algorithm.SHA256)
    with Repository.open(tmp_path) as repository:
        writer = repository.streams.writer(ContentType.CONFIG)
        writer.inline(b"{}")
        digest = repository.streams.store(writer)

        with repository.streams.open_object(digest, "x") as stream, pytest.raises(FormatError, match="refers to 0 obj"):
            stream.read_body()


def test_digest():
    """A digest is read from hexadecimal digits of its size, and nothing else."""
    digest = Digest(Algorithm.SHA256, bytes(range(32)))

    assert Digest.from_hex(Algorithm.SHA256, digest.hex.upper()) == digest
    for text in ("", "00" * 31, "00" * 64, "0g" * 32, " " + "0" * 63, "\N{ARABIC-INDIC DIGIT ZERO}" * 64):
        with pytest.raises(ValueError, match="is no sha256 digest"):
            Digest.from_hex(Algorithm.SHA256, text)
