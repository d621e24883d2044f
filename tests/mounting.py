"""Images mounted where nobody else sees it, in every way that some kernel knows."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

import composefs
from composefs import Algorithm
from composefs.erofs.writer import write_image
from composefs.kernel import Features, MountOptions, mount_image, probe
from tests.images import device, directory, external, fifo, inline, symlink
from tests.namespaces import mounted, private_mounts
from tests.strategies import file_data
from tests.tools import require_root

SOURCE = "composefs:sample"
UNKNOWN = Features("")
EVERYTHING = replace(
    UNKNOWN,
    file_backed_erofs=True,
    loop_devices=True,
    data_only_layers=True,
    layer_options=True,
    layer_descriptors=True,
    detached_layers=True,
    overlay_verity=True,
)
STRINGS = replace(EVERYTHING, layer_descriptors=False)
ONE_STRING = replace(STRINGS, layer_options=False)
JOINED = replace(ONE_STRING, data_only_layers=False, overlay_verity=False)
LAYERS = {"descriptors": EVERYTHING, "strings": STRINGS, "one string": ONE_STRING, "joined": JOINED}
ONE_DATA_LAYER = replace(UNKNOWN, data_only_layers=True)
OLDEST = replace(JOINED, file_backed_erofs=False, detached_layers=False)  # as Linux 6.1


@dataclass
class Place:
    """A repository, and where its images are mounted."""

    path: Path
    repository: composefs.Repository

    @property
    def target(self) -> Path:
        return self.path / "target"

    def image(self, root, version=1) -> Path:
        """Write the image of a tree to a file, and return its path."""
        path = self.path / "image"
        path.write_bytes(write_image(root, version))
        return path

    def mount(self, image, options=None, features=None):
        """Mount an image of the repository, detached."""
        with opened(image) as image_fd, opened(self.path / "repository/objects", os.O_PATH) as objects_fd:
            return mount_image(image_fd, [objects_fd], options or MountOptions(SOURCE), features and limited(features))


def limited(features):
    """Return what of *features* this kernel has."""
    found = probe()
    names = [field.name for field in dataclasses.fields(features) if field.name != "kernel"]
    return replace(features, **{name: False for name in names if getattr(found, name) is False})


def require(features):
    """Skip the test on kernels that have not all of *features*."""
    if limited(features) != features:
        pytest.skip("this kernel cannot do that")


@contextlib.contextmanager
def opened(path, flags=os.O_RDONLY):
    """Give a descriptor of what is at *path*."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def loop_devices_of(path):
    """Return the loop devices that show files below *path*."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # others come and go
            if backing.read_text().startswith(str(path)):
                found.append(backing)
    return found


def wait_for_no_loop_device(path):
    """A device ends when the kernel comes to it, soon after the last close."""
    for _ in range(200):
        if not loop_devices_of(path):
            return
        time.sleep(0.01)
    assert loop_devices_of(path) == []


def descriptors():
    """Return the numbers of open descriptors, without that of their directory."""
    return sorted(os.listdir("/proc/self/fd"), key=int)[:-1]


def read(dir_fd, path):
    """Return the contents of the file at *path*, relative to *dir_fd*."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=dir_fd)) as file:
        return file.read()


def listing(dir_fd):
    """Return the names in the directory, which may be open as a path only."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


@contextlib.contextmanager
def private_place(path: Path) -> Iterator[Place]:
    """Give a place at *path* in a mount namespace of its own; nothing stays behind there."""
    require_root("mounts")
    if not (probe().overlay and probe().erofs):
        pytest.skip("this kernel has no EROFS or no overlayfs")
    temporary = path / "temporary"
    temporary.mkdir()
    (path / "target").mkdir()
    composefs.Repository.init(path / "repository", Algorithm.SHA256, require_verity=False)
    with (
        mock.patch.object(tempfile, "tempdir", str(temporary)),
        private_mounts(),
        composefs.Repository.open(path / "repository") as repository,
    ):
        repository.objects.ensure(b"")  # opens what stays open
        before = mounted(), descriptors()
        yield Place(path, repository)
        assert (mounted(), descriptors()) == before
        assert list(temporary.iterdir()) == []
        wait_for_no_loop_device(path)


def sample(repository):
    """Return a tree with something of everything."""
    shared = external(repository, file_data(10_000))
    other = external(repository, file_data(65), mode=0o600, uid=1000, xattrs={b"user.name": b"value"})
    return directory(
        {
            "etc": directory({"large": shared, "small": inline(file_data(5))}, mode=0o700, gid=5),
            "usr": directory({"lib": directory({"other": other, "again": shared})}),
            "empty": inline(),
            "link": symlink("etc/small"),
            "pipe": fifo(),
            "null": device(1, 3, mode=0o666),
        }
    )
