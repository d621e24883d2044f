"""What FUSE serves of an image, by paths: the kernel's view, and not that of the tree which was stored."""

import errno
import os
import stat

import pytest

from composefs import FormatError
from composefs.erofs.ondisk import BLOCK
from composefs.fuse import view as view_module
from composefs.fuse.view import View, attributes
from composefs.tree import Backed, Inline, Leaf, Object
from tests import images
from tests.erofs_images import (
    CHARACTER,
    DIRECTORY,
    INLINE,
    LINK,
    PLAIN,
    REGULAR,
    ImageBuilder,
)
from tests.images import STAT, device, directory, external, fifo, inline, symlink

WHITEOUT = b"trusted.overlay.whiteout"


@pytest.fixture(params=[0, 1, 2])
def version(request):
    """Each composefs version."""
    return request.param


def view_of(repository, entries, version=1, **changes):
    """Return the view of an image of *entries*."""
    return View(images.open_tree(repository, directory(entries, **changes), version))


def names(view, path=b"/"):
    """Return what is listed in a directory, and that it can be looked up, too."""
    listing = view.listing(path)
    found = [listing.name(index) for index in range(len(listing))]
    for index, name in enumerate(found):
        if name not in (b".", b".."):
            inode = view.find(path.rstrip(b"/") + b"/" + name)
            assert listing.attributes(index) == attributes(inode)
            expected = {"st_ino": inode.nid, "st_mode": stat.S_IFMT(inode.mode)}
            assert listing.type_and_number(index) == expected
    return found


def test_metadata(repository, version):
    """Metadata are those of the inode."""
    file = external(repository, b"x" * 5000, mode=0o6751, uid=70_000, gid=5, mtime=-7, nanoseconds=999_999_999)
    view = view_of(repository, {"file": file, "null": device(1, 3), "directory": directory(mode=0o1777)}, version)

    found = attributes(view.find(b"/file"))

    time = -7_000_000_000 if version == 2 else -6_000_000_001  # that of composefs-rs has no nanoseconds
    assert {key: value for key, value in found.items() if key != "st_ino"} == {
        "st_mode": stat.S_IFREG | 0o6751,
        "st_nlink": 1,
        "st_uid": 70_000,
        "st_gid": 5,
        "st_rdev": 0,
        "st_size": 5000,
        "st_blocks": 16,
        "st_blksize": BLOCK,
        "st_atime": time,
        "st_mtime": time,
        "st_ctime": time,
    }
    assert attributes(view.find(b"/null"))["st_rdev"] == os.makedev(1, 3)
    assert attributes(view.find(b"/directory"))["st_mode"] == stat.S_IFDIR | 0o1777
    assert attributes(view.find(b"/"))["st_ino"] == images_root(view)


def images_root(view):
    """Return the number of the root, by the listing of it."""
    return view.listing(b"/").type_and_number(0)["st_ino"]


def test_hard_links(repository, version):
    """Names of one file have one number, equal files have two."""
    one, other = inline(b"same"), inline(b"same")
    view = view_of(repository, {"a": one, "b": directory({"c": one}), "d": other}, version)

    first, second, third = (attributes(view.find(path)) for path in (b"/a", b"/b/c", b"/d"))

    assert first == second
    assert (first["st_nlink"], third["st_nlink"]) == (2, 1)
    assert first["st_ino"] != third["st_ino"]


def test_paths(repository):
    """What is not there is what the system calls it."""
    view = view_of(repository, {"file": inline(b"1"), "link": symlink("file"), "d": directory({"e": directory()})})

    assert view.find(b"/d/e").type == stat.S_IFDIR
    for path in (b"/nothing", b"/d/nothing", b"/nothing/d", b"/d/e/f/g"):
        with pytest.raises(FileNotFoundError):
            view.find(path)
    for path in (b"/file/below", b"/link/below", b"/file/a/b"):
        with pytest.raises(NotADirectoryError):
            view.find(path)
    with pytest.raises(NotADirectoryError):
        view.listing(b"/file")
    with pytest.raises(OSError, match="no symbolic link") as caught:
        view.target(b"/file")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="no regular file"):
        view.content(b"/link")


def test_listings(repository, version):
    """A listing begins with the directory and the one above it."""
    view = view_of(repository, {"d": directory({"e": directory(), "f": fifo(), "\udcff": inline()})}, version)

    assert names(view) == [b".", b"..", b"d"]
    assert sorted(names(view, b"/d")) == [b".", b"..", b"e", b"f", b"\xff"]
    root, inner = images_root(view), view.find(b"/d").nid
    dots = [view.listing(path).type_and_number(index)["st_ino"] for path in (b"/", b"/d") for index in (0, 1)]
    assert dots == [root, root, inner, root]


def test_each_directory_is_read_once(repository, monkeypatch):
    """Looking up every name of a large directory does not read it again and again."""
    view = view_of(repository, {"d": directory({f"name-{number}": inline() for number in range(5000)})})
    read = []
    entries = view._reader.entries
    monkeypatch.setattr(view._reader, "entries", lambda inode: read.append(inode.nid) or entries(inode))

    for number in range(5000):
        view.find(b"/d/name-%d" % number)

    assert len(view.listing(b"/d")) == 5002
    assert len(read) == 2  # with the root


def test_what_overlayfs_acts_upon(repository, version):
    """Marks of the image are hidden, those of the tree are shown, and stubs are not there."""
    marked = inline(b"1", xattrs={b"trusted.overlay.opaque": b"x", b"trusted.overlay.overlay.a": b"2"})
    view = view_of(repository, {"f": marked, "file": external(repository, b"x" * 100), "aa": inline(b"aa")}, version)

    assert sorted(names(view)) == [b".", b"..", b"aa", b"f", b"file"]
    assert dict(view.xattrs(b"/f")) == {b"trusted.overlay.opaque": b"x", b"trusted.overlay.overlay.a": b"2"}
    assert dict(view.xattrs(b"/file")) == {}
    assert dict(view.xattrs(b"/")) == {}


@pytest.mark.parametrize("version", [0, 1])
def test_whiteouts_of_the_tree(repository, version):
    """A whiteout of the tree is an empty file with a mark, for an overlayfs that is to act upon it."""
    view = view_of(repository, {"d": directory({"w": device(0, 0), "x": inline()})}, version)

    assert sorted(names(view, b"/d")) == [b".", b"..", b"w", b"x"]
    inode = view.find(b"/d/w")
    assert (inode.type, inode.size) == (stat.S_IFREG, 0)
    assert view.xattrs(b"/d/w")[WHITEOUT] == b""
    assert view.content(b"/d/w") == Inline(b"")
    assert WHITEOUT + b"s" in view.xattrs(b"/d")


def test_whiteouts_of_the_image(repository):
    """One that composefs-rs wrote as it is takes effect."""
    view = view_of(repository, {"d": directory({"w": device(0, 0), "x": inline()})}, version=2)

    assert sorted(names(view, b"/d")) == [b".", b"..", b"x"]
    with pytest.raises(FileNotFoundError):
        view.find(b"/d/w")


def test_whiteout_that_is_called_a_file(repository):
    """A whiteout cannot be looked at, whatever the directory says that it is."""
    builder = ImageBuilder()
    whiteout = builder.inode(CHARACTER)
    root = builder.directory([(b"w", whiteout)])

    view = View(images.open_bytes(repository, builder.finish(root)))

    with pytest.raises(FileNotFoundError):
        view.find(b"/w")


def test_namespaces(repository):
    """Xattrs that the kernel has no name for are not shown, whatever the image has."""
    kept = {b"user.a": b"1", b"trusted.b": b"", b"security.c": b"2", b"system.posix_acl_access": b"3"}
    view = view_of(repository, {"f": inline(xattrs={**kept, b"system.other": b"4", b"lustre.d": b"5", b"odd": b"6"})})

    assert dict(view.xattrs(b"/f")) == kept


def test_contents(repository, version):
    """Contents are in the image, objects, or nowhere."""
    large = external(repository, b"x" * 100)
    entries = {"i": inline(b"data"), "o": large, "s": Leaf(STAT, Backed(10_000_000)), "e": inline()}
    view = view_of(repository, entries, version)

    assert view.content(b"/i") == Inline(b"data")
    assert view.content(b"/e") == Inline(b"")
    content = view.content(b"/o")
    assert isinstance(content, Object | Backed)
    assert (content.size, content.digest) == (100, large.content.digest)
    sparse = view.content(b"/s")
    assert isinstance(sparse, Backed)
    assert (sparse.size, sparse.path, sparse.digest) == (10_000_000, None, None)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 5000])
@pytest.mark.parametrize("layout", [PLAIN, INLINE])
def test_data_in_blocks(repository, size, layout):
    """Files and targets of links may lie in blocks, in part or wholly: composefs-rs cannot serve those."""
    data = bytes(index % 251 + 1 for index in range(size))
    rest = data[size // BLOCK * BLOCK :] if layout == INLINE else b""
    builder = ImageBuilder(version=1, blocks=[data[: len(data) - len(rest)].ljust(2 * BLOCK, b"\0")])
    nids = [builder.inode(mode, rest, size=size, address=16, layout=layout) for mode in (REGULAR, LINK)]
    root = builder.directory([(b"file", nids[0]), (b"link", nids[1])])

    view = View(images.open_bytes(repository, builder.finish(root)))

    assert view.content(b"/file") == Inline(data)
    assert view.target(b"/link") == data


def test_broken_images(repository):
    """What is broken is a FormatError of whoever looks at it."""
    builder = ImageBuilder()
    good = builder.inode(REGULAR, b"good")
    beyond = builder.inode(REGULAR, size=100, address=9999)
    broken = builder.inode(DIRECTORY, b"\1" * 20)
    root = builder.directory([(b"broken", broken), (b"data", beyond), (b"file", good), (b"lost", 1 << 30)])

    view = View(images.open_bytes(repository, builder.finish(root)))

    assert len(view.listing(b"/")) == 6
    assert view.content(b"/file") == Inline(b"good")
    for failing in (
        lambda: view.find(b"/lost"),
        lambda: view.content(b"/data"),
        lambda: view.find(b"/broken/file"),
        lambda: view.listing(b"/broken"),
    ):
        with pytest.raises(FormatError):
            failing()


def test_entries_that_are_kept(repository, monkeypatch):
    """Directories are read once, as long as there is room for their entries; one larger than all stays alone."""
    tree = {name: directory({f"{number}": inline() for number in range(10)}) for name in ("a", "b", "c")}
    tree["large"] = directory({f"{number}": inline() for number in range(100)})
    monkeypatch.setattr(view_module, "_ENTRIES", 30)
    view = view_of(repository, tree)
    reads, read = [], view._reader.entries
    monkeypatch.setattr(view._reader, "entries", lambda inode: reads.append(inode.nid) or read(inode))

    def count(*paths):
        before = len(reads)
        for path in paths:
            assert view.find(path + b"/9").size == 0
        return len(reads) - before

    assert count(b"/a", b"/b") == 3  # with the root
    assert count(b"/b", b"/a", b"/b") == 0
    assert count(b"/c") == 1
    assert count(b"/b", b"/c") == 0
    assert count(b"/a") == 1
    assert count(b"/large") == 2  # again with the root
    assert count(b"/large", b"/large") == 0
    assert count(b"/a", b"/large", b"/a") == 3


def test_listings_share_entries(repository):
    """Many who list one directory take no memory each."""
    view = view_of(repository, {f"{number}": inline() for number in range(100)})

    first, second = view.listing(b"/"), view.listing(b"/")

    assert first[50] is second[50]
    assert len(first) == 102
    assert first._entries is second._entries
