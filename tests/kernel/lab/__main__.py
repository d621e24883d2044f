"""Boot Debian kernels under emulation, and run tests or any command in them, as root and without being root.

A guest takes some five seconds to boot. It sees the host's files read-only at their places, this checkout and its
virtual environment too, and has /tmp, /run and /mnt in memory. Empty disks are mounted at /disks/ext4 (fs-verity is
enabled), /disks/btrfs and /disks/xfs. The command starts in the checkout, with cfsctl and mkcomposefs in PATH; its
output comes while it runs, and its exit status is passed on. Inside, everything is ten to thirty times slower. Example:

    python -m tests.kernel.lab run --kernel 6.1 -- python -m pytest tests/kernel/test_lab.py

`test` runs tests/kernel on every kernel, with the package installed from its wheel, as `make kernel` does.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .disks import make_disks
from .errors import LabError, UnavailableError
from .guest import Guest
from .jobs import CHECKOUT, guest_job
from .kernels import SERIES
from .suite import MAIN_SERIES, run_suite
from .tools import ensure_kernel, ensure_tools


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that guests end before
    try:
        return int(arguments.run(arguments))
    except LabError as error:
        required = arguments.run is _run or os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1"
        if isinstance(error, UnavailableError) and not required:
            sys.stderr.write(f"skipped: the kernel lab: {error}\n")
            return 0
        sys.stderr.write(f"lab: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    known = f"{', '.join(SERIES)} or another series that Debian has"

    run = commands.add_parser("run", help="run a command in a guest")
    run.add_argument("--kernel", default=MAIN_SERIES, metavar="SERIES", help=f"{known}; {MAIN_SERIES} unless told")
    run.add_argument("--smp", type=int, default=1, metavar="N", help="processors; 1 unless told")
    run.add_argument("--memory", type=int, default=2048, metavar="MIB", help="2048 unless told")
    run.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds; 600 unless told")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    run.set_defaults(run=_run)

    test = commands.add_parser("test", help="run the tests in a guest of each kernel")
    test.add_argument("--kernel", action="append", metavar="SERIES", help=f"{known}; the first three unless told")
    test.add_argument(
        "--results", type=Path, default=CHECKOUT / ".cache/kernel", metavar="DIR", help="for what they leave"
    )
    test.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="for pytest; tests/kernel unless told")
    test.set_defaults(run=_test)
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    tools, kernel = ensure_tools(), ensure_kernel(arguments.kernel)
    job = guest_job(arguments.command, kernel, Path(sys.prefix))
    with tempfile.TemporaryDirectory(prefix="lab-") as work:
        place = Path(work)
        with Guest(tools, kernel, job, make_disks(place), place, arguments.smp, arguments.memory) as guest:
            guest.start()
            return guest.wait(sys.stdout.buffer, arguments.timeout)


def _test(arguments: argparse.Namespace) -> int:
    passed = run_suite(arguments.kernel or SERIES, arguments.results, arguments.arguments)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
