"""Stop every operation at any system call, and judge what it leaves.

python -m tests.torture.stops --count 1000 --seed 1            random calls of all operations
python -m tests.torture.stops --every --operation gc           before and after each call of gc that changes files
python -m tests.torture.stops --seed 1 --replay 417            one of the first again

A line of figures for each operation, and one for all; status 1 if anything was not as it must be, with what shows it
again.
"""

# ruff: noqa: T201  # this one is a program

from __future__ import annotations

import argparse
import itertools
import random
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.judge import Span, judge, undisturbed
from tests.torture.operations import OPERATIONS, Operation, Workshop, workshop
from tests.torture.syscalls import ALL, MUTATING, Stop

_UNNAMED = re.compile(r"#\d+ \(deleted\)|\.(symlink|tmp-object)-\w+")
_CFSCTL = Path(__file__).parents[2] / "scripts" / "cfsctl.sh"
_CHANGING_SHARE = 2 / 3  # of the random stops are at calls that change files; a guess


@dataclass(frozen=True)
class Moment:
    """When an operation is stopped.

    Attributes:
        operation: which.
        calls: those that count.
        number: of the call, from 1.
        after: whether the call is made.
        again: the arguments that show it again.
    """

    operation: Operation
    calls: frozenset[str]
    number: int
    after: bool
    again: str

    def __str__(self) -> str:
        kind = "changing call" if self.calls is MUTATING else "call"
        return f"{self.operation.name}, {'after' if self.after else 'before'} {kind} {self.number}"


@dataclass
class Figures:
    """What the stops of an operation came to."""

    stops: Counter[str] = field(default_factory=Counter)  # by what was to be made
    places: set[str] = field(default_factory=set)  # calls, with what they are about
    ended: int = 0  # runs that ended before the call came
    failures: list[str] = field(default_factory=list)


class Torture:
    """Operations in the workshop *shop*, judged also by the program *cfsctl*."""

    def __init__(self, shop: Workshop, cfsctl: str) -> None:
        self._shop, self._cfsctl = shop, cfsctl
        self._spans: dict[str, Span] = {}
        self._all: dict[str, tuple[int, int]] = {}
        self.figures: dict[str, Figures] = {}

    def span(self, operation: Operation) -> Span:
        """Return *operation* without a stop."""
        if operation.name not in self._spans:
            self._spans[operation.name] = undisturbed(self._shop, operation, self._cfsctl)
        return self._spans[operation.name]

    def random_moment(self, operations: Sequence[Operation], seed: int, number: int) -> Moment:
        """Return the *number*-th moment of the series *seed*."""
        chance = random.Random(f"{seed}/{number}")
        operation = operations[number % len(operations)]
        again = f"--seed {seed} --replay {number}"
        after = chance.random() < 0.5
        if chance.random() < _CHANGING_SHARE:
            return Moment(operation, MUTATING, chance.randint(1, self.span(operation).calls), after, again)
        return Moment(operation, ALL, chance.randint(*self._all_calls(operation)), after, again)

    def every_moment(self, operation: Operation) -> Iterator[Moment]:
        """Yield the moments before and after each call of *operation* that changes files."""
        for number in range(1, self.span(operation).calls + 1):
            for after in (False, True):
                again = f"--operation {operation.name} --call {number}{' --after' if after else ''}"
                yield Moment(operation, MUTATING, number, after, again)

    def _all_calls(self, operation: Operation) -> tuple[int, int]:
        """Return the numbers of the first call of *operation* that has to do with the repository, and of the last."""
        if operation.name not in self._all:
            with self._shop.copy(operation.start) as repository:
                calls = self._shop.run(operation, repository, calls=ALL).calls
            first = next(at for at, call in enumerate(calls, 1) if call.what.startswith(str(repository)))
            self._all[operation.name] = first, len(calls)
        return self._all[operation.name]

    def stop(self, moment: Moment) -> list[str]:
        """Stop an operation at *moment*, and return what is wrong then."""
        operation = moment.operation
        span = self.span(operation)
        figures = self.figures.setdefault(operation.name, Figures())
        with self._shop.copy(operation.start) as repository:
            action = Stop(moment.after)
            try:
                outcome = self._shop.run(operation, repository, at=moment.number, action=action, calls=moment.calls)
            except TimeoutError as error:
                figures.failures.append(f"{moment}: hangs: {error}   (again: {moment.again})")
                return [str(error)]
            try:
                problems = judge(self._shop, span, repository, outcome, self._cfsctl)
            except Exception:  # a bug of the package, too
                problems = traceback.format_exc().splitlines()
            stopped_at = str(outcome.calls[-1]).replace(str(repository), "REPO") if outcome.calls else "no call"
        if outcome.status is None:
            figures.stops["after" if moment.after else "before"] += 1
            figures.places.add(_UNNAMED.sub("unnamed", stopped_at))
        else:
            figures.ended += 1
            if outcome.status != operation.status:
                problems.append(f"was not stopped, and ended with {outcome.status}: {outcome.stderr}")
        if problems:
            text = "\n    ".join([f"{moment}: {stopped_at}   (again: {moment.again})", *problems])
            figures.failures.append(text)
        return problems


def cfsctl_path() -> str:
    """Return the path of `cfsctl`."""
    return subprocess.run([_CFSCTL], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _moments(torture: Torture, options: argparse.Namespace) -> Iterable[Moment]:
    chosen = [OPERATIONS[options.operation]] if options.operation else list(OPERATIONS.values())
    if options.call is not None:
        return [Moment(chosen[0], MUTATING, options.call, options.after, "")]
    if options.replay is not None:
        return [torture.random_moment(chosen, options.seed, options.replay)]
    if options.every:
        return (moment for operation in chosen for moment in torture.every_moment(operation))
    return _random_moments(torture, chosen, options.seed, options.count)


def _random_moments(torture: Torture, operations: Sequence[Operation], seed: int, count: int) -> Iterator[Moment]:
    """Yield moments until *count* stops were made; some runs end before their moment comes."""
    for number in itertools.count():
        if sum(figures.stops.total() for figures in torture.figures.values()) >= count:
            return
        yield torture.random_moment(operations, seed, number)


def _line(name: str, figures: Iterable[Figures], calls: int) -> str:
    each = list(figures)
    stops = sum((one.stops for one in each), Counter[str]())
    ended, failures = sum(one.ended for one in each), sum(len(one.failures) for one in each)
    places = sum(len(one.places) for one in each)
    return (
        f"{name:14} {stops.total():5} stops ({stops['before']} before a call, {stops['after']} after)"
        f" at {places} different calls; {calls} calls change files; {ended} ended first; {failures} failures"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="random stops (1000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which series of them (1)")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one of the series again")
    parser.add_argument("--every", action="store_true", help="before and after every call that changes files")
    parser.add_argument("--operation", choices=OPERATIONS, help="this one (all)")
    parser.add_argument("--call", type=int, metavar="NUMBER", help="only at this call that changes files")
    parser.add_argument("--after", action="store_true", help="... and after it")
    options = parser.parse_args(arguments)
    if options.call is not None and not options.operation:
        parser.error("--call needs --operation")
    begin = time.monotonic()
    with workshop() as shop:
        torture = Torture(shop, cfsctl_path())
        for moment in _moments(torture, options):
            if torture.stop(moment):
                print(torture.figures[moment.operation.name].failures[-1], file=sys.stderr, flush=True)
    names = sorted(torture.figures, key=list(OPERATIONS).index)
    for name in names:
        print(_line(name, [torture.figures[name]], torture.span(OPERATIONS[name]).calls))
    calls = sum(torture.span(OPERATIONS[name]).calls for name in names)
    print(_line("all", torture.figures.values(), calls) + f"; {time.monotonic() - begin:.0f} s")
    return 1 if any(each.failures for each in torture.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
