"""Do the steps on a disk that records, and mark in its log where each begins and ends."""

import ctypes
import io
import json
import mmap
import os
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composefs.cli import main
from tests.threads import meanwhile

from .disklog import SECTOR, Entry, read_log
from .steps import Command, Step

CHECKOUT = Path(__file__).parents[3]
BLOCK = 4096  # bytes, of the file system
SIZE = 96 << 20  # bytes, of the file system; behind it on the disk are the marks
MARK_SIZE = 1 << 16  # bytes, at most
NAME = "repository"

Names = dict[str, str]  # links by path from the repository
Runner = Callable[[Path, Command], int]  # runs a command on a repository, and returns its exit status

_MARK = b"composefs mark\0\0"
_PROGRAM = """
import sys
from composefs.cli import main
from composefs.oci import checkpoints

checkpoints._INTERVAL = {interval}
sys.exit(main())
"""
CHECKPOINT_INTERVAL = 0.01  # seconds; images here are small
_PAUSE = 0.002  # seconds between two disturbances, about


@dataclass(frozen=True)
class Span:
    """A step in a log.

    Attributes:
        name: of the step.
        begin: number of entries before it.
        end: of those before the last command was done.
        synced: of those before all was flushed afterwards.
        states: what names there were before, and after each command.
        objects: paths of those there were before, also of what was set aside; see `objects`.
    """

    name: str
    begin: int
    end: int
    synced: int
    states: list[Names]
    objects: list[str]


@dataclass(frozen=True)
class Recording:
    """A disk as it was before, and all writes to it; *options* are those that its file system was mounted with."""

    base: Path
    entries: list[Entry]
    spans: list[Span]

    @classmethod
    def load(cls, base: Path, log: Path) -> "Recording":
        """Return the recording in *log*, of the disk that was *base* before."""
        entries: list[Entry] = []
        marks: list[tuple[int, dict[str, Any]]] = []
        for entry in read_log(log):
            if entry.data and entry.offset >= SIZE:
                marks.append((len(entries), _unpack(entry.data)))
            elif entry.data or entry.is_flush:
                entries.append(entry)
        spans = []
        for (begin, _), (end, mark), (synced, _) in zip(marks[::3], marks[1::3], marks[2::3], strict=True):
            spans.append(Span(mark["step"], begin, end, synced, mark["states"], mark["objects"]))
        return cls(base, entries, spans)


def make_disk(path: Path, *, verity: bool) -> None:
    """Make the disk *path* with an empty ext4 of `SIZE`."""
    with path.open("wb") as file:
        file.truncate(SIZE + MARK_SIZE)
    command = ["mkfs.ext4", "-q", "-b", str(BLOCK), "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=8"]
    command += ["-O", "verity"] if verity else []
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    subprocess.run([*command, path, str(SIZE // BLOCK)], check=True, env=environment)


def record(
    device: Path,
    mountpoint: Path,
    options: str,
    steps: Sequence[Step],
    seed: int,
    *,
    disturb: bool = True,
    run: Runner | None = None,
) -> None:
    """Do *steps* in a file system on *device*.

    Args:
        device: a disk of `make_disk`.
        mountpoint: where it gets mounted.
        options: of the mount.
        steps: in their order.
        seed: decides what is damaged, and has a say in when somebody disturbs.
        disturb: have somebody else flush files of his own, and some blocks of ours, meanwhile: names get to the disk,
            and contents stay behind.
        run: does a command; by default `run_apart`.
    """
    subprocess.run(["mount", "-t", "ext4", "-o", options, device, mountpoint], check=True)
    try:
        _Recorder(device, mountpoint, run or run_apart, seed, disturb=disturb).record(steps)
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def run_apart(repository: Path, command: Command, prelude: str = "") -> int:
    """Run *command* in a process of its own, which does *prelude*, a program in Python, before."""
    program = prelude + _PROGRAM.format(interval=CHECKPOINT_INTERVAL)
    argv = [sys.executable, "-c", program, "--repo", str(repository), *command.arguments]
    return subprocess.run(argv, cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=False).returncode


def run_here(repository: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `composefs` with *arguments* in this process, which is faster.

    Returns:
        Its exit status, and its output, or what it said of a failure.
    """
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        status = main(["--repo", str(repository), *arguments])
    return status, output.getvalue() or errors.getvalue()


def names(repository: Path) -> Names:
    """Return all names in *repository*: links by path."""
    found = {}
    for top in ("streams", "images"):
        for directory, _, files in os.walk(repository / top):
            for file in files:
                path = Path(directory, file)
                found[str(path.relative_to(repository))] = os.readlink(path)
    return found


def objects(repository: Path) -> set[str]:
    """Return the paths below `objects` of all objects in *repository*, and in what was set aside there."""
    places = [path for top in ("", "trash/*/", "quarantine/*/") for path in repository.glob(f"{top}objects/*/*")]
    return {f"{path.parent.name}/{path.name}" for path in places}


class _Recorder:
    def __init__(self, device: Path, mountpoint: Path, run: Runner, seed: int, *, disturb: bool) -> None:
        self._device, self._mountpoint, self._run = device, mountpoint, run
        self._repository = mountpoint / NAME
        self._chance = random.Random(seed)  # of damage, which is to be the same each time
        self._disturber = random.Random(seed) if disturb else None

    def record(self, steps: Sequence[Step]) -> None:
        for step in steps:
            for path in step.damages:
                self._damage(self._repository / path)
            sync(self._mountpoint)
            states, before = [names(self._repository)], sorted(objects(self._repository))
            self._mark(event="begin", step=step.name)
            with _disturbed(self._mountpoint, self._repository, self._disturber):
                for command in step.commands:
                    status = self._run(self._repository, command)
                    if status != command.status:
                        raise RuntimeError(f"{' '.join(command.arguments)} gave {status}")
                    states.append(names(self._repository))
            self._mark(event="end", step=step.name, states=states, objects=before)
            sync(self._mountpoint)
            self._mark(event="synced", step=step.name)

    def _damage(self, path: Path) -> None:
        """Break an object."""
        data = bytearray(path.read_bytes())
        data[self._chance.randrange(len(data))] ^= 1
        path.unlink()  # it may be sealed
        path.write_bytes(data)

    def _mark(self, **values: object) -> None:
        """Write *values* past the file system, past all caches, and flush nothing."""
        packed = zlib.compress(json.dumps(values).encode())
        packed = _MARK + len(packed).to_bytes(8, "little") + packed
        assert len(packed) <= MARK_SIZE
        with mmap.mmap(-1, -(-len(packed) // BLOCK) * BLOCK) as buffer:
            buffer[: len(packed)] = packed
            fd = os.open(self._device, os.O_WRONLY | os.O_DIRECT)
            try:
                os.pwrite(fd, buffer, SIZE)
            finally:
                os.close(fd)


def last_mark(disk: Path) -> tuple[str, str] | None:
    """Return the step of the last mark on *disk*, and whether that is its `begin`, its `end`, or `synced`."""
    with disk.open("rb") as file:
        file.seek(SIZE)
        data = file.read(MARK_SIZE)
    if not any(data):
        return None
    mark = _unpack(data)
    return mark["step"], mark["event"]


def _unpack(data: bytes | memoryview) -> dict[str, Any]:
    start = len(_MARK) + 8
    if bytes(data[: len(_MARK)]) != _MARK:
        raise ValueError("a write past the file system that is no mark")
    size = int.from_bytes(data[len(_MARK) : start], "little")
    found: dict[str, Any] = json.loads(zlib.decompress(data[start : start + size]))
    return found


@contextmanager
def _disturbed(mountpoint: Path, repository: Path, chance: random.Random | None) -> Iterator[None]:
    """Have somebody else, and the kernel, flush this and that; without *chance*, nobody."""
    if chance is None:
        yield
        return

    def disturb(ends: threading.Event) -> None:
        with (mountpoint / "noise").open("ab") as file:
            known = _filled(mountpoint)
            while not ends.wait(chance.expovariate(1 / _PAUSE)):
                if known == (known := _filled(mountpoint)):
                    continue  # nothing has happened, for instance because Python starts
                if chance.random() < 0.6:
                    file.write(bytes(chance.randrange(1, SECTOR)))
                    file.flush()
                    os.fsync(file.fileno())  # commits the journal, and with it all names that were made until now
                else:
                    _write_some(repository / "objects", chance)

    with meanwhile(disturb):
        yield


def _filled(path: Path) -> tuple[int, int]:
    """Return how full the file system of *path* is."""
    status = os.statvfs(path)
    return status.f_bfree, status.f_ffree


def _write_some(objects: Path, chance: random.Random) -> None:
    """Begin to write the first part of some object to the disk, as the kernel does when it likes to."""
    try:
        directory = chance.choice(sorted(objects.iterdir()))
        path = chance.choice(sorted(directory.iterdir()))
        fd = os.open(path, os.O_RDONLY)
    except (OSError, IndexError):
        return
    try:
        os.posix_fadvise(fd, 0, chance.randrange(BLOCK, 1 << 20), os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Flush the file system of *path*, and wait."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)
