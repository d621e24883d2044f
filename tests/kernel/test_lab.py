"""A guest of the lab is what the other tests take it for."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, verity

pytestmark = pytest.mark.every_kernel

SIZES = [0, 1, 4096, 4097, 128 * 4096 + 1]  # bytes


def _filesystem(path: Path) -> str:
    """Return the type of the file system that is mounted at *path*."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(fields[2] for fields in mounts if fields[1] == str(path))


def test_kernel_is_the_one_asked_for():
    """The kernel is a plain one of Debian, of the series that the lab was told to boot."""
    release = os.uname().release

    assert release.startswith(f"{os.environ['COMPOSEFS_LAB']}.")
    assert release.endswith("-cloud-amd64")


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_disks_are_mounted(filesystem):
    assert _filesystem(Path("/disks", filesystem)) == filesystem


@pytest.mark.parametrize("directory", ["/tmp", "/run", "/mnt"])
def test_scratch_is_in_memory(directory):
    assert _filesystem(Path(directory)) == "tmpfs"


def test_files_of_the_host_are_read_only():
    with pytest.raises(OSError, match="Read-only"):
        Path(__file__).with_suffix(".new").touch()


@pytest.mark.parametrize("filesystem", ["overlay", "erofs", "fuse"])
def test_file_systems_are_known(filesystem):
    assert filesystem in Path("/proc/filesystems").read_text().split()


def test_package_is_the_one_under_test():
    """Run by `make kernel`, the tests are the checkout's, but the package is the installed one."""
    assert Path(composefs.__file__).is_relative_to(os.environ["COMPOSEFS_LAB_PACKAGE"])


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", SIZES)
def test_kernel_measures_what_we_and_fsverity_compute(filesystem, algorithm, size):
    """Three implementations of fs-verity agree: this kernel's, fsverity-utils', ours."""
    data = hashlib.shake_128(b"lab").digest(size)
    path = Path("/disks", filesystem, f"measured-{algorithm.hash_name}-{size}")
    path.write_bytes(data)

    with path.open("rb") as file:
        assert verity.enable(file.fileno(), algorithm)
        measured = verity.measure(file.fileno(), algorithm)

    assert measured == verity.compute_digest(data, algorithm)
    printed = subprocess.run(["fsverity", "measure", path], check=True, capture_output=True, text=True).stdout
    assert printed.split()[0] == f"{algorithm.hash_name}:{measured.raw.hex()}"


def test_sealed_file_is_not_written(scratch):
    path = scratch / "sealed"
    path.write_bytes(b"data")
    subprocess.run(["fsverity", "enable", path], check=True)

    with pytest.raises(OSError, match="not permitted"):
        path.open("r+b")


def test_xfs_has_no_verity():
    """The store must do without on it."""
    path = Path("/disks/xfs/plain")
    path.write_bytes(b"data")

    done = subprocess.run(["fsverity", "enable", path], check=False, capture_output=True, text=True)

    assert done.returncode != 0


def test_loop_devices_work(scratch):
    image = scratch / "image"
    with image.open("wb") as file:
        file.truncate(1 << 20)

    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()

    assert Path("/sys/class/block", Path(device).name, "size").read_text() == "2048\n"
    subprocess.run(["losetup", "--detach", device], check=True)
