"""The writer refuses what no image can hold, with its path, and leaves everything as it was."""

import gc
import stat
from array import array

import pytest

from composefs._native import columns as _columns
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.inodes import PAYLOAD_SIZE, POINTER, XATTRS
from composefs.erofs.lister import Lister
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.erofs.writer import has_whiteout, write_image
from composefs.erofs.xattrs import NO_XATTR_SET, NameEncoder, XattrSets, xxh32
from composefs.errors import TreeError, UsageError
from composefs.tree import Backed, Directory, Inline, Leaf, Object, Special, Stat, Symlink, object_path

INFO = Stat(0o644, 0, 0, 5, 0)
DIGEST = bytes(range(32))
WHITEOUT = Special(stat.S_IFCHR)
VERSIONS = (0, 1, 2)


def tree(content, **changes):
    """Return a tree with one file, /d/f, whose stat has *changes*."""
    return Directory(INFO, {b"d": Directory(INFO, {b"f": Leaf(INFO._replace(**changes), content)})})


def many_xattrs(count):
    return {b"user.%03d" % number: b"value" for number in range(count)}


def inode_at(image, path):
    """Return the inode at *path*, names with slashes between."""
    reader = ErofsReader(image)
    inode = reader.root
    for name in path.split(b"/"):
        inode = reader.inode(reader.lookup(inode, name))
    return inode


def refused(root, version=1, **options):
    """Return the message of the error that *root* gives."""
    with pytest.raises(TreeError) as caught:
        write_image(root, version, **options)
    return str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (Inline(b""), {"uid": 1 << 32}, "belongs to 4294967296:0, wanted numbers of 32 bits"),
        (Inline(b""), {"gid": -1}, "belongs to 0:-1, wanted numbers of 32 bits"),
        (Inline(b""), {"mtime": 1 << 63}, f"has a time of {1 << 63} seconds, wanted a number of 64 bits"),
        (Inline(b""), {"mtime": -1 - (1 << 63)}, f"has a time of {-1 - (1 << 63)} seconds, wanted a number of 64 bits"),
        (Inline(b""), {"nanoseconds": -1}, "has a time of -1 nanoseconds, wanted a number of 32 bits"),
        (Object(1 << 64, DIGEST), {}, f"has {1 << 64} bytes, more than an image can tell of"),
        (Backed(-1), {}, "has -1 bytes, more than an image can tell of"),
        (Object(5, DIGEST[:31]), {}, "has a digest of 31 bytes, wanted 32 or 64"),
        (Backed(5, b"path", DIGEST * 3), {}, "has a digest of 96 bytes, wanted 32 or 64"),
        (Symlink(b"t" * 4096), {}, "is a link with a target of 4096 bytes, more than 4095"),
        (Special(stat.S_IFBLK, 1 << 32), {}, "is device 4294967296, wanted a number of 32 bits"),
        (
            Inline(b""),
            {"xattrs": {b"user.x": bytes(65536)}},
            "has an xattr user.x of 65536 bytes, more than 65535",
        ),
        (
            Backed(5, bytes(65535)),
            {},
            "has an xattr trusted.overlay.redirect of 65536 bytes, more than 65535",
        ),
        (
            Object(5, DIGEST),
            {"xattrs": {b"user." + b"n" * 256: b""}},
            f"has an xattr with a name of 261 bytes, more than an image can hold: user.{'n' * 55}...",
        ),
        (
            Object(5, DIGEST),
            {"xattrs": {b"user.%d" % number: bytes(65528 - 40 * (number == 3)) for number in range(4)}},
            "has xattrs of 262260 bytes in all, more than 262148",
        ),
    ],
)
def test_what_no_image_can_hold(content, changes, message, version):
    """The error has the path of the node, whatever is wrong with it."""
    assert refused(tree(content, **changes), version) == f"/d/f: {message}"


def test_limits_are_reached():
    """What is just not too large is written, and read again."""
    root = Directory(
        INFO,
        {
            b"n" * 255: Leaf(INFO._replace(uid=0xFFFFFFFF, gid=0xFFFFFFFF, nanoseconds=0xFFFFFFFF), Inline(b"")),
            b"first": Leaf(INFO._replace(mtime=-1 << 63), Symlink(b"t" * 4095)),
            b"last": Leaf(INFO._replace(mtime=(1 << 63) - 1), Special(stat.S_IFBLK, 0xFFFFFFFF)),
            b"large": Leaf(INFO, Object((1 << 64) - 1, DIGEST)),
            b"value": Leaf(INFO._replace(xattrs={b"user." + b"n" * 255: bytes(65535)}), Inline(bytes(5000))),
        },
    )
    found = load_tree(write_image(root))
    for name, leaf in root.entries.items():
        assert found.entries[name].content == leaf.content
        assert found.entries[name].stat == leaf.stat._replace(xattrs=found.entries[name].stat.xattrs)
        assert dict(found.entries[name].stat.xattrs) == dict(leaf.stat.xattrs)


def test_area_of_the_largest_size():
    """The xattrs of an inode may take just what it can count."""
    head, unit = ondisk.XATTR_HEADER.size, ondisk.XATTR_UNIT
    sizes = [65528, 65528, 65528, head + unit * 65534 - head - 3 * (65528 + 8) - 8]
    xattrs = {b"user.%04d" % number: bytes(size) for number, size in enumerate(sizes)}

    leaf = load_tree(write_image(tree(Inline(b"x"), xattrs=xattrs))).node(b"d/f")

    assert leaf.stat.xattrs == xattrs
    xattrs[b"user.0003"] += bytes(1)
    assert refused(tree(Inline(b"x"), xattrs=xattrs)) == "/d/f: has xattrs of 262152 bytes in all, more than 262148"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0", b"/"])
def test_names_that_no_file_has(name, version):
    root = Directory(INFO, {b"d": Directory(INFO, {b"b": Leaf(INFO, Inline(b"")), name: Leaf(INFO, Inline(b""))})})
    assert refused(root, version) == f"/d/{name.decode()}: has the name {name!r}, which no file can have"


def test_long_names():
    """Among many short names, and alone."""
    name = b"n" * 256
    for others in ([], [b"a", b"z" * 255]):
        entries = {other: Leaf(INFO, Inline(b"")) for other in [*others, name]}
        message = refused(Directory(INFO, {b"d": Directory(INFO, entries)}))
        assert message == f"/d/{name.decode()}: has a name of 256 bytes, more than 255"


def test_directories_are_refused_by_their_paths():
    """Also the root."""
    assert refused(Directory(INFO._replace(uid=-1))).startswith("/: belongs to -1:0")
    root = Directory(INFO, {b"d": Directory(INFO, {b"e": Directory(INFO._replace(xattrs={b"x": bytes(65536)}))})})
    assert refused(root).startswith("/d/e: has an xattr x of 65536 bytes")


@pytest.mark.parametrize("version", VERSIONS)
def test_directories_have_one_name(version):
    """A directory in two places, or in itself, ends with an error and not never."""
    twice = Directory(INFO)
    message = refused(Directory(INFO, {b"a": twice, b"b": Directory(INFO, {b"c": twice})}), version)
    assert message == "/a: is a directory with several names"
    circle = Directory(INFO)
    circle.entries[b"again"] = circle
    assert refused(Directory(INFO, {b"d": circle}), version) == "/d: is a directory with several names"


def test_inline_files_of_epoch_2():
    """It has no blocks for them; epoch 1 has."""
    for version in (0, 1):
        assert load_tree(write_image(tree(Inline(b"x" * 4096)), version)).node(b"d/f").content == Inline(b"x" * 4096)
    assert refused(tree(Inline(b"x" * 4096)), 2) == "/d/f: has 4096 bytes inline, more than 4095"
    image = write_image(tree(Inline(b"x" * 4095)), 2)
    inode = inode_at(image, b"d/f")
    assert image[inode.tail_offset : inode.tail_offset + 4095] == b"x" * 4095


def test_huge_files_by_c():
    """It does not write more addresses of chunks than a block holds; composefs-rs leaves out the rest."""
    assert refused(tree(Object((1 << 53) + 1, DIGEST)), dialect=Dialect.C).endswith("more than an image can tell of")
    write_image(tree(Object(1 << 53, DIGEST)), dialect=Dialect.C)
    write_image(tree(Object((1 << 53) + 1, DIGEST)))


@pytest.mark.parametrize("version", VERSIONS)
def test_linked_whiteouts(version):
    leaf = Leaf(INFO, WHITEOUT)
    root = Directory(INFO, {b"a": Directory(INFO, {b"w": leaf}), b"b": leaf})
    assert refused(root, version) == "/a/w: is a whiteout with several names, which no image can hold"


def test_many_shared_xattrs():
    """The header of an inode counts 255 of them; C stops at 128 and repeats the others in each inode."""
    for count in (255, 256):
        root = Directory(
            INFO, {name: Leaf(INFO._replace(xattrs=many_xattrs(count)), Inline(b"")) for name in (b"a", b"b")}
        )
        if count == 255:
            assert load_tree(write_image(root)).entries[b"b"].stat.xattrs == many_xattrs(255)
        else:
            assert refused(root) == "/a: has more than 255 xattrs that other nodes have, too"
        assert load_tree(write_image(root, dialect=Dialect.C)).entries[b"b"].stat.xattrs == many_xattrs(count)


def test_objects_with_many_shared_xattrs():
    """Those that name an object count, too, if others name it."""
    xattrs = many_xattrs(254)
    leaves = {name: Leaf(INFO._replace(xattrs=xattrs), Object(5, DIGEST)) for name in (b"a", b"b")}
    assert refused(Directory(INFO, leaves)) == "/a: has more than 255 xattrs that other nodes have, too"
    xattrs.popitem()
    assert load_tree(write_image(Directory(INFO, leaves))).entries[b"b"].content == Object(5, DIGEST)


@pytest.mark.parametrize("link_count", [-1, 1 << 32], ids=["negative", "33 bits"])
def test_link_counts(link_count):
    """A recorded count is written, also for several names, and must have 32 bits."""
    leaf = Leaf(INFO, Inline(b"x"), link_count)
    assert refused(Directory(INFO, {b"a": leaf})) == f"/a: has a link count of {link_count}, wanted a number of 32 bits"

    leaf.link_count = 7
    image = write_image(Directory(INFO, {b"a": leaf, b"b": leaf}))
    assert inode_at(image, b"a").link_count == 7


def test_homes():
    """A leaf is numbered at its home, and a home where it is not is refused."""
    leaf = Leaf(INFO, Inline(b"x"))
    below = Directory(INFO, {b"a": leaf, b"c": leaf, b"d": Leaf(INFO, Inline(b"y"))})
    root = Directory(INFO, {b"a": leaf, b"below": below})

    def order(homes):
        image = write_image(root, homes=homes)
        return sorted([b"a", b"below", b"below/d"], key=lambda path: inode_at(image, path).nid)

    assert order({}) == [b"a", b"below", b"below/d"]
    assert order({leaf: (below, b"c")}) == [b"below", b"a", b"below/d"]
    for home in ((below, b"d"), (below, b"none"), (Directory(INFO, {b"a": leaf}), b"a")):
        message = refused(root, homes={leaf: home})
        assert message == "/a: is not in the directory, or not by the name, that is its home"


def test_homes_of_whiteouts():
    """That a directory has a whiteout is said where this is at home, and nowhere else."""
    whiteout = Leaf(INFO, WHITEOUT)
    a, z = Directory(INFO, {b"x": whiteout}), Directory(INFO, {b"w": whiteout})
    image = write_image(Directory(INFO, {b"a": a, b"z": z}), dialect=Dialect.C, homes={whiteout: (z, b"w")})
    reader = ErofsReader(image)

    assert reader.xattrs(inode_at(image, b"a")) == []
    assert ondisk.WHITEOUTS_XATTRS[0] in dict(reader.xattrs(inode_at(image, b"z")))


def test_addresses_of_chunks_in_blocks():
    """The lower half of the block's number gives way to the chunk format, the upper one, of large images, does not."""
    lister = Lister(tree(Object(1 << 60, DIGEST)), 2, Dialect.RUST)
    tree_of_c = _columns.ErofsTree(lister.inodes.records, lister.columns())

    places = tree_of_c.place(1, None, bytes(24), 1, 0x12344 * ondisk.BLOCK, is_signed=False)

    last = len(lister.inodes) - 1
    pointer = lister.inodes.get(POINTER, last)
    assert places.block_count >> 16 == 1
    assert pointer == 0x10000 | 31


def test_versions():
    for version, dialect in ((3, Dialect.RUST), (-1, Dialect.RUST), (2, Dialect.C)):
        with pytest.raises(UsageError, match=f"^no image has version {version} in the dialect {dialect.value}$"):
            write_image(Directory(INFO), version, dialect=dialect)


def test_nanoseconds():
    """Version 2 has none."""
    root = tree(Inline(b""), nanoseconds=7)
    assert [load_tree(write_image(root, version)).node(b"d/f").stat.nanoseconds for version in VERSIONS] == [7, 7, 0]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tree_is_left_alone(version):
    """Nothing is changed in it, also when it is refused."""
    linked = Leaf(INFO, Symlink(b"target"))
    root = tree(WHITEOUT, xattrs={b"trusted.overlay.x": b"y"})
    root.entries |= {b"a": linked, b"b": linked, b"ff": Leaf(INFO, Object(5, DIGEST))}
    root.stat = root.stat._replace(xattrs={b"security.selinux": b"label"})
    before = repr(root)

    write_image(root, version)

    assert repr(root) == before
    root.entries[b"bad"] = Leaf(INFO, Symlink(b"t" * 5000))
    refused(root, version)
    del root.entries[b"bad"]
    assert repr(root) == before


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(is_enabled):
    """And nothing that was made is left to it."""
    gc.collect()
    (gc.enable if is_enabled else gc.disable)()
    try:
        write_image(tree(Object(5, DIGEST)))
        assert gc.isenabled() == is_enabled
        refused(tree(Symlink(b"t" * 5000)))
        assert gc.isenabled() == is_enabled
        gc.collect()
        image = write_image(tree(Object(5, DIGEST)))
        assert gc.collect() == 0
        assert len(image) == 16384
    finally:
        gc.enable()


def test_has_whiteout():
    assert has_whiteout(tree(WHITEOUT))
    assert not has_whiteout(tree(Special(stat.S_IFCHR, 1)))
    assert not has_whiteout(tree(Special(stat.S_IFBLK)))


def test_objects_are_backed_files():
    """An object is written as the file with its path and digest is, also where only some share it."""
    digests = [bytes([number]) * 32 for number in (1, 1, 2, 0, 0)]
    for version in VERSIONS:
        images = []
        for are_objects in (0b11111, 0b00000, 0b10101, 0b01010):
            entries = {}
            for number, digest in enumerate(digests):
                is_object = are_objects >> number & 1
                content = Object(5, digest) if is_object else Backed(5, object_path(digest), digest)
                entries[b"%d" % number] = Leaf(INFO._replace(xattrs={b"user.a": b"x", b"security.b": b"y"}), content)
            entries[b"elsewhere"] = Leaf(entries[b"0"].stat, Backed(5, b"else/where", digests[2]))
            images.append(write_image(Directory(INFO, entries), version))
        assert images[0] == images[1] == images[2] == images[3]


def test_directory_of_many_entries():
    """Large directories take time in proportion to their size; entries are divided by blocks."""
    root = Directory(INFO, {b"%06d" % number: Leaf(INFO, Inline(b"")) for number in range(30000)})
    image = write_image(root)
    reader = ErofsReader(image)
    assert len(reader.entries(reader.root)) == 30000 + 256 + 2
    assert reader.root.size % ondisk.BLOCK == 0 or reader.root.size % ondisk.BLOCK <= ondisk.BLOCK // 2


@pytest.mark.parametrize(
    ("name", "epoch", "bit"),
    [
        (b"trusted.overlay.opaque", 1, 20),
        (b"trusted.overlay.metacopy", 1, 31),
        (b"trusted.overlay.redirect", 1, 17),
        (b"security.selinux", 1, 11),
        (b"user.overlay.whiteout", 1, 9),
        (b"user.overlay.opaque", 1, 10),
        (b"system.posix_acl_access", 1, 30),
        (b"system.posix_acl_default", 1, 21),
        (b"security.capability", 1, 29),
        (b"lustre.q", 1, 12),
    ],
)
def test_filter_bits(name, epoch, bit):
    """The bit of a name in the filter is that of the images of both programs."""
    assert NameEncoder(epoch).encode(name).filter_bit == 1 << bit


def test_equal_xattrs_are_one_set():
    """Whether one mapping has them, or several do."""
    xattrs = {b"user.a": b"x", b"trusted.overlay.b": b"y"}
    for epoch in (1, 2):
        sets = XattrSets(epoch)
        found = sets.of_tree(xattrs)
        assert found is sets.of_tree(xattrs) is sets.of_tree(dict(sorted(xattrs.items())))
        assert found.pairs == ((b"trusted.overlay.overlay.b", b"y"), (b"user.a", b"x"))
        assert sets.of_tree({}) is NO_XATTR_SET


def test_prefixes():
    """Epoch 1 does not know lustre's; a name of a prefix alone has no suffix."""
    assert NameEncoder(1).encode(b"lustre.q")[:2] == (0, b"lustre.q")
    assert NameEncoder(2).encode(b"lustre.q")[:2] == (5, b"q")
    assert NameEncoder(1).encode(b"user.")[:2] == (1, b"")
    assert NameEncoder(1).encode(b"user")[:2] == (0, b"user")
    assert NameEncoder(1).encode(b"system.posix_acl_access.x")[:2] == (2, b".x")


@pytest.mark.parametrize(
    ("data", "seed", "value"),
    [
        (b"", 0, 0x02CC5D05),
        (b"", 0x9E3779B1, 0x36B78AE7),
        (b"a", 0, 0x550D7456),
        (b"abc", 0, 0x32D153FF),
        (b"Nobody inspects the spammish repetition", 0, 0xE2293B2F),
    ],
)
def test_xxh32(data, seed, value):
    """Values that xxHash itself gives."""
    assert xxh32(data, seed) == value


def records_of(*changes):
    """Return inodes and columns of an empty directory and a file in it; *changes* are field, inode and value."""
    lister = Lister(Directory(INFO, {b"f": Leaf(INFO, Inline(b"data"))}), 2, Dialect.RUST)
    for field, inode, value in changes:
        lister.inodes.set(field, inode, value)
    return lister.inodes.records, lister.columns()


def pack(records, columns, area=bytes(24), size=4096):
    """Place and pack them."""
    tree_of_c = _columns.ErofsTree(records, columns)
    tree_of_c.place(2, None, area, len(area) // 24, 0, is_signed=False)
    tree_of_c.pack(bytearray(size), area, len(area) // 24, b"")


def test_records_that_lie():
    """C refuses records that would make it leave its buffers."""
    records, columns = records_of()
    pack(records, columns)
    numbers = {name: bytes(array("I", [value])) for name, value in (("children", 2), ("name_ends", 2))}
    lies = [
        (records[:80], columns, {}),
        (records_of((PAYLOAD_SIZE, 1, 5))[0], columns, {}),
        (records_of((XATTRS, 1, 1))[0], columns, {}),
        (records, columns._replace(children=numbers["children"]), {}),
        (records, columns._replace(name_ends=numbers["name_ends"]), {}),
        (records, columns._replace(names=b""), {}),
        (records, columns._replace(payloads=b"dat"), {}),
        (records, columns._replace(directories=bytes(15) + b"\1"), {}),
        (records, columns, {"area": bytes(8) + b"\1" + bytes(15)}),
        (records, columns, {"area": b""}),
        (records, columns, {"size": 1152}),
    ]
    for broken, others, options in lies:
        with pytest.raises(OSError, match="Invalid argument"):
            pack(bytearray(broken), others, **options)
