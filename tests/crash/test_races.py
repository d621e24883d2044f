"""Programs that use one repository at the same time: nobody loses, finds damage that is none, or waits for ever.

`python -m tests.torture.races` has more of the first test; the others put one thing exactly where it could hurt.
"""

import fcntl
import multiprocessing
import os
import shutil
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from composefs import Algorithm, Repository, import_image
from composefs.errors import BusyError, ComposefsError
from composefs.oci.fsck import check_images
from composefs.oci.tags import tag_image, untag_image
from composefs.repository.fsck import check, check_repository, entries
from composefs.repository.gc import collect_garbage
from tests import commands
from tests.damage import flip
from tests.layouts import files_layer, image_layout, noise
from tests.tools import require_tool
from tests.torture import races

SEED = 1
ALGORITHM = Algorithm.SHA256


@pytest.fixture(scope="module")
def shop():
    require_tool("cfsctl")
    with races.workshop(SEED) as made:
        yield made


@pytest.mark.parametrize("algorithm", Algorithm)
def test_eight_imports_and_all_else_at_once(shop, algorithm):
    """The repository is that of the same imports one after the other."""
    wanted = shop.one_after_the_other(algorithm)

    result = races.run_round(shop, algorithm, wanted, SEED)

    assert result.failures == []
    pulls = result.commands["composefs oci pull"] + result.commands["cfsctl oci pull"]
    assert pulls == 2 * races.IMPORTS


def test_a_race_that_somebody_loses_is_seen(shop, tmp_path):
    """The judge itself: another object, another name, a finding and a failure are seen."""
    path = shop.new_repository("lost", ALGORITHM)
    before = races.State.of(path)
    with Repository.open(path) as repository:
        untag_image(repository, "base")
        repository.objects.ensure(noise(1000))
        race = races.Race(shop, path, races.random.Random(0))
        race.do(races.Step("composefs", ("oci", "untag", "base")))
        race.do(races.Step("composefs", ("gc",)))
    (path / "streams/dangling").symlink_to("../objects/00/00")
    race.do(races.Step("composefs", ("fsck", "--json"), is_check=True))
    after = races.State.of(path)

    assert before.difference(before) == ""
    assert "streams/refs/oci/base" in before.difference(after)
    assert before.objects != after.objects
    untag, garbage, check = race.result.failures
    assert "no tag base" in untag
    assert " is in use by " in garbage
    assert "broken-symlink: streams/dangling" in check


@pytest.fixture
def layouts(tmp_path):
    """Return the references of two images that share a layer."""
    shared = files_layer({"usr/shared": noise(9000, 1)})
    for name in ("first", "second"):
        own = files_layer({f"usr/{name}": noise(70_000, len(name))}, "gzip")
        image_layout(tmp_path / name, [shared, own], name, author=name)
    return [f"oci:{tmp_path / name}:{name}" for name in ("first", "second")]


@pytest.fixture
def path(tmp_path, layouts):
    """Return the path of a repository that has the first image."""
    made = tmp_path / "repository"
    Repository.init(made, ALGORITHM, require_verity=False)
    import_into(made, layouts[0], "first")
    return made


def import_into(path, reference, name, **options):
    with Repository.open(path) as repository:
        return import_image(repository, reference, name=name, **({"workers": 1} | options))


@pytest.mark.parametrize("moment", ["list_objects", "check_entries", "check_stream", "check_refs", "check_image"])
def test_an_import_overtakes_a_check(path, layouts, monkeypatch, moment):
    """What is stored and named between two looks of a check is neither missing nor broken."""
    step, done = getattr(check, moment), []

    def overtaken(*args):
        if not done:
            done.append(moment)
            import_into(path, layouts[1], "second")
            with Repository.open(path) as other:
                other.images.set_ref("web/second", other.images.resolve(images(path)[-1]))
        found = step(*args)
        if len(done) == 1:
            done.append(moment)
            with Repository.open(path) as other:
                untag_image(other, "second")
                tag_image(other, "first", "third/of:them")
        return found

    monkeypatch.setattr(check, moment, overtaken)
    with Repository.open(path) as repository:
        report = check_repository(repository)
        ends = check_images(repository)

    assert done == [moment, moment]
    assert report.findings == []
    assert ends.findings == []


def images(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path / "images") if name != "refs")


@pytest.mark.parametrize("call", ["stat", "readlink"])
def test_a_tag_goes_while_a_check_looks_at_it(path, monkeypatch, call):
    """A reference that is taken away between two system calls is no broken one."""
    real, gone = getattr(os, call), []

    def late(where, **options):
        found = real(where, **options) if call == "readlink" else None
        if where == "streams/refs/oci/first" and not gone:
            gone.append(where)
            os.unlink(path / where)
        return found if call == "readlink" else real(where, **options)

    monkeypatch.setattr(entries.os, call, late)
    with Repository.open(path) as repository:
        report = check_repository(repository)

    assert gone
    assert report.findings == []


def test_a_broken_reference_is_still_found(path):
    """The second look does not hide what is wrong."""
    (path / "streams/refs/oci/nothing").symlink_to("../../oci-manifest-sha256:00")
    with Repository.open(path) as repository:
        (finding,) = check_repository(repository).findings

    assert str(finding) == "fsck: broken-symlink: streams/refs/oci/nothing"


@pytest.mark.parametrize("handles", [1, 4])
def test_threads_import_the_same_images(tmp_path, layouts, handles):
    """Several threads, by one handle or by their own, make what one makes."""
    wanted, got = tmp_path / "wanted", tmp_path / "got"
    for path in (wanted, got):
        Repository.init(path, ALGORITHM, require_verity=False)
    for name, reference in zip(("first", "second"), layouts, strict=True):
        import_into(wanted, reference, name)

    opened = [Repository.open(got) for _ in range(handles)]
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(
                import_image, opened[number % handles], layouts[number % 2], name=("first", "second")[number % 2]
            )
            for number in range(8)
        ]
        results = [future.result() for future in futures]
    for repository in opened:
        repository.close()

    assert len({result.verity for result in results}) == 2
    collect(got)
    assert races.State.of(wanted).difference(races.State.of(got)) == ""


def collect(path, **options):
    with Repository.open(path) as repository:
        return collect_garbage(repository, **options)


def test_garbage_is_not_collected_by_the_handle_that_imports(tmp_path, path, layouts):
    """What is stored and not yet named is safe, whoever holds which lock: at every event of an import."""
    refused = []
    with Repository.open(path) as repository:

        def collect_meanwhile(_event):
            with pytest.raises(BusyError):
                collect_garbage(repository)
            refused.append(True)

        import_image(repository, layouts[1], name="second", progress=collect_meanwhile)
        assert check_images(repository).ok
        assert collect_garbage(repository).objects_removed == 0
    assert len(refused) > 4


def test_two_threads_collect_by_one_handle(path):
    """One after the other has the exclusive lock; the second is not told that it has it, too."""
    inside, most = [], []
    with Repository.open(path) as repository, ThreadPoolExecutor(4) as pool:

        def hold(_number):
            with repository.exclusive(wait=None):
                inside.append(1)
                most.append(len(inside))
                commands.wait_until(lambda: False, 0.05)
                inside.pop()

        list(pool.map(hold, range(4)))
    assert most == [1, 1, 1, 1]


def test_an_import_begins_while_garbage_waits(path, layouts):
    """Who waits for the exclusive lock keeps nobody out, and has his turn when nobody is left."""
    first = Repository.open(path)
    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collect, path, wait=commands.TIMEOUT)
        import_into(path, layouts[1], "second")
        assert not collecting.done()
        first.close()
        assert collecting.result(commands.TIMEOUT).objects_removed == 0
    with Repository.open(path) as repository:
        assert check_images(repository).ok


def test_a_tag_waits_until_garbage_is_collected(path):
    """Nothing is named while it is decided what goes."""

    def tag():
        with Repository.open(path) as repository:
            tag_image(repository, "first", "moved")

    with Repository.open(path) as repository, repository.exclusive():
        tagging = threading.Thread(target=tag)
        tagging.start()
        tagging.join(0.3)
        assert tagging.is_alive()
        assert not (path / "streams/refs/oci/moved").is_symlink()
    repository.close()
    tagging.join(commands.TIMEOUT)
    assert (path / "streams/refs/oci/moved").is_symlink()


def _linger(_number: int) -> int:
    return os.getpid()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork(2) beside threads, which is what is tested
def test_children_of_the_program_keep_no_lock(path, layouts):
    """A pool of forked processes has inherited all that was open; what is closed is unlocked all the same."""
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    try:
        with Repository.open(path) as repository:
            with repository.naming():
                list(pool.map(_linger, range(2)))  # here they begin
            assert not is_locked(path / "objects")
            import_image(repository, layouts[1], name="second", executor=pool)
        assert collect(path).objects_removed == 0
    finally:
        pool.shutdown()


def test_a_child_that_closes_leaves_the_lock_to_its_parent(path):
    """Who has inherited a handle may close it."""
    with Repository.open(path) as repository:
        pid = os.fork()
        if pid == 0:
            repository.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(BusyError):
            collect(path)


@pytest.mark.parametrize("times", range(3))
def test_two_repairs_at_once(tmp_path, path, layouts, times):
    """Both mend the same objects, and a third looks meanwhile; nothing is lost, and nothing is left to mend."""
    backup = tmp_path / "backup"
    shutil.copytree(path, backup, symlinks=True)
    objects = sorted(path.glob("objects/*/*"))
    for number, each in enumerate(objects):
        if number % 3 == times:
            each.unlink()
        elif number % 3 == (times + 1) % 3:
            flip(each)

    def mend(number):
        source = (str(backup), layouts[0])[number % 2]
        return commands.run(directories[number], "composefs", "--repo", path, "fsck", "--repair-from", source)

    directories = [tmp_path / f"{number}" for number in range(2)]
    for directory in directories:
        directory.mkdir()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(mend, range(2)))

    # Each may have met what the other was about to mend, and tells; but then it is mended.
    assert not [each.stderr for each in done if "Traceback" in each.stderr]
    with Repository.open(path) as repository:
        assert check_repository(repository).findings == []
        assert check_images(repository).ok
    assert races.State.of(backup).difference(races.State.of(path)) == ""


def test_init_at_once(tmp_path):
    """One of many makes the repository; who wants another kind is refused, never given what he did not want."""
    path = tmp_path / "above/repository"

    def init(number):
        try:
            return Repository.init(path, list(Algorithm)[number % 2], require_verity=False)
        except ComposefsError:
            with Repository.open(path) as repository:
                return repository.algorithm is not list(Algorithm)[number % 2] or "refused without need"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(init, range(16)))

    with Repository.open(path) as repository:
        wins = [number for number in range(16) if list(Algorithm)[number % 2] is repository.algorithm]
    assert sorted(results[number] for number in wins) == [False] * 7 + [True]
    assert [results[number] for number in range(16) if number not in wins] == [True] * 8
    assert os.listdir(path) == ["meta.json"]


def test_a_transaction_of_cfsctl(path):
    """It holds the lock as we do: nothing is collected meanwhile, and its name is told."""
    program = require_tool("cfsctl")
    with subprocess.Popen([program, "--repo", path, "transaction"]) as transaction:
        try:
            assert commands.wait_until(lambda: is_locked(path))
            with pytest.raises(BusyError, match="cfsctl"):
                collect(path)
        finally:
            transaction.kill()
    collect(path)


def is_locked(path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
