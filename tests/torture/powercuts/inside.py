"""What a guest of the kernel lab does: on ext4 with fs-verity, and with a disk that qemu records."""

import argparse
import json
import sys
import time
from pathlib import Path

from composefs.oci import checkpoints

from .campaign import cut_power, judge_killed
from .cuts import choose_cuts
from .recording import CHECKPOINT_INTERVAL, Recording, record, run_here
from .steps import Command, make_sources, make_steps

RAW = "raw-power"  # the disk's name
BEGINS = "begins:"  # before each command, on a line of its own
_SCRATCH = Path("/tmp/power")
_RESULTS = Path("/lab/results")


def main() -> int:
    """Work; where there is a log, judge cuts of that, and disks of machines that were killed, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--options", required=True, help="of the mount")
    parser.add_argument("--base", type=Path, help="the disk as it was")
    parser.add_argument("--log", type=Path, help="its writes")
    parser.add_argument("--count", type=int, default=0, help="of cuts")
    parser.add_argument("--killed", type=Path, nargs="*", default=[], help="disks")
    arguments = parser.parse_args()
    steps = make_steps(make_sources(_SCRATCH / "sources", arguments.seed))
    mountpoint = _SCRATCH / "mounted"
    mountpoint.mkdir()
    begin = time.monotonic()
    disturb = arguments.log is not None
    record(Path("/dev", RAW), mountpoint, arguments.options, steps, arguments.seed, disturb=disturb, run=_run)
    sys.stderr.write(f"recorded in {time.monotonic() - begin:.0f} s\n")
    if arguments.log is None:
        return 0
    recording = Recording.load(arguments.base, arguments.log)
    label = f"guest, seed {arguments.seed}, {arguments.options}"
    cuts = choose_cuts(recording, steps, arguments.count, arguments.seed)
    figures = cut_power(recording, steps, _SCRATCH / "cuts", cuts, label)
    figures += judge_killed(recording, steps, _SCRATCH / "killed", arguments.killed, f"{label}, killed")
    (_RESULTS / "figures").write_text(json.dumps(figures.as_json()))
    sys.stderr.write(f"done after {time.monotonic() - begin:.0f} s\n")
    return 0


def _run(repository: Path, command: Command) -> int:
    """Run *command* in this process: here a new Python takes seconds to start."""
    checkpoints._INTERVAL = CHECKPOINT_INTERVAL
    sys.stderr.write(f"{BEGINS} {' '.join(command.arguments)}\n")
    return run_here(repository, command.arguments)[0]


if __name__ == "__main__":
    sys.exit(main())
