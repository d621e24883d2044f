"""An overlay that does not serve objects is found out."""

import os
from contextlib import contextmanager

import pytest

import composefs
from composefs import Algorithm
from composefs.erofs.writer import write_image
from composefs.errors import MountError
from composefs.kernel import Features, MountOptions, evidence, mount_image
from composefs.kernel.erofs import mount_erofs
from composefs.kernel.evidence import check_contents
from composefs.kernel.features import probe_layers
from tests.images import directory, external, fifo, inline
from tests.tools import require_root

DATA = b"data" * 100
REFUSED = "^read {}: Input/output error; the kernel does not follow from this file to its object{}$"


@pytest.fixture
def repository(tmp_path):
    require_root("mounts")
    if not probe_layers().overlay:
        pytest.skip("this kernel has no overlayfs")
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as opened:
        yield opened


@contextmanager
def opened(path):
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def erofs(repository, root):
    """Give a descriptor of the mount of the image alone, whose files read as zeros, and one of the objects."""
    path = os.path.join(repository.path, "image")
    with open(path, "xb") as file:
        file.write(write_image(root, 1))
    with open(path, "rb") as file, opened(os.path.join(repository.path, "objects")) as objects:
        fd = mount_erofs(file.fileno(), Features(""))
        try:
            yield fd, objects, file.fileno()
        finally:
            os.close(fd)


def test_zeros(repository):
    """The size is right, the contents are not."""
    root = directory({"usr": directory({"bin": directory({"tool": external(repository, DATA)})})})
    with erofs(repository, root) as (fd, objects, _):
        with open("usr/bin/tool", "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=fd)) as file:
            assert file.read() == bytes(len(DATA))

        with pytest.raises(MountError, match=REFUSED.format("usr/bin/tool", "")):
            check_contents(fd, fd, [objects], None)


def test_first_of_several_has_it(repository, tmp_path):
    """The object may be in any directory of objects."""
    (tmp_path / "others").mkdir()
    root = directory({"tool": external(repository, DATA)})
    with erofs(repository, root) as (fd, objects, _), opened(tmp_path / "others") as others:
        for fds in ([others, objects], [objects, others]):
            with pytest.raises(MountError):
                check_contents(fd, fd, fds, None)
        check_contents(fd, fd, [others], None)  # nothing is known of the object


def test_contents(repository):
    """The overlay proper has them."""
    with (
        erofs(repository, directory({"tool": external(repository, DATA)})) as (fd, objects, image),
        mount_image(image, [objects], MountOptions("composefs:x")) as mount,
    ):
        check_contents(mount.fd, fd, [objects], None)


def test_nothing_to_find_out(repository):
    """No objects, objects of zeros, objects that are missing: nothing speaks against the overlay."""
    zeros = {f"{number}": external(repository, bytes(100 + number)) for number in range(20)}
    root = directory({"inline": inline(b"inline"), "fifo": fifo(), "zeros": directory(zeros)})
    with erofs(repository, root) as (fd, objects, _):
        check_contents(fd, fd, [objects], None)


def test_missing_object(repository):
    """It is the overlay that looks for it."""
    tool = external(repository, DATA)
    os.unlink(os.path.join(repository.path, "objects", tool.content.digest.hex()[:2], tool.content.digest.hex()[2:]))
    with (
        erofs(repository, directory({"tool": tool})) as (_, objects, image),
        mount_image(image, [objects], MountOptions("composefs:x")) as mount,
        pytest.raises(OSError, match="No such file|Input/output error"),  # the latter before 6.5
    ):
        os.open("tool", os.O_RDONLY, dir_fd=mount.fd)


def test_refused_by_the_kernel(repository, monkeypatch):
    """Kernels that know what they do not follow refuse to open the file."""

    def read_start(dir_fd, path):
        if path == "tool":
            raise PermissionError(1, "Operation not permitted")
        return real(dir_fd, path)

    real = evidence._read_start
    monkeypatch.setattr(evidence, "_read_start", read_start)
    with (
        erofs(repository, directory({"tool": external(repository, DATA)})) as (fd, objects, _),
        pytest.raises(MountError, match=REFUSED.format("tool", "")),
    ):
        check_contents(fd, fd, [objects], None)


def test_changes(repository, tmp_path):
    """What the upper layer has, or may have put in the way, is no evidence; the rest still is."""
    (tmp_path / "upper/usr").mkdir(parents=True)
    usr = {"usr": directory({"tool": external(repository, DATA)})}
    with erofs(repository, directory(usr)) as (fd, objects, _), opened(tmp_path / "upper") as upper:
        check_contents(fd, fd, [objects], upper)
        (tmp_path / "upper/usr").rename(tmp_path / "upper/etc")
        remedy = "; mount without an upper layer, or put that on a file system that keeps trusted xattrs"
        with pytest.raises(MountError, match=REFUSED.format("usr/tool", remedy)):
            check_contents(fd, fd, [objects], upper)


def test_large_images(repository, monkeypatch):
    """Not all of an image is looked at, and not all files with objects are read."""
    inlines = {f"{number}": inline(b"inline") for number in range(300, 400)}
    tools = {f"tool{number:02}": external(repository, DATA) for number in range(20)}
    with erofs(repository, directory({**inlines, "zz": directory(tools)})) as (fd, objects, _):
        files = [path for path, _ in evidence._external_files(fd, frozenset())]
        assert len(files) == len(set(files)) == 8
        assert all(path.startswith("zz/tool") for path in files)

        monkeypatch.setattr(evidence, "_ENTRIES_MAX", 350)  # 256 of these hide objects
        assert evidence._external_files(fd, frozenset()) == []
        check_contents(fd, fd, [objects], None)
