"""What is measured, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ALGORITHMS = ("fsverity-sha512-12", "fsverity-sha256-12")


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do with the image *kind*."""

    name: str
    kind: str
    command: str = "pull"  # of a tool
    limited: bool = False  # there is a limit to compare it with
    ours_alone: bool = False  # and once: it is about memory
    forget: bool = False  # before it all names but those of layers, so that the image is made again of what is stored

    @property
    def is_import(self) -> bool:
        """Whether files are stored."""
        return self.limited or self.ours_alone


# Each series is done in order on one file system: its first work is the import into an empty repository.
SERIES = (
    (
        Work("many-gzip", "many-gzip", limited=True),
        Work("nothing-new", "many-gzip"),
        Work("fsck", "many-gzip", command="fsck"),
        Work("dump", "many-gzip", command="dump"),
        Work("image", "many-gzip", forget=True),
        Work("update", "update-gzip", limited=True),
        Work("gc-dry-run", "update-gzip", command="gc-dry-run"),
        Work("gc", "update-gzip", command="gc"),
    ),
    (Work("one-gzip", "one-gzip", limited=True),),
    (Work("many-zstd", "many-zstd", limited=True),),
    (Work("many-plain", "many-plain", limited=True),),
    (Work("directory", "many-gzip", command="compute-id"),),
    (Work("big-layer", "big-layer", ours_alone=True),),
    (Work("big-file", "big-file", ours_alone=True),),
)
WORKS = {work.name: work for series in SERIES for work in series}

WANTED_WALL = {  # times as fast as cfsctl
    "many-gzip": 3.0,
    "one-gzip": 3.0,
    "many-zstd": 2.5,
    "many-plain": 2.5,
    "update": 5.0,
    "nothing-new": 6.0,
    "fsck": 3.0,
    "gc-dry-run": 1.0,
    "gc": 1.0,
    "image": 1 / 1.5,
    "dump": 1 / 1.5,
}
WANTED_CPU = {"many-gzip": 2.0}  # cfsctl's seconds over ours
WANTED_MEMORY = {name: 1.0 for name, work in WORKS.items() if work.limited}  # cfsctl's peak of all processes over ours
WANTED_OVER_LIMIT = 1.4  # our wall time over the limit's, at most
WANTED_ONE_LAYER = 0.85  # bytes a second of one-gzip over those of many-gzip, at least
WORKER_LIMIT = 150_000_000  # bytes; a worker stays below, whatever the size of a layer or a file


def chosen_series(names: Sequence[str]) -> Iterator[tuple[Work, ...]]:
    """Yield of each series what must be done for the works called *names*: them, and its first."""
    for first, *others in SERIES:
        wanted = [work for work in others if work.name in names]
        if wanted or first.name in names:
            yield (first, *wanted)
