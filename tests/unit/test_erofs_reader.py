"""Inodes, directories, xattrs and contents are read as stored; what is wrong with them is refused, with the place."""

import mmap
import stat
import struct

import pytest

from composefs import limits
from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import DirEntry, ErofsReader
from composefs.errors import FormatError
from composefs.tree import Backed, Inline, Object, Special, Stat, Symlink, object_path
from tests.erofs_images import (
    CHARACTER,
    CHUNKED,
    DIGEST,
    DIRECTORY,
    INLINE,
    LINK,
    METACOPY,
    OBJECT,
    PLAIN,
    REDIRECT,
    REGULAR,
    SECURITY,
    TRUSTED,
    USER,
    ImageBuilder,
    block,
    check_refused,
    golden,
    one,
    xattr,
    xattr_area,
)
from tests.golden import vectors

SUPERBLOCK = ondisk.SUPERBLOCK_OFFSET


def content_of(image, **options):
    return load_tree(image, **options).entries[b"f"].content


def find(reader, path):
    """Return the inode at *path*."""
    inode = reader.root
    for name in path.split(b"/"):
        inode = reader.inode(reader.lookup(inode, name))
    return inode


# What an image begins with


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (0, b"\x9b", r"magic 0xd078629b instead of 0xd078629a"),
        (4, b"\x02", r"header version 2 instead of 1"),
        (12, b"\x03", r"composefs version 3"),
        (SUPERBLOCK, b"\xe3", r"magic 0xe0f5e1e3"),
        (SUPERBLOCK + 8, b"\x0f", r"unknown compatible features 0x8"),
        (SUPERBLOCK + 12, b"\x0b", r"blocks of 2\^11 bytes"),
        (SUPERBLOCK + 12, b"\xff", r"blocks of 2\^255 bytes"),
        (SUPERBLOCK + 13, b"\x01", r"superblock extensions \(1\)"),
        (SUPERBLOCK + 40, b"\x01", r"inodes at block 1, which"),
        (SUPERBLOCK + 44, b"\xff\xff\xff\xff", r"shared xattrs in block 4294967295, behind the end"),
        (SUPERBLOCK + 80, b"\x05", r"features 0x1"),
        (SUPERBLOCK + 84, b"\x01", r"compression \(1\)"),
        (SUPERBLOCK + 86, b"\x01", r"other devices \(1\)"),
        (SUPERBLOCK + 91, b"\x01", r"long xattr prefixes \(1\)"),
        (SUPERBLOCK + 96, b"\x01", r"a packed inode \(1\)"),
    ],
)
def test_header(offset, value, what):
    """Each field that reading depends on is checked."""
    image = golden()
    image[offset : offset + len(value)] = value

    check_refused(image, what, offset=offset)


def test_features_of_others():
    """A checksum, which nobody makes, and chunked files, which all have, may be announced."""
    image = golden()
    image[SUPERBLOCK + 8] = 7
    image[SUPERBLOCK + 80] = 4

    load_tree(image)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 1024, 1151])
def test_too_small(size):
    """What ends before the inodes is no image."""
    check_refused(golden()[:size], "ends before its inodes", offset=size)


def test_too_large():
    """More than 1 GiB is not even looked at."""
    with mmap.mmap(-1, limits.EROFS_SIZE + 1) as data:
        check_refused(data, f"{limits.EROFS_SIZE + 1} bytes of image, more than {limits.EROFS_SIZE}", offset=0)
    with mmap.mmap(-1, limits.EROFS_SIZE) as data:
        check_refused(data, "magic 0x0 instead of", offset=0)


def test_start_of_shared_xattrs():
    """It may be the end of the image, where there are none, and nothing behind that."""
    image = bytearray(one(REGULAR))
    end = len(image) // ondisk.BLOCK
    struct.pack_into("<I", image, SUPERBLOCK + 44, end)
    load_tree(image)
    struct.pack_into("<I", image, SUPERBLOCK + 44, end + 1)
    check_refused(image, f"shared xattrs in block {end + 1}, behind the end", offset=SUPERBLOCK + 44)


def test_every_cut_is_refused_or_read():
    """Images that end early give an error; only what no inode needs may be missing."""
    image = golden("V2")
    used = len(image.rstrip(b"\0"))

    for size in range(0, used, 7):
        with pytest.raises(FormatError):
            load_tree(image[:size])


def test_kinds_of_buffers(tmp_path):
    """Bytes, what can be made bytes, and mapped files give the same tree."""
    image = bytes(golden())
    path = tmp_path / "image"
    path.write_bytes(image)

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        trees = [load_tree(data) for data in (image, bytearray(image), memoryview(image), mapped)]

    names = [sorted(tree.entries) for tree in trees]
    assert names == [[b"a", b"d", b"z"]] * 4
    assert len({tree.entries[b"d"].entries[b"large"].content.digest for tree in trees}) == 1


# Inodes


def test_inode_of_the_root():
    """The worked example of an empty version 1 image."""
    image = vectors.read(vectors.ROOT / "dumps" / "images" / "empty-V1.erofs.gz")
    reader = ErofsReader(image, "empty")

    assert reader.version == 1
    assert reader.source == "empty"
    root = reader.root
    assert (root.nid, root.offset, root.mode, root.link_count, root.size) == (36, 1152, 0o40755, 2, 4096)
    assert (root.uid, root.gid, root.mtime, root.nanoseconds, root.rdev) == (0, 0, 0, 0, 0)
    assert (root.xattrs_offset, root.tail_offset, root.layout, root.address) == (1184, 1216, PLAIN, 3)
    assert dict(reader.xattrs(root)) == {b"trusted.overlay.opaque": b"y"}
    assert reader.node_stat(root) == Stat(0o755, 0, 0, 0, 0)
    entries = reader.entries(root)
    assert entries[:3] == [DirEntry(b".", 36, 2), DirEntry(b"..", 36, 2), DirEntry(b"00", 38, 3)]
    assert len(entries) == 258
    stub = reader.inode(reader.lookup(root, b"00"))
    assert (stub.offset, stub.mode, stub.link_count, stub.type) == (1216, 0o20644, 1, stat.S_IFCHR)


def test_extended_inode():
    """All fields of an extended inode, times before 1970 too."""
    image = one(CHARACTER | 0o4640, address=0xFFF12345, mtime=-5, nanoseconds=7)
    reader = ErofsReader(image)

    inode = find(reader, b"f")

    assert (inode.mode, inode.uid, inode.gid, inode.mtime, inode.nanoseconds) == (0o24640, 1000, 2000, -5, 7)
    assert inode.rdev == 0xFFF12345
    assert reader.node_stat(inode) == Stat(0o4640, 1000, 2000, -5, 7)
    assert reader.content(inode) == Special(stat.S_IFCHR, 0xFFF12345)


@pytest.mark.parametrize(("build_time", "mtime"), [(1, 1), (2**64 - 1, -1), (2**63, -(2**63))])
def test_compact_inodes_have_the_time_of_the_image(build_time, mtime):
    """The time of compact inodes is signed, though the superblock's is not."""
    image = bytearray(vectors.read(vectors.ROOT / "dumps" / "images" / "empty-V1.erofs.gz"))
    struct.pack_into("<QI", image, SUPERBLOCK + 24, build_time, 3)

    info = load_tree(image).stat

    assert (info.mtime, info.nanoseconds) == (mtime, 3)


@pytest.mark.parametrize("nid", [-1, 2047, 2048, 2**59, 2**64 - 1])
def test_inode_behind_the_end(nid):
    """There are no inodes behind the end of the image, and none before its start."""
    reader = ErofsReader(golden()[: 2047 * 32 + 31])

    with pytest.raises(FormatError, match="behind the end"):
        reader.inode(nid)


def test_inode_cut_off():
    """An extended inode needs 64 bytes."""
    image = one(REGULAR)
    image = image[:-32] + struct.pack("<H", ondisk.FORMAT_EXTENDED) + bytes(30)

    with pytest.raises(FormatError, match="cut off") as caught:
        ErofsReader(image).inode(len(image) // 32 - 1)
    assert caught.value.offset == len(image) - 32


def test_inode_whose_tail_goes_beyond_the_end():
    """Xattrs and tail must lie in the image."""
    image = bytearray(one(REGULAR))
    last = len(image) - 64
    ondisk.EXTENDED_INODE.pack_into(image, last, 5, 0, REGULAR, 1, 0, 0, 0, 0, 0, 0, 1)
    with pytest.raises(FormatError, match="beyond the end"):
        ErofsReader(image).inode(last // 32)
    ondisk.EXTENDED_INODE.pack_into(image, last, 1, 1, REGULAR, 0, 0, 0, 0, 0, 0, 0, 1)
    with pytest.raises(FormatError, match="beyond the end"):
        ErofsReader(image).inode(last // 32)
    ondisk.EXTENDED_INODE.pack_into(image, last, 1, 0, REGULAR, 1 << 60, 0, 0, 0, 0, 0, 0, 1)
    assert ErofsReader(image).inode(last // 32).size == 1 << 60


@pytest.mark.parametrize("layout", [2, 6, 10, 12, 14])
def test_layouts_of_others(layout):
    """Compression and what else there may be is refused."""
    check_refused(one(REGULAR, layout=layout), f"data layout {layout >> 1}", entry="/f", offset=1152)


def test_root_must_be_a_directory():
    """composefs-rs takes any inode for a root directory."""
    builder = ImageBuilder()
    check_refused(builder.finish(builder.inode(REGULAR, b"data")), "the root has mode 100644", offset=1152)


@pytest.mark.parametrize("mode", [0, 0o644, 0o030644, 0o170644])
def test_types_that_do_not_exist(mode):
    """A leaf is of one of six types."""
    check_refused(one(mode), f"mode {mode:o}, which is of no type", entry="/f")


# Contents


def test_contents():
    """Each layout of data, and what chunked files are without xattrs."""
    blocks = [b"b" * 4096, b"c" * 4096]

    def read(mode, tail=b"", **options):
        builder = ImageBuilder(1, blocks)
        leaf = builder.inode(mode, tail, **options)
        return content_of(builder.finish(builder.directory([(b"f", leaf)])))

    assert read(REGULAR) == Inline(b"")
    assert read(REGULAR, b"tail") == Inline(b"tail")
    assert read(REGULAR, size=5000, address=16) == Inline(b"b" * 4096 + b"c" * 904)
    assert read(REGULAR, b"tail", size=4100, address=17, layout=INLINE) == Inline(b"c" * 4096 + b"tail")
    assert read(REGULAR, size=8192, address=16, layout=INLINE) == Inline(b"b" * 4096 + b"c" * 4096)
    assert read(REGULAR, size=1 << 50, layout=CHUNKED) == Backed(1 << 50)
    assert read(LINK, b"../x") == Symlink(b"../x")
    assert read(LINK, size=4096, address=16) == Symlink(b"b" * 4096)
    assert read(stat.S_IFBLK, address=2049) == Special(stat.S_IFBLK, 2049)
    assert read(stat.S_IFIFO, address=2049) == Special(stat.S_IFIFO)
    assert read(stat.S_IFSOCK) == Special(stat.S_IFSOCK)


@pytest.mark.parametrize(
    ("size", "address", "layout", "what"),
    [
        (1, 16, PLAIN, "blocks 16 to 16 of 16"),
        (4096, 0xFFFFFFFF, PLAIN, "blocks 4294967295 to 4294967295 of 16"),
        (4097, 15, PLAIN, "blocks 15 to 16 of 16"),
        (4096, 16, INLINE, "blocks 16 to 16 of 16"),
        (65537, 0, PLAIN, "65537 bytes of data, more than the image"),
        (2**63, 0, INLINE, "9223372036854775808 bytes of data, more than the image"),
        (2**64 - 4096, 0, PLAIN, "18446744073709547520 bytes of data, more than the image"),
    ],
)
def test_data_beyond_the_image(size, address, layout, what):
    """Blocks lie in the image."""
    for mode in (REGULAR, LINK):
        check_refused(one(mode, version=1, size=size, address=address, layout=layout), what, entry="/f", offset=1152)
    builder = ImageBuilder()
    root = builder.inode(DIRECTORY, size=size, address=address, layout=layout, links=2)
    check_refused(builder.finish(root), what, entry="/", offset=1152)


def test_chunked_links_and_directories():
    """Only files have their data elsewhere."""
    check_refused(one(LINK, size=4, layout=CHUNKED), "has its data elsewhere", entry="/f")
    builder = ImageBuilder()
    root = builder.inode(DIRECTORY, size=4096, layout=CHUNKED, links=2)
    check_refused(builder.finish(root), "has its data elsewhere", entry="/")


def test_limits_of_version_2():
    """Version 2 has short contents and targets."""
    assert content_of(one(REGULAR, bytes(512))) == Inline(bytes(512))
    check_refused(one(REGULAR, bytes(513)), "513 bytes in the image, more than 512", entry="/f")
    assert content_of(one(REGULAR, bytes(513), version=1)) == Inline(bytes(513))
    assert content_of(one(LINK, b"t" * 1024)) == Symlink(b"t" * 1024)
    check_refused(one(LINK, b"t" * 1025), "1025 bytes, more than 1024", entry="/f")
    assert content_of(one(LINK, b"t" * 1025, version=0)) == Symlink(b"t" * 1025)


@pytest.mark.parametrize("layout", [PLAIN, CHUNKED])
@pytest.mark.parametrize(
    ("entries", "rust", "c"),
    [
        ([METACOPY, REDIRECT], Object(9, DIGEST), Object(9, DIGEST)),
        ([METACOPY], Object(9, DIGEST), Backed(9, None, DIGEST)),
        (
            [METACOPY, xattr(4, b"overlay.redirect", b"/any/place")],
            Object(9, DIGEST),
            Backed(9, b"any/place", DIGEST),
        ),
        ([xattr(4, b"overlay.metacopy", b""), REDIRECT], Backed(9, OBJECT[1:]), Backed(9, OBJECT[1:])),
        ([REDIRECT], Backed(9, OBJECT[1:]), Backed(9, OBJECT[1:])),
        ([xattr(4, b"overlay.redirect", b"../x" + OBJECT)], Backed(9, OBJECT[1:]), Backed(9, b"../x" + OBJECT)),
        ([xattr(4, b"overlay.metacopy", b""), METACOPY, REDIRECT], Object(9, DIGEST), Object(9, DIGEST)),
    ],
)
def test_objects(layout, entries, rust, c):
    """Where the content of a file is, is said by xattrs, whatever its layout; in C, any place may be."""
    image = one(REGULAR, xattrs=xattr_area(*entries), size=9, layout=layout, address=0)

    assert content_of(image) == rust
    assert content_of(image, dialect=Dialect.C) == c
    assert load_tree(image).entries[b"f"].stat.xattrs == {}


def test_repeated_xattrs_of_objects():
    """As by composefs-rs, the first digest counts, and the first place that is that of an object."""
    digest = bytes(32)
    other = xattr(TRUSTED, b"overlay.metacopy", bytes([0, 36, 0, 1]) + digest)
    elsewhere = xattr(TRUSTED, b"overlay.redirect", b"/" + object_path(digest))
    nowhere = xattr(TRUSTED, b"overlay.redirect", b"/any/place")
    for entries, wanted in (
        ([METACOPY, other], Object(9, DIGEST)),
        ([REDIRECT, elsewhere], Backed(9, OBJECT[1:])),
        ([REDIRECT, nowhere], Backed(9, OBJECT[1:])),
        ([nowhere, REDIRECT, elsewhere], Backed(9, OBJECT[1:])),
        ([nowhere, nowhere], Backed(9)),
    ):
        assert content_of(one(REGULAR, xattrs=xattr_area(*entries), size=9, layout=CHUNKED)) == wanted


def test_places_that_are_no_objects():
    """By composefs-rs they do not count."""
    area = xattr_area(xattr(4, b"overlay.redirect", b"/any/place"))

    assert content_of(one(REGULAR, xattrs=area, size=9, layout=CHUNKED)) == Backed(9)
    assert content_of(one(REGULAR, b"data", xattrs=area)) == Inline(b"data")
    for value in (OBJECT[:-1] + b"x", OBJECT.replace(b"/", b"0"), OBJECT[:-1], OBJECT[:4] + b"//" + OBJECT[6:]):
        other = xattr_area(xattr(4, b"overlay.redirect", value))
        assert content_of(one(REGULAR, xattrs=other, size=9, layout=CHUNKED)) == Backed(9)
    image = one(REGULAR, xattrs=area, size=9, layout=CHUNKED)
    assert content_of(image, dialect=Dialect.C) == Backed(9, b"any/place")
    assert collect_objects(ErofsReader(image)) == set()


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (b"\0", "has 1 bytes instead of 36 or 68"),
        (bytes([0, 36, 0, 1]) + bytes(31), "has 35 bytes"),
        (bytes([1, 36, 0, 1]) + bytes(32), "begins with 01240001 instead of 00240001"),
        (bytes([0, 37, 0, 1]) + bytes(32), "begins with 00250001"),
        (bytes([0, 36, 1, 1]) + bytes(32), "begins with 00240101"),
        (bytes([0, 36, 0, 2]) + bytes(32), "begins with 00240002"),
        (bytes([0, 68, 0, 1]) + bytes(64), "begins with 00440001 instead of 00440002"),
    ],
)
def test_bad_digests(value, what):
    """A digest that is not one is refused in a file; elsewhere it does not count."""
    area = xattr_area(xattr(4, b"overlay.metacopy", value), REDIRECT)

    check_refused(one(REGULAR, xattrs=area, layout=CHUNKED), what, entry="/f", offset=1216)
    assert content_of(one(LINK, b"x", xattrs=area)) == Symlink(b"x")
    assert collect_objects(ErofsReader(one(REGULAR, xattrs=area, layout=CHUNKED))) == {DIGEST}


def test_digests_of_sha512():
    """The length of a digest tells the algorithm."""
    digest = bytes(range(64))
    text = digest.hex().encode()
    redirect = xattr(4, b"overlay.redirect", b"/%b/%b" % (text[:2], text[2:]))
    image = one(
        REGULAR,
        xattrs=xattr_area(xattr(4, b"overlay.metacopy", bytes([0, 68, 0, 2]) + digest), redirect),
        size=1,
        layout=CHUNKED,
    )

    assert content_of(image) == content_of(image, dialect=Dialect.C) == Object(1, digest)
    assert collect_objects(ErofsReader(image)) == {digest}
    assert content_of(one(REGULAR, xattrs=xattr_area(redirect), layout=CHUNKED)) == Backed(
        0, b"%b/%b" % (text[:2], text[2:])
    )


# Xattrs


def test_xattrs_shared_first_and_last_wins():
    """Of several xattrs of one name the last is taken, local ones after shared ones."""
    builder = ImageBuilder()
    builder.shared += xattr(USER, b"a", b"shared") + xattr(USER, b"b", b"shared")
    area = xattr_area(
        xattr(USER, b"b", b"local"), xattr(0, b"lustre.x", b"1"), xattr(5, b"y", b"2"), xattr(2, b"", b"acl"),
        references=(0, 3),
    )  # fmt: skip
    leaf = builder.inode(REGULAR, xattrs=area)
    reader = ErofsReader(builder.finish(builder.directory([(b"f", leaf)])))

    wanted = {
        b"user.a": b"shared",
        b"user.b": b"local",
        b"lustre.x": b"1",
        b"lustre.y": b"2",
        b"system.posix_acl_access": b"acl",
    }
    assert dict(reader.xattrs(reader.inode(leaf))) == wanted
    assert reader.node_stat(reader.inode(leaf)).xattrs == wanted


def test_overlay_xattrs():
    """What overlayfs would act upon is not the tree's, unless it is escaped."""
    dropped = [
        (TRUSTED, b"overlay.opaque"), (TRUSTED, b"overlay.any"), (TRUSTED, b"overlay."),
        (TRUSTED, b"overlay.overlay.whiteouts"), (TRUSTED, b"overlay.overlay.opaque"),
        (USER, b"overlay.whiteout"), (USER, b"overlay.whiteouts"), (USER, b"overlay.opaque"),
        (0, b"trusted.overlay.x"),
    ]  # fmt: skip
    kept = {
        (TRUSTED, b"overlay.overlay.metacopy"): b"trusted.overlay.metacopy",
        (TRUSTED, b"overlay.overlay.overlay.x"): b"trusted.overlay.overlay.x",
        (TRUSTED, b"overlay.overlay."): b"trusted.overlay.",
        (0, b"trusted.overlay.overlay.y"): b"trusted.overlay.y",
        (TRUSTED, b"overlayx"): b"trusted.overlayx",
        (USER, b"overlay.redirect"): b"user.overlay.redirect",
        (SECURITY, b"selinux"): b"security.selinux",
    }
    area = xattr_area(*(xattr(*name, b"v") for name in (*dropped, *kept)))
    image = one(stat.S_IFSOCK, xattrs=area)

    assert load_tree(image).entries[b"f"].stat.xattrs == dict.fromkeys(kept.values(), b"v")


def test_whiteouts_are_devices_again():
    """A file with the mark of a whiteout is one; other types are not, and the link count must be 1."""
    area = xattr_area(xattr(TRUSTED, b"overlay.overlay.whiteout", b""), METACOPY, REDIRECT)

    assert content_of(one(REGULAR, xattrs=area, version=1)) == Special(stat.S_IFCHR)
    assert content_of(one(LINK, b"x", xattrs=area, version=1)) == Symlink(b"x")
    for image in (one(REGULAR, xattrs=area, links=2), one(CHARACTER, links=2)):
        check_refused(image, "a whiteout has 2 links", entry="/f")
        assert load_tree(image, dialect=Dialect.C).entries[b"f"].link_count == 2


def test_stubs_of_the_root():
    """Whiteouts in the root with names of two hexadecimal digits are not the tree's; below it they are."""
    builder = ImageBuilder()
    device = builder.inode(CHARACTER)
    marked = builder.inode(REGULAR, xattrs=xattr_area(xattr(TRUSTED, b"overlay.overlay.whiteout", b"")))
    kept = builder.inode(CHARACTER)
    other = builder.inode(REGULAR)
    root = builder.next_nid() + 4
    below = builder.directory([(b"00", device)], parent=root)
    builder.data += bytes(root * 32 - len(builder.data))
    entries = [(b"0f", device), (b"AB", marked), (b"0g", kept), (b"11", other), (b"d", below)]
    tree = load_tree(builder.finish(builder.directory(entries, links=3)))

    assert sorted(tree.entries) == [b"0g", b"11", b"d"]
    assert tree.entries[b"d"].entries[b"00"].content == Special(stat.S_IFCHR)


@pytest.mark.parametrize(
    ("area", "what", "offset"),
    [
        (xattr_area(xattr(7, b"x", b"")), "prefix 7, of 7", 1228),
        (xattr_area(xattr(255, b"x", b"")), "prefix 255, of 7", 1228),
        (xattr_area(xattr(1, b"", b""), b"\xff\x01\0\0"), "an xattr of 260 bytes, in 4 bytes", 1232),
        (xattr_area(b"\0\1\xff\xff"), "an xattr of 65540 bytes, in 4 bytes", 1228),
        (ondisk.XATTR_HEADER.pack(0, 1), "1 references to shared xattrs, in 0 bytes", 1228),
        (ondisk.XATTR_HEADER.pack(0, 255) + bytes(40), "255 references to shared xattrs, in 40 bytes", 1228),
        (xattr_area(references=(0xFFFFFFFF,)), "shared xattr at 17179930620, behind the end", 1228),
        (xattr_area(references=(1024,)), "shared xattr at 65536, behind the end", 1228),
        (xattr_area(references=(1023,)), "shared xattr goes beyond the end", 65532),
        (xattr_area(references=(0,)), "prefix 9, of 7", 61440),
    ],
)
def test_broken_xattrs(area, what, offset):
    """Xattrs lie where they must, and have names."""
    builder = ImageBuilder()
    builder.shared += (b"\0\x09\0\0").ljust(4092, b"\0") + b"\1\0\0\0"
    leaf = builder.inode(LINK, b"x", xattrs=area)
    image = builder.finish(builder.directory([(b"f", leaf)]))

    check_refused(image, what, entry="/f", offset=offset)
    check_refused(image, what, read=lambda data: collect_objects(ErofsReader(data)), offset=offset)


# Directories


def test_entries_in_stored_order():
    """Entries come as they are stored, with types and dots; trees are made of them in any order."""
    builder = ImageBuilder()
    leaf = builder.inode(REGULAR)
    root = builder.next_nid()
    stored = [(b"z", leaf), (b"..", root), (b"a", leaf), (b".", root)]
    reader = ErofsReader(builder.finish(builder.directory(stored, dots=False)))

    assert [entry[:2] for entry in reader.entries(reader.root)] == stored
    assert reader.names(reader.root) == dict(stored)
    assert [reader.lookup(reader.root, name) for name, _ in stored] == [nid for _, nid in stored]
    assert reader.lookup(reader.root, b"b") is None


def large_directory(names, size=64):
    """Return an image whose root has *names* in blocks of *size* each, but for the last ones."""
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    builder = ImageBuilder(blocks=[b""] * (len(groups) - 1))
    leaf = builder.inode(REGULAR, links=len(names) - 2)
    nid = builder.next_nid()
    nids = {b".": nid, b"..": nid}
    *blocks, tail = (block([(name, nids.get(name, leaf)) for name in group]) for group in groups)
    builder.blocks = blocks
    builder.inode(DIRECTORY, tail, links=2, size=len(blocks) * 4096 + len(tail), address=16, layout=INLINE)
    return builder.finish(nid)


@pytest.mark.parametrize("is_sorted", [True, False])
def test_lookup_in_many_blocks(is_sorted):
    """Every name is found, whether or not the order lets blocks be passed over, and no other."""
    names = sorted([b".", b"..", *(b"name-%04d" % number for number in range(600))])
    stored = names if is_sorted else names[300:] + names[:300]
    reader = ErofsReader(large_directory(stored))

    found = reader.names(reader.root)

    assert list(found) == stored
    assert [reader.lookup(reader.root, name) for name in names] == [found[name] for name in names]
    for name in (b"", b"name", b"name-0000x", b"zzz", b"!", b"\0"):
        assert reader.lookup(reader.root, name) is None
    assert len(load_tree(large_directory(stored)).entries) == 600


@pytest.mark.parametrize(
    "tail", [b"", b"\x24", bytes(11), bytes(12), bytes(8) + b"\x18\0\2\0", bytes(8) + b"\xff\xff\2\0x"]
)
def test_lookup_with_a_broken_tail(tail):
    """A tail too short for entries hides nothing in the blocks before, also at the very end of the image."""
    builder = ImageBuilder(blocks=[block([(b"a", 7), (b"b", 8)])])
    image = builder.finish(builder.directory([]))
    nid, size = len(image) // 32, 4096 + len(tail)
    image += ondisk.EXTENDED_INODE.pack(ondisk.FORMAT_EXTENDED | INLINE, 0, DIRECTORY, size, 16, 0, 0, 0, 0, 0, 2)
    reader = ErofsReader(image + tail)

    inode = reader.inode(nid)

    assert [reader.lookup(inode, name) for name in (b"a", b"b", b"c")] == [7, 8, None]


def test_lookup_in_a_leaf():
    """Only directories have entries."""
    reader = ErofsReader(one(REGULAR))

    with pytest.raises(FormatError, match="is no directory"):
        reader.lookup(find(reader, b"f"), b"x")


def test_names_of_any_length():
    """Names beyond 255 bytes are read, since composefs-rs writes them; after the last one, only zeros count not."""
    builder = ImageBuilder()
    leaf = builder.inode(REGULAR)
    nid = builder.next_nid()
    entries = [(b".", nid), (b"..", nid), (b"n" * 4000, leaf)]
    tail = block(entries)
    builder.inode(DIRECTORY, tail + b"\0junk", links=2)

    assert list(load_tree(builder.finish(nid)).entries) == [b"n" * 4000]


@pytest.mark.parametrize(
    ("entries", "what", "index"),
    [
        ([(b"a", 36), (b"", 36), (b"b", 36)], "has no name", 3),
        ([(b"a", 36), (b"b/c", 36)], "has the name b'b/c'", 3),
        ([(b"a", 36), (b"b\0c", 36), (b"d", 36)], r"has the name b'b\\x00c'", 3),
        ([(b"a", 36), (b"a", 36)], "name b'a' stands in the directory twice", 3),
        ([(b".", 36)], "name b'.' stands in the directory twice", 2),
    ],
)
def test_bad_names(entries, what, index):
    """Names are not empty, have no slash and no zero, and are different."""
    builder = ImageBuilder()
    builder.inode(REGULAR)
    nid = builder.next_nid()
    root = builder.directory([(b".", nid), (b"..", nid), *entries], dots=False)

    check_refused(builder.finish(root), what, entry="/", offset=nid * 32 + 64 + 12 * index)


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        (b"", "entry . of directory 36 is inode None instead of 36"),
        (bytes(11), "has 11 bytes, less than an entry"),
        (bytes(12), "first name of a directory block of 12 bytes lies at 0"),
        (ondisk.DIRENT.pack(36, 13, 2) + b"..", "lies at 13"),
        (ondisk.DIRENT.pack(36, 24, 2) + b"..", "of 14 bytes lies at 24"),
        (ondisk.DIRENT.pack(36, 65532, 2) + b"..", "lies at 65532"),
        (ondisk.DIRENT.pack(36, 12, 2), "has no name: bytes 12 to 12 of the block's 12"),
        (ondisk.DIRENT.pack(36, 24, 2) + ondisk.DIRENT.pack(36, 23, 2) + b"..", "no name: bytes 24 to 23"),
        (ondisk.DIRENT.pack(36, 24, 2) + ondisk.DIRENT.pack(36, 65535, 2) + b"..", "no name: bytes 65535 to 26"),
    ],
)
def test_bad_directory_blocks(tail, what):
    """Names begin behind the entries, go forward and lie in the block."""
    builder = ImageBuilder()
    root = builder.inode(DIRECTORY, tail, links=2)
    image = builder.finish(root)

    check_refused(image, what, entry="/")
    if tail:
        check_refused(image, what, read=lambda data: check_structure(ErofsReader(data)))
        check_refused(image, what, read=lambda data: ErofsReader(data).entries(ErofsReader(data).root))


@pytest.mark.parametrize(
    ("dots", "what"),
    [
        ([(b"..", 36)], "entry . of directory 36 is inode None instead of 36"),
        ([(b".", 36)], "entry .. of directory 36 is inode None instead of 36"),
        ([(b".", 37), (b"..", 36)], "entry . of directory 36 is inode 37"),
        ([(b".", 36), (b"..", 35)], "entry .. of directory 36 is inode 35"),
    ],
)
def test_bad_dots(dots, what):
    """Dots lead where they must."""
    builder = ImageBuilder()

    check_refused(builder.finish(builder.directory(dots, dots=False)), what, entry="/", offset=1152)
