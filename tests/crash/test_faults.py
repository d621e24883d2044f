"""Operations that are given faults by the system: a slice of `tests.torture.faults`, and faults at chosen calls."""

import errno
import itertools
import resource
from dataclasses import replace

import pytest

from composefs import Repository
from tests import commands
from tests.layouts import files_layer, image_layout, noise
from tests.torture import faults
from tests.torture.faults import KINDS, Torture
from tests.torture.judge import state_of
from tests.torture.operations import OPERATIONS, workshop
from tests.torture.stops import cfsctl_path
from tests.torture.syscalls import MUTATING, OPENS, SYNCS, Fault

COUNT = 12  # faults; `make torture` has more
_QUIET = [faults.quiet(operation) for operation in OPERATIONS.values()]


@pytest.fixture(scope="module")
def torture():
    with workshop() as shop:
        yield Torture(shop, cfsctl_path())


@pytest.mark.parametrize("number", range(COUNT))
def test_fault(torture, number):
    """Whatever call has whatever fault: one line or none, nothing half done, and the next run completes."""
    moment = torture.random_moment(_QUIET, list(KINDS.values()), 7, number)

    assert moment is None or torture.give(moment) == []


@pytest.mark.parametrize("name", ["import", "checkpoints", "create-image", "copy"])
def test_failed_flush(torture, name):
    """A flush that fails ends the command, no name was there before, and none comes after it."""
    operation = faults.quiet(OPERATIONS[name])
    shop = torture.shop
    with shop.copy(operation.start) as repository:
        before = {path for path in state_of(repository) if not path.startswith("objects")}
        outcome = shop.run(operation, repository, at=1, action=Fault(errno.EIO), calls=frozenset(["syncfs"]))

        assert (outcome.status, len(outcome.calls)) == (1, 1)
        assert outcome.stderr.count("\n") == 1
        assert f"{repository}/objects: Input/output error" in outcome.stderr
        assert {path for path in state_of(repository) if not path.startswith("objects")} == before
        assert shop.run_here(operation, repository)[0] == 0


@pytest.mark.parametrize("name", ["tag", "untag", "init"])
def test_all_is_flushed(torture, name):
    """The last change that a command makes in a repository is on disk when it ends: every one has a flush behind it."""
    operation = faults.quiet(OPERATIONS[name])
    shop = torture.shop
    with shop.copy(operation.start) as repository:
        calls = shop.run(operation, repository, calls=MUTATING).calls
        ours = [call for call in calls if call.what.startswith(str(repository))]

    assert ours[-1].name in SYNCS, [str(call) for call in ours[-3:]]


@pytest.mark.parametrize("limit", [6, 12, 18, 24])
def test_few_descriptors(tmp_path, limit):
    """With few file descriptors an import ends in one line, or well; of what Python says beside that we are not master.

    The process that starts workers prints a traceback where it has too few itself.
    """
    layout = image_layout(tmp_path / "layout", [files_layer({f"usr/{seed}": noise(3000, seed)}) for seed in range(3)])
    arguments = [layout, "--repo", tmp_path / "repository", "--workers", "2", "--progress", "none"]
    Repository.init(tmp_path / "repository", require_verity=False)

    def set_limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    result = commands.run(tmp_path, "composefs-import", *arguments, preexec_fn=set_limit)

    assert result.returncode in (0, 1), result.stderr
    ours = [line for line in result.stderr.splitlines() if line.startswith("composefs-import: ")]
    assert len(ours) == result.returncode, result.stderr
    assert "composefs/" not in result.stderr


@pytest.mark.parametrize("name", ["import", "import-mends", "create-image"])
def test_order(torture, name):
    """Objects, one flush, names, their directories, the reference, its directory: none before what it needs."""
    operation = faults.quiet(OPERATIONS[name])
    with torture.shop.copy(operation.start) as repository:
        calls = torture.shop.run(operation, repository, calls=MUTATING).calls
        ours = [replace(call, what=call.what.removeprefix(f"{repository}/")) for call in calls]

    steps = [step for call in ours if (step := _step(call))]
    assert [step for step, _ in itertools.groupby(steps)] == [
        "object", "flush", "name", "directory", "reference", "directory of references",
    ]  # fmt: skip


def _step(call):
    """Return what a call is for; None: it makes a directory, and syncs the one above that."""
    where = call.what.split("/")
    if call.name == "syncfs":
        return "flush"
    if where[0] == "objects":
        return "object" if call.name != "fsync" else None
    if call.name in ("symlinkat", "renameat") and where[0] in ("images", "streams"):
        return "reference" if where[1] == "refs" else "name"
    if call.name == "fsync" and where[0] in ("images", "streams"):
        if len(where) == 1:
            return "directory"
        return "directory of references" if len(where) > 2 else None
    return None


@pytest.mark.parametrize("name", ["gc-undo", "create-image"])
def test_interrupted_opens(torture, name):
    """Opening files may be interrupted, by C as by Python, and is done again."""
    operation = faults.quiet(OPERATIONS[name])
    numbers = torture.numbers(operation, OPENS)
    for number in numbers[:: len(numbers) // 3]:
        moment = faults.Moment(operation, KINDS["EINTR"], OPENS, number, f"--call {number}")
        assert torture.give(moment) == []


@pytest.mark.parametrize("name", ["lseek", "pread64"])
def test_sound_things_stay(torture, name):
    """What could not be read once, while what is broken is set aside, is not taken for broken: it stays where it is."""
    operation, calls = OPERATIONS["quarantine"], frozenset([name])
    numbers = torture.numbers(operation, calls)
    for number in numbers[-1 :: -max(1, len(numbers) // 6)]:
        moment = faults.Moment(operation, KINDS["EIO"], calls, number, f"--call {number}")
        assert torture.give(moment) == []
