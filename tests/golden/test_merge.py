"""Merging the layers of the golden images gives the trees that composefs-rs dumps, from the archives alone."""

import pytest

from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.oci.merge import find_origins, merge_layers
from composefs.transform import XattrFilter, transform_for_oci
from composefs.tree import walk
from tests.golden import vectors
from tests.layers import index_of

ALGORITHMS = {"sha256": Algorithm.SHA256, "sha512": Algorithm.SHA512}
RANDOM = vectors.expected("random")


def dump(layers, xattrs=XattrFilter.ALLOWLIST_ONLY):
    root = merge_layers(layers)
    transform_for_oci(root, xattrs)
    return b"".join(format_dump(root)).decode()


def indexes(name, algorithm):
    return [index_of(tar, f"layer {number}", algorithm) for number, tar in enumerate(vectors.layer_archives(name))]


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name, hash_name):
    """Dumps have the recorded lines, in each mode of extended attributes."""
    recorded = vectors.expected(f"images/{name}")[hash_name]
    layers = indexes(name, ALGORITHMS[hash_name])

    assert vectors.is_text(recorded["dump"], dump(layers))
    kept = recorded.get("dump_keep_user_xattrs", recorded["dump"])
    assert vectors.is_text(kept, dump(layers, XattrFilter.KEEP_USER_XATTRS))


@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("vector", RANDOM, ids=lambda vector: vector["case"])
def test_random_image(vector, hash_name):
    """So do those of layers made by dice."""
    layers = indexes(vector["case"], ALGORITHMS[hash_name])

    assert vectors.is_text(vector[hash_name]["dump"], dump(layers))


@pytest.mark.parametrize("name", [*vectors.image_names(), *(vector["case"] for vector in RANDOM)])
def test_origins(name):
    """Every path of a tree but an unnamed root has its layer, the last one by which the tree changed there."""
    layers = indexes(name, Algorithm.SHA256)
    origins = find_origins(layers)
    trees = [dict(walk(merge_layers(layers[:count]))) for count in range(len(layers) + 1)]

    for path in trees[-1].keys() - {b"/"}:
        layer = origins[path]
        assert all(path in tree for tree in trees[layer + 1 :])
        assert len({id(tree[path].stat) for tree in trees[layer + 1 :]}) > 0
        assert all(tree[path].stat == trees[-1][path].stat for tree in trees[layer + 1 :])
