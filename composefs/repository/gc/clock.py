"""What time it is, by two clocks: the one that people set, and the one that nobody can.

What is kept for some days must not go early because a clock was wrong.  Wall clocks are: machines start in 1970, and
are set right, or wrong, later.  How long a machine has been running is certain, but begins anew with each start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from composefs.cpus import read_lines

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment.

    Attributes:
        wall: seconds since the epoch, as the machine has it.
        boot: which start of the machine it was; empty: not known.
        uptime: seconds since then, those in which it slept included.
    """

    wall: int
    boot: str
    uptime: int

    @classmethod
    def read(cls) -> Clock:
        """Return this moment."""
        boot = next(iter(read_lines(_BOOT_ID)), "")
        return cls(int(time.time()), boot, int(time.clock_gettime(time.CLOCK_BOOTTIME)))

    def seconds_since(self, earlier: Clock) -> int:
        """Return the least time that can have passed since *earlier*, in seconds; none if the clock was set back."""
        passed = self.wall - earlier.wall
        if self.boot and self.boot == earlier.boot:
            passed = min(passed, self.uptime - earlier.uptime)
        return max(passed, 0)
