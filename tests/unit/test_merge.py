"""Merging layers: what each entry does to what is there, and how an entry that cannot be had is named."""

import gc

import pytest

from composefs import limits
from composefs.errors import FormatError
from composefs.oci.index import LayerIndex
from composefs.oci.merge import OrderedMerger, find_origins, merge_layers
from composefs.tree import Leaf, Stat
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import described, index_of

from generator.tar import Archive, base256  # isort: skip


def merged(*archives):
    """Return the tree of archives, the lowest first."""
    return merge_layers(index_of(archive.end(), f"layer {number}") for number, archive in enumerate(archives))


def paths(*archives):
    found = described(merged(*archives))
    assert found.pop("/") == "d"
    return found


def base():
    return Archive().directories("d", "d/e").file("d/f", b"f").file("d/e/g", b"g").file("top", b"t")


def test_one_layer():
    """Entries stand where they are said to."""
    archive = base().symlink("d/s", "f").fifo("d/p").character("d/c", 1, 5)

    assert paths(archive) == {
        "/d": "d",
        "/d/c": "20000 105",
        "/d/e": "d",
        "/d/e/g": "-g",
        "/d/f": "-f",
        "/d/p": "10000 0",
        "/d/s": "l f",
        "/top": "-t",
    }


def test_no_layers():
    """Without layers there is a root of which nothing is known."""
    root = merge_layers([])

    assert root.stat == Stat(0, 0, 0, 0, 0)
    assert root.entries == {}


def test_directory_over_directory():
    """A directory that comes again keeps what is in it and takes the new metadata, all of it."""
    again = Archive().extended({"SCHILY.xattr.user.a": "1"}).directory("d", mode=0o700, mtime=5)
    third = Archive().directory("d", mode=0o711, mtime=6)

    root = merged(base(), again)

    assert described(root) == described(merged(base()))
    assert root.directory(b"d").stat == Stat(0o700, 0, 0, 5, 0, {b"user.a": b"1"})
    assert merged(base(), again, third).directory(b"d").stat == Stat(0o711, 0, 0, 6, 0)


def test_leaf_over_directory():
    """Anything else over a directory removes all that is below."""
    for new in (Archive().file("d", b"n"), Archive().symlink("d", "x"), Archive().hardlink("d", "top")):
        assert list(paths(base(), new)) == ["/d", "/top"]
    with pytest.raises(FormatError, match="entry d/f, .*d is no directory"):
        merged(base(), Archive().file("d", b"n").file("d/f"))


def test_directory_over_leaf():
    """A directory over anything else replaces it, also a symbolic link to a directory."""
    assert paths(Archive().file("d"), base())["/d"] == "d"
    below = Archive().directory("real").symlink("d", "real")
    assert paths(below, base())["/d/f"] == "-f"


def test_directory_again_is_empty():
    """A directory that was removed and comes again has nothing of what it had, also within one layer."""
    removals = (Archive().file(".wh.d"), Archive().file("d"))
    for removal in removals:
        found = paths(base(), removal.directory("d").file("d/new", b"n"))
        assert found == {"/d": "d", "/d/new": "-n", "/top": "-t"}
    within = base().file("d/e").directory("d/e").file("d/e/h", b"h").file("d/i", b"i")
    assert paths(within) == {"/d": "d", "/d/e": "d", "/d/e/h": "-h", "/d/f": "-f", "/d/i": "-i", "/top": "-t"}


def test_whiteouts():
    """A whiteout removes one name, at its place in the archive; what is not there does not matter."""
    assert paths(base(), Archive().file("d/.wh.f").file("d/.wh.nothing").file(".wh.top").file(".wh.")) == {
        "/d": "d",
        "/d/e": "d",
        "/d/e/g": "-g",
    }
    assert "/d/f" not in paths(base(), Archive().file("d/f", b"new").file("d/.wh.f"))
    assert paths(base(), Archive().file("d/.wh.f").file("d/f", b"new"))["/d/f"] == "-new"
    assert list(paths(base(), Archive().file(".wh.d"))) == ["/top"]
    assert paths(Archive().file("a.wh.b", b"x"), Archive().file(".wh.a.wh.b")) == {}


def test_opaque():
    """An opaque marker empties its directory, of what the same layer brought, too."""
    upper = Archive().file("d/before", b"b").file("d/.wh..wh..opq").file("d/after", b"a")

    assert paths(base(), upper) == {"/d": "d", "/d/after": "-a", "/top": "-t"}
    assert paths(base(), Archive().file(".wh..wh..opq").directory("d").file("d/x", b"x")) == {"/d": "d", "/d/x": "-x"}
    with pytest.raises(FormatError, match="d/e does not exist"):
        merged(base(), Archive().file("d/.wh..wh..opq").file("d/e/h"))


def test_whiteouts_need_their_directory():
    """A whiteout in a directory that does not exist is refused, as any entry there."""
    with pytest.raises(FormatError, match="nowhere does not exist"):
        merged(base(), Archive().file("nowhere/.wh.x"))


def test_names_of_whiteouts_below_whiteouts():
    """A name that only looks like a whiteout's cannot be made, but a marker for it removes nothing."""
    assert paths(base(), Archive().file(".wh..wh.plnk")) == paths(base())


def test_hard_links():
    """A hard link is the very leaf that its target is then, from whatever layer; later changes do not part them."""
    root = merged(base(), Archive().hardlink("d/link", "./d//f").file("d/f", b"new").hardlink("again", "d/link"))

    link, again = root.node(b"d/link"), root.node(b"again")
    assert isinstance(link, Leaf)
    assert link is again
    assert described(root)["/d/link"] == "-f"
    assert described(root)["/d/f"] == "-new"
    itself = merged(base(), Archive().hardlink("top", "top"))
    assert described(itself) == described(merged(base()))


def test_metadata_of_hard_links():
    """What the archive says of a hard link is ignored."""
    root = merged(base(), Archive().hardlink("link", "top", mode=0o7777, uid=9, mtime=1))

    assert root.node(b"link").stat == merged(base()).node(b"top").stat


def test_root_entry():
    """The root's entry changes its metadata alone, wherever it comes."""
    root = merged(base(), Archive().directory("./", mode=0o700, uid=4))

    assert root.stat == Stat(0o700, 4, 0, 1_700_000_000, 0)
    assert described(root) == described(merged(base()))


def test_file_named_by_a_dot():
    """A file `d/.` replaces the directory, as in composefs-rs."""
    assert paths(base(), Archive().file("d/.", b"x")) == {"/d": "-x", "/top": "-t"}


@pytest.mark.parametrize(
    ("archive", "entry", "what"),
    [
        (Archive().file("no/x"), "no/x", "no does not exist"),
        (Archive().file("top/x"), "top/x", "top is no directory"),
        (Archive().file("d/no/e/x"), "d/no/e/x", "d/no/e does not exist"),
        (Archive().symlink("s", "d").file("s/x"), "s/x", "s is no directory"),
        (Archive().file("d/../x"), "d/../x", "d/.. goes up"),
        (Archive().file("../x"), "../x", ".. goes up"),
        (Archive().hardlink("x", "no"), "x", "target no does not exist"),
        (Archive().hardlink("x", "no/y"), "x", "no does not exist"),
        (Archive().hardlink("x", "d"), "x", "target d is a directory"),
        (Archive().hardlink("x", "/"), "x", "target / is a directory"),
        (Archive().hardlink("x", "d/e/.."), "x", "target d/e/.. is a directory"),
        (Archive().hardlink("x", "d/../top"), "x", "d/.. goes up"),
        (Archive().hardlink(".wh.x", "no"), ".wh.x", "target no does not exist"),
        (Archive().hardlink("x", ""), "x", "is a hard link to nothing"),
        (Archive().entry("d/x", b"Z"), "d/x", "is of an unsupported type, b'Z'"),
        (Archive().file("./", b"x"), "", "is called as the root, but is no directory"),
        (Archive().hardlink(".", "top"), "", "is called as the root, but is no directory"),
        (Archive().file(b"no/\xff"), "no/\\xff", "no does not exist"),
    ],
)
def test_refused(archive, entry, what):
    """An entry that cannot be had is named by layer, path and offset."""
    before = Archive().file("before", b"x" * 100)
    offset = len(before.end(0))
    upper = before.raw(archive.end(0))
    if entry == "s/x":  # the second of its archive
        offset += 512

    with pytest.raises(FormatError) as caught:
        merged(base(), upper)

    assert (caught.value.source, caught.value.entry, caught.value.offset) == ("layer 1", entry, offset)
    assert what in caught.value.what


def test_refused_before_a_whiteout():
    """An entry is refused though a later one would remove it."""
    with pytest.raises(FormatError, match="unsupported"):
        merged(base(), Archive().entry("x", b"Z").file(".wh.x"))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_batches(monkeypatch, batch_size):
    """Where batches end makes no difference."""
    layers = [
        base().file("d/e").directory("d/e").file("d/e/h", b"h"),
        Archive().file("d/.wh.e").directory("d/e").file("d/e/i").hardlink("d/e/j", "top").file("d/.wh..wh..opq"),
        Archive().directory("d/e").file("d/e/k", b"k" * 70),
    ]
    wanted = described(merged(*layers))
    monkeypatch.setattr("composefs.oci.index.BATCH_SIZE", batch_size)

    assert described(merged(*layers)) == wanted


def test_numbers():
    """Whatever 32 bits an owner has, and whatever time, they are in the tree."""
    (leaf,) = merged(Archive().file("a", uid=base256(0xFFFFFFFF, 8), mtime=base256(-(1 << 63), 12))).entries.values()

    assert (leaf.stat.uid, leaf.stat.mtime) == (0xFFFFFFFF, -(1 << 63))


def test_too_much(monkeypatch):
    """Layers of endless names are refused before they fill the memory."""
    layer = index_of(base().end())
    monkeypatch.setattr(limits, "MERGED_SIZE", 5 * sum(batch.weight for batch in layer.batches))

    merge_layers([layer] * 5)
    with pytest.raises(FormatError, match="^layer, offset 0: more than .* bytes of names and metadata"):
        merge_layers([layer] * 6)


ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)]


@pytest.mark.parametrize("order", ORDERS)
def test_any_order(order):
    """Layers that come in in any order, one of which stands there twice, are merged in theirs."""
    archives = [base(), Archive().file(".wh.top").file("new", b"1"), Archive().file("d/f", b"2").file("top", b"2")]
    stack = ["a", "b", "c", "b"]
    wanted = merged(archives[0], archives[1], archives[2], archives[1])
    merger = OrderedMerger(stack)

    for number in order:
        assert stack[number] not in merger
        merger.add(stack[number], index_of(archives[number].end()))
        assert stack[number] in merger

    first, second = merger.merged().list().tree(), merger.merged().list().tree()
    assert described(first) == described(second) == described(wanted)
    assert first is not second
    first.entries.clear()
    assert described(merger.merged().list().tree()) == described(wanted)


def test_merged_once():
    """Layers that are merged once are not kept, but for one that stands there again."""
    archives = [base(), Archive().file(".wh.top").file("new", b"1")]
    merger = OrderedMerger(["a", "b", "a"])

    merger.add("a", index_of(archives[0].end()))
    merger.add("b", index_of(archives[1].end()))

    assert "a" in merger
    assert described(merger.merged().list().tree()) == described(merged(archives[0], archives[1], archives[0]))


def test_merged_as_they_come():
    """A layer is merged as soon as those below it are, so that the last one leaves little to do."""
    merger = OrderedMerger(["a", "b"])
    merger.add("b", LayerIndex("layer b", ()))

    with pytest.raises(FormatError, match="^layer a, entry no/x"):
        merger.add("a", index_of(Archive().file("no/x").end(), "layer a"))


def test_too_much_waits(monkeypatch):
    """Layers that wait for the lowest one are refused, too, before they fill the memory; others are read in time."""
    layer = index_of(base().end())
    monkeypatch.setattr(limits, "MERGED_SIZE", 3 * sum(batch.weight for batch in layer.batches))
    merger = OrderedMerger(["lowest", *"abcde"])

    merger.add("a", LayerIndex("read when it is merged", iter(layer.batches)))
    for name in "bcd":
        merger.add(name, layer)
    with pytest.raises(FormatError, match="^layer, offset 0: more than .* bytes of names and metadata"):
        merger.add("e", layer)


class Counted(list):
    """A list that counts how many of its items are looked at by index or slice."""

    looks = 0

    def __getitem__(self, key):
        self.looks += len(range(*key.indices(len(self)))) if isinstance(key, slice) else 1
        return super().__getitem__(key)


def test_many_times():
    """A layer that stands there a great many times is not looked for among all of them each time."""
    stack = Counted(["a"] * 1000)

    OrderedMerger(stack).add("a", LayerIndex("layer", ()))

    assert stack.looks < 5 * len(stack)


def test_origins():
    """Of each path the last layer that names it is known: what stands there is from that one."""
    layers = [
        base(),
        Archive().directory("d").file("d/f", b"new").file("d/.wh.e").hardlink("link", "top").file("./d/../.wh.d"),
        Archive().directory("d/e").directory("/").file("d/.wh..wh..opq").file("d/after").hardlink("d/.wh.x", "top"),
    ]

    origins = find_origins([index_of(archive.end()) for archive in layers])

    assert origins == {
        b"/": 2,
        b"/d": 1,
        b"/d/after": 2,
        b"/d/e": 2,
        b"/d/e/g": 0,
        b"/d/f": 1,
        b"/link": 1,
        b"/top": 0,
    }


def test_collector_runs_again():
    """The collector of cyclic garbage is as it was, also after a failure."""
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            merged(base())
            with pytest.raises(FormatError):
                merged(Archive().file("no/x"))
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
