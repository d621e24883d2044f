"""Read broken EROFS images: whatever the bytes, only `FormatError` may come out, soon, and without much memory.

python -m tests.fuzz.erofs --count 200000 --seed 1          both cores; a line with figures; status 1 for findings
python -m tests.fuzz.erofs --seed 1 --replay 4711           one image again, in this process
python -m tests.fuzz.erofs --file findings/1-4711.img       the same from its file
"""

# ruff: noqa: T201  # this one is a program

import argparse
import os
import random
import resource
import signal
import stat
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from composefs.dialect import Dialect
from composefs.dumpfile import format_dump
from composefs.erofs import ondisk
from composefs.erofs.check import check_structure, collect_objects
from composefs.erofs.load import load_tree
from composefs.erofs.reader import ErofsReader
from composefs.errors import FormatError
from composefs.tree import Directory, Inline, Symlink, walk
from tests.fuzz import mutate

SECONDS_MAX = 5  # of the CPU, for one image: what else runs does not count
MEMORY_MAX = 512 << 20  # bytes of address space of a process that reads many
_BATCH = 500  # images


class TooSlowError(Exception):
    """One image took more than SECONDS_MAX."""


class Finding(NamedTuple):
    """An image that did something else than be read or refused."""

    number: int
    source: str  # what it was before it was broken
    what: str


def check(image, chance):
    """Read all that can be read of *image*, and return whether a tree came out; raise whatever must not happen."""
    with _watchdog():
        tree = _attempt(load_tree, image)
        _attempt(lambda data: load_tree(data, dialect=Dialect.C), image)
        _attempt(lambda data: check_structure(ErofsReader(data)), image)
        _attempt(lambda data: collect_objects(ErofsReader(data)), image)
        if (reader := _attempt(ErofsReader, image)) is not None:
            _check_inodes(reader, chance)
        if tree is not None:
            _check_tree(tree, image)
    return tree is not None


@contextmanager
def _watchdog():
    def stop(number, frame):
        raise TooSlowError(f"more than {SECONDS_MAX} s")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def _attempt(read, image):
    """Return what *read* returns; None if it refuses the image."""
    try:
        return read(image)
    except FormatError as error:
        if error.offset < 0 or not str(error):
            raise AssertionError(f"this error names no place: {error!r}") from error
        return None


def _check_inodes(reader, chance):
    """Ask for everything of inodes one by one, as commands do; what is refused here is passed over."""
    pending, seen, room = [reader.root], {reader.root.nid}, 4 * reader.size
    while pending and room > 0:
        inode = pending.pop(chance.randrange(len(pending)))
        # The reader bounds single calls, and who makes many has to stop by himself.
        room -= _attempt(reader.occupied, inode) or reader.size
        for read in (reader.node_stat, reader.xattrs, reader.content):
            _attempt(read, inode)
        if inode.type == stat.S_IFDIR:
            for entry in _check_directory(reader, inode, chance):
                if entry.nid not in seen:
                    seen.add(entry.nid)
                    pending += filter(None, [_attempt(reader.inode, entry.nid)])


def _check_directory(reader, inode, chance):
    """Return the entries of a directory; names in it are found, and others are not."""
    entries = _attempt(reader.entries, inode) or []
    names = {}
    for entry in entries:
        names.setdefault(entry.name, entry.nid)
    for name in chance.sample(sorted(names), min(8, len(names))):
        found = reader.lookup(inode, name)
        assert found in {entry.nid for entry in entries if entry.name == name}
        other = name + bytes([chance.randrange(1, 256)])
        if other not in names:
            assert _attempt(lambda other: reader.lookup(inode, other), other) is None
    return entries


def _check_tree(tree, image):
    """Check that *tree* is one, is no larger than *image*, and can be written down."""
    count = 0
    sizes = {}
    for _, node in walk(tree):
        count += 1
        if isinstance(node, Directory):
            assert not any(not name or name in (b".", b"..") or b"/" in name or b"\0" in name for name in node.entries)
        elif isinstance(node.content, Inline):
            sizes[id(node.content)] = len(node.content.data)
        elif isinstance(node.content, Symlink):
            sizes[id(node.content)] = len(node.content.target)
    assert count <= len(image) // ondisk.DIRENT.size
    assert sum(sizes.values()) <= len(image)
    for line in format_dump(tree):
        assert line.endswith(b"\n")


def run(seed, numbers):
    """Check the images *numbers* of the series *seed*; return how many gave a tree, and findings."""
    trees, findings = 0, []
    for number in numbers:
        image, source = mutate.mutated(seed, number)
        try:
            trees += check(image, random.Random(number))
        except Exception:
            findings.append(Finding(number, source, traceback.format_exc()))
    return trees, findings


def _limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    mutate.seeds()


def _run_batch(seed, numbers):
    trees, findings = run(seed, numbers)
    return trees, findings, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _run_all(seed, count, workers):
    """Yield the results of all batches."""
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_limit_memory) as pool:
        batches = {
            pool.submit(_run_batch, seed, range(start, min(start + _BATCH, count))): start
            for start in range(0, count, _BATCH)
        }
        for done in as_completed(batches):
            try:
                yield done.result()
            except BrokenProcessPool:
                start = batches[done]
                yield 0, [Finding(start, "?", f"a process died, maybe at one of the images {start} and following")], 0


def main(arguments=None):
    """Run, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000, metavar="N", help="images (10000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which series of images (1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (one a core)")
    parser.add_argument("--findings", type=Path, default=Path("findings"), metavar="DIR", help="where to save them")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one image of the series again")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the image in a file")
    options = parser.parse_args(arguments)
    if options.file is not None:
        print("read" if check(options.file.read_bytes(), random.Random(0)) else "refused")
        return 0
    if options.replay is not None:
        image, source = mutate.mutated(options.seed, options.replay)
        print(source, "read" if check(image, random.Random(options.replay)) else "refused")
        return 0
    return _report(options)


def _report(options):
    begin = time.monotonic()
    trees = peak = count = 0
    for batch_trees, findings, memory in _run_all(options.seed, options.count, options.workers):
        trees, peak = trees + batch_trees, max(peak, memory)
        for finding in findings:
            count += 1
            options.findings.mkdir(exist_ok=True)
            path = options.findings / f"{options.seed}-{finding.number}.img"
            path.write_bytes(mutate.mutated(options.seed, finding.number)[0])
            print(f"{path}, was {finding.source}\n{finding.what}", file=sys.stderr)
    seconds = time.monotonic() - begin
    rate = options.count / seconds
    print(
        f"{options.count} images of series {options.seed}: {trees} read, {options.count - trees} refused,"
        f" {count} findings; {seconds:.0f} s, {rate:.0f} a second, {peak / 1024:.0f} MB at most"
    )
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
