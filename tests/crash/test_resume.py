"""An import that is cut short is not begun again: layers that are finished are kept, whole, and nothing else is."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, Digest, IntegrityError, Repository, _native
from composefs.oci import checkpoints, progress
from composefs.oci.checkpoints import Checkpoints
from composefs.oci.copy import copy_image
from composefs.oci.names import layer_name
from tests import commands, layouts
from tests.golden import vectors
from tests.layouts import files_layer, image_layout, noise, slow_layer

SMALL = [files_layer({f"usr/file{seed}": noise(3000, seed)}, "gzip") for seed in range(3)]
BAD = layouts.layer(layouts.tar({"usr/": b""}), "gzip", diff_id=layouts.sha256(b"another"))
SOON = 4.0  # seconds, where one is promised, and machines are busy


@pytest.fixture
def often(monkeypatch):
    """As many checkpoints as there can be."""
    monkeypatch.setattr(checkpoints, "_INTERVAL", 0.001)


@pytest.fixture
def events(repository, monkeypatch):
    """What is done with the repository, as it happens."""
    happened = []
    link, sync = repository.streams.link, repository.sync
    monkeypatch.setattr(repository.streams, "link", lambda name, digest: (happened.append(name), link(name, digest))[1])
    monkeypatch.setattr(repository, "sync", lambda: (happened.append("sync"), sync())[1])
    return happened


def streams(repository):
    return dict(repository.streams.names())


def check_kept(path, kept, other=()):
    """Of the repository *path*, the layers *kept* have names, whole, and perhaps some *others*; nothing else has."""
    with Repository.open(path) as repository:
        found = streams(repository)
        assert {layer_name(layer.diff_id) for layer in kept} <= set(found)
        assert set(found) <= {layer_name(layer.diff_id) for layer in (*kept, *other)}
        for name in found:
            with repository.streams.open(name) as stream:
                assert layer_name(layouts.sha256(b"".join(map(bytes, stream.merged())))) == name
        assert not os.path.exists(f"{path}/streams/refs")
        assert not os.path.exists(f"{path}/images")


def check_resumes(path, layout, kept, tmp_path):
    """Another import of *layout* reads none of the layers *kept*, and makes what an undisturbed one makes."""
    Repository.init(tmp_path / "undisturbed", Algorithm.SHA256, require_verity=False)
    with Repository.open(path) as repository, Repository.open(tmp_path / "undisturbed") as undisturbed:
        for layer in kept:
            layout.blob_path(layer.digest).rename(tmp_path / "blob")
        again = composefs.import_image(repository, str(layout), name="os", workers=1)
        for layer in kept:
            (tmp_path / "blob").rename(layout.blob_path(layer.digest))
        composefs.import_image(undisturbed, str(layout), name="os", workers=1)
    present = [summary.diff_id for summary in again.layers if summary.status == "present"]
    assert present == [layer.diff_id for layer in kept]
    assert vectors.listing(path) == vectors.listing(tmp_path / "undisturbed")


def test_short_import(repository, tmp_path, events):
    """An import that takes no time makes no checkpoint: one flush, then the names."""
    layout = image_layout(tmp_path / "layout", SMALL)

    composefs.import_image(repository, str(layout), workers=2)

    assert events.count("sync") == 1
    assert events[0] == "sync"


def test_checkpoints(repository, tmp_path, often, events):
    """A layer gets its name while others are worked on, after a flush; and the repository is the same in the end."""
    layout = image_layout(tmp_path / "layout", SMALL)
    seen = []

    def listener(event):
        if isinstance(event, progress.LayerDone):
            name = layer_name(event.diff_id)
            assert commands.wait_until(lambda: name in streams(repository))
            seen.append(name)

    composefs.import_image(repository, str(layout), name="os", workers=1, progress=listener)

    assert seen == [layer_name(layer.diff_id) for layer in SMALL]
    assert events[:6] == [word for name in seen for word in ("sync", name)]
    Repository.init(tmp_path / "plain", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "plain") as plain:
        composefs.import_image(plain, str(layout), name="os", workers=1)
    assert vectors.listing(tmp_path / "repository") == vectors.listing(tmp_path / "plain")


def test_what_comes_during_a_flush_waits_for_the_next(repository, often, events, monkeypatch):
    """A layer that is stored while the file system is flushed is named after the next flush only."""
    first, second = (repository.images.store(noise(100, seed)) for seed in range(2))
    flushed = threading.Event()

    def sync():
        events.append("sync")
        if not flushed.is_set():
            kept.add("second", second)
            flushed.set()

    monkeypatch.setattr(repository, "sync", sync)
    with Checkpoints(repository) as kept:
        kept.add("first", first)
        assert commands.wait_until(lambda: len(streams(repository)) == 2)

    assert events == ["sync", layer_name("first"), "sync", layer_name("second")]


@pytest.mark.parametrize("workers", [1, 2])
def test_failure(repository, tmp_path, workers):
    """A layer that is wrong ends the import and gets no name; those that were finished do, and are not read again."""
    layout = image_layout(tmp_path / "layout", [*SMALL[:1], BAD])

    with pytest.raises(IntegrityError, match="diff_id: wanted"):
        composefs.import_image(repository, str(layout), workers=workers)

    kept = SMALL[:1] if workers == 1 else []  # the larger one came first
    check_kept(tmp_path / "repository", kept, SMALL[:1])


def test_failure_later(repository, tmp_path):
    """What fails after all layers are finished, such as their merge, costs none of them."""
    layers = [layouts.layer(layouts.tar({name: b""})) for name in ("etc/", "var/")]
    layout = image_layout(tmp_path / "layout", layers)

    with pytest.raises(composefs.NotFoundError, match="/usr does not exist"):
        composefs.import_image(repository, str(layout), workers=1)

    check_kept(tmp_path / "repository", layers)


def test_copy(repository, tmp_path):
    """A copy that is cut short keeps what is finished, too."""
    layout = image_layout(tmp_path / "layout", SMALL)
    composefs.import_image(repository, str(layout), name="os", workers=1)
    lost = repository.streams.find(layer_name(SMALL[2].diff_id))  # all are of one size, so this comes last
    with repository.streams.open_object(lost, "lost") as stream:
        content = stream.reader.object_refs[0]
    (tmp_path / "repository/objects" / content.object_path).write_bytes(b"")
    Repository.init(tmp_path / "target", Algorithm.SHA256, require_verity=False)

    with Repository.open(tmp_path / "target") as target:
        with pytest.raises(IntegrityError):
            copy_image(repository, target, "os", name="os", workers=1)
        finished = len(streams(target))

    assert finished == 2
    check_kept(tmp_path / "target", SMALL[:2])


@pytest.mark.parametrize("at", ["checkpoint", "end"])
def test_failed_flush(repository, tmp_path, monkeypatch, at):
    """When a flush fails nothing gets a name, not even after another one that succeeds: that would prove nothing."""
    layout = image_layout(tmp_path / "layout", SMALL)
    flushes = []

    def sync():
        flushes.append(None)
        if len(flushes) == 1:
            raise OSError(5, os.strerror(5))

    def listener(event):
        if isinstance(event, progress.LayerDone) and at == "checkpoint":
            assert commands.wait_until(lambda: flushes)
            time.sleep(0.05)

    monkeypatch.setattr(repository, "sync", sync)
    if at == "checkpoint":
        monkeypatch.setattr(checkpoints, "_INTERVAL", 0.001)

    with pytest.raises(OSError, match="Input/output error"):
        composefs.import_image(repository, str(layout), workers=1, progress=listener)

    assert (streams(repository), len(flushes)) == ({}, 1)
    assert not os.path.exists(f"{repository.path}/images")


def test_failed_flush_after_a_failure(repository, tmp_path, monkeypatch):
    """The first failure is the one that is told; that the finished layers are not kept is a note."""
    layout = image_layout(tmp_path / "layout", [*SMALL[:1], BAD])

    def sync():
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(repository, "sync", sync)

    with pytest.raises(IntegrityError) as caught:
        composefs.import_image(repository, str(layout), workers=1)

    assert caught.value.__notes__ == ["finished layers could not be kept: [Errno 28] No space left on device"]
    assert streams(repository) == {}


@pytest.fixture(scope="module")
def slow_image(tmp_path_factory):
    """An image of a quick layer and a slow one."""
    return image_layout(tmp_path_factory.mktemp("slow") / "layout", [SMALL[0], slow_layer(0, 1200)])


@pytest.fixture
def running(slow_image, tmp_path):
    """A `composefs-import` of the slow image, when the quick layer is finished."""
    arguments = [slow_image, "--repo", tmp_path / "repository", "--workers", "2", "--progress", "json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with commands.start(tmp_path, "composefs-import", *arguments, **options) as process:
        try:
            for line in process.stderr:
                if line.startswith("{") and json.loads(line)["event"] == "layer-done":
                    break
            yield process
        finally:
            for pid in commands.session_members(process.pid):
                os.kill(pid, signal.SIGKILL)


def check_small_image(tmp_path):
    """An image of the finished layer alone is made from what is there."""
    small = image_layout(tmp_path / "small", SMALL[:1])
    check_kept(tmp_path / "repository", SMALL[:1])
    check_resumes(tmp_path / "repository", small, SMALL[:1], tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopped(running, tmp_path, signum):
    """Ctrl-C and SIGTERM cost no layer that is finished, however short a time ago."""
    start = time.monotonic()
    os.killpg(running.pid, signum)
    running.communicate(timeout=30)

    assert running.returncode == 1
    assert time.monotonic() - start < SOON
    check_small_image(tmp_path)


def test_killed(running, tmp_path):
    """SIGKILL costs no layer that was finished when the last checkpoint was made."""
    name = tmp_path / "repository/streams" / layer_name(SMALL[0].diff_id)
    assert commands.wait_until(lambda: os.path.lexists(name))
    assert running.poll() is None

    running.kill()
    running.wait()

    assert commands.wait_until(lambda: not commands.session_members(running.pid))
    check_small_image(tmp_path)


def test_killed_worker(running, tmp_path):
    """A worker that is killed costs its own layer only."""
    members = commands.session_members(running.pid)
    workers = [pid for pid in members if commands.parent_of(pid) not in (running.pid, os.getpid())]
    os.kill(workers[0], signal.SIGKILL)
    running.communicate(timeout=30)

    assert running.returncode == 1
    check_small_image(tmp_path)


def test_after_a_failed_flush(repository, monkeypatch):
    """What is in memory proves nothing after a flush that failed: objects that no name vouches for are read anew."""
    named, _ = repository.objects.ensure(noise(100))
    with closing(repository.streams.writer(b"oci_blob")) as writer:
        writer.external(named, 100)
        repository.streams.link("named", repository.streams.store(writer))
    written = {repository.objects.ensure(noise(100, seed))[0].hex() for seed in range(1, 4)}
    forgotten = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, *how: forgotten.append((os.readlink(f"/proc/self/fd/{fd}")[-65:], how))
    )

    def fail(_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(_native, "syncfs", fail)
    with Repository.open(repository.path) as other, pytest.raises(OSError, match="Input/output error: .*/objects'$"):
        other.name({"new": Digest(Algorithm.SHA256, named)})

    assert set(streams(repository)) == {"named"}
    stream = streams(repository)["named"].hex
    assert {path.replace("/", "") for path, _ in forgotten} == written | {stream}
    assert {how for _, how in forgotten} == {(0, 0, os.POSIX_FADV_DONTNEED)}


def test_unreadable_object(repository, monkeypatch):
    """An object that the device cannot read is written again."""
    digest, _ = repository.objects.ensure(noise(100))
    path = f"{repository.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}"
    before = os.stat(path).st_ino

    def fail(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(_native, "verity_digest_fd", fail)

    assert repository.objects.ensure(noise(100)) == (digest, True)
    assert os.stat(path).st_ino != before


@pytest.mark.parametrize("size", [100, 3 << 20])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_object_that_is_relied_on(repository, monkeypatch, size, damage):
    """What takes the place of a broken object is on disk before it gets the name, since streams vouch for that name.

    So is a large one that is missing; a small one has its size on the disk no sooner than its contents.
    """
    data = noise(size)
    digest, _ = repository.objects.ensure(data)
    with closing(repository.streams.writer(b"oci_blob")) as writer:
        writer.external(digest, size)
        repository.streams.link("named", repository.streams.store(writer))
    path = Path(repository.path, "objects", digest.hex()[:2], digest.hex()[2:])
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else bytes(size))
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_nlink))

    with Repository.open(repository.path) as other:
        if damage == "flipped":
            with pytest.raises(IntegrityError):
                other.objects.open(Digest(Algorithm.SHA256, digest))
        assert other.objects.ensure_pieces([data]) == (digest, True)

    assert synced == ([] if (damage, size) == ("missing", 100) else [0])
    assert path.read_bytes() == data
