"""/proc/self/mountinfo is read as the kernel writes it."""

import os

import pytest

from composefs.mountinfo import MountPoint, find_mount, find_mount_of, read_mounts

ROOT = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


@pytest.fixture
def proc(tmp_path):
    """Return where /proc is, after writing which mounts there are, and which one a descriptor is in."""

    def write(table, fd=None, number=0):
        (tmp_path / "self/fdinfo").mkdir(parents=True)
        (tmp_path / "self/mountinfo").write_bytes(table)
        if fd is not None:
            (tmp_path / f"self/fdinfo/{fd}").write_text(f"pos:\t0\nflags:\t010\nmnt_id:\t{number}\nino:\t2\n")
        return str(tmp_path)

    return write


def test_fields(proc):
    """What is told of a mount: also behind any number of tags, and with escapes undone."""
    table = (
        ROOT
        + b"67 43 0:41 / /a\\040b\\134c\\011\\012 rw shared:1 master:2 propagate_from:3 "
        + b"- overlay composefs:n\\040m rw,x=y\n"
        + b"68 43 0:42 /sub /\xff ro - fuse.composefs  rw\n"
        + b"69 43 0:43 / /r rw - erofs none ro\n"
    )

    assert read_mounts(proc(table)) == [
        MountPoint("ext4", "/dev/vda", "/", "254:0", False, ("rw",)),
        MountPoint("overlay", "composefs:n m", "/a b\\c\t\n", "0:41", False, ("rw", "x=y")),
        MountPoint("fuse.composefs", "", "/\udcff", "0:42", True, ("rw",)),
        MountPoint("erofs", "none", "/r", "0:43", True, ("ro",)),
    ]


@pytest.mark.parametrize("byte", [b"\r", b"\v", b"\f", b"\x1c", b"\x85", "\u2028".encode()])
def test_other_ends_of_lines(proc, byte):
    """What also ends a line elsewhere, the kernel writes as it is: a user may have mounted something there."""
    table = ROOT + b"67 43 0:41 / /a" + byte + b"b rw - fuse.x y rw\n"

    root, mount = read_mounts(proc(table))

    assert os.fsencode(mount.path) == b"/a" + byte + b"b"
    assert root.path == "/"


def test_numbers(proc):
    """The mount of a file is the one with its number, and not one whose number only begins so."""
    line = b"31 25 0:28 /sub /srv/a\\040b rw,relatime shared:3 - btrfs /dev/mapper/my\\040disk rw\n"

    found = find_mount_of(9, proc(b"310 " + ROOT[3:] + line, fd=9, number=31))

    assert found == MountPoint("btrfs", "/dev/mapper/my disk", "/srv/a b", "0:28", False, ("rw",))


def test_untold(proc, tmp_path):
    """Without /proc, or where the mount is not ours to see, it is not known."""
    assert find_mount("/", str(tmp_path)) is None
    assert find_mount_of(9, proc(ROOT, fd=9, number=31)) is None
    assert find_mount_of(8, str(tmp_path)) is None


def test_own(tmp_path):
    """The table of this process can be read; a path that is not there is an error."""
    assert find_mount("/proc/self").path == "/proc"
    assert find_mount("/proc/self") in read_mounts()
    with pytest.raises(FileNotFoundError):
        find_mount(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("kind", "is_fuse"), [("fuse", True), ("fuseblk", True), ("fuse.x", True), ("fusectl", False), ("ext4", False)]
)
def test_fuse(kind, is_fuse):
    """What a process serves is known by its type."""
    assert MountPoint(kind, "source", "/", "0:1").is_fuse is is_fuse
