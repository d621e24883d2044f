"""The commands as processes of their own, started as an installed script starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT = 60  # seconds, far beyond what any of them takes

# As pip writes it: with a guard, since worker processes read it again.
_SCRIPT = """\
import sys
from composefs.cli import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""
_FUNCTIONS = {"composefs": "main", "composefs-import": "main_import"}


def start(
    directory: Path,
    name: str,
    *arguments: object,
    env: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Start the command *name*, whose script is written into *directory*, in a session of its own.

    The program *wrapper* starts it, if there is one.
    """
    script = write_script(directory, name)
    command = [*wrapper, sys.executable, "-W", "error", str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    environment.pop("PYTHONUNBUFFERED", None)  # it hides what is left in buffers
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True, "env": environment} | options
    options.setdefault("preexec_fn", _heed_interrupts)
    return subprocess.Popen(command, **options)


def write_script(directory: Path, name: str) -> Path:
    """Write the script of the command *name* into *directory*, and return its path."""
    script = directory / name
    script.write_text(_SCRIPT.format(function=_FUNCTIONS[name]))
    return script


def _heed_interrupts() -> None:
    """Undo what a shell does to a job in the background, under which the tests may run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(directory: Path, name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command *name*, as above, to its end, and return its status and what it printed."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with start(directory, name, *arguments, **streams) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def session_members(session: int) -> list[int]:
    """Return the processes of a *session* that still run."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(entry)
            if fields and int(fields[3]) == session and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


def parent_of(pid: int) -> int:
    """Return the parent of process *pid*, 0 if it is gone."""
    fields = _stat(Path("/proc") / str(pid))
    return int(fields[1]) if fields else 0


def wait_until(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Wait until *condition* holds, and return whether it came to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _stat(directory: Path) -> Sequence[str]:
    """Return the fields of `stat` from the state on: state, parent, group, session, ..."""
    try:
        return (directory / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ()
