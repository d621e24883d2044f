"""Moments at which the power fails, and which of the writes before had reached the disk."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from .disklog import SECTOR, Entry
from .recording import BLOCK, Recording
from .steps import Step


class Way(Enum):
    """What the disk had kept of the writes since its last flush."""

    PREFIX = "in order"  # all up to the moment
    REORDERED = "reordered"  # any of them
    TORN = "torn"  # any of them, and of some only some sectors
    KILLED = "of killed machines"  # all that the machine had given away


_OF_RECORDINGS = (Way.PREFIX, Way.REORDERED, Way.TORN)


@dataclass(frozen=True)
class Cut:
    """One power cut.

    Attributes:
        number: by which it is found again.
        span: index of the step.
        position: number of entries of the log that came before.
        way: what was kept of them.
        seed: of what is left to chance.
    """

    number: int
    span: int
    position: int
    way: Way
    seed: int


def choose_cuts(recording: Recording, steps: Sequence[Step], count: int, seed: int) -> list[Cut]:
    """Return *count* cuts of a *recording* of *steps*, the earliest moment first; the same for each *seed*."""
    chance = random.Random(seed)
    weighed = [index for index, step in enumerate(steps) for _ in range(step.weight)]
    cuts = []
    for number in range(count):
        if number % len(weighed) == 0:
            chance.shuffle(weighed)
        index = weighed[number % len(weighed)]
        span = recording.spans[index]
        position = chance.randint(span.begin, span.synced)
        cuts.append(Cut(number, index, position, chance.choice(_OF_RECORDINGS), chance.getrandbits(32)))
    return sorted(cuts, key=lambda cut: cut.position)


def last_flush(entries: Sequence[Entry], position: int) -> int:
    """Return how many of the entries before *position* are certain: those before the last flush."""
    return next((index for index in range(position - 1, -1, -1) if entries[index].is_flush), 0)


def survivors(entries: Sequence[Entry], way: Way, chance: random.Random) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield offset and data of what the disk has kept of the writes *entries* since its last flush."""
    share = chance.choice((0.0, 0.3, 0.6, 0.9))
    for entry in entries:
        if way is Way.PREFIX or entry.is_certain:
            yield entry.offset, entry.data
        elif chance.random() < share:
            if way is Way.TORN and chance.random() < 0.5:
                yield from _torn(entry, chance)
            else:
                yield entry.offset, entry.data


def _torn(entry: Entry, chance: random.Random) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield some of the sectors of a write."""
    size = chance.choice((SECTOR, BLOCK))
    for start in range(0, len(entry.data), size):
        if chance.random() < 0.5:
            yield entry.offset + start, entry.data[start : start + size]
