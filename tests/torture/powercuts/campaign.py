"""Many cuts of one recording, and their figures."""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from composefs.errors import ComposefsError

from .cuts import Cut, Way, last_flush
from .judge import State, Verdict, judge, look, settle
from .recording import NAME, Recording, last_mark
from .replay import Replay, copy_sparse, mounted
from .steps import Step


@dataclass
class Figures:
    """What cuts have come to.

    Attributes:
        cuts: by step.
        ways: cuts by way.
        with_half_written: cuts after which some object was not what it is called.
        half_written: such objects, of all cuts.
        kept: layers that were not imported again, of all cuts.
        failures: lines, each of a cut and what was wrong.
    """

    cuts: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    with_half_written: int = 0
    half_written: int = 0
    kept: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, cut: Cut, step: Step, verdict: Verdict, label: str) -> None:
        """Count a cut of the recording *label*."""
        self.cuts[step.name] += 1
        self.ways[cut.way.value] += 1
        self.with_half_written += verdict.half_written > 0
        self.half_written += verdict.half_written
        self.kept += verdict.kept
        where = f"{label}, cut {cut.number} ({step.name}, {cut.way.value}, after {cut.position} writes)"
        self.failures += [f"{where}: {problem}" for problem in verdict.problems]

    def __iadd__(self, other: Self) -> Self:
        self.cuts += other.cuts
        self.ways += other.ways
        self.with_half_written += other.with_half_written
        self.half_written += other.half_written
        self.kept += other.kept
        self.failures += other.failures
        return self

    def as_json(self) -> dict[str, object]:
        """Return what `from_json` makes the same figures of."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Figures":
        """Return the figures that `as_json` has given."""
        known = {"cuts": Counter(values["cuts"]), "ways": Counter(values["ways"])}
        return cls(**values | known)

    def __str__(self) -> str:
        cuts = ", ".join(f"{name} {count}" for name, count in sorted(self.cuts.items()))
        ways = ", ".join(f"{count} {name}" for name, count in sorted(self.ways.items()))
        return (
            f"{self.cuts.total()} power cuts ({ways}): {cuts}; {self.with_half_written} left objects half written, "
            f"{self.half_written} in all; {self.kept} layers were named before and kept; "
            f"failures: {len(self.failures)}"
        )


def cut_power(recording: Recording, steps: Sequence[Step], directory: Path, cuts: Sequence[Cut], label: str) -> Figures:
    """Judge *cuts* of *recording*.

    Args:
        recording: of *steps*.
        steps: in their order.
        directory: a new one, for disks.
        cuts: the earliest first.
        label: of the recording, for messages.
    """
    figures = Figures()
    with closing(Replay(recording, directory / "uncut")) as replay:
        wanted = {span: _wanted(replay, recording, span, figures, label) for span in sorted({cut.span for cut in cuts})}
    with closing(Replay(recording, directory / "cut")) as replay:
        for cut in cuts:
            step, span = steps[cut.span], recording.spans[cut.span]
            try:
                with replay.after(cut) as mountpoint:
                    verdict = judge(mountpoint, span, step, wanted[cut.span], cut.seed)
            except subprocess.CalledProcessError as error:
                verdict = Verdict([f"{error}: {error.stderr!r}"])
            except (ComposefsError, OSError, ValueError) as error:
                verdict = Verdict([f"{type(error).__name__}: {error}"])
            figures.add(cut, step, verdict, label)
    return figures


def judge_killed(
    recording: Recording, steps: Sequence[Step], directory: Path, disks: Sequence[Path], label: str
) -> Figures:
    """Judge *disks* of machines that were killed at the same *steps*; those that had not begun are passed over.

    Args:
        recording: of the steps on a machine that was not killed.
        steps: in their order.
        directory: a new one, for disks.
        disks: as they were left.
        label: of them, for messages.
    """
    figures, names_of_steps = Figures(), [step.name for step in steps]
    mountpoint = directory / "mounted"
    mountpoint.mkdir(parents=True)
    for number, disk in enumerate(disks):
        mark = last_mark(disk)
        if mark is None:
            continue
        span = names_of_steps.index(mark[0])
        following = steps[span + 1 : span + 2]
        if mark[1] == "synced" and any(step.damages for step in following):
            continue  # nobody knows what is damaged by now
        with tempfile.TemporaryDirectory(dir=directory) as work:
            with closing(Replay(recording, Path(work, "uncut"))) as replay:
                wanted = _wanted(replay, recording, span, figures, label)
            copy = Path(work, "copy")
            with disk.open("rb") as file:
                copy_sparse(file.fileno(), copy)
            with mounted(copy, mountpoint):
                verdict = judge(mountpoint, recording.spans[span], steps[span], wanted, number)
        figures.add(Cut(number, span, 0, Way.KILLED, number), steps[span], verdict, label)
    return figures


def _wanted(replay: Replay, recording: Recording, number: int, figures: Figures, label: str) -> State:
    """Return what comes of a step without a cut, and see that what a command has done is certain when it ends."""
    span = recording.spans[number]
    certain = last_flush(recording.entries, span.end)
    with replay.after(Cut(0, number, certain, Way.PREFIX, 0)) as mountpoint:
        found = look(mountpoint / NAME)
    with replay.after(Cut(0, number, span.synced, Way.PREFIX, 0)) as mountpoint:
        if found != look(mountpoint / NAME):
            figures.failures.append(f"{label}, {span.name}: what was done may be lost although the command has ended")
        return settle(mountpoint / NAME)
