"""What stands at a path."""

import errno
import os

import pytest

from composefs import Repository
from composefs.doctor import Job, Status
from composefs.doctor.place import State, find_place, judge_place

BOTH = (Job.IMPORT, Job.MOUNT)


@pytest.fixture
def repository(tmp_path):
    """The path of a repository."""
    Repository.init(tmp_path / "repository", require_verity=False)
    return tmp_path / "repository"


def test_place(repository, tmp_path):
    """A repository is one, and so is one of old tools; other directories are none yet."""
    (tmp_path / "old/objects").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    assert find_place(str(repository)).state is State.REPOSITORY
    assert find_place(str(tmp_path / "old")).state is State.REPOSITORY
    assert find_place(str(tmp_path / "other")).state is State.DIRECTORY
    assert judge_place(find_place(str(tmp_path / "other"))).prevents == ()


def test_nothing_there(tmp_path):
    """Where nothing is yet, the nearest directory stands for it; a repository can be made."""
    found = find_place(str(tmp_path / "a/b/c"))

    assert (found.state, found.directory) == (State.ABSENT, str(tmp_path))
    finding = judge_place(found)
    assert (finding.status, finding.prevents) == (Status.MISSING, ())
    assert "composefs init" in finding.remedy


def test_relative_path(tmp_path, monkeypatch):
    """A path without a directory is below the current one."""
    monkeypatch.chdir(tmp_path)

    assert find_place("nothing").directory == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("file", "a file"),
        ("file/below/it", "a part of the path is a file"),
        ("link", "a symbolic link that leads nowhere"),
        ("fifo", "a special file"),
    ],
)
def test_no_directory(tmp_path, name, detail):
    """What is no directory, and cannot become one, is told; the directory around it is looked at."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")

    found = find_place(str(tmp_path / name))

    assert (found.state, found.detail, found.directory) == (State.OTHER, detail, str(tmp_path))
    assert judge_place(found).prevents == BOTH


def test_closed(repository, monkeypatch):
    """A directory of somebody else is told by its owner and mode."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    found = find_place(str(repository))

    assert found.state is State.CLOSED
    assert found.detail.startswith(f"it belongs to uid {os.getuid()}, mode 0700")
    assert judge_place(found).prevents == BOTH


def test_loop(tmp_path):
    """A path that the system refuses is told by its words."""
    (tmp_path / "loop").symlink_to("loop")

    found = find_place(str(tmp_path / "loop"))

    assert (found.state, found.detail) == (State.OTHER, os.strerror(errno.ELOOP))
