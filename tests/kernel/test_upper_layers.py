"""Upper layers whose file system does not keep what an overlay needs, and what kernels make of it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, MountError
from composefs.erofs.writer import write_image
from composefs.kernel import MountOptions, Verity, mount_image, unmount
from tests.images import directory, external

pytestmark = pytest.mark.every_kernel

DATA = b"data" * 1000


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """A repository without fs-verity, and an image of one of its objects."""
    subprocess.run(["mount", "-t", "tmpfs", "none", scratch], check=True)
    composefs.Repository.init(scratch / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(scratch / "repository") as repository:
        root = directory({"usr": directory({"tool": external(repository, DATA)})})
        (scratch / "image").write_bytes(write_image(root, 1))
    yield scratch
    subprocess.run(["umount", scratch], check=True)


def options_with_upper(stack: ExitStack, upper: Path, verity: Verity = Verity.DISABLED) -> MountOptions:
    fds = []
    for name in ("upper", "work"):
        (upper / name).mkdir(exist_ok=True)
        fds.append(os.open(upper / name, os.O_PATH | os.O_DIRECTORY))
        stack.callback(os.close, fds[-1])
    return MountOptions("composefs:upper", verity, read_only=False, upper_fd=fds[0], work_fd=fds[1])


def test_without_xattrs(place: Path, target: Path, kernel_version: tuple[int, int]) -> None:
    """There kernels switch metacopy off by themselves: files have their contents all the same, or all is refused."""
    upper = place / "disk"
    upper.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", upper], check=True)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", upper], check=True)
        image = os.open(place / "image", os.O_RDONLY)
        stack.callback(os.close, image)
        objects = os.open(place / "repository/objects", os.O_RDONLY)
        stack.callback(os.close, objects)
        options = options_with_upper(stack, upper)
        if kernel_version < (6, 16):
            with pytest.raises(
                MountError, match="^read usr/tool: .*; the kernel does not follow .*keeps trusted xattrs$"
            ):
                mount_image(image, [objects], options)
            return

        with mount_image(image, [objects], options) as mount:
            mount.attach(str(target))
        assert (target / "usr/tool").read_bytes() == DATA
        unmount(str(target))
        with mount_image(image, [objects], options_with_upper(stack, upper, Verity.REQUIRED)) as mount:
            mount.attach(str(target))
        with pytest.raises(OSError, match="Input/output error"):  # and fs-verity is still required
            (target / "usr/tool").read_bytes()
        unmount(str(target))
