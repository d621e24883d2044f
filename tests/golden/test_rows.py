"""Reading many entries at a time gives the index of every golden layer."""

import pytest

from composefs.digest import Algorithm
from composefs.oci.index import read_index
from composefs.oci.rows import RowReader
from tests.golden import vectors
from tests.layers import batches_of, chunks_of, slow_index, stored

NAMES = [*vectors.image_names(), *(vector["case"] for vector in vectors.expected("random"))]


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("name", NAMES)
def test_layers(name, algorithm):
    """The index is that of reading entry by entry, and that of the archive."""
    for archive in vectors.layer_archives(name):
        chunks = chunks_of(archive, algorithm)
        found = list(read_index(stored(chunks, algorithm), "layer"))

        assert found == slow_index(stored(chunks, algorithm), "layer")
        assert found == batches_of(archive, algorithm=algorithm)


def test_many_are_read(monkeypatch):
    """These layers have enough plain entries to say something."""
    found = []
    read = RowReader.read

    def count(self, *arguments):
        rows = read(self, *arguments)
        found.extend(rows.names if rows else [])
        return rows

    monkeypatch.setattr(RowReader, "read", count)
    for name in NAMES:
        for archive in vectors.layer_archives(name):
            for _ in read_index(stored(chunks_of(archive)), "layer"):
                pass

    assert len(found) > 500
