"""What mount.composefs makes of image files and options, up to what the kernel gets."""

import errno
import os

import pytest

from composefs import Algorithm, FormatError, IntegrityError, MountError, kernel, verity
from composefs.digest import Digest
from composefs.erofs.writer import write_image
from composefs.mount import files
from composefs.mount.options import FileOptions
from composefs.verity import compute_digest
from tests.images import directory

ZEROS = Digest.from_hex(Algorithm.SHA256, "0" * 64)


@pytest.fixture
def image(tmp_path):
    """An image file, beside a directory of objects and two for an upper layer."""
    for name in ("objects", "upper", "work"):
        (tmp_path / name).mkdir()
    path = tmp_path / "image.cfs"
    path.write_bytes(write_image(directory({}), 1))
    return path


@pytest.fixture
def attempts(monkeypatch):
    """What the kernel would get; descriptors as paths."""
    found = []

    def mount(image_fd, object_fds, options, features):
        fds = [options.upper_fd, options.work_fd, options.idmap_fd]
        paths = [None if fd is None else os.readlink(f"/proc/self/fd/{fd}") for fd in (image_fd, *object_fds, *fds)]
        found.append((paths, options, features))
        return kernel.Mount(-1)

    monkeypatch.setattr(files, "mount_by_kernel", mount)
    return found


def options(image, **others):
    return FileOptions(basedirs=(str(image.parent / "objects"),), **others)


def test_what_the_kernel_gets(image, attempts):
    """Everything is opened, and nothing stays open."""
    top = str(image.parent)
    chosen = options(image, upper=f"{top}/upper", work=f"{top}/work", idmap=f"{top}/image.cfs")
    before = os.listdir("/proc/self/fd")

    files.mount_file(str(image), chosen)

    ((paths, how, features),) = attempts
    assert paths == [f"{top}/{name}" for name in ("image.cfs", "objects", "upper", "work", "image.cfs")]
    assert (how.source, how.read_only, features) == ("composefs:composefs", False, None)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (lambda *_: None, "Image has no fs-verity: wanted 0000"),
        (verity.compute_file_digest, "Image has wrong fs-verity: wanted 0000"),
    ],
    ids=["none", "another"],
)
def test_wrong_digest(image, attempts, monkeypatch, measured, text):
    """An image without the digest that is wanted is not mounted."""
    monkeypatch.setattr(verity, "measure", measured)

    with pytest.raises(IntegrityError, match=f"^Failed to mount composefs {image}: {text}"):
        files.mount_file(str(image), options(image, digest=ZEROS))

    assert attempts == []


def test_digest_of_another_algorithm(image, attempts, monkeypatch):
    """So is one that is sealed with another algorithm, and told which."""

    def measure(*_):
        raise IntegrityError("fs-verity of file descriptor 9", "sha256, 32 bytes", "sha512, 64 bytes")

    monkeypatch.setattr(verity, "measure", measure)

    with pytest.raises(IntegrityError, match=r": Image has wrong.*wanted sha256, 32 bytes, got sha512") as got:
        files.mount_file(str(image), options(image, digest=ZEROS))
    assert "descriptor" not in str(got.value)
    assert attempts == []


def test_right_digest(image, attempts, monkeypatch):
    """The right digest is what it takes."""
    monkeypatch.setattr(verity, "measure", verity.compute_file_digest)

    files.mount_file(str(image), options(image, digest=compute_digest(image.read_bytes(), Algorithm.SHA256)))

    assert len(attempts) == 1


def test_kernel_refuses(image, monkeypatch):
    """What the kernel has against it is told of the image, by name."""

    def mount(*_):
        raise MountError("fsopen erofs", errno.EPERM, remedy="be root")

    monkeypatch.setattr(files, "mount_by_kernel", mount)

    with pytest.raises(MountError) as caught:
        files.mount_file(str(image), options(image))
    assert str(caught.value) == (f"Failed to mount composefs {image}: fsopen erofs: Operation not permitted; be root")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_no_file(image, attempts, make):
    """What is neither a file nor a block device is no image; nobody waits for the other end of a fifo."""
    path = str(image.parent / "odd")
    make(path)

    with pytest.raises(FormatError, match=f"^{path}, offset 0: neither a file nor a block device$"):
        files.mount_file(path, options(image))
    assert attempts == []
