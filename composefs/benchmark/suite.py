"""All that is timed, one after another, within a given time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from composefs.benchmark.entries import COUNTS, EntrySpeed, time_entries
from composefs.benchmark.estimate import Speeds
from composefs.benchmark.hashing import KernelSpeed, stream_library, time_kernels, time_stream
from composefs.benchmark.inflating import DecoderSpeed, time_decoders
from composefs.benchmark.machine import Cpus, FileSystem, dirty_limit, find_cpus, find_file_system
from composefs.benchmark.sample import make_sample
from composefs.benchmark.storing import Amounts, FileSpeed, check_room, scratch_directory, time_files
from composefs.digest import BLOCK_SIZE, Algorithm

# How the time is divided; entries and the sample take theirs, about a second and a half.
_KERNELS = 0.3
_STREAMS = 0.1
_DECODERS = 0.2
_FILES = 0.4
_FIXED = 1.5  # seconds
_LEAST = 0.2  # seconds for all that can be shortened

DEFAULT_AMOUNTS = Amounts()
_CANNOT_WRITE = frozenset([errno.EACCES, errno.EPERM, errno.EROFS])


@dataclass(frozen=True)
class Plan:
    """How much is to be done."""

    seconds: float = 6
    amounts: Amounts = DEFAULT_AMOUNTS
    entries: tuple[int, int] = COUNTS


QUICK = Plan(2, Amounts(files=2000, large=64 << 20), (500, 4500))


@dataclass(frozen=True)
class Results:
    """What was found; rates are bytes a second."""

    cpus: Cpus
    load: float  # processes that wanted a CPU in the last minute, before all this
    directory: str
    file_system: FileSystem | None  # None, as also the last two: nothing can be written there
    obstacle: str | None  # why not
    kernels: list[KernelSpeed]
    streams: dict[str, float]  # by the name of the hash
    stream_library: str
    decoders: list[DecoderSpeed]
    files: FileSpeed | None
    entries: EntrySpeed | None

    def speeds(self, algorithm: Algorithm) -> Speeds:
        """Return what an estimate needs, for a repository of *algorithm*."""
        kernel = next(each for each in self.kernels if each.chosen and each.algorithm is algorithm)
        return Speeds(
            decoders={decoder.compression: decoder.rate for decoder in self.decoders},
            digest=self.streams[Algorithm.SHA256.hash_name],
            leaves=kernel.large,
            small_file=BLOCK_SIZE / kernel.small,
            entries=self.entries,
            files=self.files,
            dirty_max=dirty_limit(),
        )


def run(directory: str, algorithm: Algorithm, plan: Plan, say: Callable[[str], None]) -> Results:
    """Time everything.

    Args:
        directory: in which files are created, below a new directory that is removed again.
        algorithm: of the repository in which entries are tried.
        plan: how much to do.
        say: called with what begins.

    Raises:
        RepositoryError: there is too little room in *directory*.
        OSError: *directory* does not exist, or something in it could not be written.
    """
    cpus, load = find_cpus(), os.getloadavg()[0]
    file_system, obstacle = _try_directory(directory, plan.amounts)
    seconds = max(plan.seconds - _FIXED, _LEAST)
    kernels: list[KernelSpeed] = []
    streams: dict[str, float] = {}
    for each in Algorithm:
        say(f"hashing: {each.hash_name}")
        kernels += time_kernels(each, seconds * _KERNELS / len(Algorithm))
        streams[each.hash_name] = time_stream(each.hash_name, seconds * _STREAMS / len(Algorithm))
    say("making a layer")
    sample = make_sample()
    say("decompressing it")
    decoders = time_decoders(sample, seconds * _DECODERS)
    files, entries = None, None
    if file_system is not None:
        with _located(directory), scratch_directory(directory) as scratch:
            say("creating files")
            files = time_files(
                scratch,
                file_system,
                sample.archive,
                algorithm,
                writers=cpus.usable,
                seconds=seconds * _FILES,
                amounts=plan.amounts,
            )
            say("importing entries")
            entries = time_entries(scratch, algorithm, plan.entries)
            say("removing the files")
    return Results(
        cpus, load, directory, file_system, obstacle, kernels, streams, stream_library(), decoders, files, entries
    )


@contextmanager
def _located(directory: str) -> Iterator[None]:
    """Give errors of the system a path, if they have none: *directory*."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, directory) from None


def _try_directory(directory: str, amounts: Amounts) -> tuple[FileSystem | None, str | None]:
    """Return what the file system can do, or why nothing can be written."""
    try:
        file_system = find_file_system(directory)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        return None, f"{directory}: {error.strerror}"
    check_room(directory, amounts)
    return file_system, None
