"""What kernels lack is made up for, or said before anything is mounted: this runs on each kernel of the lab."""

import os
from pathlib import Path

import pytest

import composefs
from composefs.cli import main
from composefs.kernel import probe
from tests.kernel import extracted
from tests.kernel.images import NAME, fill, here, mount_options, mounted, there
from tests.layouts import Layout

pytestmark = pytest.mark.every_kernel

Version = tuple[int, int]


def test_features(kernel_version: Version) -> None:
    """What is found by trying is what these kernels of Debian have; the versions are those of the documentation."""
    found = probe()

    assert found.erofs
    assert found.overlay
    assert found.loop_devices
    assert found.idmap
    assert found.data_only_layers == (kernel_version >= (6, 5))
    assert found.overlay_verity == (kernel_version >= (6, 6))
    assert found.layer_options == (kernel_version >= (6, 8))
    assert found.file_backed_erofs == (kernel_version >= (6, 12))
    assert found.detached_layers == (kernel_version >= (6, 15))


def test_tree(scratch: Path, target: Path, layout: Layout, wanted: extracted.Tree) -> None:
    """Where fs-verity is not required, every kernel shows the tree, by loop device and merged layers if need be."""
    before = Path("/proc/self/mountinfo").read_text()
    path = fill(scratch / "repository", layout, require_verity=False)

    with mounted(here, path, target):
        assert extracted.visible(target) == wanted

    assert Path("/proc/self/mountinfo").read_text() == before
    assert not list(Path("/tmp").glob("composefs*"))


def test_verity_required(
    scratch: Path, target: Path, layout: Layout, kernel_version: Version, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where it is required, a kernel that cannot demand it of objects is refused by name."""
    path = fill(scratch / "repository", layout)
    status = main(["--repo", str(path), "oci", "mount", NAME, str(target)])

    assert os.path.ismount(target) == (status == 0) == (kernel_version >= (6, 6))
    if status:
        (line,) = capfd.readouterr().err.splitlines()
        assert "verity=require of overlayfs (Linux 6.6)" in line
    else:
        here(path, "umount", target)


def test_no_stubs(
    scratch: Path, target: Path, layout: Layout, kernel_version: Version, capfd: pytest.CaptureFixture[str]
) -> None:
    """An image of the format V2 does not hide the objects where the kernel has no data-only layers: it is refused."""
    path = fill(scratch / "repository", layout, require_verity=False, erofs_version=2)
    status = main(["--repo", str(path), "oci", "mount", NAME, str(target)])

    assert os.path.ismount(target) == (status == 0) == (kernel_version >= (6, 5))
    if status:
        (line,) = capfd.readouterr().err.splitlines()
        assert "data-only layers of overlayfs (Linux 6.5)" in line
    else:
        here(path, "umount", target)


def test_theirs(scratch: Path, kernel_version: Version, target: Path, layout: Layout, wanted: extracted.Tree) -> None:
    """What cfsctl mounts on this kernel is the same, with the same options; before 6.12 it cannot mount."""
    path = fill(scratch / "repository", layout, require_verity=False)
    if kernel_version < (6, 12):
        with pytest.raises(AssertionError, match="Block device required"):
            there(path, "oci", "mount", NAME, target)
        return

    with mounted(there, path, target):
        assert extracted.visible(target) == wanted
        theirs = mount_options(target)
    with mounted(here, path, target):
        assert mount_options(target) == theirs


def test_sealed_digests(scratch: Path) -> None:
    """Every kernel measures the digests that are computed here."""
    for algorithm in composefs.Algorithm:
        composefs.Repository.init(scratch / algorithm.hash_name, algorithm, require_verity=True)
        with composefs.Repository.open(scratch / algorithm.hash_name) as repository:
            digests = [repository.objects.ensure(bytes(size))[0] for size in (65, 4096, 4097, 129 * 4096)]
            for raw in digests:
                repository.objects.open(composefs.Digest(algorithm, raw)).close()
