"""Random file systems have the images that `cfsctl create-image` makes of them, bit for bit, in every version.

COMPOSEFS_TREES says how many; `make fuzz` runs more of them, others each time.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import hypothesis
import pytest

from composefs import Algorithm, Repository
from composefs.erofs.writer import write_image
from composefs.repository.meta import Meta
from composefs.scan import scan_directory
from composefs.verity import compute_digest
from tests import strategies
from tests.tools import require_root, require_tool

COUNT = int(os.environ.get("COMPOSEFS_TREES", "2000"))
VERSIONS = (1, 0, 2)


@pytest.fixture(scope="module")
def scratch():
    """A directory on a tmpfs, where xattrs of all kinds can be set and nothing is slow."""
    require_root("owners, devices and trusted xattrs")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        yield Path(directory)


@pytest.mark.parametrize(("algorithm", "share"), [(Algorithm.SHA256, 0.8), (Algorithm.SHA512, 0.2)])
def test_random_trees(algorithm, share, scratch):
    """Both the values and what is read from disk give the images of cfsctl, in V0, V1 and V2."""
    cfsctl = require_tool("cfsctl")
    path = scratch / algorithm.hash_name
    Repository.init(path, algorithm, require_verity=False)
    (path / "meta.json").write_bytes(Meta(algorithm, 1, (0, 2)).pack())
    made = 0

    @hypothesis.settings(max_examples=round(COUNT * share), suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(strategies.trees(algorithm))
    def check(root):
        nonlocal made
        made += 1
        directory = scratch / f"tree-{made}"
        strategies.write_tree(root, directory)
        try:
            command = [cfsctl, "--repo", path, "create-image", "--no-propagate-usr-to-root", directory]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for version in VERSIONS:
                image = write_image(root, version)
                digest = compute_digest(image, algorithm)
                if version == 1:
                    assert printed == f"{digest}\n"
                assert (path / "images" / digest.hex).read_bytes() == image
                assert write_image(scan_directory(directory, algorithm), version) == image
        finally:
            shutil.rmtree(directory)

    check()
    assert made >= round(COUNT * share)
