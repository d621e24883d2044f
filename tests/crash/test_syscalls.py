"""What stops a program at a system call: does it count, stop, fault and kill as it says?"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, wait_until
from tests.torture.syscalls import (
    ALL,
    MUTATING,
    OPENS,
    WRITES,
    Call,
    Fault,
    Kill,
    Outcome,
    ShortWrite,
    Signal,
    Stop,
    run,
)

# Makes three directories; the lines are what there is to see of it.
_THREE = "import os\nfor name in 'abc':\n    os.mkdir(name)\n    print(name, flush=True)\n"
# The same by a process, a thread of it, and a child in a session of its own, one after another.
_FAMILY = """\
import os, subprocess, sys, threading
os.mkdir("a")
thread = threading.Thread(target=os.mkdir, args=["b"])
thread.start()
thread.join()
subprocess.run([sys.executable, "-c", "import os; os.mkdir('c')"], start_new_session=True, check=True)
"""
# A process that lets go of everything, and its parent, which ends at once.
_STRAY = """\
import os, subprocess
print(subprocess.Popen(["sleep", "99"], start_new_session=True).pid, flush=True)
os.mkdir("a")
"""


def _run(directory: Path, program: str, **options: object) -> Outcome:
    return run([sys.executable, "-c", program], cwd=directory, **options)  # type: ignore[arg-type]


def _made(directory: Path) -> str:
    return "".join(sorted(path.name for path in directory.iterdir()))


def test_calls_are_counted(tmp_path):
    outcome = _run(tmp_path, _THREE)

    assert [str(call) for call in outcome.calls] == [f"mkdir {tmp_path}/{name}" for name in "abc"]
    assert (outcome.status, outcome.stdout, outcome.survivors) == (0, "a\nb\nc\n", 0)


@pytest.mark.parametrize(("after", "made"), [(False, "a"), (True, "ab")])
def test_a_stop_is_exact(tmp_path, after, made):
    outcome = _run(tmp_path, _THREE, at=2, action=Stop(after))

    assert outcome.status is None
    assert (_made(tmp_path), outcome.stdout, len(outcome.calls)) == (made, "a\n", 2)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_threads_and_children_count_together_and_are_stopped_together(tmp_path, at):
    outcome = _run(tmp_path, _FAMILY, at=at, action=Stop())

    assert outcome.status is None
    assert _made(tmp_path) == "abc"[: at - 1]
    assert len({call.pid for call in outcome.calls}) == at


def test_a_fault_is_given_back(tmp_path):
    outcome = _run(tmp_path, _THREE, at=2, action=Fault(errno.ENOSPC))

    assert outcome.status == 1
    assert "OSError: [Errno 28] No space left on device: 'b'" in outcome.stderr
    assert _made(tmp_path) == "a"


def test_a_fault_can_stay(tmp_path):
    program = """\
import os
for name in "abcd":
    try:
        os.mkdir(name)
    except OSError as error:
        print(name, error.errno)
"""
    assert _run(tmp_path, program, at=3, action=Fault(errno.EIO), once=False).stdout == "c 5\nd 5\n"
    assert _made(tmp_path) == "ab"


def test_a_write_can_be_short_and_goes_on_where_it_ended(tmp_path):
    program = """\
import os
fd = os.open("file", os.O_CREAT | os.O_RDWR)
print(os.write(fd, b"12345"), os.write(fd, b"67"), os.pwrite(fd, b"89", 1))
"""
    outcome = _run(tmp_path, program, at=1, action=ShortWrite(), calls=WRITES)

    assert outcome.stdout == "3 2 2\n"
    assert (tmp_path / "file").read_bytes() == b"18967"
    assert _run(tmp_path, program, at=3, action=ShortWrite(), calls=WRITES).stdout == "5 2 1\n"


def test_a_write_to_a_pipe_changes_no_file_system(tmp_path):
    assert _run(tmp_path, "import os; os.write(os.pipe()[1], b'x')").calls == []


def test_an_open_changes_a_file_system_if_it_may_create(tmp_path):
    program = "open('file', 'w').close(); open('file').close()"

    assert [call.name for call in _run(tmp_path, program).calls] == ["openat"]
    opened = [call.what for call in _run(tmp_path, program, calls=OPENS).calls]
    assert opened[-2:] == [str(tmp_path / "file")] * 2


def test_one_process_can_be_killed_alone(tmp_path):
    outcome = _run(tmp_path, _FAMILY, at=3, action=Kill())

    assert outcome.status == 1
    assert "died with <Signals.SIGKILL: 9>" in outcome.stderr
    assert _made(tmp_path) == "ab"


def test_a_signal_comes_as_from_a_terminal(tmp_path):
    outcome = _run(tmp_path, _THREE, at=2, action=Signal(signal.SIGINT))

    assert outcome.status == -signal.SIGINT
    assert "KeyboardInterrupt" in outcome.stderr


def test_every_call_can_count(tmp_path):
    outcome = run(["true"], calls=ALL)

    assert (outcome.calls[0].name, outcome.calls[-1].name) == ("execve", "exit_group")


def test_who_outlives_a_program_is_counted_and_killed(tmp_path):
    outcome = _run(tmp_path, _STRAY)

    assert (outcome.status, outcome.survivors) == (0, 1)


def test_a_stop_kills_also_who_has_left_the_session(tmp_path):
    outcome = _run(tmp_path, _STRAY, at=1, action=Stop())

    assert (outcome.status, outcome.survivors) == (None, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.stdout), 0)


def test_a_program_that_takes_too_long_is_an_error(tmp_path):
    with pytest.raises(TimeoutError, match=r"late, after 1 calls; the last call that counted: mkdir"):
        _run(tmp_path, "import os, time; os.mkdir('a'); time.sleep(99)", timeout=1)


def test_whoever_is_interrupted_leaves_no_process(tmp_path):
    program = "import os, time; open(str(os.getpid()), 'w').close(); time.sleep(99)"
    script = f"""\
import sys
from tests.torture.syscalls import run
run([sys.executable, "-c", {program!r}], cwd={str(tmp_path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL) as caller:
        assert wait_until(lambda: _made(tmp_path))
        caller.send_signal(signal.SIGINT)

    with pytest.raises(ProcessLookupError):
        os.kill(int(_made(tmp_path)), 0)


def test_the_calls_that_change_file_systems_exist():
    """A wrong name would never count."""
    header = subprocess.run(
        ["cc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", os.devnull],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {name.partition(":")[0] for name in MUTATING | OPENS}
    known = {name for name in names if f"#define __NR_{name} " in header}

    assert names - known <= {"fchmodat2"} if os.uname().machine == "x86_64" else {"openat", "linkat"} <= known


def test_a_call_says_what_it_is_about():
    assert str(Call("fsync", "/file", 1)) == "fsync /file"
    assert str(Call("sync", "", 1)) == "sync"
