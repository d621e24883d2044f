"""Blobs are made again as they were, where it can be found out how; otherwise in our own way."""

import pytest

from composefs.oci.export import choice
from composefs.oci.export.encoding import Gzip, Stored, Zstd
from composefs.oci.export.exporter import export_image
from composefs.oci.export.image import read_image
from composefs.oci.importer import import_image
from tests import layouts
from tests.layouts import files_layer, image_layout, noise
from tests.unit.test_export import foreign

KNOWN = [
    *(Gzip(level, in_blocks=False, extra=extra) for level, two in choice._GZIP_HEADERS.items() for extra in two),
    *(
        Zstd(3, in_jobs=in_jobs, has_size=has_size, has_checksum=has_checksum)
        for in_jobs in (True, False)
        for has_size in (True, False)
        for has_checksum in (True, False)
    ),
    Gzip(4),
]


@pytest.fixture(autouse=True)
def _no_flush(no_flush):
    """No test here is about power cuts."""


def made_by(encoding, files):
    """Return a layer of *files* whose blob has that *encoding*."""
    archive = layouts.tar(layouts.rooted(files))
    blob = b"".join(bytes(piece) for piece in encoding.encode([archive], len(archive), 1))
    return layouts.layer(archive, encoding.compression.value, blob=blob)


@pytest.fixture
def chosen(repository, tmp_path):
    """Return how the layers of an image would be made, and the layers."""

    def chosen(*layers):
        import_image(repository, str(image_layout(tmp_path / "layout", layers)), name="os", workers=1)
        found = read_image(repository, "os").layers
        encodings = choice.choose_encodings(repository, found)
        return [encodings[layer] for layer in found]

    return chosen


@pytest.mark.parametrize("encoding", KNOWN, ids=str)
def test_known(encoding, chosen, repository, tmp_path):
    """What libraries make in the usual ways is found out by the smallest layer, and holds for the others."""
    large, small = ({"usr/x": noise(size) + b"text " * size} for size in (60_000, 30_000))  # of some blocks, and of one

    found = chosen(made_by(encoding, large), made_by(encoding, small), files_layer({"usr/y": b""}))

    assert [found[0].compression, found[2]] == [encoding.compression, Stored()]
    assert found[0] == found[1]
    assert export_image(repository, "os", f"oci:{tmp_path}/out").is_kept


def test_unknown(chosen):
    """What nobody knows is made in our own way."""
    assert chosen(foreign({"usr/a": b"text " * 1000})) == [Gzip(4)]


def test_each_compression_for_itself(chosen):
    """What is found out of one compression says nothing of the other."""
    layers = [foreign({"usr/a": b"text " * 1000}), made_by(Zstd(3, has_checksum=True), {"usr/b": b"text " * 1000})]

    assert chosen(*layers) == [Gzip(4), Zstd(3, has_checksum=True)]


def test_what_is_large_is_not_tried(chosen, monkeypatch):
    """A trial must not take long."""
    monkeypatch.setattr(choice, "_TRIAL_MAX", 1000)

    assert chosen(made_by(Zstd(3, has_checksum=True), {"usr/b": b"text " * 1000})) == [Zstd(3)]


def test_nothing_to_find_out(chosen, monkeypatch):
    """Where no layer is compressed, none is tried."""
    monkeypatch.setattr(choice, "_try", None)

    assert chosen(files_layer({"usr/a": noise(1000)})) == [Stored()]


def test_some_layers_are_others(chosen, repository, tmp_path):
    """If the smallest layer can be made again, and another one not, the manifest is made anew."""
    chosen(made_by(Gzip(6, in_blocks=False), {"usr/a": b"x"}), foreign({"usr/b": noise(5000)}))

    result = export_image(repository, "os", f"oci:{tmp_path}/out")

    assert not result.is_kept
    again = export_image(repository, "os", f"oci:{tmp_path}/again")
    assert again.manifest == result.manifest
