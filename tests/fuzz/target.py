"""What a fuzz target is: a parser, what must hold of it whatever it reads, and how its inputs are broken."""

from __future__ import annotations

import functools
import random
import resource
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"  # a directory for each target
SECONDS_MAX = 5  # of the CPU, for one input: what else runs does not count
MEMORY_MAX = 768 << 20  # bytes of address space of a process that reads many; limits of single parsers are much lower
_ROUNDS = (1, 1, 1, 2, 2, 3, 5, 8)  # mutations of one input

Mutate = Callable[[random.Random, bytes], bytes]


class TooSlowError(Exception):
    """One input took more than SECONDS_MAX."""


@dataclass(frozen=True)
class Target:
    """One parser, or what belongs together.

    Attributes:
        name: that of its directory below `tests/corpus`, too.
        check: reads an input and tells whether it was taken (True) or refused by an error of its type (False); whatever
            must not happen it raises.
        mutate: breaks an input a little.
        make_seeds: makes the inputs of the corpus, by file name.
        more_seeds: gives inputs that are elsewhere, such as golden vectors.
        share: of the inputs of a run over all targets, by weight: what is slow has less.
        size_max: bytes of an input.
    """

    name: str
    check: Callable[[bytes], bool]
    mutate: Mutate
    make_seeds: Callable[[], Mapping[str, bytes]]
    more_seeds: Callable[[], list[bytes]] = list
    share: float = 10
    size_max: int = 1 << 16

    @functools.cached_property
    def seeds(self) -> list[bytes]:
        """All inputs that others are made of."""
        return [path.read_bytes() for path in corpus_files(self.name)] + self.more_seeds()

    def input(self, seed: int, number: int) -> bytes:
        """Return the input *number* of the series *seed*, always the same."""
        chance = random.Random(f"{self.name}/{seed}/{number}")
        data = chance.choice(self.seeds)
        for _ in range(chance.choice(_ROUNDS)):
            data = self.mutate(chance, data)[: self.size_max]
        return data

    def run(self, data: bytes) -> bool:
        """Check one input, but not for ever."""
        with _watchdog():
            return self.check(data)


def corpus_files(name: str) -> list[Path]:
    """Return the files of the corpus of a target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def chance_of(data: bytes) -> random.Random:
    """Return chance that depends on *data* alone: how to cut them, for example."""
    return random.Random(zlib.crc32(data))


def limit_memory() -> None:
    """Let this process have MEMORY_MAX and no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))


@contextmanager
def _watchdog() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TooSlowError(f"more than {SECONDS_MAX} s")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)
