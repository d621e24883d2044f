"""What several tests in the guest need: an image that has everything, and where to put a repository."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import extracted
from tests.kernel.images import NAME
from tests.layouts import Layout, image_layout, layer


@pytest.fixture(scope="session")
def sources() -> Iterator[Path]:
    """A directory on ext4, which takes every kind of metadata."""
    path = Path("/disks/ext4/sources")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def archives(sources: Path) -> list[bytes]:
    """The layers of an image that has everything."""
    return extracted.make_layers(sources / "layers")


@pytest.fixture(scope="session")
def layout(sources: Path, archives: list[bytes]) -> Layout:
    """The image."""
    compressions = itertools.cycle(["gzip", "none", "zstd"])
    return image_layout(sources / "layout", list(map(layer, archives, compressions)), NAME)


@pytest.fixture(scope="session")
def wanted(sources: Path, archives: list[bytes]) -> extracted.Tree:
    """What is to be seen of it."""
    return extracted.visible(extracted.extract(archives, sources / "tar"))


@pytest.fixture(params=["ext4", "btrfs", "xfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory on a disk of each kind; the first two have fs-verity."""
    path = Path(f"/disks/{request.param}/disk")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory on ext4 with fs-verity."""
    path = Path("/disks/ext4/scratch")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A mountpoint."""
    path = tmp_path / "mounted"
    path.mkdir()
    return path
