"""The path that was asked about: what stands there, and which directory can be looked at."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum

from composefs.doctor.finding import BOTH, Finding, Job, Status
from composefs.repository import Repository


class State(Enum):
    """What stands at a path."""

    REPOSITORY = "a repository"
    DIRECTORY = "a directory without a repository"
    ABSENT = "nothing there yet"
    OTHER = "no directory that can be used"
    CLOSED = "cannot be looked at"


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at *path*.

    Attributes:
        path: that was asked about.
        state: what is there.
        detail: why it cannot be looked at, or what it is instead of a directory.
        directory: the path itself, or the nearest directory above it.
    """

    path: str
    state: State
    detail: str
    directory: str


def find_place(path: str) -> Place:
    """Return what stands at *path*."""
    try:
        found = os.stat(path)
    except OSError as error:
        return Place(path, *_explain(path, error), _nearest(path))
    if not stat.S_ISDIR(found.st_mode):
        detail = "a file" if stat.S_ISREG(found.st_mode) else "a special file"
        return Place(path, State.OTHER, detail, _nearest(path))
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        detail = f"it belongs to uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}; this is uid {os.geteuid()}"
        return Place(path, State.CLOSED, detail, path)
    return Place(path, State.REPOSITORY if Repository.exists(path) else State.DIRECTORY, "", path)


def judge_place(place: Place) -> Finding:
    """Return what *place* means."""
    remedy: str | None = None
    needed_for: tuple[Job, ...] = BOTH
    match place.state:
        case State.REPOSITORY:
            status = Status.OK
        case State.DIRECTORY | State.ABSENT:
            remedy = "composefs init makes one, and so does the first import"
            status, needed_for = Status.MISSING, ()
        case State.OTHER:
            status, remedy = Status.MISSING, "choose a directory, with --repo"
        case State.CLOSED:
            remedy = "run it as the owner, or as root, or choose another directory with --repo"
            status = Status.MISSING
    found = f"{place.path}: {place.state.value}" + (f": {place.detail}" if place.detail else "")
    return Finding("repository.path", "repository", status, found, remedy, needed_for)


def _explain(path: str, error: OSError) -> tuple[State, str]:
    """Return what *error*, of stat(2), means."""
    if isinstance(error, NotADirectoryError):
        return State.OTHER, "a part of the path is a file"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return State.OTHER, "a symbolic link that leads nowhere"
    if isinstance(error, FileNotFoundError):
        return State.ABSENT, ""
    return State.CLOSED if isinstance(error, PermissionError) else State.OTHER, error.strerror or str(error)


def _nearest(path: str) -> str:
    """Return the nearest directory above *path* that this process can see."""
    directory = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory
