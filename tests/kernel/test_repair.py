"""What is broken in a repository that the kernel watches over is replaced by what is sealed again, and can be read."""

import subprocess
from pathlib import Path

import pytest

from composefs import Algorithm, verity
from composefs.cli import main
from tests.kernel.images import fill, here, mounted, there
from tests.kernel.test_tampering import CONTENT, OBJECT, _flip, device
from tests.layouts import Layout, files_layer, image_layout

ALGORITHM = Algorithm.SHA512


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    """An image of one small layer."""
    return image_layout(tmp_path / "layout", [files_layer({"usr/new/other": CONTENT})])


def check_whole(path: Path, target: Path) -> None:
    """The object is sealed with the right digest, its file can be read, and nobody finds anything."""
    with (path / "objects" / OBJECT).open("rb") as file:
        digest = verity.measure(file.fileno(), ALGORITHM)
    assert digest is not None
    assert digest.object_path == OBJECT
    with mounted(here, path, target):
        assert (target / "usr/new/other").read_bytes() == CONTENT
    assert main(["--repo", str(path), "--require-verity", "oci", "fsck"]) == 0
    there(path, "fsck")


def test_broken_block(scratch: Path, target: Path, small: Layout) -> None:
    """An object of which the disk has changed a block is another file then."""
    with device(scratch) as (image, point):
        path = fill(point / "repository", small)
        subprocess.run(["umount", point], check=True)
        _flip(image, CONTENT)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
        assert main(["--repo", str(path), "fsck"]) == 1

        assert main(["--repo", str(path), "fsck", "--repair-from", str(small)]) == 0

        check_whole(path, target)


def test_other_files(scratch: Path, target: Path, small: Layout) -> None:
    """So is one that has no seal, or another one, or that is missing, wherever it comes from."""
    backup = fill(scratch / "backup", small)
    path = fill(scratch / "repository", small)
    name = path / "objects" / OBJECT
    for source, content, seal in (
        (small, None, None),
        (backup, CONTENT, None),
        (small, CONTENT, Algorithm.SHA256),
        (backup, CONTENT[::-1], ALGORITHM),
    ):
        name.unlink()
        if content is not None:
            name.write_bytes(content)
        if seal is not None:
            with name.open("rb") as file:
                assert verity.enable(file.fileno(), seal)

        assert main(["--repo", str(path), "fsck", "--repair-from", str(source)]) == 0

    check_whole(path, target)


def test_quarantine(scratch: Path, small: Layout) -> None:
    """What is sealed is moved as it is; what is only not sealed stays, and to import the image seals it."""
    path = fill(scratch / "repository", small)
    name = path / "objects" / OBJECT
    name.unlink()
    name.write_bytes(CONTENT)
    assert main(["--repo", str(path), "fsck", "--quarantine"]) == 1
    assert name.read_bytes() == CONTENT
    name.write_bytes(CONTENT[::-1])
    with name.open("rb") as file:
        assert verity.enable(file.fileno(), ALGORITHM)

    assert main(["--repo", str(path), "fsck", "--quarantine"]) == 1

    assert (path / "quarantine/1/objects" / OBJECT).read_bytes() == CONTENT[::-1]
    fill(path, small)
    with name.open("rb") as file:
        assert verity.measure(file.fileno(), ALGORITHM) == verity.compute_digest(CONTENT, ALGORITHM)
