"""Small files beside what a repository consists of."""

import os

import pytest

from composefs.repository.notes import write_note


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_note(directory, tmp_path):
    """It has its mode whatever the umask, and its contents are flushed before anybody relies on it."""
    before = os.umask(0o777)
    try:
        write_note(directory, "note", [b"one ", b"two"], 0o640)
    finally:
        os.umask(before)

    assert (tmp_path / "note").read_bytes() == b"one two"
    assert (tmp_path / "note").stat().st_mode & 0o7777 == 0o640


def test_what_is_there_stays(directory, tmp_path):
    """Nothing is written over."""
    (tmp_path / "note").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        write_note(directory, "note", [b"new"], 0o640)

    assert (tmp_path / "note").read_bytes() == b"old"


def test_half_a_note_is_none(directory, tmp_path, monkeypatch):
    """If it cannot be flushed, it is not there."""

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="No space"):
        write_note(directory, "note", [b"new"], 0o640)

    assert list(tmp_path.iterdir()) == []
