"""Cut the power while a repository is worked on, and judge what is left.

Cuts are made on this machine, which only root can, and in guests of the kernel lab, on ext4 with fs-verity.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.kernel.lab.errors import UnavailableError

from .campaign import Figures
from .host import cut_again, run_on_host
from .machines import run_in_guests
from .recording import CHECKOUT


def main(argv: Sequence[str] | None = None) -> int:
    """Do it, print a line of figures, and return the exit status: 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="powercuts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, metavar="N", help="cuts on this machine (300)")
    parser.add_argument("--guest-count", type=int, metavar="N", help="cuts in guests (as many)")
    parser.add_argument("--kills", type=int, default=4, metavar="N", help="guests that are killed (4)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which series of them (1)")
    parser.add_argument(
        "--keep", type=Path, default=CHECKOUT / ".cache/powercuts", metavar="DIR", help="for recordings with failures"
    )
    parser.add_argument("--recording", type=Path, metavar="DIR", help="with --replay: of such a recording")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one cut again; --seed is that of the recording")
    arguments = parser.parse_args(argv)
    begin, figures = time.monotonic(), Figures()
    if arguments.recording is not None:
        figures += cut_again(arguments.recording, arguments.seed, arguments.replay)
    else:
        figures += _on_host(arguments)
        figures += _in_guests(arguments)
    for failure in figures.failures:
        sys.stderr.write(f"FAILED {failure}\n")
    if figures.failures:
        sys.stderr.write(f"again: --recording {arguments.keep}/seed-SEED --seed SEED --replay CUT\n")
    sys.stdout.write(f"seed {arguments.seed}: {figures}; {time.monotonic() - begin:.0f} s\n")
    return 1 if figures.failures else 0


def _on_host(arguments: argparse.Namespace) -> Figures:
    if arguments.count and os.geteuid() != 0:
        sys.stderr.write("skipped: power cuts on this machine, for which one must be root\n")
        return Figures()
    return run_on_host(arguments.count, arguments.seed, arguments.keep)


def _in_guests(arguments: argparse.Namespace) -> Figures:
    try:
        count = arguments.count if arguments.guest_count is None else arguments.guest_count
        return run_in_guests(count, arguments.kills, arguments.seed)
    except UnavailableError as error:
        if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1":
            raise
        sys.stderr.write(f"skipped: power cuts in guests: {error}\n")
        return Figures()


if __name__ == "__main__":
    sys.exit(main())
