"""The board on which workers report: read while it is written, stops them, and may be out of reach."""

import os

import pytest

from composefs.errors import CancelledError
from composefs.oci.progress import Board, Pen


@pytest.fixture
def board():
    board = Board(3)
    yield board
    board.close()


def test_counts(board):
    """What a worker adds is read at once, each layer for itself."""
    first, last = Pen(board.path, 0), Pen(board.path, 2)

    first.advance(10)
    last.advance(1 << 40)
    first.advance(5)

    assert [board.read(index) for index in range(3)] == [15, 0, 1 << 40]
    first.close()
    last.close()


def test_cancel(board):
    """After cancel no worker goes on, neither one that began before nor one that begins after."""
    early = Pen(board.path, 0)
    early.advance(1)

    board.cancel()
    late = Pen(board.path, 1)

    for pen in (early, late):
        with pytest.raises(CancelledError, match="^the import was stopped$"):
            pen.advance(1)
        pen.close()
    assert board.read(0) == 1


@pytest.mark.parametrize("path", ["/nowhere/board", "/proc/1/fd/999999", "/"])
def test_unreachable_board(path):
    """A worker that cannot reach the board, on another machine, works without it."""
    pen = Pen(path, 0)

    pen.advance(100)
    pen.close()


def test_closed_board():
    """A worker that still holds the board when the parent has closed it is not disturbed."""
    board = Board(1)
    pen = Pen(board.path, 0)

    board.close()

    pen.advance(1)
    pen.close()
    Pen(board.path, 0).advance(1)


def test_nothing_is_left_open():
    """Boards and pens give back their descriptors."""
    before = os.listdir("/proc/self/fd")

    for _ in range(3):
        board = Board(1)
        pen = Pen(board.path, 0)
        pen.advance(1)
        pen.close()
        board.close()

    assert os.listdir("/proc/self/fd") == before


def test_idle_cpus(board, monkeypatch):
    """A layer may have more threads while fewer layers than there are CPUs are worked on: neither waiting nor done."""
    monkeypatch.setattr("composefs.oci.progress.available_cpus", lambda: 2)
    first = Pen(board.path, 0)
    assert first.has_idle_cpus()

    last = Pen(board.path, 2)
    assert not first.has_idle_cpus()
    assert not last.has_idle_cpus()
    first.advance(0x0101010101010101)  # counters are no states
    last.advance(1)
    last.close()
    assert first.has_idle_cpus()
    assert not first.has_idle_cpus(2)

    others = [Pen(board.path, index) for index in (1, 2)]
    assert not first.has_idle_cpus()
    for pen in (*others, first):
        pen.close()


@pytest.mark.parametrize(("cpus", "idle"), [(1, False), (2, True)])
def test_idle_cpus_without_a_board(monkeypatch, cpus, idle):
    """A worker that sees no other one takes the machine for its own."""
    monkeypatch.setattr("composefs.oci.progress.available_cpus", lambda: cpus)

    assert Pen("/nowhere/board", 0).has_idle_cpus() is idle


def test_shares(board, monkeypatch):
    """What is for all layers is divided among those that are worked on, and none goes without; once stopped, all do."""
    monkeypatch.setattr("composefs.oci.progress.available_cpus", lambda: 2)
    first = Pen(board.path, 0)
    assert first.share(6) == 6
    last = Pen(board.path, 2)
    assert (first.share(6), last.share(1)) == (3, 1)
    last.close()
    assert first.share(6) == 6
    assert Pen("/nowhere/board", 0).share(6) == 3

    board.cancel()
    with pytest.raises(CancelledError):
        first.share(6)
    first.close()
