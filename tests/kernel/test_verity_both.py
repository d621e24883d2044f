"""One repository with fs-verity, filled and checked by both tools in turn."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, verity
from composefs.cli import main
from composefs.digest import Digest
from composefs.repository import Repository
from composefs.repository.fsck import check_repository
from tests.kernel.images import has_verity, here, there
from tests.layouts import Layout, files_layer, image_layout, noise
from tests.tools import require_tool

SHARED = {f"usr/share/{number}": noise(700 * number, number) for number in range(1, 12)}


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    """Images whose layers have files in common, and one layer as a whole; small files, large ones, duplicates."""
    require_tool("cfsctl")
    base = files_layer(SHARED, "gzip")
    path = Path("/tmp/verity-both")
    return [
        image_layout(path / str(number), [base, files_layer(files, compression)], f"image{number}")
        for number, (files, compression) in enumerate(
            [
                ({"a": noise(1_500_000, 20), "b": noise(100, 21), "c": noise(100, 21)}, "none"),
                ({"usr/share/5": SHARED["usr/share/5"], "d": noise(9_000_000, 22)}, "zstd"),
                ({"e": noise(600_000, 23), "a": noise(1_500_000, 20)}, "gzip"),
            ]
        )
    ]


def objects(path: Path) -> list[Path]:
    return sorted(file for file in (path / "objects").glob("??/*"))


def unsealed(path: Path, algorithm: Algorithm) -> list[Path]:
    """Return the objects that the kernel does not enforce the names of."""
    found = []
    for file in objects(path):
        with file.open("rb") as opened:
            if verity.measure(opened.fileno(), algorithm) != Digest.from_hex(algorithm, file.parent.name + file.name):
                found.append(file)
    return found


def links(path: Path) -> dict[str, str]:
    """Return layers and images, and which objects they are."""
    found = [
        *(path / "streams").glob("oci-layer-*"),
        *(file for file in (path / "images").iterdir() if file.is_symlink()),
    ]
    return {file.name: os.readlink(file) for file in found}


def import_(path: Path, layout: Layout, number: int) -> None:
    with Repository.open(path) as repository, ThreadPoolExecutor(1) as executor:  # processes take long to start here
        composefs.import_image(repository, str(layout), name=f"image{number}", executor=executor)


def pull(path: Path, layout: Layout, number: int) -> None:
    there(path, "oci", "pull", f"oci:{layout.path}:image{number}", f"image{number}")


def findings(path: Path) -> tuple[list[str], list[str]]:
    """Return what both find wrong, sorted."""
    done = subprocess.run(["cfsctl", "--repo", path, "fsck", "--json"], check=False, capture_output=True, text=True)
    theirs = json.loads(done.stdout)["errors"]
    with Repository.open(path) as repository:
        ours = [str(finding) for finding in check_repository(repository).findings]
    return sorted(ours), sorted(theirs)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_in_turn(disk: Path, layouts: list[Layout], first: str) -> None:
    """Whoever begins: everything is sealed, and both find nothing wrong, after each step."""
    path, algorithm = disk / "repository", Algorithm.SHA512
    (here if first == "ours" else there)(path, "init", *([] if has_verity(disk) else ["--insecure"]))
    steps = [import_, pull, import_] if first == "ours" else [pull, import_, pull]
    for number, (step, layout) in enumerate(zip(steps, layouts, strict=True)):
        step(path, layout, number)
        assert findings(path) == ([], [])
        if has_verity(disk):
            assert unsealed(path, algorithm) == []
    named = links(path)
    for number, step in enumerate([pull, import_] if first == "ours" else [import_, pull]):
        step(path, layouts[number], number)  # finds what the other has stored
    assert links(path) == named
    assert findings(path) == ([], [])


@pytest.mark.parametrize("algorithm", Algorithm)
def test_same_repository(scratch: Path, layouts: list[Layout], algorithm: Algorithm) -> None:
    """The same image by each comes to the same layers and the same EROFS image, all of it sealed."""
    paths = [scratch / "ours", scratch / "theirs"]
    for path, step in zip(paths, (import_, pull), strict=True):
        there(path, "init", "--algorithm", algorithm.value)
        step(path, layouts[1], 1)
        assert unsealed(path, algorithm) == []
    ours, theirs = map(links, paths)

    assert ours == theirs
    assert len(ours) == 3


def test_without_seal(scratch: Path, layouts: list[Layout]) -> None:
    """An object that lost its seal is found by both, and sealed where it lies by the next import."""
    path = scratch / "repository"
    here(path, "init")
    import_(path, layouts[0], 0)
    large, small = (next(file for file in objects(path) if file.stat().st_size == size) for size in (1_500_000, 7700))
    for file in (large, small):
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    wanted = {file: f"fsck: object-verity-missing: {file.relative_to(path)}" for file in (large, small)}

    assert findings(path) == (sorted(wanted.values()), sorted(wanted.values()))
    assert main(["--repo", str(path), "fsck"]) == 1

    inode = large.stat().st_ino
    import_(path, layouts[2], 2)  # has the larger one in another layer
    assert findings(path) == ([wanted[small]], [wanted[small]])
    assert large.stat().st_ino == inode
