"""The tar splitter takes and refuses what composefs-rs takes and refuses, and loses nothing."""

import io

import pytest

from composefs import verity
from composefs.digest import Algorithm, Digest
from composefs.errors import FormatError
from composefs.splitstream import ContentType, SplitstreamReader
from composefs.tar import Content, Inline, TarSplitter
from tests.golden import vectors

REFUSED_HERE = {"deep-2050": "paths above PATH_MAX; composefs-rs stores them, but does not read the image back"}
PLAIN = [case for case in vectors.expected("refused") if "import_layer" in case]


def split(data: bytes) -> bytes:
    splitter = TarSplitter("layer")
    joined = b"".join(bytes(event.data) for event in splitter.feed(data))
    splitter.close()
    return joined


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["case"])
def test_refused(case):
    """An archive that `cfsctl oci import-layer` refuses is refused, with offset; one that it takes is taken whole."""
    data = vectors.read(vectors.ROOT / "refused" / case["layers"][-1]["file"])
    if case["import_layer"]["status"] == 0 and case["case"] not in REFUSED_HERE:
        assert split(data) == data
        return
    with pytest.raises(FormatError) as caught:
        split(data)
    assert 0 <= caught.value.offset <= len(data)
    assert str(caught.value).startswith("layer")


@pytest.mark.parametrize("name", vectors.image_names())
def test_events_join_to_the_archive(name):
    """Every byte comes out once, in order, and only regular files above 64 bytes become contents."""
    for data in vectors.layer_archives(name):
        assert split(data) == data
        for event in TarSplitter("layer").feed(data):
            if isinstance(event, Content):
                assert event.entry.kind in (b"0", b"\0", b"7")
                assert event.entry.size > 64
            else:
                assert isinstance(event, Inline)


@pytest.mark.parametrize("name", vectors.image_names())
def test_splitstream_gives_the_archive_back(name):
    """A layer that composefs-rs wrote is read back bit for bit."""
    vector = vectors.expected(f"images/{name}")
    for hash_name, algorithm in (("sha256", Algorithm.SHA256), ("sha512", Algorithm.SHA512)):
        for data, recorded in zip(vectors.layer_archives(name), vector[hash_name]["layers"], strict=True):
            if "file" not in recorded:
                continue
            file = io.BytesIO(vectors.read(vectors.ROOT / "images" / name / recorded["file"]))
            reader = SplitstreamReader(file, algorithm, "stream", ContentType.LAYER)
            contents = contents_of(data, algorithm)

            merged = b"".join(map(bytes, reader.merged(contents.open)))

            assert merged == data
            assert reader.size == len(data) == recorded["json"]["size"]
            assert len(reader.object_refs) == recorded["json"]["splitstream"]["externalObjects"]


class Contents(dict[Digest, bytes]):
    """Objects in memory."""

    def open(self, digest: Digest) -> io.BytesIO:
        return io.BytesIO(self[digest])


def contents_of(data: bytes, algorithm: Algorithm) -> Contents:
    """Return the large files of an archive by digest."""
    events = (event for event in TarSplitter("layer").feed(data) if isinstance(event, Content))
    return Contents((verity.compute_digest(event.data, algorithm), bytes(event.data)) for event in events)
