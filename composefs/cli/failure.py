"""Turn errors into one line on standard error, with what to do about it, and an exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import contextmanager, suppress

from composefs.cli.output import printable
from composefs.errors import ComposefsError, IntegrityError, LimitError, RoomError, UsageError
from composefs.text import describe_failure

TYPE_CHECKING = False  # as in __init__.py, which imports this early
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DONE, FAILED, USAGE = 0, 1, 2  # exit statuses

# With what Python does.
_STOPS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

_LINE_MAX = 1 << 14  # characters; it may quote what somebody else wrote
_NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT])
_REMEDIES = {
    errno.ENOSPC: "the disk is full: make room and run it again",
    errno.EDQUOT: "the quota is used up: make room and run it again",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "run it as the owner, or choose another place",
    errno.EPERM: "run it as the owner, or choose another place",
    errno.EMFILE: "raise the limit (ulimit -n) or use fewer --workers",
    errno.EIO: "the device reports an error: look at the kernel's log",
}


class Outcome:
    """What a command came to.

    Attributes:
        status: its exit status.
        stores: whether it puts objects into a repository, which stay when it ends early.
    """

    status: int = DONE
    stores: bool = False


@contextmanager
def report(program: str) -> Iterator[Outcome]:
    """Catch what a user can be told in one line; anything else is a defect, and keeps its traceback."""
    outcome = Outcome()
    try:
        with _one_stop():
            yield outcome
    except UsageError as error:
        outcome.status = USAGE
        _say(program, f"{error} (see {program} --help)")
    except ComposefsError as error:
        outcome.status = FAILED
        _say(program, _one_line(error, _remedy(error), getattr(error, "__notes__", ())))
    except KeyboardInterrupt as stop:
        outcome.status = FAILED
        what = "terminated" if stop.args == (signal.SIGTERM,) else "interrupted"
        _say(program, f"{what}; what was stored is kept for the next run" if outcome.stores else what)
    except MemoryError:
        outcome.status = FAILED
        _say(program, "out of memory: free some, or use fewer --workers")
    except BrokenPipeError:
        outcome.status = FAILED  # whoever read our output has gone, and wants no more of it
    except OSError as error:
        outcome.status = FAILED
        remedy = _REMEDIES.get(error.errno or 0)
        if outcome.stores and error.errno in _NO_ROOM:
            remedy = f"{remedy}; what was stored is kept"
        _say(program, _one_line(describe_failure(error), remedy, getattr(error, "__notes__", ())))
    finally:
        _drop_unwritten()


@contextmanager
def _one_stop() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the command in good order, and once: another would only disturb that."""
    # Where something else is set, somebody has other plans, such as nohup.
    taken = [signum for signum, usual in _STOPS.items() if signal.getsignal(signum) is usual]
    for signum in taken:
        signal.signal(signum, _stop)
    try:
        yield
    finally:
        for signum in taken:
            if signal.getsignal(signum) is _stop:  # there was none
                signal.signal(signum, _STOPS[signum])
            else:  # the process ends, and with it what has handlers
                signal.signal(signum, signal.SIG_IGN)


def _stop(signum: int, _: object) -> None:
    for each in _STOPS:
        signal.signal(each, _pass)
    raise KeyboardInterrupt(signum)


def _pass(_signum: int, _: object) -> None:
    """Do nothing: of a signal that came already Python complains if it is to be ignored from now on."""


def _remedy(error: ComposefsError) -> str | None:
    if isinstance(error, IntegrityError):
        return "the image or the repository is damaged: fetch it again"
    if isinstance(error, LimitError) and error.raised_by is not None:
        return f"if you trust it, raise that by --{error.raised_by.replace('_', '-')}"
    if isinstance(error, RoomError):
        return "make room, such as by `composefs gc`, or try all the same with --force"
    return None


def _one_line(error: object, remedy: str | None, notes: tuple[str, ...] = ()) -> str:
    return "; ".join(filter(None, [str(error), *notes, remedy]))


def _say(program: str, text: str) -> None:
    if len(text) > _LINE_MAX:
        text = f"{text[: _LINE_MAX // 2]} ... {text[-_LINE_MAX // 2 :]}"
    with suppress(OSError):  # then nobody listens
        print(f"{program}: {printable(text)}", file=sys.stderr)


def _drop_unwritten() -> None:
    """Let go of output that cannot be written: the interpreter would try once more at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
