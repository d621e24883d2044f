"""One layer, from its archive alone."""

import gzip
import io
import os

import pytest
import zstandard

from composefs import Algorithm, FormatError, IntegrityError, Repository, RepositoryError, UsageError, import_image
from composefs.oci.archive import import_archive
from tests import layouts
from tests.layouts import image_layout, noise

ARCHIVE = layouts.tar({"usr/": b"", "usr/small": b"x" * 64, "usr/large": noise(100_000), "usr/again": noise(100_000)})
DIFF_ID = layouts.sha256(ARCHIVE)
NONE = "sha256:" + "0" * 64


@pytest.fixture(params=Algorithm)
def repository(request, tmp_path):
    """An open, empty repository."""
    Repository.init(tmp_path / "repository", request.param, require_verity=False)
    with Repository.open(tmp_path / "repository") as opened:
        yield opened


def streams(repository):
    path = f"{repository.path}/streams"
    return sorted(os.listdir(path)) if os.path.exists(path) else []


def test_import(repository, tmp_path):
    """The stream is the one that an image with that layer has, and gives the archive back."""
    result = import_archive(repository, io.BytesIO(ARCHIVE), DIFF_ID)

    assert result.status == "imported"
    assert (result.stats.objects_new, result.stats.objects_present) == (1, 1)
    assert (result.stats.bytes_new, result.stats.bytes_inline) == (100_000, len(ARCHIVE) - 200_000)
    with repository.streams.open(f"oci-layer-{DIFF_ID}") as stream:
        assert stream.digest == result.stream
        assert b"".join(stream.merged()) == ARCHIVE
    layout = image_layout(tmp_path / "layout", [layouts.layer(ARCHIVE, "gzip")])
    (layer,) = import_image(repository, str(layout), workers=1).layers
    assert (layer.status, layer.stream) == ("present", result.stream)


def test_present(repository):
    """A layer that is there is not read again, and may get a name."""
    first = import_archive(repository, io.BytesIO(ARCHIVE), DIFF_ID)
    unread = io.BytesIO(b"not an archive")

    again = import_archive(repository, unread, DIFF_ID, name="some/name")

    assert (again.status, again.stream, unread.tell()) == ("present", first.stream, 0)
    assert again.stats.objects_new == again.stats.bytes_inline == 0
    assert repository.streams.ref("some/name") == f"oci-layer-{DIFF_ID}"


def test_broken_layer_is_replaced(repository):
    """A layer whose objects are not all there is imported again."""
    first = import_archive(repository, io.BytesIO(ARCHIVE), DIFF_ID)
    with repository.streams.open(f"oci-layer-{DIFF_ID}") as stream:
        lost = stream.reader.object_refs[0].object_path
    os.unlink(f"{repository.path}/objects/{lost}")

    again = import_archive(repository, io.BytesIO(ARCHIVE), DIFF_ID)

    assert (again.status, again.stream) == ("imported", first.stream)
    assert os.path.exists(f"{repository.path}/objects/{lost}")


def test_from_where_it_stands(repository):
    """What stands before the archive in the file does not matter."""
    file = io.BytesIO(b"before" + ARCHIVE)
    file.seek(6)

    assert import_archive(repository, file, DIFF_ID).status == "imported"


@pytest.mark.parametrize(
    ("archive", "error", "message"),
    [
        (ARCHIVE, IntegrityError, f"layer {NONE}, diff_id: wanted {NONE}, got {DIFF_ID}"),
        (b"", IntegrityError, f"wanted {NONE}, got {layouts.sha256(b'')}"),
        (
            ARCHIVE[:60_000],
            FormatError,
            "entry usr/large, offset 60000: archive ends 42048 bytes before the contents do",
        ),
        (b"\1" * 512, FormatError, "offset 0: "),
        (gzip.compress(ARCHIVE), FormatError, "gzip data, where a tar archive is wanted: decompress it"),
        (zstandard.compress(ARCHIVE), FormatError, "zstd data, where a tar archive is wanted: decompress it"),
    ],
    ids=["other", "empty", "cut", "junk", "gzip", "zstd"],
)
def test_wrong_archive(repository, archive, error, message):
    """An archive that is broken, or another one, is refused, and nothing gets a name."""
    with pytest.raises(error, match=message):
        import_archive(repository, io.BytesIO(archive), NONE, name="name")

    assert streams(repository) == []


@pytest.mark.parametrize("name", ["", "/x", "x/", "a//b", ".", "../x", "a/../b", "a\0b", "a" * 256])
def test_bad_name(repository, name):
    """A name that leads elsewhere, or that no file can have, is refused before anything is read."""
    unread = io.BytesIO(ARCHIVE)

    with pytest.raises(UsageError, match="is no name for a reference"):
        import_archive(repository, unread, DIFF_ID, name=name)

    assert (unread.tell(), streams(repository)) == (0, [])


def test_read_only(repository, monkeypatch):
    """A repository that cannot be written is named before anything is read."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    unread = io.BytesIO(ARCHIVE)

    with pytest.raises(RepositoryError, match="is not writable"):
        import_archive(repository, unread, DIFF_ID)

    assert unread.tell() == 0


def test_order(repository, monkeypatch):
    """The file system is flushed after the stream is stored and before it gets its name."""
    events = []
    store, link, sync = repository.streams.store, repository.streams.link, repository.sync
    monkeypatch.setattr(repository.streams, "store", lambda *a: (events.append("store"), store(*a))[1])
    monkeypatch.setattr(repository.streams, "link", lambda *a: (events.append("link"), link(*a))[1])
    monkeypatch.setattr(repository, "sync", lambda: (events.append("sync"), sync())[1])

    import_archive(repository, io.BytesIO(ARCHIVE), DIFF_ID)

    assert events == ["store", "sync", "link"]


@pytest.mark.parametrize("name", ["oci/os", "oci-referrers/sha256:0/os"])
def test_name_of_an_image(name, repository):
    """A layer cannot take the place of a tag or a referrer."""
    archive = io.BytesIO(b"")

    with pytest.raises(UsageError, match="is for images, not for a layer"):
        import_archive(repository, archive, f"sha256:{'0' * 64}", name=name)
    assert not os.path.exists(f"{repository.path}/streams")
