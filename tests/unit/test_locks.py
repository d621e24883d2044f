"""The lock of a repository: who has it is told, and waiting has an end."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from composefs import Repository
from composefs.errors import BusyError, RepositoryError
from composefs.repository import holders, locks
from composefs.repository.holders import Holder, parse_locks
from tests import commands

LOCKS = """\
1: POSIX  ADVISORY  WRITE 11 fe:01:77 0 EOF
2: FLOCK  ADVISORY  READ 12 fe:01:77 0 EOF
2: -> FLOCK  ADVISORY  WRITE 13 fe:01:77 0 EOF
2:    -> FLOCK  ADVISORY  READ 14 fe:01:77 0 EOF
3: FLOCK  ADVISORY  READ 15 fe:02:77 0 EOF
4: FLOCK  ADVISORY  READ 16 fe:01:78 0 EOF
5: OFDLCK ADVISORY  READ -1 00:06:1028 0 EOF
6: FLOCK  ADVISORY  READ -1 fe:01:77 0 EOF
7: LEASE  BREAKER   READ 17 <none>:0 0 EOF
"""


def test_parse_locks(tmp_path):
    """Locks of one file of one file system are found among all; who is in no namespace of ours has no number."""
    (tmp_path / "12").mkdir()
    (tmp_path / "12/comm").write_text("cfsctl\n")

    found = parse_locks(LOCKS.splitlines(), (0xFE, 1), 77, str(tmp_path))

    assert found == (
        Holder(12, "cfsctl", exclusive=False),
        Holder(13, "", exclusive=True, waits=True),
        Holder(14, "", exclusive=False, waits=True),
        Holder(0, "", exclusive=False),
    )


HOLD = "import fcntl, os, sys; fd = os.open(sys.argv[1], 0); fcntl.flock(fd, int(sys.argv[2])); print(); input()"


@pytest.fixture
def path(tmp_path):
    """An empty repository."""
    Repository.init(tmp_path / "repository", require_verity=False)
    return tmp_path / "repository"


@pytest.fixture
def hold(path):
    """Have another process hold the lock; return it."""
    processes = []

    def hold(kind):
        call = [sys.executable, "-c", HOLD, str(path), str(int(kind))]
        process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        process.stdout.readline()
        return process

    yield hold
    for process in processes:
        if process.poll() is None:
            process.communicate(b"\n")


def test_who_is_in_the_way_is_told(path, hold):
    """The message names processes and their programs."""
    first, second = hold(fcntl.LOCK_SH), hold(fcntl.LOCK_SH)
    with Repository.open(path) as repository:
        with pytest.raises(BusyError) as caught, repository.exclusive():
            raise AssertionError
        assert len(caught.value.holders) == 2
        for process in (first, second):
            assert f"process {process.pid} (python" in str(caught.value)
        assert str(caught.value).startswith(f"{path}: is in use by process ")
        assert isinstance(caught.value, RepositoryError)


def test_the_shared_lock_comes_back(path, hold):
    """After a refusal the repository is open as before: nobody else gets it for himself."""
    process = hold(fcntl.LOCK_SH)
    with Repository.open(path) as repository:
        with pytest.raises(BusyError), repository.exclusive(wait=0.02):
            raise AssertionError
        process.communicate(b"\n")
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BusyError):
            locks.lock_exclusive(fd, str(path), 0)
        os.close(fd)
        with repository.exclusive():
            assert [holder.exclusive for holder in holders.find_holders(repository._fd)] == [True]
        assert [holder.exclusive for holder in holders.find_holders(repository._fd)] == [False]


def test_waiting(path, hold):
    """Who waits gets it when the others have gone."""
    process = hold(fcntl.LOCK_SH)
    with Repository.open(path) as repository:
        threading.Timer(0.1, process.communicate, [b"\n"]).start()
        start = time.monotonic()
        with repository.exclusive(wait=30):
            assert time.monotonic() - start < 20


@pytest.mark.parametrize("wait", [0, 0.05])
def test_opening_does_not_wait_longer_than_it_may(path, hold, wait):
    """While somebody has it for himself, opening can be given up."""
    process = hold(fcntl.LOCK_EX)

    with pytest.raises(BusyError, match=rf"process {process.pid} \(python"):
        Repository.open(path, wait=wait)

    threading.Timer(0.1, process.communicate, [b"\n"]).start()
    Repository.open(path, wait=30).close()


def test_reset_refuses_what_is_open(path):
    """Names are not removed under somebody who uses them."""
    with Repository.open(path), pytest.raises(BusyError):
        Repository.reset(path, wait=0.02)
    assert (path / "meta.json").exists()
    Repository.reset(path)
    assert not (path / "meta.json").exists()


def test_waiting_takes_no_time_of_the_cpu(path, hold):
    """Nobody spins."""
    hold(fcntl.LOCK_SH)
    fd = os.open(path, os.O_RDONLY)
    before = time.process_time()
    with pytest.raises(BusyError):
        locks.lock_exclusive(fd, str(path), 0.5)
    os.close(fd)
    assert time.process_time() - before < 0.25


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_waiting_can_be_interrupted(path, hold, tmp_path, signum):
    """Ctrl-C ends it at once."""
    hold(fcntl.LOCK_SH)
    words = ["--repo", path, "gc", "--wait", 600]
    with commands.start(tmp_path, "composefs", *words, stderr=subprocess.PIPE, text=True) as process:
        assert commands.wait_until(lambda: _is_waiting(process.pid))
        process.send_signal(signum)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert err.startswith("composefs: interrupted" if signum == signal.SIGINT else "composefs: terminated")


def _is_waiting(pid):
    """Tell whether the process sleeps in the place where it waits for the lock."""
    try:
        with open(f"/proc/{pid}/wchan") as file:
            return "nanosleep" in file.read()
    except FileNotFoundError:
        return False


def test_who_holds_is_not_always_known(path, monkeypatch):
    """Where /proc does not tell, nobody is named."""
    monkeypatch.setattr(holders, "find_holders", lambda _: ())
    with (
        Repository.open(path),
        Repository.open(path) as other,
        pytest.raises(BusyError, match="is in use by a process that is not shown"),
        other.exclusive(),
    ):
        raise AssertionError
