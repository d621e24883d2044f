"""Layers that other programs cut into frames and members become the streams of their archives, also by many threads."""

import json
from pathlib import Path

import pytest

from composefs.digest import Algorithm
from composefs.oci import frames, inflation
from composefs.oci import layer as layer_module
from composefs.oci.blobs import decompress
from composefs.oci.layer import LayerJob, import_layer
from composefs.oci.manifest import Compression
from composefs.oci.sources.source import Blob, FileRange
from composefs.repository import Repository
from tests import layouts

GOLDEN = Path(__file__).parent / "chunked"
LAYERS = json.loads((GOLDEN / "layers.json").read_text())


class Bytes:
    """Bytes to inflate."""

    source = "layer"

    def __init__(self, data):
        self._data, self.offset = data, 0

    def read(self, size):
        piece = self._data[self.offset : self.offset + size]
        self.offset += len(piece)
        return piece


def imported(tmp_path, data, compression, diff_id):
    """Return the stream that a layer becomes, and how many objects there are."""
    path = tmp_path / "repository"
    Repository.init(path, Algorithm.SHA512, require_verity=False)
    file = tmp_path / "blob"
    file.write_bytes(data)
    blob = Blob(FileRange(str(file)), layouts.sha256(data), len(data), compression)
    result = import_layer(LayerJob(str(path), blob, diff_id, "layer L", "/nowhere", 0))
    return result.stream, len(list(path.glob("objects/??/*")))


@pytest.mark.parametrize("has_threads", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(tmp_path, monkeypatch, name, has_threads):
    """The stream is that of the archive; a thread has worked on parts of it, if one was idle."""
    compression = Compression.ZSTD if "zstd" in name else Compression.GZIP
    data, diff_id = (GOLDEN / name).read_bytes(), LAYERS[name]["diff_id"]
    begun = []
    begin = inflation._begin
    monkeypatch.setattr(inflation, "_begin", lambda *arguments: begun.append(1) or begin(*arguments))
    monkeypatch.setattr(layer_module.Pen, "has_idle_cpus", lambda *_: has_threads)
    monkeypatch.setattr(layer_module.Ahead, "is_waited_for", True)
    monkeypatch.setattr(inflation, "RUN_SIZE", 500)
    for module in (inflation, frames):
        monkeypatch.setattr(module, "READ_SIZE", 256)
    archive = b"".join(decompress(Bytes(data), compression))
    assert layouts.sha256(archive) == diff_id

    for place in ("compressed", "plain"):
        (tmp_path / place).mkdir()
    compressed = imported(tmp_path / "compressed", data, compression, diff_id)

    assert compressed == imported(tmp_path / "plain", archive, Compression.NONE, diff_id)
    assert bool(begun) == has_threads
