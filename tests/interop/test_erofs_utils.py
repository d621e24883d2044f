"""erofs-utils accept what the writer makes."""

import subprocess

import pytest

from composefs.dialect import Dialect
from composefs.dumpfile import parse_dump
from composefs.erofs.writer import write_image
from tests.golden import dumps, erofs_ids, vectors
from tests.tools import require_tool

SWEEPS = {
    "random": 2,
    "directory-sizes": 9,
    "symlink-blocks": 12,
    "xattr-sizes": 10,
    "inline-tails": 30,
}  # every how manyth
# fsck.erofs 1.5 takes a chunk of 8 TiB for damage, and V2 has no others.
HUGE_IN_V2 = {"chunks"}


def check(image, path):
    path.write_bytes(image)
    found = subprocess.run([require_tool("fsck.erofs"), path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    shown = subprocess.run([require_tool("dump.erofs"), "-s", path], capture_output=True, text=True, check=True).stdout
    assert f"Filesystem blocks:                            {len(image) // 4096}\n" in shown


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps(name, tmp_path):
    """Series of trees that fill a page to each degree, and random ones."""
    texts = dumps.split(vectors.read(vectors.ROOT / "sweeps" / f"{name}.dumps.gz"))
    for lines in texts[:: SWEEPS[name]]:
        root = dumps.read(lines)
        for version in (0, 1, 2):
            check(write_image(root, version), tmp_path / "image")


@pytest.mark.parametrize("case", erofs_ids.CASES, ids=lambda case: case.name)
def test_cases(case, tmp_path):
    """Trees of one peculiarity each, in both dialects."""
    lines = [f"{line}\n".encode() for line in case.lines]
    for dialect, ids in ((Dialect.RUST, case.by_rust), (Dialect.C, case.by_c)):
        dump = parse_dump(lines, "the dump", dialect=dialect) if ids else None
        for version in range(len(ids)):
            if version < 2 or case.name not in HUGE_IN_V2:
                check(write_image(dump.root, version, dialect=dialect, homes=dump.homes), tmp_path / "image")
