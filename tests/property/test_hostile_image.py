"""Broken images, read as file systems and extracted: errors have a type, and nothing happens outside of the target."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, ComposefsError
from composefs.image import extract
from tests import images
from tests.fuzz import registry
from tests.tools import require_root
from tests.trees_on_disk import snapshot

COUNT = 600
SEED = 11
ERRORS = (ComposefsError, OSError)


@pytest.fixture
def scratch():
    """A directory where nothing is slow, and what may not be touched beside the target."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as text:
        directory = Path(text)
        (directory / "outside/etc").mkdir(parents=True)
        (directory / "outside/file").write_bytes(b"outside")
        (directory / "parent").mkdir()
        yield directory


def read_all(image):
    """Ask everything of every file, and return how many there are."""
    count = 0
    for top, names, others in image.walk(b"/"):
        for entry in image.scandir(top):
            for ask in (image.lstat, image.stat, image.xattrs, image.digest, image.readlink, image.realpath, look):
                with contextlib.suppress(*ERRORS):
                    ask(image, entry.path) if ask is look else ask(entry.path)
            count += 1
        assert sorted(names + others) == image.listdir(top)
    return count


def look(image, path):
    with image.open(path) as file:
        file.read(100)


def test_broken_images(scratch):
    """Images broken in hundreds of ways, the same each time."""
    require_root("removing directories without write permission")
    composefs.Repository.init(scratch / "repository", Algorithm.SHA256, require_verity=False)
    before = snapshot(scratch / "outside")
    target = scratch / "parent/target"
    files = extracted = 0
    broken = registry.load("erofs")
    with composefs.Repository.open(scratch / "repository") as repository:
        for number in range(COUNT):
            data = broken.input(SEED, number)
            try:
                image = images.open_bytes(repository, data)
            except ERRORS:
                continue
            with image:
                with contextlib.suppress(*ERRORS):
                    files += read_all(image)
                try:
                    extract(image, target)
                except ERRORS:
                    assert os.listdir(target.parent) == [], number
                else:
                    extracted += 1
                    os.chmod(target, 0o700)
                    shutil.rmtree(target)

    assert snapshot(scratch / "outside") == before
    assert files > COUNT
    assert extracted > COUNT // 20
