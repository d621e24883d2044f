"""Locks of container storage: shared with readers, and waited for while somebody writes."""

import errno
import fcntl
import subprocess
import sys

import pytest

from composefs.oci.sources.storage.locking import locked

_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
"""


class StopError(Exception):
    """What a checkpoint raises."""


def stop():
    raise StopError


def go_on():
    """Wait on."""


@pytest.fixture
def hold(tmp_path):
    """Have another process lock the file as traditional writers and readers do; call the result to end that."""
    (tmp_path / "lock").touch()
    processes = []

    def begin(kind):
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(tmp_path / "lock"), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return lambda: process.communicate(b"\n")

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_readers_share(tmp_path, hold):
    """Others may read at the same time, and we more than once."""
    hold("LOCK_SH")

    with locked(f"{tmp_path}/lock", stop), locked(f"{tmp_path}/lock", stop):
        pass


def test_writers_are_waited_for(tmp_path, hold):
    """Until they are done, or the work is to end, or it takes too long."""
    end = hold("LOCK_EX")
    calls = []

    with pytest.raises(StopError), locked(f"{tmp_path}/lock", stop):
        pass
    with pytest.raises(OSError, match="is locked by a writer for 0 s") as caught, locked(f"{tmp_path}/lock", go_on, 0):
        pass
    assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, f"{tmp_path}/lock")

    def checkpoint():
        calls.append(None)
        if len(calls) == 2:
            end()

    with locked(f"{tmp_path}/lock", checkpoint):
        assert len(calls) >= 2


def test_writers_wait_for_us(tmp_path):
    """While we read, nobody can lock the file to write to it; then everybody can."""
    (tmp_path / "lock").touch()
    script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", script, f"{tmp_path}/lock"]

    with locked(f"{tmp_path}/lock", stop):
        assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0


def test_no_lock(tmp_path):
    """A store that is read only may have none, and none is made."""
    with locked(f"{tmp_path}/lock", stop):
        assert list(tmp_path.iterdir()) == []


def test_errors_have_the_path(tmp_path, monkeypatch):
    """A file system that has no locks says so, with the path."""

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "lock").touch()
    monkeypatch.setattr(fcntl, "fcntl", fail)

    with pytest.raises(OSError, match="No locks") as caught, locked(f"{tmp_path}/lock", stop):
        pass

    assert caught.value.filename == f"{tmp_path}/lock"
