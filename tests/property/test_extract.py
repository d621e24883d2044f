"""Whatever tree an image was made of, the directory that it is extracted to is that tree."""

import re
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

import composefs
from composefs import Algorithm
from composefs.dumpfile import format_dump
from composefs.erofs import ondisk
from composefs.erofs.writer import write_image
from composefs.image import Image, extract
from composefs.scan import scan_directory
from composefs.tree import Leaf, Object, is_whiteout, walk
from tests import images, strategies
from tests.tools import require_root

LOST = {*ondisk.WHITEOUT_XATTRS, *ondisk.WHITEOUTS_XATTRS, *ondisk.OPAQUE_XATTRS}  # what images use for themselves
LOST |= {name.replace(ondisk.ESCAPED, ondisk.OVERLAY) for name in LOST}


@pytest.fixture(scope="module")
def scratch():
    """A directory on a tmpfs, where xattrs of all kinds can be set and nothing is slow."""
    require_root("owners, devices and trusted xattrs")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        yield Path(directory)


def without_what_is_lost(root):
    """Take out of a tree what no reader of an image sees: marks for overlayfs, and what looks like a stub."""
    for _, node in walk(root):
        xattrs = {name: value for name, value in node.stat.xattrs.items() if name not in LOST}
        node.stat = node.stat._replace(xattrs=xattrs)
    for name, node in [*root.entries.items()]:
        if re.fullmatch(rb"[0-9a-fA-F]{2}", name) and isinstance(node, Leaf) and is_whiteout(node.content):
            del root.entries[name]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_random_trees(algorithm, scratch):
    """Random trees come back, line for line of their dumps."""
    composefs.Repository.init(scratch / algorithm.hash_name, algorithm, require_verity=False)

    @hypothesis.settings(max_examples=100, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(strategies.trees(algorithm))
    def check(root):
        for _, node in walk(root):
            if isinstance(node, Leaf) and isinstance(node.content, Object):
                repository.objects.ensure(strategies.file_data(node.content.size))
        images.store(repository.images, write_image(root))
        without_what_is_lost(root)
        try:
            with Image.open(repository, "image") as image:
                result = extract(image, scratch / "target")
            got = scan_directory(scratch / "target", algorithm)
        finally:
            shutil.rmtree(scratch / "target", ignore_errors=True)
        assert b"".join(format_dump(got)) == b"".join(format_dump(root))
        assert result.shortfalls == []

    with composefs.Repository.open(scratch / algorithm.hash_name) as repository:
        check()
