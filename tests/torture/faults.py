"""Give every operation a fault back at any system call, and judge what becomes of it.

python -m tests.torture.faults --count 1000 --seed 1           random faults at random calls of all operations
python -m tests.torture.faults --every --operation gc          each fault at each call of gc that changes files
python -m tests.torture.faults --every --all --kind EMFILE     one fault at each call that may have it
python -m tests.torture.faults --seed 1 --replay 417           one of the first again

Beside faults of the system there are sudden deaths: of the process that makes the call, be it a worker or the command
itself, and Ctrl-C, which all processes get.

A fault may be felt: then the command says so in one line and exits with 1.  Or not: then it has done all that it does
without.  Interrupted calls and short writes are never felt.  In any case `judge.py` says what must hold, no temporary
file is left, and after a flush that failed nothing gets or loses a name.  A line of figures for each operation, and one
for all; status 1 if anything was not as it must be, with what shows it again.
"""

# ruff: noqa: T201  # this one is a program

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.torture.judge import ON_THE_WAY, Span, difference, judge, state_of, undisturbed
from tests.torture.operations import OPERATIONS, Operation, Workshop, workshop
from tests.torture.stops import cfsctl_path
from tests.torture.syscalls import (
    ATTRIBUTES,
    MUTATING,
    NAMES,
    OPENS,
    SYNCS,
    WRITES,
    Action,
    Call,
    Fault,
    Kill,
    Outcome,
    ShortWrite,
    Signal,
)

_READS = frozenset(
    """read pread64 preadv getdents64 newfstatat fstat statx readlink readlinkat flock fstatfs statfs lseek
    ioctl getxattr lgetxattr fgetxattr""".split()
)
# What open(2), read(2), write(2), fsync(2), flock(2), ftruncate(2), fallocate(2) and statfs(2) say can be interrupted.
_INTERRUPTIBLE = (
    OPENS | WRITES | frozenset("read pread64 preadv flock ftruncate fallocate fsync fdatasync fstatfs statfs".split())
)
_ANY = MUTATING | OPENS | _READS
_SPACE = WRITES | NAMES | SYNCS | ATTRIBUTES
_REMOVES = frozenset("unlink unlinkat rmdir".split())  # which are possible on a full disk


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: what it is called here.
        action: what it is.
        calls: that may have it.
        is_felt: whether a command may fail by it.
        once: False: all later calls have it, too.
    """

    name: str
    action: Action
    calls: frozenset[str]
    is_felt: bool = True
    once: bool = True


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ENOSPC", Fault(errno.ENOSPC), _SPACE),
        Kind("ENOSPC-on", Fault(errno.ENOSPC), _SPACE - _REMOVES, once=False),
        Kind("EDQUOT", Fault(errno.EDQUOT), _SPACE),
        Kind("EIO", Fault(errno.EIO), _ANY),
        Kind("EIO-on", Fault(errno.EIO), WRITES | SYNCS, once=False),
        Kind("EMFILE", Fault(errno.EMFILE), OPENS),
        Kind("ENOMEM", Fault(errno.ENOMEM), _ANY),
        Kind("EINTR", Fault(errno.EINTR), _INTERRUPTIBLE, is_felt=False),
        Kind("short", ShortWrite(), WRITES, is_felt=False),
        Kind("SIGKILL", Kill(), _ANY),
        Kind("SIGINT", Signal(signal.SIGINT), _ANY),
    )
}


@dataclass(frozen=True)
class Moment:
    """A fault.

    Attributes:
        operation: what has it.
        kind: of the fault.
        calls: those that count.
        number: of the call that has it, from 1.
        again: the arguments that show it again.
    """

    operation: Operation
    kind: Kind
    calls: frozenset[str]
    number: int
    again: str

    def __str__(self) -> str:
        return f"{self.operation.name}, {self.kind.name} at call {self.number}"


@dataclass
class Figures:
    """What the faults of an operation came to."""

    faults: Counter[str] = field(default_factory=Counter)  # by kind
    felt: int = 0  # commands that failed
    elsewhere: int = 0  # faults of the interpreter, or of what it loads
    failures: list[str] = field(default_factory=list)


class Torture:
    """Operations in the workshop *shop*, judged also by the program *cfsctl*.

    Attributes:
        shop: it.
        figures: by operation.
    """

    def __init__(self, shop: Workshop, cfsctl: str) -> None:
        self.shop, self._cfsctl = shop, cfsctl
        self._spans: dict[str, Span] = {}
        self._numbers: dict[tuple[str, frozenset[str]], list[int]] = {}
        self.figures: dict[str, Figures] = {}

    def random_moment(
        self, operations: Sequence[Operation], kinds: Sequence[Kind], seed: int, number: int
    ) -> Moment | None:
        """Return the *number*-th moment of the series *seed*; None: that operation makes no such call."""
        chance = random.Random(f"{seed}/{number}")
        operation, kind = operations[number % len(operations)], chance.choice(kinds)
        calls = chance.choice([kind.calls, kind.calls & MUTATING or kind.calls])
        numbers = self.numbers(operation, calls)
        if not numbers:
            return None
        return Moment(operation, kind, calls, chance.choice(numbers), f"--seed {seed} --replay {number}")

    def every_moment(self, operation: Operation, kinds: Sequence[Kind], *, of_all: bool) -> Iterator[Moment]:
        """Yield a moment for each call of *operation* that changes files, or of all, that may have a fault."""
        for kind in kinds:
            calls = kind.calls if of_all else kind.calls & MUTATING
            for number in self.numbers(operation, calls):
                again = f"--operation {operation.name} --kind {kind.name} --call {number}{' --all' if of_all else ''}"
                yield Moment(operation, kind, calls, number, again)

    def numbers(self, operation: Operation, calls: frozenset[str]) -> list[int]:
        """Return the numbers of those calls that are about repositories and images, and not about the interpreter."""
        key = operation.name, calls
        if key not in self._numbers:
            with self.shop.copy(operation.start) as repository:
                outcome = self.shop.run(operation, repository, calls=calls)
            self._numbers[key] = [number for number, call in enumerate(outcome.calls, 1) if self._is_ours(call)]
        return self._numbers[key]

    def give(self, moment: Moment) -> list[str]:
        """Give an operation the fault of *moment*, and return what is wrong then."""
        operation, kind = moment.operation, moment.kind
        if operation.name not in self._spans:
            self._spans[operation.name] = undisturbed(self.shop, operation, self._cfsctl)
        span = self._spans[operation.name]
        figures = self.figures.setdefault(operation.name, Figures())
        with self.shop.copy(operation.start) as repository:
            try:
                outcome = self.shop.run(
                    operation, repository, at=moment.number, action=kind.action, calls=moment.calls, once=kind.once
                )
            except TimeoutError as error:
                figures.failures.append(f"{moment}: hangs: {error}   (again: {moment.again})")
                return [str(error)]
            given = outcome.calls[moment.number - 1] if len(outcome.calls) >= moment.number else None
            if given is None or not self._is_ours(given):
                figures.elsewhere += 1  # threads and processes run in another order each time
                return []
            figures.faults[kind.name] += 1
            figures.felt += outcome.status != operation.status
            problems = _named(outcome, moment.number)
            if outcome.status != -signal.SIGKILL:
                problems += _told(operation, kind, outcome)
            if kind.name != "SIGKILL":
                problems += _left(repository, given)
            if outcome.status == operation.status == 0:
                problems += [f"all done, but {each}" for each in difference(span.after, state_of(repository))]
            try:
                problems += judge(self.shop, span, repository, outcome, self._cfsctl)
            except Exception:  # a bug of the package, too
                problems += traceback.format_exc().splitlines()
        if problems:
            where = str(given).replace(str(self.shop.path), "SHOP")
            figures.failures.append("\n    ".join([f"{moment}: {where}   (again: {moment.again})", *problems]))
        return problems

    def _is_ours(self, call: Call) -> bool:
        where = os.path.relpath(call.what or "/", self.shop.path).split("/")
        return where[0] != ".." and len(where) > 1 and where[1] != "tmp"  # which are Python's own


def _told(operation: Operation, kind: Kind, outcome: Outcome) -> list[str]:
    """Return what is wrong with status and messages."""
    expected = {operation.status, 1} if kind.is_felt else {operation.status}
    problems = [] if outcome.status in expected else [f"exits with {outcome.status}"]
    lines = outcome.stderr.splitlines()
    if kind.name == "SIGINT" and "ResourceWarning" in outcome.stderr:
        lines = lines[-1:]  # tests have Python tell of what an interrupt left open for a moment; nobody else does
    wanted = {outcome.status}
    if operation.arguments[0] == "fsck":
        wanted |= {0, 1, 2}  # it says what was not recorded; what could not be mended may be among its findings
    if len(lines) not in wanted or not all(line.startswith("composefs: ") for line in lines):
        problems += [f"exits with {outcome.status} and says:", *lines]
    return problems


def _left(repository: Path, given: Call) -> list[str]:
    """Return the temporary files that are left; one that could not be removed is, as is half a batch of trash."""
    if given.name in _REMOVES:
        return []
    paths = (os.path.relpath(os.path.join(where, name), repository) for where, _, names in os.walk(repository)
             for name in names)  # fmt: skip
    return [f"{path} is left" for path in paths if ON_THE_WAY.fullmatch(path) and not path.startswith("trash/")]


def _named(outcome: Outcome, number: int) -> list[str]:
    """Return what was done about names after a flush had failed."""
    if outcome.calls[number - 1].name != "syncfs" or outcome.status == 0:
        return []
    changed = [call for call in outcome.calls[number:] if call.name in ("symlink", "symlinkat", "rename", "renameat")]
    return [f"after a flush that failed: {call}" for call in changed]


def quiet(operation: Operation) -> Operation:
    """Return *operation* without what it says of its progress."""
    if operation.arguments[0] != "import":
        return operation
    return replace(operation, arguments=(*operation.arguments, "--progress", "none"))


def _moments(torture: Torture, options: argparse.Namespace) -> Iterable[Moment | None]:
    chosen = [OPERATIONS[options.operation]] if options.operation else list(OPERATIONS.values())
    chosen = [quiet(operation) for operation in chosen]
    kinds = [KINDS[options.kind]] if options.kind else list(KINDS.values())
    if options.call is not None:
        calls = kinds[0].calls if options.all else kinds[0].calls & MUTATING or kinds[0].calls
        return [Moment(chosen[0], kinds[0], calls, options.call, "")]
    if options.replay is not None:
        return [torture.random_moment(chosen, kinds, options.seed, options.replay)]
    if options.every:
        return (moment for one in chosen for moment in torture.every_moment(one, kinds, of_all=options.all))
    return (torture.random_moment(chosen, kinds, options.seed, number) for number in range(options.count))


def _line(name: str, figures: Iterable[Figures]) -> str:
    each = list(figures)
    faults = sum((one.faults for one in each), Counter[str]())
    kinds = ", ".join(f"{faults[kind]} {kind}" for kind in KINDS if faults[kind])
    felt, elsewhere = sum(one.felt for one in each), sum(one.elsewhere for one in each)
    failures = sum(len(one.failures) for one in each)
    return (
        f"{name:14} {faults.total():5} faults ({kinds}); {felt} were felt; {elsewhere} hit other calls;"
        f" {failures} failures"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="random faults (1000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which series of them (1)")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one of the series again")
    parser.add_argument("--every", action="store_true", help="each fault at every call that changes files")
    parser.add_argument("--all", action="store_true", help="... and at those that do not")
    parser.add_argument("--operation", choices=OPERATIONS, help="this one (all)")
    parser.add_argument("--kind", choices=KINDS, help="only such faults")
    parser.add_argument("--call", type=int, metavar="NUMBER", help="only at this call")
    options = parser.parse_args(arguments)
    if options.call is not None and not (options.operation and options.kind):
        parser.error("--call needs --operation and --kind")
    begin = time.monotonic()
    with workshop() as shop:
        torture = Torture(shop, cfsctl_path())
        with suppress(KeyboardInterrupt):  # then these are the figures so far
            for moment in _moments(torture, options):
                if moment is not None and torture.give(moment):
                    print(torture.figures[moment.operation.name].failures[-1], file=sys.stderr, flush=True)
    for name in sorted(torture.figures, key=list(OPERATIONS).index):
        print(_line(name, [torture.figures[name]]))
    print(_line("all", torture.figures.values()) + f"; {time.monotonic() - begin:.0f} s")
    return 1 if any(each.failures for each in torture.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
