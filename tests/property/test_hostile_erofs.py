"""Whatever the bytes of an image, reading ends soon, with a tree or a `FormatError`; `tests.fuzz` runs longer."""

import random
import resource

import pytest

from tests.erofs_images import REGULAR, ImageBuilder
from tests.fuzz import erofs_mutations, registry
from tests.fuzz.target import MEMORY_MAX

COUNT = 1500
TARGET = registry.load("erofs")


def test_broken_images():
    """Golden images broken in thousands of ways, the same each time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    trees = sum(TARGET.run(TARGET.input(0, number)) for number in range(COUNT))

    assert COUNT // 10 < trees < COUNT // 2, "the mutations break too little or too much"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_MAX


def test_whole_images():
    """What is not broken is read."""
    images = {*erofs_mutations.golden(), *erofs_mutations.handmade().values()}

    for image in random.Random(1).sample(sorted(images), len(images) // 4):
        assert TARGET.run(image)


@pytest.mark.parametrize("size", [0, 1, 31, 1023, 1024, 4096, 65536])
def test_noise(size):
    """Noise is refused, also behind a good superblock."""
    chance = random.Random(size)
    builder = ImageBuilder()
    image = builder.finish(builder.inode(REGULAR))

    assert not TARGET.run(chance.randbytes(size))
    for _ in range(50):
        assert not TARGET.run(image[:1152] + chance.randbytes(size))
