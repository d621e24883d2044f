"""The power is cut at random moments: nothing named is incomplete, and the next run ends well.

`python -m tests.torture.powercuts` does it more often, and on ext4 with fs-verity; this is a slice of it, on an ext4 of
this machine, on a disk that records what is written to it, and when it is flushed.
"""

import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from composefs import fuse
from tests.kernel.lab.disks import RawDisk
from tests.namespaces import private_mounts
from tests.tools import require_root, require_tool
from tests.torture.powercuts.campaign import cut_power, judge_killed
from tests.torture.powercuts.cuts import Cut, Way, choose_cuts, last_flush, survivors
from tests.torture.powercuts.disklog import FLUSH, FUA, SECTOR, Entry, LogWriter, read_log
from tests.torture.powercuts.host import make_recording
from tests.torture.powercuts.judge import compare_names
from tests.torture.powercuts.recording import Recording, run_apart
from tests.torture.powercuts.replay import copy_sparse
from tests.torture.powercuts.steps import Step, make_sources, make_steps

_SEED = 7
_CUTS = 10
_NO_FLUSH = """
import composefs._native as native
flush, native.syncfs = native.syncfs, lambda fd: None
"""
_LATE_FLUSH = (
    _NO_FLUSH
    + """
import atexit, os, sys
atexit.register(lambda: flush(os.open(sys.argv[2], os.O_RDONLY)))
"""
)
# Somebody else calls fsync(2) just before: names that were made until now get to the disk, and contents do not.
_COMMIT_BEFORE_FLUSH = """
import os, sys
import composefs._native as native
flush = native.syncfs
def commit_and_flush(fd):
    with open(sys.argv[2] + "/../noise", "ab") as file:
        file.write(b"noise")
        file.flush()
        os.fsync(file.fileno())
    flush(fd)
native.syncfs = commit_and_flush
"""


@pytest.fixture(scope="module", autouse=True)
def mounts() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    with private_mounts():
        yield


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for a recording."""
    require_root("power cuts on loop devices")
    for program in ("cfsctl", "mkfs.ext4", "losetup"):
        require_tool(program)
    if (reason := fuse.is_available()) is not None:
        require = pytest.fail if os.environ.get("COMPOSEFS_REQUIRE_TOOLS") == "1" else pytest.skip
        require(reason)
    return tmp_path


def _record(place: Path, names: Sequence[str], prelude: str = "", **options: bool) -> tuple[Recording, list[Step]]:
    """Return a recording of those steps that are called one of *names*, of all if there is none, and these."""
    steps = [step for step in make_steps(make_sources(place / "sources", _SEED)) if not names or step.name in names]
    run = partial(run_apart, prelude=prelude)
    return make_recording(place, steps, _SEED, "noauto_da_alloc", run=run, **options), steps


def _at_each_flush(recording: Recording, number: int) -> list[Cut]:
    """Return cuts of a step that lose all that was not flushed: a commit of the journal flushes before and after."""
    span = recording.spans[number]
    flushes = [index + 1 for index in range(span.begin, span.end) if recording.entries[index].is_flush]
    return [Cut(index, number, position, Way.PREFIX, 0) for index, position in enumerate(flushes[1::2])]


def test_nothing_named_is_incomplete(place):
    """All steps, cut at random moments; the disk loses, or tears, what was not flushed."""
    recording, steps = _record(place, [])

    figures = cut_power(recording, steps, place / "cuts", choose_cuts(recording, steps, _CUTS, _SEED), "slice")

    assert figures.failures == []
    assert figures.cuts.total() == _CUTS


def test_what_is_half_written_has_no_name(place):
    recording, steps = _record(place, ["init", "import"], _COMMIT_BEFORE_FLUSH, disturb=False)

    figures = cut_power(recording, steps, place / "cuts", _at_each_flush(recording, 1), "half written")

    assert figures.failures == []
    assert figures.with_half_written > 0


def test_disk_of_a_killed_machine(place):
    """This one had just ended its last step."""
    recording, steps = _record(place, ["init", "import"])

    figures = judge_killed(recording, steps, place / "killed", [place / "disk"], "killed")

    assert figures.failures == []
    assert figures.cuts == {"import": 1}


@pytest.mark.parametrize("prelude", [_NO_FLUSH, _LATE_FLUSH], ids=["no flush", "names before the flush"])
def test_wrong_order_is_found(place, prelude):
    """The judges see what they are there for."""
    recording, steps = _record(place, ["init", "import"], prelude, disturb=False)

    figures = cut_power(recording, steps, place / "cuts", _at_each_flush(recording, 1), "wrong")

    assert any("what has a name cannot be read" in failure for failure in figures.failures)


# The parts


def test_disk_of_a_guest_is_flushed_and_recorded(tmp_path):
    """The other disks of guests take it easy: `cache=unsafe`."""
    disk = RawDisk("raw-power", tmp_path / "disk", tmp_path / "log")

    options = " ".join(disk.drive())

    assert "driver=blklogwrites,node-name=raw-power,file=raw-power-data,log=raw-power-log" in options
    assert "unsafe" not in options
    assert "unsafe" not in " ".join(RawDisk("raw-power", tmp_path / "disk").drive())
    assert (tmp_path / "log").exists()  # qemu makes none


def _entry(number: int, flags: int = 0, sectors: int = 8) -> Entry:
    return Entry(number * 4096, bytes([number]) * sectors * SECTOR, flags)


_ENTRIES = [_entry(1), Entry(0, b"", FLUSH), _entry(2), _entry(3, FUA), _entry(2)]


def test_log(tmp_path):
    with LogWriter(tmp_path / "log") as writer:
        for entry in _ENTRIES:
            writer.add(entry.offset, bytes(entry.data), entry.flags)

    assert list(read_log(tmp_path / "log")) == _ENTRIES


def test_other_files_are_no_logs(tmp_path):
    (tmp_path / "log").write_bytes(bytes(4096))

    with pytest.raises(ValueError, match="no log of writes"):
        list(read_log(tmp_path / "log"))


@pytest.mark.parametrize(("position", "certain"), [(0, 0), (1, 0), (2, 1), (5, 1)])
def test_only_what_came_before_a_flush_is_certain(position, certain):
    assert last_flush(_ENTRIES, position) == certain


def _survive(way: Way, seed: int) -> list[tuple[int, bytes]]:
    return [(offset, bytes(data)) for offset, data in survivors(_ENTRIES[2:], way, random.Random(seed))]


def test_all_survive_in_order():
    assert _survive(Way.PREFIX, 0) == [(entry.offset, entry.data) for entry in _ENTRIES[2:]]


def test_some_survive():
    """What is written through (FUA) always does, and what does comes in its order."""
    found = {tuple(offset // 4096 for offset, _ in _survive(Way.REORDERED, seed)) for seed in range(100)}

    assert found == {(3,), (2, 3), (3, 2), (2, 3, 2)}


def test_some_survive_in_part():
    found = [_survive(Way.TORN, seed) for seed in range(100)]

    assert all((3 * 4096, _entry(3).data) in survived for survived in found)
    assert {len(data) for survived in found for _, data in survived} == {SECTOR, 4096}


@pytest.mark.parametrize(
    ("found", "problems"),
    [({"kept": "a"}, 0), ({"kept": "a", "new": "b"}, 0), ({}, 1), ({"kept": "x"}, 1), ({"kept": "a", "other": "c"}, 1)],
    ids=["before", "after", "lost", "other", "from nowhere"],
)
def test_names_are_as_before_or_as_after(found, problems):
    assert len(compare_names(found, [{"kept": "a"}, {"kept": "a", "new": "b"}])) == problems


def test_holes_are_not_copied(tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(1 << 20)
        for offset in (8192, 900_000):
            os.pwrite(file.fileno(), b"data", offset)
    fd = os.open(source, os.O_RDONLY)

    copy_sparse(fd, tmp_path / "target")

    os.close(fd)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert (tmp_path / "target").stat().st_blocks * 512 <= 16384
