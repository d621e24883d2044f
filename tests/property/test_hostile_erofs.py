"""Whatever the bytes of an image, reading ends soon, with a tree or a `FormatError`; `tests.fuzz.erofs` runs longer."""

import random
import resource

import pytest

from tests.erofs_images import REGULAR, ImageBuilder
from tests.fuzz import erofs, mutate

COUNT = 3000


def test_broken_images():
    """Golden images broken in thousands of ways, the same each time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    trees, findings = erofs.run(0, range(COUNT))

    assert findings == []
    assert COUNT // 10 < trees < COUNT // 2, "the mutations break too little or too much"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < erofs.MEMORY_MAX


def test_whole_images():
    """What is not broken is read."""
    for seed in mutate.seeds():
        assert erofs.check(seed.data, random.Random(0)), seed.name


@pytest.mark.parametrize("size", [0, 1, 31, 1023, 1024, 4096, 65536])
def test_noise(size):
    """Noise is refused, also behind a good superblock."""
    chance = random.Random(size)
    builder = ImageBuilder()
    image = builder.finish(builder.inode(REGULAR))

    assert not erofs.check(chance.randbytes(size), chance)
    for _ in range(50):
        assert not erofs.check(image[:1152] + chance.randbytes(size), chance)


def test_mutations_are_repeatable():
    """A finding is known by seed and number."""
    assert mutate.mutated(3, 5) == mutate.mutated(3, 5)
    assert len({mutate.mutated(3, number)[0] for number in range(100)}) > 90


def test_findings_are_findings(monkeypatch):
    """What is no `FormatError` is found, and so is what takes too long."""
    monkeypatch.setattr(erofs, "load_tree", lambda data, **options: 1 // 0)
    _, findings = erofs.run(0, [0, 1])
    assert [finding.number for finding in findings] == [0, 1]
    assert "ZeroDivisionError" in findings[0].what

    def loop(data):
        while True:
            pass

    monkeypatch.setattr(erofs, "SECONDS_MAX", 0.05)
    monkeypatch.setattr(erofs, "load_tree", loop)
    _, findings = erofs.run(0, [7])
    assert "TooSlowError" in findings[0].what
