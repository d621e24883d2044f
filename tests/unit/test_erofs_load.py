"""Trees are those that images say, and no image makes reading it long."""

import gc
import struct

import pytest

from composefs.dialect import Dialect
from composefs.erofs import ondisk
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.errors import FormatError
from composefs.tree import Inline, walk
from tests.erofs_images import DIRECTORY, REGULAR, USER, ImageBuilder, block, check_refused, golden, xattr, xattr_area
from tests.golden import vectors


def linked(links, names=(b"a", b"b")):
    """Return an image with several names of one file that counts *links*."""
    builder = ImageBuilder()
    leaf = builder.inode(REGULAR, b"data", links=links)
    return builder.finish(builder.directory([(name, leaf) for name in names]))


def test_hard_links():
    """Names of one inode are one leaf; by composefs-rs, only if it counts more than one."""
    entries = load_tree(linked(2)).entries
    assert entries[b"a"] is entries[b"b"]
    assert entries[b"a"].link_count is None

    entries = load_tree(linked(1)).entries
    assert entries[b"a"] is not entries[b"b"]
    assert entries[b"a"].content == entries[b"b"].content == Inline(b"data")

    entries = load_tree(linked(1), dialect=Dialect.C).entries
    assert entries[b"a"] is entries[b"b"]
    assert entries[b"a"].link_count == 1


@pytest.mark.parametrize(("links", "names"), [(0, [b"a"]), (2, [b"a"]), (3, [b"a", b"b"]), (2, [b"a", b"b", b"c"])])
def test_link_counts_of_leaves(links, names):
    """Link counts are the numbers of names; C keeps what is stored."""
    image = linked(links, names)

    check_refused(image, f"inode 36 has {links} links, but {len(names)} names", entry="/a", offset=1152)
    assert load_tree(image, dialect=Dialect.C).entries[b"a"].link_count == links


@pytest.mark.parametrize("links", [0, 1, 3, 0xFFFFFFFF])
def test_link_counts_of_directories(links):
    """A directory has two links, and one more for each directory in it."""
    builder = ImageBuilder()
    image = builder.finish(builder.directory([], links=links))

    for dialect in Dialect:
        what = f"a directory with 0 directories in it has {links} links"
        check_refused(image, what, entry="/", offset=1152, dialect=dialect)


def nested(depth):
    """Return an image of *depth* directories in one another, the root included."""
    builder = ImageBuilder()
    root = builder.next_nid()
    step = 4  # slots of a directory with one entry of a short name
    for level in range(depth):
        nid = root + step * level
        builder.data = builder.data.ljust(nid * 32, b"\0")
        is_last = level == depth - 1
        entries = [] if is_last else [(b"d", nid + step)]
        builder.directory(entries, parent=max(nid - step, root), links=2 if is_last else 3)
    return builder.finish(root)


def test_depth(monkeypatch):
    """Directories are nested in at most 2049 levels, without recursion; errors in the depth have short names."""
    monkeypatch.setattr("tests.erofs_images.SHARED_BLOCK", 79)
    node, depth = load_tree(nested(2049)), 1
    while node.entries:
        node, depth = node.entries[b"d"], depth + 1
    assert depth == 2049

    check_refused(nested(2050), "more than 2049 levels of directories", entry="..." + "/d" * 2048)


def test_entries_of_errors_are_of_limited_length():
    """Of a long path, its end is shown."""
    builder = ImageBuilder()
    names = [bytes([letter]) * 200 for letter in range(0x61, 0x61 + 25)]
    root = nid = builder.next_nid()
    parent = nid
    for name in names:
        following = nid + 10
        builder.directory([(name, following)], parent=parent, links=3)
        builder.data += bytes(following * 32 - len(builder.data))
        parent, nid = nid, following
    builder.inode(0o644)

    with pytest.raises(FormatError) as caught:
        load_tree(builder.finish(root))
    entry = caught.value.entry
    assert entry == "..." + ("/" + b"/".join(names).decode())[-4096:]


def test_entries_of_errors_are_one_line():
    """Names may have any bytes; errors show them."""
    builder = ImageBuilder()
    image = builder.finish(builder.directory([(b"a\n\x1b[m\xff\\", builder.inode(0o644))]))

    check_refused(image, "of no type of leaf", entry="/a\\x0a\\x1b[m\\xff\\\\")


# Hostile images: whatever they say, work and memory are bounded by their size


def test_directory_with_two_names():
    """A directory has one name, else a chain of such directories would have 2^n."""
    builder = ImageBuilder()
    root = builder.next_nid()
    below = root + 4
    builder.directory([(b"a", below), (b"b", below)], links=4)
    builder.data += bytes(below * 32 - len(builder.data))
    builder.directory([], parent=root)

    check_refused(builder.finish(root), f"inode {below} is a directory with two names", entry="/b", offset=below * 32)


def test_directory_in_itself():
    """Cycles are directories with two names."""
    builder = ImageBuilder()
    root = builder.next_nid()
    image = builder.finish(builder.directory([(b"a", root)], links=3))

    check_refused(image, "directory with two names", entry="/a", offset=1152)
    check_structure(ErofsReader(image))
    assert collect_objects(ErofsReader(image)) == set()


def test_exponential_chain():
    """What lists each directory twice is read once."""
    builder = ImageBuilder()
    root = builder.next_nid()
    for level in range(200):
        nid = root + 4 * level
        builder.data += bytes(nid * 32 - len(builder.data))
        builder.directory([(b"a", nid + 4), (b"b", nid + 4)] if level < 199 else [], parent=max(root, nid - 4), links=4)
    image = builder.finish(root)

    check_refused(image, "directory with two names", entry="/b")
    assert collect_objects(ErofsReader(image)) == set()


def test_directories_of_the_same_blocks():
    """Directories do not share blocks: together they are larger than the image."""
    builder = ImageBuilder()
    leaf = builder.inode(REGULAR)
    builder.blocks = [block([(b"%d-%03d" % (index, name), leaf) for name in range(60)]) for index in range(8)]
    directories = [builder.inode(DIRECTORY, size=8 * 4096, address=16, links=2) for _ in range(100)]
    entries = [(b"%03d" % index, nid) for index, nid in enumerate(directories)]
    image = builder.finish(builder.directory(entries, links=102))

    check_refused(image, "inodes overlap", entry="/002")
    check_refused(image, "inodes overlap", read=lambda data: collect_objects(ErofsReader(data)))


def test_files_of_the_same_blocks():
    """So it is with the contents of files."""
    builder = ImageBuilder(version=1)
    files = [builder.inode(REGULAR, size=15 * 4096) for _ in range(100)]
    image = builder.finish(builder.directory([(b"%03d" % index, nid) for index, nid in enumerate(files)]))

    check_refused(image, "inodes overlap", entry="/001")


def test_inodes_in_xattrs_of_others():
    """And with xattrs: here every 96 bytes begin an inode that has the next 40,000 bytes for its xattrs."""
    header = ondisk.EXTENDED_INODE.pack(ondisk.FORMAT_EXTENDED, 10000, REGULAR, 0, 0, 0, 0, 0, 0, 0, 1)
    area = ondisk.XATTR_HEADER.pack(0, 0) + ondisk.XATTR_ENTRY.pack(0, 0, 4 * 9998)
    builder = ImageBuilder()
    first = builder.next_nid()
    builder.data += (header + area).ljust(96, b"\0") * 150
    image = builder.finish(builder.directory([(b"%03d" % index, first + 3 * index) for index in range(150)]))

    check_refused(image, "inodes overlap", entry="/001")
    check_refused(image, "inodes overlap", read=lambda data: collect_objects(ErofsReader(data)))


def test_shared_xattrs_that_overlap():
    """Each shared xattr is kept once; those that overlap would be larger than the image."""
    builder = ImageBuilder(blocks=[struct.pack("<BBH", 0, 1, 65000 // 2) * 1024] * 16)
    leaf = builder.inode(REGULAR, xattrs=xattr_area(references=range(1024, 1279)))
    image = builder.finish(builder.directory([(b"f", leaf)]))

    check_refused(image, "shared xattrs overlap", entry="/f")


def test_many_references_to_one_large_xattr():
    """A large value that all inodes refer to is one in memory."""
    builder = ImageBuilder(blocks=[b""] * 16)
    value = b"v" * 60000
    entry = xattr(USER, b"a", value)
    builder.blocks = [entry[start : start + 4096] for start in range(0, len(entry), 4096)]
    leaves = [builder.inode(REGULAR, xattrs=xattr_area(references=[1024] * 50)) for _ in range(100)]
    tree = load_tree(builder.finish(builder.directory([(b"%03d" % index, nid) for index, nid in enumerate(leaves)])))

    assert {id(leaf.stat.xattrs[b"user.a"]) for leaf in tree.entries.values()} == {
        id(tree.entries[b"000"].stat.xattrs[b"user.a"])
    }
    assert tree.entries[b"099"].stat.xattrs == {b"user.a": value}


@pytest.mark.parametrize("name", ["xattrs-kinds", "xattrs-shared"])
def test_trees_do_not_depend_on_what_is_shared(name, monkeypatch):
    """What is kept for other nodes is limited; trees are the same without."""
    image = vectors.read(vectors.ROOT / "images" / name / "sha256" / "image-V1.erofs.gz")
    stats = [node.stat for _, node in walk(load_tree(image))]
    assert len({id(info.xattrs) for info in stats}) < len(stats)

    monkeypatch.setattr("composefs.erofs.raw._NAMES_MAX", 0)
    monkeypatch.setattr("composefs.erofs.reader._NAMES_MAX", 0)
    monkeypatch.setattr("composefs.erofs.reader._MAPPINGS_SIZE_MAX", 0)

    assert [node.stat for _, node in walk(load_tree(image))] == stats


def test_collector_stays_as_it_was():
    """Loading does not leave the cyclic garbage collector off, nor does it turn it on."""
    image = golden()

    def fail(image):
        with pytest.raises(FormatError):
            load_tree(image[:5000])

    for read in (load_tree, fail):
        assert gc.isenabled()
        read(image)
        assert gc.isenabled()
        gc.disable()
        try:
            read(image)
            assert not gc.isenabled()
        finally:
            gc.enable()
