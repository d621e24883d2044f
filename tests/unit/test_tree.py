"""Trees: what stands where, and walks over all of it."""

import stat
import tracemalloc

import pytest

from composefs.errors import NotFoundError, TreeError
from composefs.tree import Directory, Inline, Leaf, Special, Stat, Symlink, is_whiteout, nodes, object_path, walk

INFO = Stat(0o644, 0, 0, 0, 0)
FILE = Leaf(INFO, Inline(b""))


def tree():
    """Return a tree with a file of three names, and a link to a directory."""
    below = Directory(INFO, {b"z": FILE, b"a-": FILE})
    return Directory(INFO, {b"l": Leaf(INFO, Symlink(b"a")), b"a": below, b"a.": FILE, b"e": Directory(INFO)})


def test_walk():
    """Depth first, siblings by name; what has several names comes as often."""
    root = tree()
    below = root.entries[b"a"]
    assert list(walk(root)) == [
        (b"/", root),
        (b"/a", below),
        (b"/a/a-", FILE),
        (b"/a/z", FILE),
        (b"/a.", FILE),
        (b"/e", root.entries[b"e"]),
        (b"/l", root.entries[b"l"]),
    ]


def test_nodes():
    """The same nodes as `walk` gives, in any order."""
    root = tree()
    assert sorted(map(id, nodes(root))) == sorted(id(node) for _, node in walk(root))


def test_nodes_of_a_deep_tree():
    """No path is made: here those of all together would be 100 times the tree."""
    root = directory = Directory(INFO)
    for _ in range(2000):
        directory.entries[b"d" * 255] = directory = Directory(INFO)
    tracemalloc.start()
    try:
        assert sum(1 for _ in nodes(root)) == 2001
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("path", "name"), [(b"a/z", b"z"), (b"/a//./z", b"z"), (b"l", b"l"), (b"a/a-", b"a-")])
def test_node(path, name):
    root = tree()
    parent = root.entries[b"a"] if b"a" in path else root
    assert root.node(path) is parent.entries[name]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (b"a/none", NotFoundError, "a/none not found"),
        (b"a/../l", TreeError, "a/../l: goes up"),
        (b"l/z", TreeError, "l/z: goes through something that is no directory"),
    ],
)
def test_no_node(path, error, message):
    with pytest.raises(error) as caught:
        tree().node(path)
    assert str(caught.value) == message


def test_directory():
    root = tree()
    assert root.directory(b"a") is root.entries[b"a"]
    assert root.directory(b"/") is root
    with pytest.raises(TreeError, match="l: is not a directory"):
        root.directory(b"l")


def test_object_path():
    assert object_path(bytes.fromhex("00ff") * 16) == b"00/" + b"ff" + b"00ff" * 15


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (Special(stat.S_IFCHR), True),
        (Special(stat.S_IFCHR, 1), False),
        (Special(stat.S_IFBLK), False),
        (Inline(b""), False),
    ],
)
def test_is_whiteout(content, is_one):
    assert is_whiteout(content) == is_one
