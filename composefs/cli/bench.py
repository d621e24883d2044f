"""`composefs bench [DIR]`: how fast this machine does the parts of an import, and what bounds one here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composefs.cli import options
from composefs.errors import UsageError

if TYPE_CHECKING:
    from composefs.benchmark.suite import Results
    from composefs.benchmark.workload import Workload

DESCRIPTION = """\
Time what an import is made of: hash kernels, decompression, the creation of
files in a directory. Then estimate what an import takes here, and say what
bounds it. All files are made below a new directory in DIR, and removed."""

EXAMPLES = """\
examples:
  composefs bench
  composefs --repo /var/lib/repo bench --image oci:/srv/fedora:42
  composefs bench /mnt --quick --layers 1 --compression zstd
  composefs bench --json | jq .estimate"""

_COMPRESSIONS = ("gzip", "zstd", "none")
_SECONDS_MIN, _SECONDS_MAX = 1, 600


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="where to create files (default: the repository, or the temporary directory if there is none)",
    )
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--seconds", type=_seconds, metavar="N", help="how long to measure, about (default: 6)")
    time.add_argument("--quick", action="store_true", help="two seconds, a quarter of the files")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    image = parser.add_argument_group(
        "the image of the estimate", "by default 4.56 GB in 20 layers, compressed by gzip"
    )
    image.add_argument("--image", metavar="REF", help="this one: oci:PATH[:TAG], or the path of an OCI layout")
    image.add_argument("--layers", type=options.positive, metavar="N", help="how many layers")
    image.add_argument("--size", type=_gigabytes, metavar="GB", help="of the archives of all layers")
    image.add_argument("--compression", choices=_COMPRESSIONS, help="of the layers")
    image.add_argument(
        "--entries", type=options.positive, metavar="N", help="how many (default: as usual for the size)"
    )
    image.add_argument(
        "--objects", type=options.positive, metavar="N", help="how many files to store (default: likewise)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print what was found."""
    from composefs.benchmark import suite
    from composefs.benchmark.estimate import recommend
    from composefs.cli import bench_output

    workload = _workload(arguments)  # a wrong reference is said before all else
    algorithm = options.algorithm(arguments)
    plan = suite.QUICK if arguments.quick else suite.Plan(arguments.seconds or suite.Plan.seconds)
    with _status() as say:
        results: Results = suite.run(_directory(arguments), algorithm, plan, say)
    estimate = recommend(workload, results.speeds(algorithm), results.cpus.usable)
    if arguments.json:
        bench_output.print_json(results, workload, estimate)
    else:
        bench_output.print_tables(results)
        bench_output.print_estimate(results, workload, estimate, algorithm)
    return 0


def _directory(arguments: argparse.Namespace) -> str:
    """Return where files are created: where told, in the repository, or if there is none, where temporary files are."""
    import tempfile

    if arguments.directory is not None:
        if not arguments.directory:
            raise UsageError("DIR is empty")
        return str(arguments.directory)
    if arguments.repo is not None:
        return options.repository_path(arguments)
    try:
        path = options.repository_path(arguments)
    except UsageError:  # no home directory
        return tempfile.gettempdir()
    return path if os.path.isdir(path) else tempfile.gettempdir()


def _workload(arguments: argparse.Namespace) -> Workload:
    from dataclasses import replace

    from composefs.benchmark import workload
    from composefs.oci.manifest import Compression
    from composefs.oci.sizes import ARCHIVE_SIZE

    chosen = [name for name in ("layers", "size", "compression") if getattr(arguments, name) is not None]
    if arguments.image is None:
        names = {"none": Compression.NONE, "gzip": Compression.GZIP, "zstd": Compression.ZSTD}
        found = workload.typical_image(
            layers=arguments.layers or workload.LAYERS,
            archive_size=arguments.size or ARCHIVE_SIZE,
            compression=names[arguments.compression or "gzip"],
        )
    elif chosen:
        raise UsageError(f"--{chosen[0]} is not for an --image, which has its own")
    else:
        from composefs.cli.access import host_access
        from composefs.oci.sources.opening import open_source

        with open_source(arguments.image, host_access()) as source:
            found = workload.given_image(source, source.image())
    return replace(found, entries=arguments.entries or found.entries, objects=arguments.objects or found.objects)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {_SECONDS_MIN} to {_SECONDS_MAX}")
    return seconds


def _gigabytes(text: str) -> int:
    """Return the bytes that *text*, gigabytes, are."""
    try:
        size = round(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in gigabytes")
    return size


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Yield what shows, on a terminal only, what is being done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        yield lambda text: print(f"\r\x1b[K{text} …", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
