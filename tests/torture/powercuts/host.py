"""Power cuts on this machine, whose kernel may have no fs-verity: much faster than in a guest, but only for root."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.namespaces import private_mounts

from .campaign import Figures, cut_power
from .cuts import choose_cuts
from .fuse_disk import recorded
from .recording import Recording, Runner, make_disk, record
from .steps import Step, make_sources, make_steps

CUTS = 50  # of one recording
BASE, LOG = "base", "log"  # names of its files
# What ext4 leaves to chance: when metadata are written, and how much of the contents is by then.
OPTIONS = ("defaults", "commit=1,noauto_da_alloc", "data=writeback,noauto_da_alloc", "nodelalloc")
_MEMORY = Path("/dev/shm")  # so that flushing takes no time


def run_on_host(count: int, seed: int, keep: Path) -> Figures:
    """Make recordings, each with steps, mount options and a seed of its own, and cut the power *count* times.

    No two recordings are the same, whatever the seed; so those in which something was wrong get into the directory
    *keep*, for `cut_again`.
    """
    figures = Figures()
    for number in range(-(-count // CUTS)):
        # In the copy of another's namespace a file system would stay mounted.
        with (
            private_mounts(),
            tempfile.TemporaryDirectory(prefix="power-", dir=_MEMORY if _MEMORY.is_dir() else None) as work,
        ):
            place, own_seed = Path(work), seed + number
            steps = make_steps(make_sources(place / "sources", own_seed))
            options = OPTIONS[number % len(OPTIONS)]
            recording = make_recording(place, steps, own_seed, options, disturb=number % 4 != 3)
            label = f"seed {own_seed}, {options}"
            cuts = choose_cuts(recording, steps, min(CUTS, count - number * CUTS), own_seed)
            found = cut_power(recording, steps, place / "cuts", cuts, label)
            if found.failures:
                kept = keep / f"seed-{own_seed}"
                kept.mkdir(parents=True, exist_ok=True)
                for name in (BASE, LOG):
                    shutil.copy(place / name, kept)
            figures += found
    return figures


def cut_again(kept: Path, seed: int, number: int) -> Figures:
    """Judge one cut of the recording in the directory *kept* again."""
    with private_mounts(), tempfile.TemporaryDirectory(prefix="power-") as work:
        place = Path(work)
        recording, steps = Recording.load(kept / BASE, kept / LOG), make_steps(make_sources(place / "sources", seed))
        cuts = [cut for cut in choose_cuts(recording, steps, number + 1, seed) if cut.number == number]
        return cut_power(recording, steps, place / "cuts", cuts, f"seed {seed}")


def make_recording(
    directory: Path,
    steps: Sequence[Step],
    seed: int,
    options: str,
    *,
    disturb: bool = True,
    run: Runner | None = None,
) -> Recording:
    """Record *steps* on a disk in *directory*; the rest is as `record` has it."""
    base, disk, log = directory / BASE, directory / "disk", directory / LOG
    for name in ("fuse", "mounted"):
        (directory / name).mkdir()
    make_disk(base, verity=False)
    shutil.copy(base, disk)
    with recorded(disk, log, directory / "fuse") as device:
        record(device, directory / "mounted", options, steps, seed, disturb=disturb, run=run)
    return Recording.load(base, log)
