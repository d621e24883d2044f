"""The OCI transform: the root's metadata, /run, and extended attributes."""

import pytest

from composefs.errors import NotFoundError, TreeError
from composefs.transform import XattrFilter, transform_for_oci
from composefs.tree import NO_XATTRS, Directory, Inline, Leaf, Stat, Symlink

CAPABILITY, USER, LABEL = b"security.capability", b"user.a", b"security.selinux"
# Names that differ from what is kept by little.
NEARLY = [
    b"security.capabilit",
    b"security.capability2",
    b"Security.capability",
    b"user",
    b"users.a",
    b"trusted.user.a",
]

USR = Stat(0o751, 1, 2, -5, 999_999_999, {CAPABILITY: b"c", USER: b"u", LABEL: b"l"})
OTHER = Stat(0o700, 8, 9, 1, 1, {USER: b"r", LABEL: b"m"})


def file(info=OTHER):
    return Leaf(info, Inline(b"data"))


def tree(**entries):
    root = Directory(Stat(0, 0, 0, 0, 0, {b"trusted.x": b"x"}))
    root.entries = {name.encode(): node for name, node in ({"usr": Directory(USR)} | entries).items()}
    return root


def test_the_root_takes_all_metadata_of_usr():
    root = tree()

    transform_for_oci(root, XattrFilter.KEEP_USER_XATTRS)

    assert root.stat == Stat(0o751, 1, 2, -5, 999_999_999, {CAPABILITY: b"c", USER: b"u"})
    assert root.stat == root.entries[b"usr"].stat


def test_run_is_emptied_and_takes_the_mtime_of_usr():
    leaf = file()
    root = tree(run=Directory(OTHER, {b"lock": Directory(OTHER, {b"x": leaf})}), kept=leaf)

    transform_for_oci(root)

    run = root.entries[b"run"]
    assert run.entries == {}
    assert run.stat == Stat(0o700, 8, 9, -5, 999_999_999)
    assert root.entries[b"kept"] is leaf


def test_without_run_there_is_none_afterwards():
    root = tree()

    transform_for_oci(root)

    assert list(root.entries) == [b"usr"]


@pytest.mark.parametrize(
    ("mode", "kept"),
    [(XattrFilter.ALLOWLIST_ONLY, {CAPABILITY}), (XattrFilter.KEEP_USER_XATTRS, {CAPABILITY, USER, b"user."})],
)
def test_extended_attributes_are_filtered_everywhere(mode, kept):
    xattrs = dict.fromkeys([CAPABILITY, USER, b"user.", LABEL, *NEARLY], b"v")
    info = Stat(0o644, 0, 0, 0, 0, xattrs)
    root = tree(a=Directory(info, {b"f": file(info), b"l": Leaf(info, Symlink(b"x"))}), run=Directory(info))

    transform_for_oci(root, mode)

    below = root.entries[b"a"]
    for node in (below, below.entries[b"f"], below.entries[b"l"], root.entries[b"run"]):
        assert set(node.stat.xattrs) == kept
    assert set(xattrs) == {CAPABILITY, USER, b"user.", LABEL, *NEARLY}  # stats are shared: that of another tree stays


def test_the_default_is_the_list():
    root = tree(a=file(Stat(0, 0, 0, 0, 0, {USER: b"u"})))

    transform_for_oci(root)

    assert root.entries[b"a"].stat.xattrs is NO_XATTRS


def test_hard_links_stay():
    leaf = file()
    root = tree(a=leaf, b=leaf)

    transform_for_oci(root)

    assert root.entries[b"a"] is root.entries[b"b"] is leaf
    assert leaf.stat == OTHER._replace(xattrs=NO_XATTRS)


def test_what_needs_no_filtering_is_shared_on():
    plain, capable = Stat(0, 0, 0, 0, 0), Stat(0, 0, 0, 0, 0, {CAPABILITY: b"c"})
    root = tree(a=file(plain), b=file(capable))

    transform_for_oci(root)

    assert root.entries[b"a"].stat is plain
    assert root.entries[b"b"].stat is capable


def test_a_second_time_changes_nothing():
    root = tree(run=Directory(OTHER, {b"x": file()}), a=file())
    transform_for_oci(root)
    before = [root.stat, *(node.stat for node in root.entries.values())]

    transform_for_oci(root)

    assert [root.stat, *(node.stat for node in root.entries.values())] == before


@pytest.mark.parametrize("mode", XattrFilter)
def test_deep_trees_do_not_recurse(mode):
    root = tree()
    below = root
    for _ in range(5000):
        below.entries[b"d"] = below = Directory(OTHER)

    transform_for_oci(root, mode)

    assert LABEL not in below.stat.xattrs


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"usr": None}, NotFoundError, "^/usr does not exist, but such an image must have it$"),
        ({"usr": file()}, TreeError, "^/usr: is not a directory$"),
        ({"usr": Leaf(OTHER, Symlink(b"run"))}, TreeError, "^/usr: is not a directory$"),
        ({"run": file()}, TreeError, "^/run: is not a directory$"),
        ({"run": Leaf(OTHER, Symlink(b"usr"))}, TreeError, "^/run: is not a directory$"),
    ],
)
def test_what_is_no_image_is_refused_and_left_alone(entries, error, message):
    root = tree(**entries)
    root.entries = {name: node for name, node in root.entries.items() if node is not None}

    with pytest.raises(error, match=message):
        transform_for_oci(root)

    assert root.stat.xattrs == {b"trusted.x": b"x"}


def test_modes_are_what_the_command_line_has():
    assert [mode.value for mode in XattrFilter] == ["allowlist-only", "keep-user-xattrs"]
