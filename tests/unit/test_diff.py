"""The comparison of two trees: each kind of change, each group, each explanation, and how they are shown."""

import json
import os
import stat
import tracemalloc

import pytest

from composefs.diff import Field, Layer, as_json, compare, explain, groups, render
from composefs.diff.causes import Cause
from composefs.diff.explain import _cover, _Tried
from composefs.digest import Algorithm
from composefs.transform import XattrFilter, transform_for_oci
from composefs.tree import Backed, Directory, Inline, Leaf, Object, Special, Stat, Symlink, object_path, walk
from composefs.verity import compute_digest

LABEL = b"security.selinux"
DIGEST = bytes(range(32))
WHITEOUT = Special(stat.S_IFCHR, 0)


def st(mode=0o644, uid=0, gid=0, mtime=5, nanoseconds=0, **xattrs):
    """Return a stat; `user_x=b"1"` is the attribute `user.x`."""
    return Stat(mode, uid, gid, mtime, nanoseconds, {k.replace("_", ".").encode(): v for k, v in xattrs.items()})


def leaf(content=None, **fields):
    return Leaf(st(**fields), Inline(b"x") if content is None else content)


def tree(entries=None, **fields):
    """Return a directory; keys of *entries* are names as text."""
    entries = {name.encode(): node for name, node in (entries or {}).items()}
    return Directory(st(**{"mode": 0o755} | fields), entries)


def only(a, b):
    """Return the one change between two trees."""
    (change,) = compare(a, b).changes
    return change


def restat(root, **fields):
    """Change the stats of everything below and at *root*; a callable is called with the old stat."""
    for node in {id(node): node for _, node in walk(root)}.values():
        values = {name: value(node.stat) if callable(value) else value for name, value in fields.items()}
        node.stat = node.stat._replace(**values)
    return root


def system(**fields):
    """Return a small system with all types, links, labels and odd times."""

    def made(content, **more):
        return leaf(content, **{"nanoseconds": 7, "mtime": 2000, "security_selinux": b"etc_t"} | fields | more)

    def directory(entries=None, **more):
        return tree(entries, **{"nanoseconds": 9, "mtime": 1500, "security_selinux": b"root_t"} | fields | more)

    linked = made(Object(5000, DIGEST), mode=0o4755)
    return directory(
        {
            "boot": directory({"vmlinuz": made(Object(9000, DIGEST[::-1]))}, mtime=1501),
            "dev": directory({"null": made(Special(stat.S_IFCHR, os.makedev(1, 3)), mode=0o666)}),
            "etc": directory(
                {"small": made(Inline(b"y" * 30)), "large": made(Object(70, DIGEST)), "none": made(Inline(b""))}
            ),
            "run": directory({"lock": made(Inline(b""))}, mtime=1502),
            "sysroot": directory(mtime=1503),
            "usr": directory({"a": linked, "b": linked, "link": made(Symlink(b"a"), mode=0o777)}, mtime=1400, uid=3),
        },
        mtime=1300,
    )


def names(explanations):
    return [item.name for item in explanations]


def best(a, b):
    """Return the first explanation, which must hold for everything."""
    first = explain(a, b)[0]
    assert first.explains_all, first
    assert first.explained == first.total == len(compare(a, b).changes)
    return first


def test_equal():
    """A tree equals another one made the same way, and nothing is left to group or explain."""
    comparison = compare(system(), system())

    assert comparison.equal
    assert comparison.changes == ()
    assert comparison.entries_a == comparison.entries_b == len(list(walk(system())))
    assert groups(comparison) == explain(system(), system()) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("mode", 0o644, 0o600), ("uid", 0, 1), ("gid", 2, 0), ("mtime", 5, -1), ("nanoseconds", 0, 9)],
)
def test_stat_field(name, old, new):
    """Each field of a stat is named, with its old and new value, for leaves, directories and the root."""
    for a, b, path, node_type in [
        (tree({"f": leaf(**{name: old})}), tree({"f": leaf(**{name: new})}), b"/f", "file"),
        (tree({"d": tree(**{name: old})}), tree({"d": tree(**{name: new})}), b"/d", "directory"),
        (tree(**{name: old}), tree(**{name: new}), b"/", "directory"),
    ]:
        change = only(a, b)
        assert change[:5] == (path, "metadata", node_type, (Field(name, old, new),), 0)


def test_xattr():
    """Attributes are compared by name: new, gone and changed ones are fields of their own, equal ones are none."""
    a = tree({"f": leaf(user_a=b"1", user_b=b"2", user_c=b"3")})
    b = tree({"f": leaf(user_b=b"0", user_c=b"3", user_d=b"")})

    assert only(a, b).fields == (
        Field("xattr user.a", b"1", None),
        Field("xattr user.b", b"2", b"0"),
        Field("xattr user.d", None, b""),
    )


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        (Inline(b"a"), Inline(b"b"), [Field("inline data", b"a", b"b")]),
        (Inline(b""), Inline(b"b"), [Field("size", 0, 1), Field("inline data", None, b"b")]),
        (Object(70, DIGEST), Object(71, DIGEST), [Field("size", 70, 71)]),
        (Object(70, DIGEST), Object(70, DIGEST[::-1]), [Field("digest", DIGEST, DIGEST[::-1])]),
        (Inline(b"a"), Object(1, DIGEST), [Field("digest", None, DIGEST), Field("inline data", b"a", None)]),
        (Backed(9), Object(9, DIGEST), [Field("digest", None, DIGEST)]),  # its path follows from that
        (Backed(9, b"x"), Backed(9, b"y"), [Field("backing path", b"x", b"y")]),
        (Backed(9, b"x", DIGEST), Object(9, DIGEST), [Field("backing path", b"x", object_path(DIGEST))]),
        (Backed(9, None, DIGEST), Object(9, DIGEST), [Field("backing path", None, object_path(DIGEST))]),
        (Symlink(b"a"), Symlink(b"b"), [Field("target", b"a", b"b")]),
        (Special(stat.S_IFBLK, 1), Special(stat.S_IFBLK, 2), [Field("device", 1, 2)]),
    ],
)
def test_content(old, new, fields):
    """Contents differ in the fields that their type has."""
    change = only(tree({"f": leaf(old)}), tree({"f": leaf(new)}))

    assert change.kind == "content"
    assert list(change.fields) == fields


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Inline(b""), Backed(0)),
        (Backed(9, object_path(DIGEST), DIGEST), Object(9, DIGEST)),
        (Special(stat.S_IFIFO, 1), Special(stat.S_IFIFO, 2)),
    ],
)
def test_same_content(old, new):
    """Contents that one image cannot tell from each other are equal."""
    assert compare(tree({"f": leaf(old)}), tree({"f": leaf(new)})).equal


def test_content_outweighs_metadata():
    """A file that differs in content and metadata is one change of content, with all fields."""
    change = only(tree({"f": leaf(mtime=1)}), tree({"f": leaf(Inline(b"z"), mtime=2)}))

    assert change.kind == "content"
    assert [field.name for field in change.fields] == ["mtime", "inline data"]


def test_added_and_removed():
    """What one side has is one change however much is below it, and that is counted."""
    full = tree({"d": tree({"e": tree({"f": leaf()}), "g": leaf()}), "h": leaf(Symlink(b"d"))})

    assert [change[:5] for change in compare(tree(), full).changes] == [
        (b"/d", "added", "directory", (), 3),
        (b"/h", "added", "symlink", (), 0),
    ]
    assert [change[:2] for change in compare(full, tree()).changes] == [(b"/d", "removed"), (b"/h", "removed")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Symlink(b"x"), "symlink"),
        (Special(stat.S_IFCHR, 1), "character device"),
        (Special(stat.S_IFBLK, 1), "block device"),
        (Special(stat.S_IFIFO), "fifo"),
        (Special(stat.S_IFSOCK), "socket"),
    ],
)
def test_type(content, name):
    """Another type is a change of type, to be seen in both directions."""
    a, b = tree({"f": leaf(content)}), tree({"f": leaf()})

    assert only(a, b)[:4] == (b"/f", "type", "file", (Field("type", name, "file"),))
    assert only(b, a)[:4] == (b"/f", "type", name, (Field("type", "file", name),))


def test_directory_becomes_file():
    """A directory that is a file on the other side says what was below it."""
    change = only(tree({"d": tree({"f": leaf(), "g": leaf()})}), tree({"d": leaf(mode=0o755)}))

    assert change[:5] == (b"/d", "type", "file", (Field("type", "directory", "file"),), 2)


def test_links_broken():
    """A name that is no longer linked is named with what it was linked to; the first name has fewer links."""
    one = leaf()
    a, b = tree({"x": one, "y": one, "z": leaf()}), tree({"x": leaf(), "y": leaf(), "z": leaf()})

    assert [change[:4] for change in compare(a, b).changes] == [
        (b"/x", "links", "file", (Field("link count", 2, 1),)),
        (b"/y", "links", "file", (Field("hard link", b"/x", None),)),
    ]


def test_links_regrouped():
    """Equal link counts do not hide that other names are linked."""
    one, two, three, four = leaf(), leaf(), leaf(), leaf()
    a = tree({"w": one, "x": one, "y": two, "z": two})
    b = tree({"w": three, "x": four, "y": three, "z": four})

    assert [(change.path, *change.fields) for change in compare(a, b).changes] == [
        (b"/x", Field("hard link", b"/w", None)),
        (b"/y", Field("hard link", None, b"/w")),
        (b"/z", Field("hard link", b"/y", b"/x")),
    ]


def test_link_added():
    """One more name of a leaf is an added entry and one more link of the first name; the others are silent."""
    one, two = leaf(), leaf()
    a, b = tree({"x": one, "y": one}), tree({"w": two, "x": two, "y": two})

    assert [(change.path, change.kind, change.fields) for change in compare(a, b).changes] == [
        (b"/w", "added", ()),
        (b"/x", "links", (Field("link count", 2, 3),)),
    ]


def test_recorded_link_count():
    """A link count that is recorded counts instead of the number of names."""
    recorded = leaf()
    recorded.link_count = 4

    assert only(tree({"x": recorded}), tree({"x": leaf()})).fields == (Field("link count", 4, 1),)
    shared = leaf()
    assert only(tree({"x": recorded, "y": recorded}), tree({"x": shared, "y": shared})).fields == (
        Field("link count", 4, 2),
    )


def test_order():
    """Changes come depth first, siblings by the bytes of their names."""
    a = tree({"b": tree({"z": leaf()}), "b-": leaf(), "c": leaf(), "a": leaf()})
    b = restat(tree({"c": leaf(), "b-": leaf(), "a": leaf(), "b": tree({"z": leaf()})}), mtime=9)

    assert [change.path for change in compare(a, b).changes] == [b"/", b"/a", b"/b", b"/b/z", b"/b-", b"/c"]


def test_deep():
    """A tree deeper than Python's stack is compared and explained."""

    def chain(mtime):
        node = tree(mtime=mtime)
        for _ in range(3000):
            node = tree({"d": node}, mtime=mtime)
        return node

    assert len(compare(chain(1), chain(2)).changes) == 3001
    assert best(chain(1), chain(2)).name == "mtimes-set"


def test_layer():
    """The caller's function says which layer brought what a change is about; groups tell if it is one."""
    base, top = Layer(1, "sha256:aa"), Layer(2, "sha256:bb")
    layers = {b"/f": base, b"/g": top, b"/h": top}
    b = tree({"h": tree({"x": leaf()})})

    comparison = compare(tree({"f": leaf(), "g": leaf()}), b, layer_of=lambda change: layers[change.path])

    assert [(change.path, change.layer) for change in comparison.changes] == list(layers.items())
    assert [(group.description, group.layer) for group in groups(comparison)] == [
        ("1 directory added, with 1 entry below, from layer 2", top),
        ("2 files removed", None),
    ]
    assert list(render(comparison))[-1] == "+ /h (directory, 1 entry below, layer 2)"


def described(a, b):
    return [group.description for group in groups(compare(a, b))]


def test_groups_by_size():
    """Changes alike are one group; the largest comes first, and every change is in one."""
    a = tree({f"d{number}": tree(mtime=number) for number in range(1200)} | {"f": leaf(), "g": leaf()})
    b = tree({f"d{number}": tree(mtime=-5 - number) for number in range(1200)} | {"f": leaf(Inline(b"z")), "h": leaf()})

    found = groups(compare(a, b))

    assert [group.description for group in found] == [
        "1,200 directories differ only in mtime",
        "1 file added",
        "1 file differs in content",
        "1 file removed",
    ]
    assert sum(group.count for group in found) == len(compare(a, b).changes)
    assert found[0].fields == ("mtime",)
    assert found[0].samples == (b"/d0", b"/d1", b"/d10")


def test_group_uniform():
    """Where old and new are the same in all members, the group says which; types are put together for owners."""
    a = tree({"d": tree({"f": leaf(mtime=1)}), "g": leaf(Symlink(b"x"))})
    b = restat(tree({"d": tree({"f": leaf(mtime=1)}), "g": leaf(Symlink(b"x"))}), uid=1000)

    (group,) = groups(compare(a, b))

    assert group.description == "4 entries differ only in uid: uid 0 -> 1000 in all of them"
    assert group.uniform == (Field("uid", 0, 1000),)
    assert group.node_type == "entry"


def test_one_directory_with_another_time():
    """A directory into which a file came has another time, which is no rule of a build tool about all times."""
    a = tree({"etc": tree({"f": leaf()}), "usr": tree()})
    b = tree({"etc": tree({"f": leaf(), "new": leaf()}, mtime=9), "usr": tree()})

    assert [item.name for item in explain(a, b)] == ["directory-mtimes"]


def test_both_parts_of_the_time():
    """Seconds and nanoseconds are one time: chance makes one of them equal, and no group of its own."""
    names = [{"mtime": 1, "nanoseconds": 5}, {"mtime": 1}, {"nanoseconds": 5}]
    a = tree({f"f{number}": leaf(**{"mtime": 0} | fields) for number, fields in enumerate(names)})
    b = tree({f"f{number}": leaf(mtime=0, nanoseconds=0) for number in range(len(names))})
    comparison = compare(a, b)

    (group,) = groups(comparison)
    lines = list(render(comparison, [group]))

    assert group.description == "3 files differ only in mtime"
    assert set(group.fields) == {"mtime", "nanoseconds"}
    assert [line for line in lines if line.startswith("    ")] == [
        "    mtime: 1.000000005 -> 0",
        "    mtime: 1 -> 0",
        "    nanoseconds: 5 -> 0",
    ]


def test_time_and_content():
    """A file with another time is in the group of content."""
    a, b = tree({"f": leaf(Inline(b"a"))}), tree({"f": leaf(Inline(b"z"), nanoseconds=7)})

    assert described(a, b) == ["1 file differs in content and mtime"]


@pytest.mark.parametrize(
    ("old", "new", "description"),
    [
        ({}, {"security_selinux": b"l"}, "2 files lack security.selinux (b has it)"),
        ({"user_a": b"", "user_b": b""}, {}, "2 files lack user.a and user.b (a has them)"),
        ({"user_a": b"1"}, {"user_a": b"2"}, "2 files differ only in xattr user.a: xattr user.a 1 -> 2 in both"),
        (
            {"mtime": 1},
            {"mtime": 2, "user_a": b""},
            "2 files differ only in mtime and lack user.a (b has it): mtime 1 -> 2 in both",
        ),
        (
            {"mode": 0o755, "gid": 1},
            {"mode": 0o700, "gid": 2},
            "2 files differ in mode and gid: mode 0755 -> 0700, gid 1 -> 2 in both",
        ),
    ],
)
def test_group_metadata(old, new, description):
    """Metadata are described by what differs and by who lacks what."""
    if "only in mtime and" in description:
        description = description.replace("only ", "")

    assert described(tree({"f": leaf(**old), "g": leaf(**old)}), tree({"f": leaf(**new), "g": leaf(**new)})) == [
        description
    ]


@pytest.mark.parametrize(
    ("old", "new", "description"),
    [
        (Inline(b"aa"), Object(70, DIGEST), "1 file differs in content"),
        (Inline(b"aa"), Object(2, DIGEST), "1 file differs in content"),
        (Inline(b"aa"), Object(2, compute_digest(b"aa", Algorithm.SHA512).raw), "1 file differs only in storage"),
        (Object(2, compute_digest(b"aa", Algorithm.SHA256).raw), Inline(b"aa"), "1 file differs only in storage"),
        (Backed(9, b"x"), Backed(9, b"y"), "1 file differs only in backing path"),
        (Symlink(b"a"), Symlink(b"b"), "1 symlink differs only in target"),
        (Special(stat.S_IFBLK, 1), Special(stat.S_IFBLK, 2), "1 block device differs only in device"),
        (Symlink(b"a"), Inline(b"a"), "1 file changed from symlink to file"),
    ],
)
def test_group_content(old, new, description):
    """Contents are described in one word, whatever fields show the difference."""
    assert described(tree({"f": leaf(old)}), tree({"f": leaf(new)})) == [description]


def test_group_below():
    """Added directories tell what is below them, and count with it."""
    added = tree({"d": tree({"e": tree({"f": leaf()})}), "g": leaf(), "h": leaf()})

    assert described(tree(), added) == ["1 directory added, with 2 entries below", "2 files added"]


def test_group_links():
    """Link counts and links are one group."""
    one = leaf()

    assert described(tree({"x": one, "y": one}), tree({"x": leaf(), "y": leaf()})) == [
        "2 files differ only in hard links"
    ]


def zero(root):
    return restat(root, mtime=0, nanoseconds=0)


def clamp(root):
    return restat(
        root, mtime=lambda s: min(s.mtime, 1450), nanoseconds=lambda s: 0 if s.mtime >= 1450 else s.nanoseconds
    )


def label(value):
    def change(root):
        return restat(root, xattrs=lambda s: {name: v for name, v in s.xattrs.items() if name != LABEL} | value(s))

    return change


def break_links(root):
    usr = root.entries[b"usr"].entries
    usr[b"b"] = Leaf(usr[b"a"].stat, usr[b"a"].content)
    return root


def relink(root):
    root.entries[b"etc"].entries[b"none"] = root.entries[b"run"].entries[b"lock"]
    return break_links(root)


def drop_devices(root):
    del root.entries[b"dev"].entries[b"null"]
    return root


def empty_for_boot(root):
    usr = root.entries[b"usr"].stat
    for name in (b"boot", b"sysroot"):
        old = root.entries[name].stat
        root.entries[name] = Directory(old._replace(mtime=usr.mtime, nanoseconds=usr.nanoseconds))
    return root


def as_container(root):
    transform_for_oci(root)
    return root


def as_objects(root):
    small = root.entries[b"etc"].entries[b"small"]
    small.content = Object(30, compute_digest(small.content.data, Algorithm.SHA256).raw)
    return root


def other_algorithm(root):
    for node in {id(node): node for _, node in walk(root)}.values():
        if isinstance(node, Leaf) and isinstance(node.content, Object):
            node.content = Object(node.content.size, node.content.digest * 2)
    return root


def touch_directories(root):
    for number, (_, node) in enumerate(list(walk(root))):
        if isinstance(node, Directory):
            node.stat = node.stat._replace(mtime=node.stat.mtime + 10 + number)
    return root


def umask(root):
    for _, node in walk(root):
        if not isinstance(node, Leaf) or not isinstance(node.content, Symlink):
            node.stat = node.stat._replace(mode=node.stat.mode & ~0o022 & ~0o5)
    return root


TRANSFORMS = {
    "mtimes-zero": zero,
    "mtimes-clamped": clamp,
    "mtimes-set": lambda root: restat(root, mtime=1700, nanoseconds=3),
    "mtimes": lambda root: restat(root, mtime=lambda s: s.mtime * 2 + s.uid),
    "directory-mtimes": touch_directories,
    "nanoseconds-dropped": lambda root: restat(root, nanoseconds=0),
    "selinux-missing": label(lambda s: {}),
    "selinux-nul": label(lambda s: {LABEL: s.xattrs[LABEL][:-1]}),
    "selinux": label(lambda s: {LABEL: s.xattrs[LABEL] + b":c1"}),
    "hard-links-broken": break_links,
    "hard-links": relink,
    "owners-root": lambda root: restat(root, uid=0, gid=0),
    "owners-shifted": lambda root: restat(root, uid=lambda s: s.uid + 1000, gid=lambda s: s.gid + 2000),
    "owners-set": lambda root: restat(root, uid=7),
    "owners": lambda root: restat(root, uid=lambda s: s.uid + 1 + s.mtime % 2),
    "umask": umask,
    "special-bits": lambda root: restat(root, mode=lambda s: s.mode & 0o777),
    "mode-bits": lambda root: restat(root, mode=lambda s: s.mode & 0o7777),
    "devices-skipped": drop_devices,
    "oci-transform": as_container,
    "boot-transform": empty_for_boot,
    "inline-threshold": as_objects,
    "digest-algorithm": other_algorithm,
}


def prepared(name):
    """Return the system, with what the cause *name* needs to be seen."""
    root = system(gid=4)
    if name == "selinux-nul":
        label(lambda s: {LABEL: s.xattrs[LABEL] + b"\0"})(root)
    elif name == "owners-set":
        restat(root, uid=lambda s: s.mtime)
    elif name == "mode-bits":
        restat(root, mode=lambda s: s.mode | 0o100000)
    return root


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("backward", [False, True], ids=["on-b", "on-a"])
def test_explained(name, backward):
    """Each known cause explains all that it makes, whichever side it was done to, and what it names is that side."""
    sides = [prepared(name), TRANSFORMS[name](prepared(name))]
    side = "b"
    if backward:
        sides.reverse()
        side = "a"

    explanation = best(*sides)

    assert explanation.name == name
    if name == "oci-transform":
        assert f"was done to {side} only: this explains every difference." in explanation.sentence
    elif name not in (
        "mtimes",
        "directory-mtimes",
        "selinux",
        "selinux-nul",
        "hard-links",
        "owners",
        "digest-algorithm",
    ):
        assert f" in {side}: this explains every difference." in explanation.sentence
    assert explanation.advice.endswith(".")


def test_xattrs_dropped():
    """No attributes at all on one side is told from labels alone."""
    a = tree({"f": leaf(user_a=b"1", security_selinux=b"x")})

    assert best(a, tree({"f": leaf()})).name == "xattrs-dropped"


@pytest.mark.parametrize("mode", XattrFilter)
@pytest.mark.parametrize("backward", [False, True], ids=["on-b", "on-a"])
def test_xattrs_filtered(mode, backward):
    """Two modes of filtering are told from each other, in what remains."""
    kept = {"user_a": b"1"} if mode is XattrFilter.KEEP_USER_XATTRS else {}
    a = tree({"f": leaf(user_a=b"1", security_capability=b"c", trusted_a=b"t"), "g": leaf(security_capability=b"c")})
    b = tree({"f": leaf(security_capability=b"c", **kept), "g": leaf(security_capability=b"c")})

    explanation = best(b, a) if backward else best(a, b)

    assert explanation.name == "xattrs-filtered"
    assert f"filtered ({mode.value}) in {'a' if backward else 'b'}: " in explanation.sentence


def test_the_mode_of_the_transform_for_containers():
    """Attributes of users say which mode was used."""
    a = tree({"usr": tree({"f": leaf(user_a=b"1", trusted_a=b"t")}, uid=3), "run": tree({"lock": leaf()})})
    b = tree({"usr": tree({"f": leaf(user_a=b"1")}, uid=3), "run": tree()}, uid=3)

    explanation = best(a, b)

    assert explanation.name == "oci-transform"
    assert "The transform for containers (keep-user-xattrs) was done to b only" in explanation.sentence


@pytest.mark.parametrize(("name", "path"), [("whiteouts", "usr"), ("stubs-lost", None)])
def test_whiteouts(name, path):
    """Whiteouts on one side only are explained, those in the root that look like the image's own by that."""
    whiteouts = {"a0": leaf(WHITEOUT), "ff": leaf(WHITEOUT)}
    kept = {"0": leaf(WHITEOUT)} if path is None else {}
    a = tree(whiteouts | kept) if path is None else tree({path: tree(whiteouts)})
    b = tree(kept) if path is None else tree({path: tree()})

    assert best(a, b).name == best(b, a).name == name


def test_inline_with_other_content():
    """A file inline here and an object there is not explained by that if the contents differ."""
    a = tree({"f": leaf(Inline(b"y" * 30))})
    b = tree({"f": leaf(Object(30, compute_digest(b"z" * 30, Algorithm.SHA512).raw))})

    assert not any(item.explains_all for item in explain(a, b))


def test_not_explained():
    """What a cause would make different elsewhere speaks against it."""
    a = tree({"f": leaf(uid=4), "g": leaf(uid=3)})
    b = tree({"f": leaf(uid=0), "g": leaf(uid=3)})

    assert "owners-root" not in names(explain(a, b))
    assert names(explain(a, b)) == ["owners"]


def test_content_is_not_explained():
    """Another content has no known cause."""
    assert explain(tree({"f": leaf()}), tree({"f": leaf(Inline(b"z"))})) == []


def test_partly():
    """An explanation counts what it explains, entirely and in part."""
    a = tree({"f": leaf(mtime=8), "g": leaf(mtime=9), "h": leaf()}, mtime=7)
    b = zero(tree({"f": leaf(Inline(b"z")), "g": leaf()}))

    (explanation,) = explain(a, b)

    assert explanation.name == "mtimes-zero"
    assert (explanation.explained, explanation.partly, explanation.total) == (2, 1, 4)
    assert not explanation.explains_all
    assert explanation.sentence == "All mtimes are 0 in b: this explains 2 of 4 differences, and 1 in part."


@pytest.mark.parametrize(
    "parts",
    [
        ("nanoseconds-dropped", "selinux-missing"),
        ("boot-transform", "selinux"),
        ("mtimes-zero", "hard-links-broken"),
        ("owners-root", "devices-skipped"),
        ("nanoseconds-dropped", "selinux-missing", "hard-links-broken"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("sides", ["b", "both"])
def test_together(parts, sides):
    """Two and three causes explain together what none does alone, also where they were done to different sides."""
    a, b = system(), system()
    for number, part in enumerate(parts):
        TRANSFORMS[part](a if sides == "both" and number == 0 else b)

    found = best(a, b)

    assert set(found.name.split("+")) == set(parts)
    assert "together this explains every difference" in found.sentence
    assert not any(item.explains_all and "+" not in item.name for item in explain(a, b))


def test_causes_that_leave_the_same_are_told_once():
    """Of both filters of attributes that explain one change and leave the other, the first."""
    capability = {"security_capability": b"c"}
    a = tree({"f": leaf(trusted_x=b"1"), "g": leaf(**capability), "h": leaf(**capability)})
    b = tree({"f": leaf(), "g": leaf(), "h": leaf(**capability)})

    (found,) = explain(a, b)

    assert (found.name, found.explained, found.total) == ("xattrs-filtered", 1, 2)
    assert "allowlist-only" in found.sentence


def test_causes_that_others_cover_are_left_out():
    """The cause that explains most is not told where two others explain all that it does, and more."""
    units = frozenset((b"/%d" % number, "mode") for number in range(6))

    def tried(name, *explained):
        cause = Cause(name, name, name, lambda root: root)
        return _Tried(((cause, False),), units - {(b"/%d" % number, "mode") for number in explained})

    chosen = _cover(units, [tried("most", 0, 1, 2, 3), tried("left", 0, 1, 4), tried("right", 2, 3, 5)])

    assert [cause.name for cause, _ in chosen] == ["left", "right"]


def test_modes_with_other_bits():
    """Where one side has bits that the other lacks, and the reverse, no umask made them."""
    a = tree({"f": leaf(mode=0o755), "g": leaf(mode=0o644)})
    b = tree({"f": leaf(mode=0o700), "g": leaf(mode=0o666)})

    assert explain(a, b) == []


def test_owners_of_root_and_others():
    """Not everything belongs to root where something does not."""
    a = tree({"f": leaf(uid=3, gid=3), "g": leaf(uid=4, gid=7)})
    b = tree({"f": leaf(uid=0, gid=0), "g": leaf(uid=9, gid=1)})

    assert "owners-root" not in names(explain(a, b))


def test_clamped_to_the_second():
    """What lies within the second of the clamp loses its nanoseconds, what is older keeps them."""
    older = leaf(mtime=3, nanoseconds=4)
    old = {"e": leaf(mtime=9), "f": leaf(mtime=10, nanoseconds=6), "g": leaf(mtime=7, nanoseconds=5), "h": older}
    new = {"e": leaf(mtime=7), "f": leaf(mtime=7), "g": leaf(mtime=7), "h": older}

    assert best(tree(old), tree(new)).name == "mtimes-clamped"


def test_inline_of_several_sizes():
    """The smallest file that is an object on the other side is the threshold."""
    data = {"f": bytes(50), "g": bytes(30), "h": bytes(40)}
    a = tree({name: leaf(Inline(value)) for name, value in data.items()} | {"small": leaf(Inline(bytes(20)))})
    objects = {name: Object(len(value), compute_digest(value, Algorithm.SHA256).raw) for name, value in data.items()}
    b = tree({name: leaf(content) for name, content in objects.items()} | {"small": leaf(Inline(bytes(20)))})

    found = best(a, b)

    assert found.name == "inline-threshold"
    assert "Files of 30 bytes and more" in found.sentence


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_sample_leads_to_the_same(name, monkeypatch):
    """What a sample of large trees suggests is what trying all on the whole trees finds."""
    a, b = prepared(name), TRANSFORMS[name](prepared(name))
    wanted = explain(a, b)[0]
    monkeypatch.setattr("composefs.diff.sample.LARGE", 0)
    monkeypatch.setattr("composefs.diff.sample._OF_A_GROUP", 2)
    monkeypatch.setattr("composefs.diff.sample._EQUAL", 4)

    assert explain(a, b)[0] == wanted


def test_a_sample_of_a_hostile_tree():
    """Paths longer than real ones are not kept: they would take some hundred times the memory of the tree."""
    a = tree({f"{number:05}": leaf() for number in range(12_000)})
    for _ in range(400):
        a = tree({"d" * 255: a})

    tracemalloc.start()
    try:
        found = explain(a, tree())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found == []
    assert peak < 20 << 20


def test_a_sample_is_not_believed(monkeypatch):
    """What a sample suggests counts only if it holds for all entries; the numbers are those of all."""
    entries = {f"f{number:03}": leaf(uid=4, mtime=1) for number in range(200)}
    changed = {name: leaf(uid=0, mtime=2) for name in entries}
    monkeypatch.setattr("composefs.diff.sample.LARGE", 0)
    monkeypatch.setattr("composefs.diff.sample._OF_A_GROUP", 5)
    monkeypatch.setattr("composefs.diff.sample._EQUAL", 1)

    first = explain(tree(entries), tree(changed))[0]
    equal_elsewhere = {"z": leaf(uid=3)}
    others = explain(tree(entries | equal_elsewhere), tree(changed | equal_elsewhere))

    assert (first.name, first.explained, first.total) == ("mtimes+owners-root", 200, 200)
    assert others != []
    assert not any("owners-root" in item.name for item in others)


def test_what_two_causes_leave_is_told():
    """Where something else differs, too, the causes are still put together."""
    a = system()
    b = label(lambda s: {})(restat(system(), nanoseconds=0))
    b.entries[b"etc"].entries[b"large"].content = Object(71, DIGEST)

    first = explain(a, b)[0]

    assert first.name == "nanoseconds-dropped+selinux-missing"
    assert not first.explains_all
    assert (first.explained, first.partly, first.total) == (
        len(list(walk(system()))) - 1,
        1,
        len(compare(a, b).changes),
    )


def test_originals_stay():
    """Explaining changes neither tree."""
    a, b = system(), zero(label(lambda s: {})(system()))
    explain(a, b)

    assert compare(a, system()).equal
    assert compare(b, zero(label(lambda s: {})(system()))).equal


def shown(a, b, **options):
    comparison = compare(a, b)
    return list(render(comparison, groups(comparison), explain(a, b, comparison=comparison), **options))


def test_render_equal():
    """Equal trees take one line."""
    assert shown(tree({"f": leaf()}), tree({"f": leaf()})) == ["Equal: 2 entries on each side."]


def test_render():
    """Groups, explanations and changes are shown in that order."""
    a = tree({"f": leaf(mode=0o600), "g": leaf(Inline(b"a")), "old": leaf(), "new": leaf(Special(stat.S_IFBLK, 2049))})
    b = tree({"f": leaf(), "g": leaf(Inline(b"b")), "new": leaf(Special(stat.S_IFBLK, 2050)), "t": tree({"x": leaf()})})

    assert shown(a, b)[:6] == [
        "5 differences; a has 5 entries, b has 6.",
        "  1 directory added, with 1 entry below",
        "  1 block device differs only in device",
        "  1 file differs in content",
        "  1 file differs only in mode",
        "  1 file removed",
    ]
    assert shown(a, b)[-8:] == [
        "~ /f (file)",
        "    mode: 0600 -> 0644",
        "~ /g (file)",
        "    inline data: a -> b",
        "~ /new (block device)",
        "    device: 8:1 -> 8:2",
        "- /old (file)",
        "+ /t (directory, 1 entry below)",
    ]


def test_render_width():
    """Lines fit a terminal where no path forbids it, whole digests included."""
    a, b = system(), other_algorithm(restat(system(), nanoseconds=0, xattrs={LABEL: b"l" * 300}))

    assert max(map(len, shown(a, b, limit=None))) <= 80


def test_render_arrow():
    """Long values are put below each other, whatever is in them."""
    a, b = tree({"f": leaf(Symlink(b"x -> y" * 9))}), tree({"f": leaf(Symlink(b"z" * 80))})

    assert shown(a, b, width=70)[-3:] == ["    target:", "      - " + "x -> y" * 9, "      + " + "z" * 59 + "..."]


def test_render_limit():
    """Changes beyond the limit are counted; none means all, and 0 hides them."""
    a, b = tree({f"f{number}": leaf() for number in range(30)}), tree()

    assert shown(a, b, limit=4)[-2:] == ["- /f11 (file)", "... and 26 more"]
    assert sum(line.startswith("- /f") for line in shown(a, b, limit=None)) == 30
    assert not any(line.startswith("- /f") for line in shown(a, b, limit=0))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain name", "plain name"),
        ("ä".encode(), "ä"),
        (b"\xff", "\\xff"),
        (b"\\xff", "\\\\xff"),
        (b"a\nb\x1b[0m", "a\\x0ab\\x1b[0m"),
        ("\u202e".encode(), "\\xe2\\x80\\xae"),
    ],
)
def test_printable(name, text):
    """Names are shown without anything that a terminal would obey, and none looks like another."""
    assert shown(tree(), Directory(st(0o755), {name: leaf()}))[-1] == f"+ /{text} (file)"


def test_json():
    """The value for JSON has the promised keys, and bytes, modes, devices and digests as text."""
    a = tree(
        {"d": leaf(Special(stat.S_IFCHR, 5)), "f": leaf(Object(70, DIGEST)), "g": leaf(mode=0o4755, user_a=b"\xff")}
    )
    b = tree(
        {"d": leaf(Special(stat.S_IFCHR, 6)), "f": leaf(Object(71, DIGEST * 2)), "g": leaf(mode=0o755), "h": tree()}
    )
    comparison = compare(a, b, layer_of=lambda change: Layer(2, "sha256:aa") if change.path == b"/h" else None)

    value = json.loads(json.dumps(as_json(comparison, groups(comparison), explain(a, b))))

    assert value["equal"] is False
    assert value["entries"] == {"a": 4, "b": 5}
    assert value["total"] == 4
    assert [list(item) for item in value["changes"]] == [["path", "kind", "node_type", "below", "layer", "fields"]] * 4
    assert value["changes"][0]["fields"] == [{"name": "device", "old": "0:5", "new": "0:6"}]
    assert value["changes"][1]["fields"] == [
        {"name": "size", "old": 70, "new": 71},
        {"name": "digest", "old": f"sha256:{DIGEST.hex()}", "new": f"sha512:{(DIGEST * 2).hex()}"},
    ]
    assert value["changes"][2]["fields"] == [
        {"name": "mode", "old": "4755", "new": "0755"},
        {"name": "xattr user.a", "old": "\\xff", "new": None},
    ]
    assert (value["changes"][3]["path"], value["changes"][3]["layer"]) == (
        "/h",
        {"number": 2, "diff_id": "sha256:aa"},
    )
    assert {key for group in value["groups"] for key in group} == {
        "description", "count", "below", "kind", "node_type", "fields", "uniform", "samples", "layer",
    }  # fmt: skip
    assert [item["name"] for item in value["explanations"]] == names(explain(a, b)) != []
