"""Stop a program and all that it started at any system call, or give it a fault back instead of making the call.

    outcome = run(["composefs", ...], at=None, action=None)     counts: outcome.calls
    run(argv, at=17, action=Stop())                             all of it is killed before its 17th call is made
    run(argv, at=17, action=Stop(after=True))                   ... and after that
    run(argv, at=17, action=Fault(errno.ENOSPC))                the call is not made, and seems to fail

How: a filter of seccomp(2) sends each call that counts to a supervisor (syscalls.c), which answers what is to become
of it; the thread waits meanwhile.  It works without root, since the program gives up to gain privileges (no_new_privs),
is inherited by each thread and child, and one supervisor sees them all, in one order: "the k-th call" counts over all.

Why not otherwise: a library in LD_PRELOAD does not see the calls of static programs, those that C code makes inline, or
that the C library makes to itself (fopen, opendir).  ptrace(2) sees them all, but stops each thread twice at every
call, also those that do not count, has to follow every fork, and turns signals into events of its own.  It is used here
for one moment, to stop a thread right after its call.

What a stop means: the calls before the k-th were let go; those of the same thread were made.  A call that another
thread was let go with a moment before may have been made, or not: as if the power button was pressed then.  From the
k-th on, no call that counts is made, whatever other threads do until SIGKILL reaches them.  `Stop(after=True)`: the
k-th was made, and its thread did not come back from the kernel.
Killed is everything that descends from the program, also what left its session, since the supervisor becomes the parent
of those whose parents ended (PR_SET_CHILD_SUBREAPER); no process that it starts outlives `run`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.tools import require_tool

_SOURCES = [Path(__file__).with_name(name) for name in ("syscalls.c", "calls.c", "processes.c", "supervisor.h")]
_BUILT = Path(__file__).parents[2] / ".cache" / "torture"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_UNABLE = 77  # the supervisor's status where the kernel forbids what it does
_GRACE = 30  # seconds for the supervisor beyond those for the program

# Names are those of <asm/unistd.h>; what this machine does not have never counts.  NAME:creates is an open that may
# create or cut a file, NAME:file writes to a regular file and not to a pipe, NAME:changes is an ioctl that changes one.
WRITES = frozenset(
    "write:file pwrite64:file writev:file pwritev:file pwritev2:file sendfile:file copy_file_range splice:file".split()
)
SYNCS = frozenset("fsync fdatasync sync syncfs sync_file_range msync".split())
NAMES = frozenset(  # what makes, moves and removes names
    """open:creates openat:creates openat2:creates creat link linkat symlink symlinkat rename renameat renameat2 unlink
    unlinkat mkdir mkdirat rmdir mknod mknodat""".split()
)
ATTRIBUTES = frozenset(
    """truncate ftruncate fallocate chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat
    utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr ioctl:changes""".split()
)
MUTATING = WRITES | SYNCS | NAMES | ATTRIBUTES  # what changes a file system
OPENS = frozenset("open openat openat2".split())
ALL = frozenset(["all"])


@dataclass(frozen=True)
class Fault:
    """The call is not made, and gives back *error*, an errno."""

    error: int


@dataclass(frozen=True)
class ShortWrite:
    """A write(2) or pwrite(2) writes half of its bytes; any other call is made."""


@dataclass(frozen=True)
class Stop:
    """SIGKILL of all processes, before the call is made or right after it."""

    after: bool = False


@dataclass(frozen=True)
class Kill:
    """SIGKILL of the process that makes the call, before it is made; the others go on."""


@dataclass(frozen=True)
class Signal:
    """A signal to all processes of the group, as the terminal sends it; the call is made."""

    number: int


Action = Fault | ShortWrite | Stop | Kill | Signal


@dataclass(frozen=True, slots=True)
class Call:
    """A call that counted."""

    name: str
    what: str  # path, or that of the open file, as seen in /proc; empty where neither is known
    pid: int  # of the thread

    def __str__(self) -> str:
        return f"{self.name} {self.what}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        status: exit status, or the negative number of the signal that ended the program; None: it was stopped.
        calls: those that counted, in their order; the last one is where it was stopped.
        stdout: what it printed, as the next.
        stderr: see `stdout`.
        survivors: processes that still ran 5 s after the program had ended by itself; they were killed then.
    """

    status: int | None
    calls: list[Call]
    stdout: str
    stderr: str
    survivors: int


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    at: int | None = None,
    action: Action | None = None,
    calls: frozenset[str] = MUTATING,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: int = 60,
    once: bool = True,
) -> Outcome:
    """Run the program *argv*, and do *action* at its *at*-th call.

    Args:
        argv: the program, looked for in PATH, and its arguments.
        at: number of the call, from 1; None: none, only count.
        action: what to do then.
        calls: those that count.
        env: the environment, by default ours.
        cwd: the directory, by default ours.
        timeout: seconds; longer is an error.
        once: False: do it at every later call, too.

    Raises:
        TimeoutError: the program took longer; it was killed.
    """
    words = [supervisor(), "-c", ",".join(sorted(calls)), "-t", str(timeout)]
    if at is not None and action is not None:
        words += ["-k", str(at), "-a", _word(action)]
    if not once:
        words.append("-f")
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            [*words, "-l", str(log.fileno()), "--", *argv],
            pass_fds=[log.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
        ) as process:
            try:
                output = process.communicate(timeout=timeout + _GRACE)
            except BaseException:
                process.terminate()  # then it kills all, which nobody else could find
                raise
        out, err = (data.decode(errors="replace") for data in output)
        if process.returncode == _UNABLE:
            _unable(err)
        if process.returncode != 0:
            raise RuntimeError(f"the supervisor failed with {process.returncode}: {err}")
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    *called, end, left = lines
    how, number = end.split()[1:]
    found = [Call(*_call(line)) for line in called]
    if how in ("late", "interrupted"):
        where = f"; the last call that counted: {found[-1]}" if found else ""
        raise TimeoutError(f"{argv} was {how}, after {len(found)} calls{where}\n{out}{err}")
    status = {"exited": int(number), "killed": -int(number)}.get(how)
    return Outcome(status, found, out, err, int(left.split()[1]))


def _call(line: str) -> tuple[str, str, int]:
    _, _, pid, name, what = line.split(" ", 4)
    return name, what, int(pid)


def _word(action: Action) -> str:
    match action:
        case Fault(error):
            return f"error={error}"
        case ShortWrite():
            return "short"
        case Stop(after):
            return "stop-after" if after else "stop"
        case Kill():
            return "kill"
        case Signal(number):
            return f"signal={number}"


def _unable(why: str) -> None:
    """Skip the test, or fail where all must run: this kernel, or what we run in, forbids the supervisor's work."""
    if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{why.strip()}, and COMPOSEFS_REQUIRE_TOOLS=1 wants it")
    pytest.skip(f"system calls cannot be supervised here: {why.strip()}")


@cache
def supervisor() -> str:
    """Return the path of the supervisor, built once for each state of its sources."""
    compiler = require_tool("cc")
    state = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
    path = _BUILT / f"supervisor-{os.uname().machine}-{state}"
    if path.exists():
        return str(path)
    _BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_BUILT) as directory:
        headers = subprocess.run(
            [compiler, "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", os.devnull],
            capture_output=True,
            text=True,
            check=True,
        )
        names = sorted(set(re.findall(r"^#define __NR_([a-z0-9_]+) ", headers.stdout, re.MULTILINE)) - {"syscalls"})
        Path(directory, "calls.h").write_text("".join(f"CALL({name})\n" for name in names))
        made = Path(directory, path.name)
        sources = [str(source) for source in _SOURCES if source.suffix == ".c"]
        subprocess.run([compiler, *_FLAGS, f"-I{directory}", "-o", str(made), *sources], check=True)
        shutil.move(made, path)  # at once, for whoever builds it at the same time
    return str(path)
