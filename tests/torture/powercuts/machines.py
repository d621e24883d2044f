"""Power cuts in guests of the kernel lab, whose ext4 has fs-verity, and whose qemu records all writes.

Some guests are killed while they work, and their disks judged by another one.  What such a guest had given to qemu is
in the host's cache (`cache=writeback`) or on the host's disk (`cache=none`), and the host goes on; so nothing is lost
but what the guest had in its own memory.  It is a cut in order, of which neither a log nor a replay of ours tells.
"""

import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from composefs.cpus import available_cpus
from tests.kernel.lab.disks import RawDisk
from tests.kernel.lab.guest import Guest
from tests.kernel.lab.jobs import guest_job
from tests.kernel.lab.suite import MAIN_SERIES
from tests.kernel.lab.tools import ensure_kernel, ensure_tools

from .campaign import Figures
from .host import OPTIONS
from .inside import BEGINS, RAW
from .recording import make_disk
from .steps import Sources, make_steps

CUTS = 40  # of one guest
_TIMEOUT = 3600  # seconds; a few minutes where nothing else runs
_COMMAND = 3.0  # seconds that one takes in a guest, about


def run_in_guests(count: int, kills: int, seed: int) -> Figures:
    """Let guests work and be judged, each with mount options and a seed of its own.

    Args:
        count: of cuts, all in all.
        kills: guests to kill beside.
        seed: decides what is done, and when.
    """
    figures = Figures()
    with ThreadPoolExecutor(available_cpus()) as pool:  # a guest has one processor
        futures = []
        for number in range(max(-(-count // CUTS), kills > 0)):
            options = OPTIONS[(number + 1) % len(OPTIONS)]
            cuts = max(0, min(CUTS, count - number * CUTS))
            futures.append(pool.submit(_run_in_guest, cuts, kills if number == 0 else 0, seed + number, options))
        for future in futures:
            figures += future.result()
    return figures


def _run_in_guest(count: int, kills: int, seed: int, options: str) -> Figures:
    with tempfile.TemporaryDirectory(prefix="power-") as work:
        place = Path(work)
        base, disk, log = place / "base", place / "disk", place / "log"
        make_disk(base, verity=True)
        killed = [_kill(place / f"killed-{number}", base, seed, number, options) for number in range(kills)]
        shutil.copy(base, disk)
        command = ["--base", base, "--log", log, "--count", count, "--killed", *killed]
        with _guest(place, RawDisk(RAW, disk, log), seed, options, *map(str, command)) as guest:
            if guest.wait(sys.stderr.buffer, _TIMEOUT) != 0:
                raise RuntimeError("the guest has failed")
            guest.extract_results(place)
        return Figures.from_json(json.loads((place / "figures").read_text()))


def _kill(place: Path, base: Path, seed: int, number: int, options: str) -> Path:
    """Let a guest work in the new directory *place*, kill it at some moment, and return its disk."""
    place.mkdir()
    disk = place / "disk"
    shutil.copy(base, disk)
    chance = random.Random(f"{seed} {number}")
    with _guest(place, RawDisk(RAW, disk, direct=number % 2 == 0), seed, options) as guest:
        commands = sum(len(step.commands) for step in make_steps(Sources("", "", Path(), ())))
        _wait_for_commands(guest, chance.randint(1, commands))
        time.sleep(chance.uniform(0, _COMMAND))
        guest.kill()
    return disk


def _wait_for_commands(guest: Guest, count: int) -> None:
    """Return when a guest has begun so many commands."""
    qemu = guest.processes[-1]
    assert qemu.stdout is not None
    timer = threading.Timer(_TIMEOUT, qemu.kill)
    timer.start()
    try:
        while count > 0:
            line = qemu.stdout.readline()
            if not line:
                raise RuntimeError(f"the guest has failed; its kernel said last:\n{guest.log_end()}")
            if line.startswith(BEGINS.encode()):
                count -= 1
    finally:
        timer.cancel()


@contextmanager
def _guest(place: Path, disk: RawDisk, seed: int, options: str, *arguments: str) -> Iterator[Guest]:
    kernel = ensure_kernel(MAIN_SERIES)
    command = [sys.executable, "-m", f"{__package__}.inside", "--seed", str(seed), "--options", options, *arguments]
    job = guest_job(command, kernel, Path(sys.prefix), shown=[place])
    with Guest(ensure_tools(), kernel, job, [disk], place) as guest:
        guest.start()
        yield guest
