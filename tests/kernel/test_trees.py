"""What the kernel shows of an image is what tar extracts of its layers, whichever tool imported and mounted it."""

import stat
from pathlib import Path

import pytest

from composefs import Algorithm
from tests.kernel import extracted
from tests.kernel.images import NAME, fill, has_verity, here, mount_options, mounted, there
from tests.layouts import Layout


def test_ours(disk: Path, target: Path, layout: Layout, wanted: extracted.Tree) -> None:
    """Contents, metadata, capabilities, hard links and devices of an image imported here, for both tools."""
    path = fill(disk / "repository", layout)
    required = ["--require-verity"] if has_verity(disk) else []

    with mounted(here, path, target, *required):
        assert extracted.visible(target) == wanted
    with mounted(there, path, target, *required):
        assert extracted.visible(target) == wanted
    here(path, *required, "oci", "fsck")
    there(path, *required, "fsck")
    there(path, *required, "oci", "fsck")


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_theirs(disk: Path, target: Path, layout: Layout, wanted: extracted.Tree, algorithm: Algorithm) -> None:
    """The same of an image that cfsctl imported; what is there already is taken as it is."""
    path = disk / "repository"
    there(path, "init", *([] if has_verity(disk) else ["--insecure"]), "--algorithm", algorithm.value, path)
    there(path, "oci", "pull", str(layout), NAME)
    required = ["--require-verity"] if has_verity(disk) else []

    with mounted(here, path, target, *required):
        assert extracted.visible(target) == wanted
    here(path, *required, "oci", "fsck")
    objects = {file.relative_to(path): file.stat().st_ino for file in path.glob("objects/*/*")}
    fill(path, layout, algorithm)
    assert {file.relative_to(path): file.stat().st_ino for file in path.glob("objects/*/*")} == objects


def test_options(disk: Path, target: Path, layout: Layout) -> None:
    """Both tools mount with the same options, but for the way in which layers are spelled."""
    path = fill(disk / "repository", layout)
    seen = []

    for run in (here, there):
        with mounted(run, path, target):
            seen.append(mount_options(target))

    assert seen[0] == seen[1]
    assert ("verity=require" in seen[0][-1]) == has_verity(disk)


def test_whiteout(disk: Path, target: Path, layout: Layout) -> None:
    """A device in a layer that is a whiteout for overlayfs appears for both tools as an empty file that is one."""
    path = fill(disk / "repository", layout)
    seen = []

    for run in (here, there):
        with mounted(run, path, target):
            seen.append(extracted.snapshot(target)[extracted.WHITEOUT])

    assert seen[0] == seen[1]
    assert seen[0][0] == oct(stat.S_IFREG | 0o644)
