"""Who has a repository open."""

import fcntl
import subprocess
import sys
from dataclasses import replace

import pytest

from composefs.doctor import Status
from composefs.doctor.locks import Locks, find_locks, judge_locks
from composefs.repository.holders import Holder

SHARED, OTHER = Holder(12, "cfsctl", exclusive=False), Holder(0, "", exclusive=False)
EXCLUSIVE = Holder(13, "composefs", exclusive=True)


@pytest.mark.parametrize(
    ("locks", "status", "found"),
    [
        (Locks(True, ()), Status.OK, "nobody has it open"),
        (Locks(True, (SHARED,)), Status.OK, "open in process 12 (cfsctl)"),
        (
            Locks(True, (SHARED, OTHER)),
            Status.OK,
            "open in process 12 (cfsctl), a process elsewhere",
        ),
        (Locks(False, (EXCLUSIVE,)), Status.DEGRADED, "locked by process 13 (composefs); all others wait"),
        (Locks(False, ()), Status.DEGRADED, "locked by a process that is not shown; all others wait"),
        (
            Locks(True, (SHARED, replace(EXCLUSIVE, waits=True))),
            Status.DEGRADED,
            "process 13 (composefs) cannot go on before process 12 (cfsctl) closes the repository",
        ),
    ],
)
def test_locks(locks, status, found):
    """Who has a lock is named, and who is kept waiting."""
    finding = judge_locks(locks)

    assert (finding.status, finding.found, finding.prevents) == (status, found, ())
    assert (finding.remedy is None) == (status is Status.OK)


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_locks_of_others(tmp_path, kind):
    """A lock that another process has is seen, and does not make us wait."""
    script = f"import fcntl, os, sys; fd = os.open(sys.argv[1], 0); fcntl.flock(fd, {int(kind)}); print(); input()"
    call = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        try:
            found = find_locks(str(tmp_path))
        finally:
            holder.communicate(b"\n")

    assert found.free is (kind == fcntl.LOCK_SH)
    assert [(each.pid, each.exclusive) for each in found.holders] == [(holder.pid, kind == fcntl.LOCK_EX)]
    assert "python" in found.holders[0].name
    assert find_locks(str(tmp_path)) == Locks(True, ())
