"""The answers to the kernel's requests, as mfusepy and libfuse get them."""

import errno
import logging
import random
import stat

import pytest

import composefs
from composefs.erofs.writer import write_image
from composefs.fuse.operations import Operations
from composefs.image import Image
from tests import images
from tests.erofs_images import REGULAR, ImageBuilder
from tests.images import directory, external, inline, symlink

ODD = "odd\udcff\n"


@pytest.fixture
def operations(repository):
    """Those on an image of a bit of everything, asked by root."""
    xattrs = {b"user.a": b"1", b"trusted.b": b"\xff\0", b"security.empty": b""}
    tree = directory(
        {
            "file": external(repository, b"content" * 100, xattrs=xattrs),
            "link": symlink(b"to\xff"),
            "many": directory({f"{number:03}": inline() for number in range(300)}),
            ODD: inline(b"odd"),
        }
    )
    found = Operations(images.open_tree(repository, tree), "composefs:test", lambda: 0)
    yield found
    found.close()


def failure(call, *arguments):
    """Return the errno of a call that fails."""
    with pytest.raises(OSError, match=r"\[Errno \d+\]|no regular|no symbolic") as caught:
        call(*arguments)
    return caught.value.errno


def test_text(operations):
    """Names and targets are text, with surrogates for bytes that are none."""
    assert operations.readlink("/link") == "to\udcff"
    assert operations.read(f"/{ODD}", 10, 0, 0) == b"odd"
    assert operations.getattr(f"/{ODD}")["st_size"] == 3


def test_errors_of_the_caller(operations, caplog):
    """What is wrong with a path is told to whoever asks, and to nobody else."""
    assert failure(operations.getattr, "/nothing") == errno.ENOENT
    assert failure(operations.getattr, "/file/below") == errno.ENOTDIR
    assert failure(operations.readlink, "/file") == errno.EINVAL
    assert failure(operations.opendir, "/file") == errno.ENOTDIR
    assert failure(operations.getxattr, "/file", "user.other") == errno.ENODATA
    assert caplog.records == []


def test_xattrs(operations):
    """Values are bytes; users other than root do not see the names that they could not read."""
    names = {"user.a", "trusted.b", "security.empty"}
    assert set(operations.listxattr("/file")) == names
    assert operations.getxattr("/file", "trusted.b") == b"\xff\0"
    assert operations.getxattr("/file", "security.empty") == b""
    assert operations.listxattr("/link") == []

    operations._caller = lambda: 1000
    assert set(operations.listxattr("/file")) == names - {"trusted.b"}


def test_files_are_not_opened(operations):
    """The kernel is told that opening is not needed: it knows this as ENOSYS."""
    assert failure(operations.open, "/file", 0) == errno.ENOSYS
    assert operations.read("/file", 14, 7, 0) == b"contentcontent"


def test_listing_goes_on_anywhere(operations):
    """Each entry has the offset of the next, and a listing goes on from any of them."""
    handle = operations.opendir("/many")
    whole = list(operations.readdir(handle, 0, whole=True))

    assert [name for name, _, _, _ in whole[:3]] == [b".", b"..", b"000"]
    assert len(whole) == 302
    for index, (_, _, following, is_whole) in enumerate(whole):
        assert is_whole
        assert following == index + 1
    for start in (1, 2, 3, 151, 301, 302, 303):
        assert list(operations.readdir(handle, start, whole=True)) == whole[start:]
    short = [(name, found, is_whole) for name, found, _, is_whole in operations.readdir(handle, 0, whole=False)]
    for (name, found, _, _), (short_name, short_found, is_whole) in zip(whole, short, strict=True):
        assert not is_whole
        assert short_name == name
        assert short_found == {"st_ino": found["st_ino"], "st_mode": stat.S_IFMT(found["st_mode"])}
    assert operations.releasedir("/many", handle) == 0
    with pytest.raises(KeyError):
        next(operations.readdir(handle, 0, whole=True))


def test_broken_image(repository, caplog):
    """What is broken in the image is EIO for whoever looks at it, and a line; all else is served."""
    builder = ImageBuilder()
    good = builder.inode(REGULAR, b"good")
    root = builder.directory([(b"good", good), (b"lost", 1 << 30)])
    operations = Operations(images.open_bytes(repository, builder.finish(root)), "composefs:test", lambda: 0)

    handle = operations.opendir("/")
    listed = {name: is_whole for name, _, _, is_whole in operations.readdir(handle, 0, whole=True)}
    assert listed == {b".": True, b"..": True, b"good": True, b"lost": False}
    assert operations.read("/good", 10, 0, 0) == b"good"
    assert caplog.records == []

    assert failure(operations.getattr, "/lost") == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("composefs:test: /lost: ")
    assert "behind the end of the image" in record.getMessage()
    assert record.exc_info is None


def test_statfs(operations):
    """There is no room, and names have a limit."""
    assert operations.statfs("/") == {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255}


@pytest.mark.parametrize(("version", "acl", "expected"), [(1, True, True), (1, False, False), (2, False, True)])
def test_access_lists(repository, version, acl, expected):
    """The kernel asks for access control lists where the image does not say that there are none."""
    xattrs = {b"system.posix_acl_access": b"\2\0\0\0"} if acl else {}
    image = images.open_tree(repository, directory({"f": inline(xattrs=xattrs)}), version)

    assert Operations(image, "composefs:test", lambda: 0).may_have_acls is expected


def walk(operations, path="", depth=0):
    """Ask for all that there is to be asked, and return how many requests failed."""
    failures = 0
    for call in (operations.getattr, operations.listxattr, operations.readlink):
        failures += attempt(call, path or "/")
    failures += attempt(operations.read, path or "/", 100_000, 0, 0)
    try:
        handle = operations.opendir(path or "/")
    except OSError:
        return failures + 1
    for name, _, _, _ in list(operations.readdir(handle, 0, whole=True))[2:100]:
        if depth < 6:
            failures += walk(operations, f"{path}/{name.decode('utf-8', 'surrogateescape')}", depth + 1)
    return failures


def attempt(call, *arguments):
    """Call, and return whether an OSError came of it."""
    try:
        call(*arguments)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("version", [0, 1, 2])
def test_hostile_images(repository, tmp_path, version):
    """Whatever is in an image, a request fails as the system's do, or not at all."""
    file = external(repository, b"content" * 100, xattrs={b"user.a": b"1", b"security.b": b"2"})
    tree = directory({"d": directory({"file": file, "f": inline(b"1")}), "link": symlink("to"), "e": directory()})
    good = write_image(tree, version)
    dice, served = random.Random(version), 0
    for _ in range(300):
        image = bytearray(good)
        for _ in range(dice.choice((1, 2, 20))):
            image[dice.randrange(1024, len(image))] = dice.choice((0, 1, 0x40, 0x80, 0xFF))
        (tmp_path / "image").write_bytes(image)
        try:
            opened = Image.open_file(tmp_path / "image", tmp_path)
        except composefs.FormatError:
            continue
        with opened:
            walk(Operations(opened, "composefs:test", lambda: 0))
            served += 1
    assert served > 100
