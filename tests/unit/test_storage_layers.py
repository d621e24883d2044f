"""Archives of layers in container storage: joined again byte by byte, whatever is asked for at a time."""

import os

import pytest

from composefs.errors import FormatError, IntegrityError, NotFoundError
from composefs.oci.segments import FileSegment, SegmentedPlace
from composefs.oci.sources.storage.layers import SharedArchive, StoredArchive, archive_size
from tests.layouts import noise, tar
from tests.sources import read_place
from tests.storages import Storage

FILES = {"d/": b"", "d/large": noise(70_000), "d/small": b"x", "empty": b"", "odd": noise(513)}
ARCHIVE = tar(FILES)


@pytest.fixture
def storage(tmp_path):
    """A store with one layer."""
    return Storage(tmp_path / "root")


@pytest.fixture
def place(storage):
    """The place of the archive of that layer."""
    layer = storage.layer(ARCHIVE)
    return StoredArchive(
        str(storage.tar_split(layer)), (str(storage.files(layer)),), str(storage.layers / "layers.lock")
    )


@pytest.mark.parametrize("size", [1 << 20, 4096, 511, 7])
def test_the_archive(place, size):
    """It is the same byte for byte, and as much comes at a time as was asked for."""
    stream = place.open("layer x", lambda: 1)
    pieces = list(iter(lambda: stream.read(size), b""))
    stream.close()

    assert b"".join(pieces) == ARCHIVE
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    assert place.again() is None
    assert archive_size(place, "layer x") == len(ARCHIVE)


def test_segments(place):
    """The files come as descriptors, with their sizes and names."""
    found = []
    with place.segments("layer x", lambda: None) as segments:
        for segment in segments:
            if isinstance(segment, FileSegment):
                assert os.read(segment.fd, segment.size + 1) == FILES[segment.name]
                found.append(segment.name)

    assert found == ["d/large", "d/small", "odd"]


def test_only_what_is_to_be_shared_is_segmented(place):
    """A worker reads the others like any archive."""
    shared = SharedArchive(place.tar_split, place.directories, place.lock, "auto")

    assert isinstance(shared, SegmentedPlace)
    assert not isinstance(place, SegmentedPlace)


def test_nothing_stays_open(place):
    """Neither at the end, nor when it is closed in the middle, nor after an error."""
    before = sorted(os.listdir("/proc/self/fd"))

    read_place(place)
    stream = place.open("layer x", lambda: 1)
    stream.read(2000)
    stream.close()
    os.remove(f"{place.directories[0]}/odd")
    with pytest.raises(NotFoundError):
        read_place(place)

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_file_that_shrinks(place):
    """A file may be written to while it is read: then it has not the bytes that it had."""
    stream = place.open("layer x", lambda: 1)
    stream.read(10_000)
    os.truncate(f"{place.directories[0]}/d/large", 20_000)

    with pytest.raises(IntegrityError, match=r"file d/large: wanted 70000 bytes, got \d+ bytes: it shrinks"):
        stream.read(1 << 20)

    stream.close()


def test_no_tar_split(place):
    """Without it, there is no archive."""
    os.remove(place.tar_split)

    with pytest.raises(NotFoundError, match="without which it cannot be read"):
        read_place(place)


def test_a_broken_tar_split(place):
    """The layer and the file are named."""
    with open(place.tar_split, "r+b") as file:
        file.truncate(100)

    with pytest.raises(FormatError, match="broken gzip data") as caught:
        read_place(place)

    assert caught.value.source == f"layer x, {place.tar_split}"
