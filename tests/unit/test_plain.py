"""Images that are made without a tree are those of the tree; and what is special about a layer is not lost."""

import pytest

from composefs._native import columns as _columns
from composefs.dumpfile import format_dump
from composefs.erofs import VERSIONS, ondisk
from composefs.erofs.writer import write_image
from composefs.errors import NotFoundError, TreeError
from composefs.oci import plain
from composefs.oci.merge import Merger, merge_layers
from composefs.oci.plain import plain_dump, plain_image
from composefs.transform import transform_for_oci
from composefs.xattrs import XattrFilter
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import index_of

from generator.tar import Archive, base256  # isort: skip

BIG = [b"big" * 100, b"huge" * 2000]


def base():
    return Archive().directory("usr", mode=0o751, uid=3, mtime=77).directory("usr/bin", mtime=5)


def merger_of(*archives):
    merger = Merger()
    for number, archive in enumerate(archives):
        merger.apply(index_of(archive.end(), f"layer {number}"))
    return merger


def dump(merger):
    return b"".join(map(bytes, plain_dump(merger, XattrFilter.ALLOWLIST_ONLY)))


def check(*archives, is_plain=True):
    """Check the images of *archives*, and whether a tree is needed to make them."""
    root = merge_layers(index_of(archive.end()) for archive in archives)
    transform_for_oci(root)
    merger = merger_of(*archives)
    assert dump(merger) == b"".join(format_dump(root))
    for version in (*VERSIONS, *VERSIONS):
        wanted = write_image(root, version)
        found = plain._image(merger, version, XattrFilter.ALLOWLIST_ONLY)
        assert (found is not None) == is_plain
        if is_plain:
            assert found == wanted
        assert plain_image(merger, version) == wanted
    after = merger.list().tree()
    transform_for_oci(after)
    assert write_image(after) == write_image(root)


def test_plain():
    """Files of all sizes, links, devices, and what stands where stubs would."""
    check(base())
    check(
        base()
        .file("usr/bin/a", b"")
        .file("usr/bin/b", b"x" * 64)
        .file("usr/big", BIG[0])
        .file("usr/huge", BIG[1], uid=base256(0xFFFFFFFF, 8), mtime=base256(-5, 12))
        .file("usr/same", BIG[0])
        .file("!", b"before the dots")
        .file("00", b"stub")
        .directory("ff")
        .file("ff/x", BIG[0])
        .hardlink("a-link", "usr/big")
        .symlink("bin", "usr/bin")
        .gnu_long_link("t" * 4095)
        .symlink("long", "")
        .character("console", 5, 1)
        .block("disk", 8, 1)
        .fifo("pipe"),
        Archive().file("usr/.wh.same").directory("usr", mode=0o700, mtime=9),
    )


def test_odd_names(monkeypatch):
    """Escapes are those of trees, wherever a piece of the dump ends."""
    odd = bytes(code for code in range(1, 256) if code != ord("/"))
    archive = base()
    for number, byte in enumerate(odd):
        name = b"usr/bin/" + bytes([byte]) + b"x" * (byte in b".")
        archive.file(name, bytes([byte]) * (number % 60), mode=0o100644).hardlink(b"usr/y" + name[8:], name)
    archive.symlink("usr/s", b"-").symlink("usr/t", odd[:99]).file("usr/minus", b"-")
    archive.directory(b"usr/" + odd[:40]).file(b"usr/" + odd[:40] + b"/f", BIG[0]).block("usr/d", 1 << 20, 1)
    root = merge_layers([index_of(archive.end())])
    transform_for_oci(root)
    wanted = b"".join(format_dump(root))
    for size in (1, 600, 5000):
        monkeypatch.setattr(_columns, "_DUMP_PIECE", size)
        assert dump(merger_of(archive)) == wanted


def test_run():
    """What is in /run goes, also where a file is elsewhere, too."""
    run = Archive().directory("run", mode=0o711).file("run/x", BIG[0]).directory("run/d").file("run/d/y")
    check(base(), run, Archive().hardlink("usr/x", "run/x"))


def test_many():
    """Directories of several blocks."""
    archive = base()
    for number in range(900):
        archive.file(f"usr/bin/{number:0{1 + number % 80}}", b"%d" % number)
    check(archive)


def test_xattrs():
    """Some are kept, also those of /usr."""
    archive = Archive().extended({"SCHILY.xattr.security.capability": "c", "SCHILY.xattr.user.a": "u"})
    archive.directory("usr").extended({"SCHILY.xattr.security.selinux": "label"}).directory("run")
    for name in "ab":
        archive.extended({"SCHILY.xattr.security.capability": "shared", "SCHILY.xattr.user.b": name})
        archive.file(f"usr/{name}", BIG[0] + name.encode())
    check(archive)


@pytest.mark.parametrize(
    "archive",
    [
        Archive().character("whiteout", 0, 0),
        Archive().character("00", 0, 0),
    ],
    ids=["whiteout", "stub"],
)
def test_special(archive):
    """Whiteouts of the tree itself need one."""
    check(base(), archive, is_plain=False)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("archive", "error", "message"),
    [
        (Archive().file("usr"), TreeError, "^/usr: is not a directory"),
        (Archive().file(".wh.usr"), NotFoundError, "^/usr does not exist"),
        (Archive().symlink("run", "var/run"), TreeError, "^/run: is not a directory"),
        (Archive().gnu_long_name("n" * 256).file(""), TreeError, "has a name of 256 bytes, more than 255"),
        (
            Archive().gnu_long_link("t" * 4096).symlink("usr/s", ""),
            TreeError,
            "^/usr/s: is a link with a target of 4096 bytes",
        ),
        (
            Archive().block("usr/d", 1 << 20, 1),
            TreeError,
            "^/usr/d: is device .*, wanted a number of 32 bits",
        ),
    ],
    ids=["usr", "no usr", "run", "name", "target", "device"],
)
def test_refused(archive, error, message, version):
    """What no image can hold is refused as it is in a tree."""
    merger = merger_of(base(), archive)

    with pytest.raises(error, match=message):
        plain_image(merger, version)
    if message.startswith(("^/usr: ", "^/usr d", "^/run")):
        with pytest.raises(error, match=message):
            dump(merger)


def test_too_large():
    """What is found out only when all xattrs are known is refused with its path, too."""
    archive = base()
    for name in "ab":
        archive.extended({"SCHILY.xattr.security.capability": "c" * 65536}).file(f"usr/{name}")

    with pytest.raises(TreeError, match="^/usr/a: has an xattr security.capability of 65536 bytes, more than 65535"):
        plain_image(merger_of(archive), 1)


def test_stubs_are_no_entries():
    """The whiteouts that only an image has are not in the tree."""
    merger = merger_of(base())
    plain_image(merger, 1)

    assert merger.list().tree().entries.keys() == {b"usr"}
    assert merger.find(ondisk.STUB_NAMES[0]) is None
