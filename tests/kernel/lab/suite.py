"""The tests of tests/kernel on several kernels, each in a guest of its own, side by side."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .disks import make_disks
from .errors import LabError
from .guest import Guest, Job
from .jobs import CHECKOUT, guest_job
from .kernels import Kernel
from .report import explain, parse_report, summarise
from .tools import ensure_kernel, ensure_tools
from .wheel import ensure_environment

MAIN_SERIES = "6.12"  # it runs all tests, the others those marked every_kernel
MAIN_GUESTS = 2  # which share them, so that two processors are done at the same time
TIMEOUT = 1200  # seconds, for all tests of a guest; two busy processors take a third of it
_TEST_TIMEOUT = 240  # seconds until a test that hangs shows where
_OUTPUT_LINES = 20  # of the tests of a guest that died


@dataclass(frozen=True, slots=True)
class Part:
    """The tests that one guest runs: all that are meant for *kernel*, or one in *count* of them."""

    kernel: Kernel
    number: int = 0  # of *count*
    count: int = 1

    @property
    def name(self) -> str:
        """How it is named among results."""
        return self.kernel.series if self.count == 1 else f"{self.kernel.series}-{self.number + 1}"

    def __str__(self) -> str:
        of = f" ({self.number + 1} of {self.count})" if self.count > 1 else ""
        return f"{self.kernel.release}{of}"


def run_suite(series: Sequence[str], results: Path, arguments: Sequence[str]) -> bool:
    """Run the tests on a kernel of each of *series*, and tell how they went; return whether all passed.

    Args:
        series: of kernels.
        results: a directory for what guests leave, each in one of its own: report.xml, output.txt, serial.log, and
            data of coverage.
        arguments: for pytest; all tests unless told.

    Raises:
        UnavailableError: the lab cannot be had on this machine.
        LabError: the package cannot be built.
    """
    tools, parts = ensure_tools(), divide([ensure_kernel(each) for each in series], whole=bool(arguments))
    environment = ensure_environment(CHECKOUT)
    with ThreadPoolExecutor(len(parts)) as pool, ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-")))
        root = work / "root"
        root.mkdir()
        (root / "tests").symlink_to(CHECKOUT / "tests")  # not the whole checkout, which has the package too
        _print(f"testing on {', '.join(map(str, parts))}; what they say is in {results}/*/output.txt")
        futures = {}
        for part in parts:
            place = work / part.name
            place.mkdir()
            job = _job(part, environment, root, arguments)
            # Leaving the stack, even by an exception, ends the guest.
            guest = stack.enter_context(Guest(tools, part.kernel, job, make_disks(place), place))
            target = _fresh(results / part.name)
            futures[pool.submit(run, guest, target)] = (part, target)
        passed = [tell(*futures[future], future.result) for future in as_completed(futures)]
        return all(passed)


def divide(kernels: Sequence[Kernel], *, whole: bool) -> list[Part]:
    """Return what is to run on *kernels*; *whole* leaves the tests of each in one guest."""
    parts = []
    for kernel in kernels:
        count = MAIN_GUESTS if kernel.series == MAIN_SERIES and not whole else 1
        parts += [Part(kernel, number, count) for number in range(count)]
    return parts


def _job(part: Part, environment: Path, root: Path, arguments: Sequence[str]) -> Job:
    """Return the job that runs *part* of the tests of *root* with coverage, with the package of *environment*."""
    configuration = CHECKOUT / "pyproject.toml"
    coverage: list[str | Path] = [environment / "bin/python", "-m", "coverage", "run", f"--rcfile={configuration}"]
    pytest = ["-m", "pytest", f"--config-file={configuration}", "--rootdir=.", "--override-ini=pythonpath="]
    telling = ["--verbose", "--tb=short", f"--override-ini=faulthandler_timeout={_TEST_TIMEOUT}"]
    report = ["--junit-xml=/lab/results/report.xml"]
    marked = [] if part.kernel.series == MAIN_SERIES else ["-m", "every_kernel"]
    return guest_job(
        [*coverage, *pytest, *telling, *report, *marked, *(arguments or ["tests/kernel"])],
        part.kernel,
        environment,
        directory=root,
        variables={
            "PYTHONPATH": str(root),
            "COVERAGE_FILE": f"/lab/results/.coverage.kernel-{part.name}",
            "COMPOSEFS_LAB_PACKAGE": str(environment),
            "COMPOSEFS_LAB_PART": f"{part.number}/{part.count}",
            "COMPOSEFS_REQUIRE_TOOLS": os.environ.get("COMPOSEFS_REQUIRE_TOOLS", ""),
        },
        shown=[root],
    )


def run(guest: Guest, target: Path) -> float:
    """Run *guest*, keep what it leaves in the directory *target*, and return the seconds it took."""
    begin = time.monotonic()
    guest.start()
    try:
        with (target / "output.txt").open("wb") as output:
            guest.wait(output, TIMEOUT)
    finally:
        shutil.copy(guest.log, target / "serial.log")
    guest.extract_results(target)
    return time.monotonic() - begin


def tell(part: Part, target: Path, result: Callable[[], float]) -> bool:
    """Print how *part* of the tests went; return whether all passed.

    Args:
        part: which it was.
        target: what the guest has left.
        result: gives the seconds it took, or raises what kept it from its end.
    """
    try:
        seconds = result()
        outcomes = parse_report((target / "report.xml").read_bytes())
        status = int((target / "status").read_text())
    except (LabError, FileNotFoundError) as error:
        output = (target / "output.txt").read_text(errors="replace").splitlines()[-_OUTPUT_LINES:]
        _print(f"{part}: {error}", "the tests said last:", *output)
        return False
    _print(f"{part}: {summarise(outcomes)} in {seconds:.0f} s", *explain(outcomes))
    return status == 0


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
