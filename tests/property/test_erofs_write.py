"""Whatever a tree is, its image depends on nothing but what it says, and is well formed."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from composefs.digest import Algorithm
from composefs.erofs.check import check_structure
from composefs.erofs.reader import ErofsReader
from composefs.erofs.writer import write_image
from composefs.tree import Backed, Directory, Leaf, Object, object_path, walk
from tests import strategies

VERSIONS = (0, 1, 2)
STUBS = [b"%02x" % number for number in range(256)]
TREES = st.sampled_from(Algorithm).flatmap(lambda algorithm: strategies.trees(algorithm, max_nodes=40))


def rebuilt(directory, change, dice, known=None):
    """Return a tree with the same names in another order, in which *change* made the content of each leaf."""
    known = {} if known is None else known
    entries = list(directory.entries.items())
    dice.shuffle(entries)
    other = Directory(directory.stat)
    for name, node in entries:
        if isinstance(node, Directory):
            other.entries[name] = rebuilt(node, change, dice, known)
        else:
            if node not in known:
                known[node] = Leaf(node.stat, change(node.content), node.link_count)
            other.entries[name] = known[node]
    return other


@given(TREES, st.integers(0, 1000))
@settings(max_examples=60)
def test_what_does_not_matter(root, seed):
    """The order of entries does not, nor whether a file is an object, or backed by its path and digest."""
    dice = random.Random(seed)

    def change(content):
        if isinstance(content, Object) and dice.random() < 0.5:
            return Backed(content.size, object_path(content.digest), content.digest)
        return content

    other = rebuilt(root, change, dice)
    for version in VERSIONS:
        assert write_image(other, version) == write_image(root, version)


@given(TREES)
@settings(max_examples=40)
def test_well_formed(root):
    """The image has the checks of composefs-rs behind it, all names once, and nothing behind its end."""
    for version in VERSIONS:
        reader = ErofsReader(write_image(root, version))
        if not any(b"whiteout" in name for _, node in walk(root) for name in node.stat.xattrs):
            check_structure(reader)
        assert reader.size % 4096 == 0
        stubs = 0 if version == 2 else 256 - sum(name in root.entries for name in STUBS)
        assert len(reader.entries(reader.root)) == 2 + len(root.entries) + stubs
