"""What was collected and can be had back, in batches: each a small repository of things that were alive once.

    trash/000001/batch.json        when it was made, and for how long it is kept
    trash/000001/objects/xx/rest   objects
    trash/000001/streams/, images/ names, links that lead to the objects here
    trash/.new-..., .old-...       a batch that is being made, or deleted

All moves are renames.  Batches are counted, since a clock that was set back would put them in another order.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from composefs import _native, limits
from composefs._native.sweep import SweepAction
from composefs.errors import ComposefsError, FormatError, RepositoryError
from composefs.json_text import parse_json
from composefs.repository.directories import Missing, list_directory, open_directory
from composefs.repository.gc.clock import Clock
from composefs.repository.gc.objects import ObjectSet
from composefs.repository.notes import write_note
from composefs.repository.objects import DIRECTORY as OBJECTS

DIRECTORY = "trash"
_FILE = "batch.json"
_NO_FILE = frozenset([errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR])  # why none can be opened or read
_FILE_MODE = 0o644
_NUMBER = re.compile(r"[0-9]{6,}")
_UNFINISHED = re.compile(r"\.(?:new|old)-[0-9]{6,}")
_DAY = 86_400  # seconds
_CLOCK_IS_BEHIND = 60  # seconds that what was changed lies in the future, from which on the clock is to blame: a guess
DAYS_MAX = 36_500
_SECONDS_MAX = 250_000_000_000  # since the epoch, in the year 9892: a date has four digits for that


class State(Enum):
    """What is being done with a batch."""

    FILLING = "filling"  # or that was interrupted
    KEPT = "kept"
    RETURNING = "returning"  # likewise


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, as its `batch.json` says.

    Attributes:
        number: of all batches there were.
        state: what is being done with it.
        created: when it was made.
        days: for how long it is kept.
    """

    number: int
    state: State
    created: Clock
    days: int

    @property
    def name(self) -> str:
        """Its directory in `trash/`."""
        return _name(self.number)

    @property
    def path(self) -> str:
        """Its directory, from the repository's."""
        return f"{DIRECTORY}/{self.name}"

    @property
    def expires(self) -> int:
        """When it may be deleted, in seconds since the epoch; later, if the clock was set meanwhile."""
        return self.created.wall + self.days * _DAY

    @classmethod
    def parse(cls, number: int, data: bytes) -> Batch | None:
        """Return the batch *number*, of which *data* are the file; None: they do not say what it is."""
        try:
            found: Any = parse_json(data, _FILE, max_size=limits.META_SIZE)
            boot, days = found["created"]["boot"], found["days"]
            wall, uptime = found["created"]["wall"], found["created"]["uptime"]
            if not isinstance(boot, str) or not (
                _is_count(wall, _SECONDS_MAX) and _is_count(uptime, _SECONDS_MAX) and _is_count(days, DAYS_MAX) and days
            ):
                return None
            return cls(number, State(found["state"]), Clock(wall, boot, uptime), days)
        except (ValueError, TypeError, KeyError, FormatError):
            return None

    def pack(self) -> bytes:
        """Return the bytes of its file."""
        value = {"state": self.state.value, "created": asdict(self.created), "days": self.days}
        return json.dumps(value, indent=2).encode() + b"\n"

    def has_expired(self, now: Clock) -> bool:
        """Tell whether it was kept for long enough, whatever was done with the clock while the machine ran."""
        return now.seconds_since(self.created) >= self.days * _DAY

    def is_from_future(self, now: Clock) -> bool:
        """Tell whether a clock was set back since it was made, so that it is kept for longer than was asked for."""
        return self.created.wall - now.wall > _DAY


def find_batches(repository_fd: int, where: str) -> tuple[list[Batch], list[str]]:
    """Return the batches in order, and the paths of what is none.

    Raises:
        OSError: they cannot be read.
    """
    batches, strays = [], []
    for name in list_directory(repository_fd, DIRECTORY, where):
        if _UNFINISHED.fullmatch(name):
            continue
        is_number = _NUMBER.fullmatch(name) and name == _name(int(name))
        batch = _read(repository_fd, where, name) if is_number else None
        if batch is None:
            strays.append(f"{DIRECTORY}/{name}")
        else:
            batches.append(batch)
    return sorted(batches, key=lambda batch: batch.number), strays


def check_none_returns(batches: Iterable[Batch], where: str) -> None:
    """Refuse to go on where a batch was not brought back whole: what is back would be collected again.

    Raises:
        RepositoryError: so it is.
    """
    for batch in batches:
        if batch.state is State.RETURNING:
            what = "was brought back in part: `composefs gc --undo` goes on with that, and must be done first"
            raise RepositoryError(f"{where}/{batch.path}", what)


def begin(
    repository_fd: int,
    where: str,
    batches: list[Batch],
    *,
    days: int,
    newest: int,
    names: Iterable[str],
    objects: ObjectSet,
) -> Batch:
    """Return the batch for what is to be kept for some days: a new one, or the last one if it was interrupted.

    It has all directories that are needed, since the disk may be full, and then nothing should have moved.

    Args:
        repository_fd: the repository's directory.
        where: its path, for messages.
        batches: that there are.
        days: how long to keep it.
        newest: when what goes there was changed last, in seconds since the epoch; so it is later than that now.
        names: paths of links that go there, from the repository's directory.
        objects: of the repository, those that are alive not among what goes there.

    Raises:
        RepositoryError: the objects are on another file system.
        OSError: the batch cannot be made; what there is of a new one is removed again.
    """
    now = Clock.read()
    if newest > now.wall + _CLOCK_IS_BEHIND:
        now = replace(now, wall=newest)
    needed = [OBJECTS, *(f"{OBJECTS}/{byte:02x}" for byte in objects.dead_directories())]
    needed += sorted({os.path.dirname(path) for path in names})
    fd = open_directory(repository_fd, DIRECTORY, where, flags=os.O_RDONLY, missing=Missing.MAKE_DURABLY)
    try:
        if len(objects) and objects.device != os.fstat(fd).st_dev:
            what = f"is on another file system than {DIRECTORY}/, so that nothing can be moved there"
            raise RepositoryError(f"{where}/{OBJECTS}", what)
        if batches and batches[-1].state is State.FILLING and batches[-1].days == days:
            batch = replace(batches[-1], created=now)  # of what comes now, nothing may go early
            _fill(repository_fd, where, batch.path, batch, needed)
            return batch
        batch = Batch(_next_number(repository_fd, where), State.FILLING, now, days)
        new = f".new-{batch.name}"
        _fill(repository_fd, where, f"{DIRECTORY}/{new}", batch, needed)
        os.rename(new, batch.name, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
    except (ComposefsError, OSError):
        clear(repository_fd, where)
        raise
    finally:
        os.close(fd)
    return batch


def set_state(repository_fd: int, where: str, batch: Batch, state: State) -> Batch:
    """Write down that *batch* is in another *state*, durably, and return it so."""
    changed = replace(batch, state=state)
    _write(repository_fd, where, batch.path, changed)
    return changed


def take(repository_fd: int, where: str, batch: Batch, names: Iterable[str], objects: ObjectSet) -> int:
    """Move *names*, and then all *objects* that are not alive, into *batch*.

    Args:
        repository_fd: the repository's directory.
        where: its path, for messages.
        batch: where they go, as `begin` has made it for them.
        names: paths of links, from the repository's directory.
        objects: of the repository.

    Returns:
        How many objects were moved.

    Raises:
        OSError: they could not be moved, or not all of them; what was moved is in the batch.
    """
    target = open_directory(repository_fd, f"{batch.path}/{OBJECTS}", where)
    try:
        for path in names:
            move_name(repository_fd, where, path, f"{batch.path}/{path}")
        _native.syncfs(repository_fd)
        return objects.sweep(SweepAction.MOVE, target).done
    finally:
        os.close(target)


def move_name(repository_fd: int, where: str, path: str, target: str) -> None:
    """Rename the link *path* to *target*, in whose place nothing is that anybody wants."""
    directory, _, name = path.rpartition("/")
    target_directory, _, target_name = target.rpartition("/")
    source_fd = open_directory(repository_fd, directory, where)
    try:
        target_fd = open_directory(repository_fd, target_directory, where, missing=Missing.MAKE)
        try:
            os.rename(name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except FileNotFoundError:
            pass  # somebody else has removed it
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{where}/{path}", None, f"{where}/{target}") from None
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def delete(repository_fd: int, where: str, batch: Batch) -> None:
    """Delete what is left of *batch*."""
    fd = open_directory(repository_fd, DIRECTORY, where, flags=os.O_RDONLY)
    try:
        os.rename(batch.name, f".old-{batch.name}", src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        os.close(fd)
    clear(repository_fd, where)


def clear(repository_fd: int, where: str) -> None:
    """Delete batches whose making, or deletion, was interrupted; and the trash, if it is empty then."""
    names = [name for name in list_directory(repository_fd, DIRECTORY, where) if _UNFINISHED.fullmatch(name)]
    if names:
        import shutil  # noqa: PLC0415  # with its archive formats 2 ms, which seldom are needed

        fd = open_directory(repository_fd, DIRECTORY, where, flags=os.O_RDONLY)
        try:
            for name in names:
                shutil.rmtree(name, dir_fd=fd)
        finally:
            os.close(fd)
    with contextlib.suppress(OSError):  # there is none, or something in it
        os.rmdir(DIRECTORY, dir_fd=repository_fd)


def _fill(repository_fd: int, where: str, path: str, batch: Batch, needed: Iterable[str]) -> None:
    """Make the directory *path* of *batch*, those that are *needed* below it, and its file."""
    fd = open_directory(repository_fd, path, where, missing=Missing.MAKE)
    try:
        for name in needed:
            os.close(open_directory(fd, name, f"{where}/{path}", missing=Missing.MAKE))
    finally:
        os.close(fd)
    _write(repository_fd, where, path, batch)


def _name(number: int) -> str:
    return f"{number:06d}"


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _next_number(repository_fd: int, where: str) -> int:
    numbers = [int(name) for name in list_directory(repository_fd, DIRECTORY, where) if _NUMBER.fullmatch(name)]
    return max(numbers, default=0) + 1


def _read(repository_fd: int, where: str, name: str) -> Batch | None:
    """Return the batch in the directory *name*; None: it is none, or does not say what it is."""
    try:
        fd = open_directory(repository_fd, f"{DIRECTORY}/{name}", where)
    except (RepositoryError, FileNotFoundError):
        return None
    try:
        with open(os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd), "rb") as file:
            return Batch.parse(int(name), file.read(limits.META_SIZE + 1))
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise OSError(error.errno, error.strerror, f"{where}/{DIRECTORY}/{name}/{_FILE}") from None
    finally:
        os.close(fd)


def _write(repository_fd: int, where: str, path: str, batch: Batch) -> None:
    fd = open_directory(repository_fd, path, where, flags=os.O_RDONLY)
    new = f".{_FILE}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=fd)
        write_note(fd, new, [batch.pack()], _FILE_MODE)
        os.rename(new, _FILE, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{where}/{path}/{_FILE}") from None
    finally:
        os.close(fd)
