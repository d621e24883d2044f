"""The trash: what is collected can be had back, for as long as was promised, whatever happens on the way."""

import contextlib
import errno
import json
import os
import shutil
from dataclasses import replace

import pytest

from composefs import NotFoundError, Repository, RepositoryError, UsageError, _native
from composefs._native import sweep
from composefs.digest import object_path
from composefs.repository.fsck import check_repository
from composefs.repository.gc import collect_garbage, trash, undo_collection
from composefs.repository.gc import objects as gc_objects
from composefs.repository.gc.clock import Clock
from composefs.repository.gc.report import as_date
from composefs.repository.gc.trash import State
from composefs.verity import compute_digest
from tests.garbage import Maker, contents, objects_in

DAY = 86_400


pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def maker(tmp_path):
    """A repository with something that is kept, and a stream, an image and an object that are not."""
    maker = Maker(tmp_path / "repository")
    maker.stream("kept", [maker.object(b"kept" * 100)])
    maker.ref("streams/refs/r", "kept")
    maker.stream("dead", [maker.object(b"dead" * 100)])
    maker.image([maker.object(b"inside" * 100)])
    return maker


@pytest.fixture
def clock(monkeypatch):
    """The clock, to be set."""

    class Settable:
        now = Clock(2_000_000_000, "boot", 1000)

        def set(self, **fields):
            self.now = replace(self.now, **fields)

        def go(self, seconds):
            self.set(wall=self.now.wall + seconds, uptime=self.now.uptime + seconds)

    settable = Settable()
    monkeypatch.setattr(Clock, "read", classmethod(lambda cls: settable.now))
    return settable


def collect(maker, days=7, **options):
    with Repository.open(maker.path) as repository:
        return collect_garbage(repository, trash_days=days, **options)


def undo(maker, **options):
    with Repository.open(maker.path) as repository:
        return undo_collection(repository, **options)


def batches(maker):
    fd = os.open(maker.path, os.O_RDONLY)
    try:
        return trash.find_batches(fd, str(maker.path))[0]
    finally:
        os.close(fd)


def test_there_and_back(maker, clock):
    """All that goes comes back, objects and names, and nothing is left in the trash."""
    before = contents(maker.path)

    report = collect(maker)

    assert (report.objects_removed, report.images_pruned, report.streams_pruned) == (4, 1, 1)
    assert (report.batch, report.expires) == ("000001", clock.now.wall + 7 * DAY)
    assert len(objects_in(maker.path)) == 2
    restored = undo(maker)
    assert restored.objects_restored == 4
    assert len(restored.names_restored) == 2
    assert (restored.names_taken, restored.names_lost) == ([], [])
    assert contents(maker.path) == before
    assert "trash" not in os.listdir(maker.path)
    with pytest.raises(NotFoundError, match="nothing in trash/"):
        undo(maker)


def test_a_dry_run_changes_nothing(maker, clock):
    """It tells what would go."""
    before = contents(maker.path)

    report = collect(maker, dry_run=True)

    assert (report.objects_removed, report.batch, report.trash_days) == (4, None, 7)
    assert contents(maker.path) == before
    assert "trash" not in os.listdir(maker.path)


def test_nothing_to_collect_makes_no_batch(maker, clock):
    """An empty batch would only push the last one out of reach of --undo."""
    collect(maker)

    assert collect(maker).batch is None
    assert [batch.name for batch in batches(maker)] == ["000001"]


def test_batches_come_back_last_first(maker, clock):
    """Each undo brings back one batch; they are counted, so that a clock set back makes no difference."""
    collect(maker)
    clock.set(wall=1000)
    maker.object(b"later" * 100)
    assert collect(maker).batch == "000002"

    assert undo(maker).batch == "000002"
    assert undo(maker).batch == "000001"


def test_what_is_stored_again_stays(maker, clock):
    """An object that was imported again is not touched; a name that leads elsewhere by now stays so, and is told."""
    collect(maker)
    raw = maker.object(b"dead" * 100)
    inode = os.stat(maker.path / "objects" / object_path(raw)).st_ino
    other = maker.stream("dead", text=b"other")

    restored = undo(maker)

    assert os.stat(maker.path / "objects" / object_path(raw)).st_ino == inode
    assert restored.names_taken == ["streams/dead"]
    assert os.readlink(maker.path / "streams/dead") == f"../objects/{object_path(other)}"
    assert "trash" not in os.listdir(maker.path)


def test_something_else_in_the_place_of_a_name(maker, clock):
    """It is not overwritten either."""
    collect(maker)
    (maker.path / "streams/dead").mkdir()

    assert undo(maker).names_taken == ["streams/dead"]
    assert (maker.path / "streams/dead").is_dir()


def test_a_name_whose_object_is_gone_is_not_brought_back(maker, clock):
    """No name may lead nowhere."""
    collect(maker)
    for path in (maker.path / "trash/000001/objects").glob("??/*"):
        path.unlink()

    restored = undo(maker)

    assert (restored.objects_restored, restored.names_restored) == (0, [])
    assert len(restored.names_lost) == 2
    assert not (maker.path / "streams/dead").is_symlink()


@pytest.mark.parametrize("left", [b"", bytes(400), None])
def test_what_is_stored_again_and_broken_is_replaced(maker, clock, left):
    """A power cut may leave an object half written, which nothing has a name for: the good one is not lost to it."""
    collect(maker)
    place = maker.path / "objects" / compute_digest(b"dead" * 100, maker.algorithm).object_path
    place.parent.mkdir(exist_ok=True)
    if left is None:
        place.symlink_to("nowhere")
    else:
        place.write_bytes(left)

    restored = undo(maker)

    assert (restored.objects_restored, restored.names_lost) == (4, [])
    with Repository.open(maker.path) as repository:
        assert check_repository(repository).ok


def test_what_is_broken_in_the_trash_replaces_nothing(maker, clock):
    """Of two that are broken, the one that is there stays."""
    raw = maker.object(b"dead" * 100)
    collect(maker)
    maker.object(b"dead" * 100)
    for directory in ("objects", "trash/000001/objects"):
        (maker.path / directory / object_path(raw)).write_text(directory)

    assert undo(maker).objects_restored == 3

    assert (maker.path / "objects" / object_path(raw)).read_text() == "objects"


def test_a_name_that_needs_what_is_gone_is_not_brought_back(tmp_path, clock):
    """What it shared with what was kept may be deleted later; what refers to it is not brought back either."""
    maker = Maker(tmp_path / "repository")
    shared = maker.object(b"shared" * 100)
    layer = maker.stream("layer", [shared])
    config = maker.stream("oci-config-a", named={"layer": layer})
    maker.stream("oci-manifest-a", named={"config:a": config})
    image = maker.image([shared])
    maker.stream("whole", [maker.object(b"other" * 100)])
    maker.stream("kept", [shared])
    maker.ref("streams/refs/r", "kept")
    collect(maker)
    (maker.path / "streams/refs/r").unlink()
    collect(maker, days=None)

    restored = undo(maker)

    assert restored.names_restored == ["streams/whole"]
    lost = [f"images/{image.hex()}", "streams/layer", "streams/oci-config-a", "streams/oci-manifest-a"]
    assert sorted(restored.names_lost) == lost
    with Repository.open(maker.path) as repository:
        assert check_repository(repository).ok


def test_expiry(maker, clock):
    """A batch is deleted by the first run after its time, with or without a trash of its own, and not before."""
    collect(maker)
    clock.go(7 * DAY - 1)
    assert collect(maker, days=None).expired == []
    assert undo(maker).objects_restored == 4
    collect(maker)
    clock.go(7 * DAY)
    maker.object(b"later" * 100)

    assert collect(maker, dry_run=True).expired == ["000001"]
    report = collect(maker)

    assert (report.expired, report.expired_objects, report.batch) == (["000001"], 4, "000002")
    assert report.expired_bytes > 1000
    assert os.listdir(maker.path / "trash") == ["000002"]


@pytest.mark.parametrize(
    ("change", "expired"),
    [
        ({"wall": 2_000_000_000 + 100 * DAY}, False),  # set forward, while the machine runs
        ({"wall": 2_000_000_000 + 100 * DAY, "uptime": 1000 + 7 * DAY}, True),
        ({"wall": 2_000_000_000 - 100 * DAY, "uptime": 1000 + 100 * DAY}, False),  # set back
        ({"wall": 2_000_000_000 + 7 * DAY, "boot": "another", "uptime": 10}, True),
        ({"wall": 10, "boot": "another", "uptime": 10}, False),  # without a clock that goes while it is off
        ({"wall": 2_000_000_000 + 7 * DAY, "boot": "", "uptime": 10}, True),
    ],
)
def test_wrong_clocks(maker, clock, change, expired):
    """While a machine runs, what is set makes no batch go early; and nothing ever does if a clock is set back."""
    collect(maker)
    clock.set(**change)

    report = collect(maker, days=None)

    assert report.expired == (["000001"] if expired else [])
    assert report.from_future == (["000001"] if clock.now.wall < 2_000_000_000 - DAY else [])


def test_a_clock_that_is_behind(maker, clock):
    """A machine that believes it is 1970 has objects that are newer; a batch is not older than what is in it."""
    clock.set(wall=1000)
    newest = max(path.lstat().st_ctime for path in maker.path.glob("objects/??/*"))

    report = collect(maker)

    assert report.expires == int(newest) + 7 * DAY
    clock.set(wall=int(newest) + 6 * DAY, boot="another")
    assert collect(maker, days=None).expired == []


def test_the_real_clock():
    """Time passes by both clocks."""
    first, second = Clock.read(), Clock.read()

    assert first.boot == second.boot != ""
    assert 0 <= second.seconds_since(first) < 60
    assert Clock(10, "a", 5).seconds_since(Clock(20, "b", 1)) == 0


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_days(maker, days):
    """A batch must live for a while, and not for ever."""
    with pytest.raises(UsageError, match=f"not for {days}"):
        collect(maker, days=days)


class Stopped(BaseException):
    """The program ends here."""


def stop_at(monkeypatch, count):
    """Let the program end at the *count*-th step that changes something: a rename, a flush, a directory of objects."""
    left = [count]

    def step(function):
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return function(*arguments, **options)

        return wrapped

    monkeypatch.setattr(os, "rename", step(os.rename))
    monkeypatch.setattr(os, "mkdir", step(os.mkdir))
    monkeypatch.setattr(_native, "syncfs", step(lambda _: None))  # nobody cuts the power here
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(_native, "make_directory", step(_native.make_directory))
    real = sweep.Sweeper.sweep
    moved = step(real)

    def sweep_one(self, digests, marks):
        return real(self, digests, marks) if self._action is sweep.SweepAction.WEIGH else moved(self, digests, marks)

    monkeypatch.setattr(sweep.Sweeper, "sweep", sweep_one)
    return left


def check_names(maker):
    """No name leads nowhere."""
    for directory in ("streams", "images"):
        for path in (maker.path / directory).iterdir():
            assert path.name == "refs" or path.exists(), path


def collect_in_part(maker, monkeypatch, count):
    """Collect, and end at the *count*-th step; return whether it was not reached."""
    with monkeypatch.context() as patch:
        left = stop_at(patch, count)
        with contextlib.suppress(Stopped):
            collect(maker, workers=1)
    check_names(maker)
    return left[0] >= 0


@pytest.mark.parametrize("again", [False, True])
def test_stopped_while_filling(maker, clock, monkeypatch, again):
    """Wherever it is stopped, no name leads nowhere; another run goes on, in the same batch, and all comes back."""
    before = contents(maker.path)
    for count in range(100):
        is_whole = collect_in_part(maker, monkeypatch, count)
        if again:
            clock.go(6 * DAY)
            report = collect(maker)
            assert report.expired == []
            assert [(batch.name, batch.state) for batch in batches(maker)] == [("000001", State.KEPT)]
            # What was moved now is kept as long as was said now.
            assert batches(maker)[0].created == clock.now or report.batch is None
        if batches(maker):
            undo(maker)
        assert contents(maker.path) == before
        check_names(maker)
        if is_whole:
            break
    assert 10 < count < 99


def test_stopped_while_filling_and_then_deleted(maker, clock, monkeypatch, tmp_path):
    """A run without trash deletes what has not been moved; what has been comes back, but for names without objects."""
    for count in range(100):
        copy = Maker.__new__(Maker)
        copy.path = tmp_path / f"copy{count}"
        shutil.copytree(maker.path, copy.path, symlinks=True)
        is_whole = collect_in_part(copy, monkeypatch, count)
        collect(copy, days=None)
        assert len(objects_in(copy.path)) == 2
        assert all(batch.state is State.KEPT for batch in batches(copy))
        if batches(copy):
            restored = undo(copy)
            assert len(objects_in(copy.path)) == 2 + restored.objects_restored
        check_names(copy)
        if is_whole:
            break
    assert 10 < count < 99


def test_stopped_while_returning(maker, clock, monkeypatch):
    """Wherever it is stopped, no name leads nowhere, nothing is collected meanwhile, and another run goes on."""
    before = contents(maker.path)
    for count in range(100):
        collect(maker)
        with monkeypatch.context() as patch:
            left = stop_at(patch, count)
            with contextlib.suppress(Stopped):
                undo(maker, workers=1)
        check_names(maker)
        if left[0] >= 0:
            break
        if batches(maker):
            if batches(maker)[0].state is State.RETURNING:
                with pytest.raises(RepositoryError, match="`composefs gc --undo` goes on with that"):
                    collect(maker)
            undo(maker)
        assert contents(maker.path) == before
    assert 10 < count < 99


@pytest.mark.parametrize("place", ["images", "objects", "a directory of objects", "batch.json"])
def test_a_full_disk(maker, clock, monkeypatch, place):
    """If there is no room for what the trash needs, nothing has moved, and nothing is left of it to take room."""
    before = contents(maker.path)
    real, real_open = _native.make_directory, os.open

    def fail(dir_fd, name, *mode):
        if name == place or (len(name) == 2 and place == "a directory of objects"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(dir_fd, name, *mode)

    def fail_to_open(path, flags, *mode, **options):
        if place == "batch.json" and str(path).endswith(place) and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, *mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_native, "make_directory", fail)
        patch.setattr(os, "open", fail_to_open)
        with pytest.raises(OSError, match="No space left"):
            collect(maker)
    assert contents(maker.path) == before
    assert "trash" not in os.listdir(maker.path)


def test_the_disk_gets_full_on_the_way(maker, clock, monkeypatch):
    """What was moved is in the trash, and comes back; or a run without trash makes room."""
    before = contents(maker.path)
    real = gc_objects.ObjectSet.sweep

    def fail(self, action, target_fd=-1):
        if action is sweep.SweepAction.MOVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "objects/ab")
        return real(self, action, target_fd)

    with monkeypatch.context() as patch:
        patch.setattr(gc_objects.ObjectSet, "sweep", fail)
        with pytest.raises(OSError, match="No space left"):
            collect(maker)
    assert not (maker.path / "streams/dead").is_symlink()
    assert len(objects_in(maker.path)) == 6
    assert undo(maker).objects_restored == 0
    assert contents(maker.path) == before


def test_objects_on_another_file_system(maker, clock, monkeypatch):
    """They cannot be moved into the trash, which is found before anything is."""
    before = contents(maker.path)
    monkeypatch.setattr(gc_objects.ObjectSet, "device", property(lambda _: 0))

    with pytest.raises(RepositoryError, match="objects: is on another file system than trash/"):
        collect(maker)

    assert contents(maker.path) == before
    assert collect(maker, days=None).objects_removed == 4


@pytest.mark.parametrize("seconds", [2_000_000_000, 10**18])
def test_dates(seconds):
    """A time beyond all calendars is a number."""
    assert as_date(seconds) == ("2033-05-18T03:33:20Z" if seconds < 10**18 else f"@{seconds}")


def test_what_is_no_batch_is_left_alone(maker, clock):
    """What stands in the trash and does not say what it is stays, and is told; it has its number."""
    (maker.path / "trash/000007").mkdir(parents=True)
    (maker.path / "trash/note").touch()
    (maker.path / "trash/000009").symlink_to("000007")
    (maker.path / "trash/000008").mkdir()
    (maker.path / "trash/000008/batch.json").write_text('{"state": "kept", "created": {}, "days": 1}')

    report = collect(maker)

    assert report.strays == [f"trash/{name}" for name in ("000007", "000008", "000009", "note")]
    assert report.batch == "000010"
    undo(maker)
    assert sorted(os.listdir(maker.path / "trash")) == ["000007", "000008", "000009", "note"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 10_000,
        '{"state": "kept"}',
        '{"state": "x", "created": {"wall": 1, "boot": "", "uptime": 1}, "days": 1}',
        '{"state": [], "created": {"wall": 1, "boot": "", "uptime": 1}, "days": 1}',
        '{"state": "kept", "created": {"wall": 1e400, "boot": "", "uptime": 1}, "days": 1}',
        '{"state": "kept", "created": {"wall": 1, "boot": "", "uptime": Infinity}, "days": 1}',
        '{"state": "kept", "created": {"wall": true, "boot": "", "uptime": 1}, "days": 1}',
        '{"state": "kept", "created": {"wall": 1, "boot": null, "uptime": 1}, "days": 1}',
        '{"state": "kept", "created": {"wall": 1, "boot": "", "uptime": 1}, "days": 0}',
        '{"state": "kept", "created": {"wall": -1, "boot": "", "uptime": 1}, "days": 1}',
        '{"state": "kept", "created": {"wall": 250000000001, "boot": "", "uptime": 1}, "days": 1}',
    ],
)
def test_a_broken_batch_never_expires(maker, clock, text):
    """Nothing is deleted for what a broken file says."""
    collect(maker)
    (maker.path / "trash/000001/batch.json").write_text(text)
    clock.go(1000 * DAY)

    report = collect(maker, days=None)

    assert (report.strays, report.expired) == (["trash/000001"], [])
    assert len(list((maker.path / "trash/000001/objects").glob("??/*"))) == 4


def test_a_linked_trash_is_not_followed(maker, tmp_path):
    """Nothing is moved out of the repository."""
    (tmp_path / "elsewhere").mkdir()
    maker.link("trash", "../elsewhere")

    with pytest.raises(RepositoryError, match="links are not followed"):
        collect(maker)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_unfinished_batches_are_cleared(maker, clock):
    """What was being made or deleted when a program ended is deleted by the next run, and never brought back."""
    for name in (".new-000004", ".old-000003"):
        (maker.path / f"trash/{name}/objects/ab").mkdir(parents=True)

    assert collect(maker).batch == "000001"
    assert os.listdir(maker.path / "trash") == ["000001"]


def test_the_file_of_a_batch(maker, clock):
    """It says all that is known about it."""
    collect(maker)

    assert json.loads((maker.path / "trash/000001/batch.json").read_text()) == {
        "state": "kept",
        "created": {"wall": clock.now.wall, "boot": "boot", "uptime": 1000},
        "days": 7,
    }
