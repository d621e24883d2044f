"""Directories are opened name by name, and made where that is asked for; a link is none."""

import errno
import os
import stat

import pytest

from composefs import _native
from composefs.errors import RepositoryError
from composefs.repository.directories import Missing, make_directory, open_directory


@pytest.fixture
def fd(tmp_path):
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


def names(fd: int) -> list[str]:
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def test_open(fd, tmp_path):
    """At any depth, also none; what it is opened for is up to the caller."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()

    assert names(open_directory(fd, "a/b", "repo", flags=os.O_RDONLY)) == ["file"]
    assert names(open_directory(fd, "", "repo", flags=os.O_RDONLY)) == ["a"]
    opened = open_directory(fd, "a", "repo")
    assert not os.get_inheritable(opened)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(opened)  # it is of O_PATH
    os.close(opened)


@pytest.mark.parametrize("missing", Missing)
def test_missing(fd, tmp_path, monkeypatch, missing):
    """What is missing is made, each name on disk before the next where that is wanted, or told with its path."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    if missing is Missing.FAIL:
        with pytest.raises(FileNotFoundError) as caught:
            open_directory(fd, "a/b", "repo", missing=missing)
        assert caught.value.filename == "repo/a"
        return
    os.close(open_directory(fd, "a/b", "repo", missing=missing))

    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755
    assert synced == ([str(tmp_path), str(tmp_path / "a")] if missing is Missing.MAKE_DURABLY else [])
    os.close(open_directory(fd, "a/b", "repo", missing=missing))
    assert len(synced) in (0, 2)


def test_somebody_else_is_faster(fd, tmp_path, monkeypatch):
    """Two that miss the same directory both get it."""
    real = _native.make_directory

    def make(*arguments):
        real(*arguments)
        real(*arguments)

    monkeypatch.setattr(_native, "make_directory", make)
    os.close(open_directory(fd, "a", "repo", missing=Missing.MAKE_DURABLY))

    assert (tmp_path / "a").is_dir()
    assert not make_directory("a", fd)


@pytest.mark.parametrize("place", ["a", "a/b"])
@pytest.mark.parametrize("what", ["link", "file", "dangling"])
def test_no_directory(fd, tmp_path, place, what):
    """What is none is told, and neither followed nor replaced, wherever it stands."""
    (tmp_path / "elsewhere/b").mkdir(parents=True)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    if what == "file":
        (tmp_path / place).touch()
    else:
        (tmp_path / place).symlink_to(tmp_path / ("elsewhere" if what == "link" else "nowhere"))

    for missing in Missing:
        with pytest.raises(RepositoryError) as caught:
            open_directory(fd, "a/b", "repo", missing=missing)
        assert str(caught.value) == f"repo/{place}: is no directory, and links are not followed"


def test_failures_have_the_path(fd):
    """What the system refuses otherwise stays its error, and nothing stays open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="File name too long") as caught:
        open_directory(fd, "x" * 300, "repo", missing=Missing.MAKE)

    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, f"repo/{'x' * 300}")
    assert os.listdir("/proc/self/fd") == before
