"""Files of layers: opened below their directory, through no link, and not at all if they are something else."""

import os
import re
import socket

import pytest

from composefs.errors import FormatError, IntegrityError, LimitError, NotFoundError
from composefs.oci.sources.storage import files
from composefs.oci.sources.storage.files import LayerFiles


@pytest.fixture
def diff(tmp_path):
    """The directory of a layer."""
    (tmp_path / "diff/usr/bin").mkdir(parents=True)
    (tmp_path / "diff/usr/bin/a").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(b"key")
    return tmp_path / "diff"


def read(diff, path, size=3, lower=()):
    with LayerFiles([str(diff), *map(str, lower)], "layer x") as opened:
        fd = opened.open(path, size)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)


@pytest.mark.parametrize("path", [b"usr/bin/a", b"./usr/bin/a", b"/usr//bin/./a"])
def test_open(diff, path):
    """However a path is spelled, it leads to the file."""
    assert read(diff, path) == b"abc"


@pytest.mark.parametrize("path", [b"", b"/", b"..", b"usr/../../secret", b"../secret", b"usr\0/bin/a"])
def test_paths_that_lead_out(diff, path):
    """They lead nowhere."""
    with pytest.raises(FormatError, match="below its root"):
        read(diff, path)


def test_a_path_that_is_too_long(diff):
    """It is refused before anything is opened."""
    with pytest.raises(LimitError, match="bytes of path"):
        read(diff, b"a/" * 3000 + b"a")


@pytest.mark.parametrize("path", [b"n" * 300, b"n" * 300 + b"/a"])
def test_a_name_that_is_too_long(diff, path):
    """No file can have it."""
    with pytest.raises(FormatError, match="File name too long"):
        read(diff, path)


def test_links(diff, tmp_path):
    """None is followed: neither that of a directory nor that of a file."""
    (diff / "out").symlink_to(tmp_path)
    (diff / "file").symlink_to("usr/bin/a")

    with pytest.raises(NotFoundError, match="no file out/secret"):
        read(diff, b"out/secret")
    with pytest.raises(FormatError, match="no regular file") as caught:
        read(diff, b"file")

    assert caught.value.entry == "file"


def test_other_things(diff):
    """Directories, fifos, sockets and devices are no files, and nobody waits for them."""
    os.mkfifo(diff / "fifo")
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(diff)  # its path may be too long
        try:
            opened.bind("socket")
        finally:
            os.chdir(here)

    for path in (b"usr", b"fifo", b"socket"):
        with pytest.raises(FormatError, match="no regular file"):
            read(diff, path)


def test_another_size(diff):
    """A file that is shorter or longer than it was is named."""
    for size in (2, 4):
        with pytest.raises(IntegrityError, match=f"layer x, file usr/bin/a: wanted {size} bytes, got 3 bytes"):
            read(diff, b"usr/bin/a", size)


def test_missing(diff, tmp_path):
    """The file and its directory are named."""
    with pytest.raises(NotFoundError, match=re.escape(f"layer x: no file usr/b in {diff}")):
        read(diff, b"usr/b")
    with pytest.raises(NotFoundError):
        read(tmp_path / "gone", b"usr/b")


def test_stubs(diff, tmp_path, monkeypatch):
    """A file of which only the metadata were changed is in a layer below."""
    lower = tmp_path / "lower"
    (lower / "usr/bin").mkdir(parents=True)
    (lower / "usr/bin/a").write_bytes(b"def")
    stub = os.stat(diff / "usr/bin/a").st_ino
    monkeypatch.setattr(
        os, "listxattr", lambda fd: ["user.overlay.metacopy"] if os.fstat(fd).st_ino == stub else ["user.other"]
    )

    assert read(diff, b"usr/bin/a", lower=[tmp_path / "gone", lower]) == b"def"
    with pytest.raises(NotFoundError):
        read(diff, b"usr/bin/a")


def test_no_extended_attributes(diff, monkeypatch):
    """Where a file system has none, nothing is a stub."""

    def fail(fd):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "listxattr", fail)

    assert read(diff, b"usr/bin/a") == b"abc"


def test_unreadable(diff, monkeypatch):
    """Who must not read is told what to do."""
    real = os.open

    def refuse(path, *args, **options):
        if path == b"a":
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(PermissionError, match="podman unshare") as caught:
        read(diff, b"usr/bin/a")

    assert caught.value.filename == f"{diff}/usr/bin/a"


def test_few_directories_stay_open(diff, monkeypatch):
    """However many there are, a bounded number is open, and none in the end."""
    monkeypatch.setattr(files, "_OPEN_MAX", 3)
    for number in range(10):
        (diff / str(number)).mkdir()
        (diff / f"{number}/a").write_bytes(b"abc")
    before = len(os.listdir("/proc/self/fd"))

    with LayerFiles([str(diff)], "layer x") as opened:
        for number in [*range(10), *range(10)]:
            os.close(opened.open(b"%d/a" % number, 3))
        assert len(os.listdir("/proc/self/fd")) == before + 3

    assert len(os.listdir("/proc/self/fd")) == before
