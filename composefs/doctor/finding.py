"""What a check found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How it is with what was looked at."""

    OK = "ok"
    DEGRADED = "degraded"  # it works, but slower, or less safely, than it could
    MISSING = "missing"  # it is not there, or cannot be used
    UNKNOWN = "unknown"  # it could not be found out, mostly for want of privileges


class Job(Enum):
    """What a host is for."""

    IMPORT = "import"
    MOUNT = "mount"


BOTH = (Job.IMPORT, Job.MOUNT)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        id: `GROUP.NAME`; stays the same in later versions.
        title: for people.
        status: what it comes to.
        found: what is there.
        remedy: what to do, where there is something to do.
        needed_for: what cannot be done without it.
    """

    id: str
    title: str
    status: Status
    found: str
    remedy: str | None = None
    needed_for: tuple[Job, ...] = ()

    @property
    def prevents(self) -> tuple[Job, ...]:
        """What cannot be done as it is."""
        return self.needed_for if self.status is Status.MISSING else ()
