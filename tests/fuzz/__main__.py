"""Fuzz the parsers: those in Python, and those in C under the sanitizers.

python -m tests.fuzz --count 1000000              N inputs over all targets in Python, and N of each in C
python -m tests.fuzz --target tar --seed 7        one target (or several)
python -m tests.fuzz --target tar --file FILE     one input again, in this process
python -m tests.fuzz --list                       what there is

With atheris the inputs follow what they reach of the package (`guided`); without it, or if so wanted, they are
functions of the seed and a number (`seeded`).  A line of figures for each target; status 1 if anything was found, and
then the input is saved.  Inputs that reach something new are kept in `.cache/fuzz/corpus`, and the next run begins with
them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tests.fuzz import native, registry, runs
from tests.fuzz.runs import Figures


def main(arguments: list[str] | None = None) -> int:
    """Run, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="inputs (20000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which series of inputs (1)")
    parser.add_argument("--target", action="append", choices=(*registry.NAMES, *native.NAMES), help="only this one")
    parser.add_argument("--engine", choices=("guided", "seeded"), help="of the targets in Python; by what is installed")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    parser.add_argument("--findings", type=Path, default=Path("findings"), metavar="DIR", help="where to save inputs")
    parser.add_argument("--cache", type=Path, default=Path(".cache/fuzz"), metavar="DIR", help="what to begin with")
    parser.add_argument("--file", type=Path, help="an input for the one target")
    parser.add_argument("--list", action="store_true", help="the targets")
    options = parser.parse_args(arguments)
    names = options.target or [*registry.NAMES, *native.NAMES]
    if options.list:
        print("\n".join(names))
        return 0
    if options.file is not None:
        return _again(names, options.file)
    if options.engine is None:
        options.engine = "guided" if importlib.util.find_spec("atheris") else "seeded"
    return _run(names, options)


def _again(names: list[str], file: Path) -> int:
    (name,) = names
    if name in native.NAMES:
        return native.again(name, file)
    print("taken" if registry.load(name).run(file.read_bytes()) else "refused")
    return 0


def _run(names: list[str], options: argparse.Namespace) -> int:
    begin = time.monotonic()
    python = [name for name in names if name in registry.NAMES]
    shares = {name: registry.load(name).share for name in python}
    tasks = []
    for name in names:
        count = (
            options.count if name in native.NAMES else round(options.count * shares[name] / sum(shares.values())) or 1
        )
        run = native.run if name in native.NAMES else runs.run
        tasks.append(partial(run, name, count, options))
    if len(python) != len(names):
        native.build()
    found: list[Figures] = []
    with ThreadPoolExecutor(options.workers) as pool:
        for future in as_completed([pool.submit(task) for task in tasks]):
            found.append(future.result())
            print(found[-1], flush=True)
    inputs, failures = sum(each.inputs for each in found), sum(each.failures for each in found)
    seconds = time.monotonic() - begin
    print(f"all         {inputs:>9,} inputs of series {options.seed}, {failures} failures; {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
