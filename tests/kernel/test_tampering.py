"""What somebody or something changed below a mounted image is not read: the kernel says EIO, fsck what it hurts."""

import errno
import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, verity
from composefs.cli import main
from composefs.digest import object_path
from tests.kernel.images import fill, here, mounted, there
from tests.layouts import Layout
from tests.trees_on_disk import file_data

ALGORITHM = Algorithm.SHA512
CONTENT = b"other" * 2000  # of the file /usr/new/other
OBJECT = object_path(verity.compute_digest(CONTENT, ALGORITHM).raw)


@contextmanager
def device(scratch: Path) -> Iterator[tuple[Path, Path]]:
    """Give a file that holds an ext4 with fs-verity, and where it is mounted."""
    image, point = scratch / "device", scratch / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "verity", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield image, point
    finally:
        subprocess.run(["umount", point], check=True)
        image.unlink()
        point.rmdir()


def test_broken_block(scratch: Path, target: Path, layout: Layout, capfd: pytest.CaptureFixture[str]) -> None:
    """A block that changes on the disk: its file cannot be read, the others can; fsck names object, file and image."""
    with device(scratch) as (image, point):
        path = fill(point / "repository", layout)
        subprocess.run(["umount", point], check=True)
        _flip(image, CONTENT)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)

        with mounted(here, path, target):
            _check_refused(target)
        capfd.readouterr()
        assert main(["--repo", str(path), "fsck"]) == 1
        found = capfd.readouterr().out
        there(path, "fsck")  # measures objects, and reads none

    assert OBJECT.replace("/", "") in found.replace("/", "")
    assert "files /usr/new/other" in found
    assert "streams/refs/oci/everything" in found


@pytest.mark.parametrize("seal", ["other content", "none", "other algorithm"])
def test_swapped(scratch: Path, target: Path, layout: Layout, seal: str) -> None:
    """An object that is another file now, or one without the right seal, cannot be opened, and fsck says so."""
    path = fill(scratch / "repository", layout)
    name = path / "objects" / OBJECT
    name.unlink()
    name.write_bytes(CONTENT if seal != "other content" else CONTENT[::-1])
    if seal != "none":
        with name.open("rb") as file:
            assert verity.enable(file.fileno(), Algorithm.SHA256 if seal == "other algorithm" else ALGORITHM)

    with mounted(here, path, target):
        _check_refused(target)
    assert main(["--repo", str(path), "fsck"]) == 1


def test_image_swapped(scratch: Path, target: Path, layout: Layout) -> None:
    """An image that is another file now, or lost its seal, is not mounted."""
    path = fill(scratch / "repository", layout)
    (image,) = (file for file in (path / "images").iterdir() if file.is_symlink())
    name = image.resolve()
    data = name.read_bytes()
    for changed in (data[:-1] + b"x", data):
        name.unlink()
        name.write_bytes(changed)
        assert main(["--repo", str(path), "oci", "mount", "everything", str(target)]) == 1
        assert not os.path.ismount(target)


def test_no_verity(scratch: Path, target: Path, layout: Layout, capfd: pytest.CaptureFixture[str]) -> None:
    """A repository whose meta.json lost its seal is refused where fs-verity is demanded."""
    path = fill(scratch / "repository", layout)
    meta = path / "meta.json"
    data = meta.read_bytes()
    meta.unlink()
    meta.write_bytes(data)

    assert main(["--repo", str(path), "--require-verity", "oci", "mount", "everything", str(target)]) == 1

    assert "fs-verity" in capfd.readouterr().err
    assert not os.path.ismount(target)


def _check_refused(target: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (target / "usr/new/other").read_bytes()
    assert (target / "usr/bin/tool2").read_bytes() == file_data(5000)


def _flip(image: Path, content: bytes) -> None:
    """Change a byte in the middle of *content* wherever it lies in the file *image*."""
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        place = data.find(content)
        assert place >= 0
        data[place + len(content) // 2] ^= 1
        assert data.find(content) < 0
