"""Imports: what is stored, skipped, kept and replaced; and what is left when something or somebody stops one."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time

import pytest

import composefs
from composefs import Algorithm, ComposefsError, FormatError, IntegrityError, NotFoundError, RepositoryError, UsageError
from composefs.oci import missing, progress
from composefs.oci.layer import LayerJob, LayerResult, import_layer
from composefs.oci.names import store_json
from composefs.oci.sources.source import Blob, FileRange
from composefs.oci.stats import Stats
from composefs.splitstream import ContentType
from tests import commands, layouts
from tests.layouts import Layout, files_layer, image_layout, noise, slow_layer, tagged

IMAGE_REF = "composefs.image.v1"  # under which the config refers to the image of the default format
SOON = 2.0  # seconds within which a failure stops the rest; a second is promised, and machines are busy


class Inline(concurrent.futures.Executor):
    """An executor that runs each job when it is submitted, and keeps a list of them."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, job):
        self.jobs.append(job)
        future = concurrent.futures.Future()
        try:
            future.set_result(function(job))
        except BaseException as error:  # as executors do
            future.set_exception(error)
        return future


def layer(seed, size=100, compression="none"):
    return files_layer({f"file{seed}": noise(size, seed)}, compression)


def names(repository):
    """Return what stands below streams/, with what it stands for."""
    found = {}
    for directory, _, files in os.walk(f"{repository.path}/streams"):
        for name in files:
            path = f"{directory}/{name}"
            found[os.path.relpath(path, f"{repository.path}/streams")] = os.readlink(path)
    return found


def body(repository, stream):
    with repository.streams.open(stream) as opened:
        return b"".join(map(bytes, opened.merged()))


def references(repository, stream):
    with repository.streams.open(stream) as opened:
        return opened.reader.named_refs


def check_finished(repository, *finished):
    """Nothing has a name but layers, among them those that are *finished*, and they are what they should be."""
    for name in names(repository):
        assert name.startswith("oci-layer-")
        assert f"oci-layer-{layouts.sha256(body(repository, name))}" == name
    assert {f"oci-layer-{layer.diff_id}" for layer in finished} <= set(names(repository))


def remove(repository, digest):
    os.unlink(f"{repository.path}/objects/{digest.object_path}")


def test_image(repository, tmp_path):
    """An image gets streams for layers, config and manifest, which hold the very bytes, and a tag."""
    layers = [layer(1), layer(2, compression="gzip"), layer(3, compression="zstd")]
    layout = image_layout(tmp_path / "layout", layers)

    result = composefs.import_image(repository, str(layout), name="os/42", workers=1)

    layer_names = [f"oci-layer-{layer.diff_id}" for layer in layers]
    config, manifest = f"oci-config-{result.config}", f"oci-manifest-{result.manifest}"
    assert set(names(repository)) == {*layer_names, config, manifest, "refs/oci/os%2F42"}
    assert result.image is not None
    assert names(repository)["refs/oci/os%2F42"] == f"../../{manifest}"
    assert layouts.sha256(body(repository, config)) == result.config
    assert layouts.sha256(body(repository, manifest)) == result.manifest
    streams = {layer.diff_id: summary.stream for layer, summary in zip(layers, result.layers, strict=True)}
    config_stream = repository.streams.find(config)
    assert references(repository, config) == streams | {IMAGE_REF: result.image}
    assert references(repository, manifest) == {f"config:{result.config}": config_stream} | streams
    assert result.verity == repository.streams.find(manifest)
    assert result.name == "os/42"


def test_result(repository, tmp_path):
    """The result lists the layers as the manifest does, and counts objects and bytes."""
    layers = [layer(1), layer(2, 300), files_layer({"again": noise(100, 1)}, "gzip")]
    layout = image_layout(tmp_path / "layout", layers)

    result = composefs.import_image(repository, str(layout), executor=Inline())

    described = [(summary.digest, summary.diff_id, summary.size, summary.status) for summary in result.layers]
    assert described == [(layer.digest, layer.diff_id, layer.size, "imported") for layer in layers]
    assert (result.stats.objects_new, result.stats.objects_present, result.stats.bytes_new) == (2, 1, 400)
    assert result.seconds > 0
    assert result.name == str(layout)


def test_largest_first(repository, tmp_path):
    """Layers are started in the order of their blobs' sizes, so that the largest is not the last."""
    layers = [layer(1, 1000), layer(2, 50_000), layer(3, 100), layer(4, 9000)]
    layout = image_layout(tmp_path / "layout", layers)
    executor = Inline()

    composefs.import_image(repository, str(layout), executor=executor)

    sizes = [job.size for job in executor.jobs]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 4


def test_layer_twice(repository, tmp_path):
    """A layer that an image holds twice is imported once and stands twice in the result."""
    twice = layer(1)
    packed = files_layer({"file1": noise(100, 1)}, "gzip")  # the same archive in another blob
    assert packed.diff_id == twice.diff_id
    layout = image_layout(tmp_path / "layout", [twice, layer(2), twice, packed])
    executor = Inline()

    result = composefs.import_image(repository, str(layout), executor=executor)

    assert len(executor.jobs) == 2
    assert [summary.digest for summary in result.layers] == [twice.digest, layer(2).digest, twice.digest, packed.digest]
    assert result.layers[0].stream == result.layers[2].stream == result.layers[3].stream
    assert (result.stats.objects_new, result.stats.objects_present) == (2, 0)


def test_present_layers(repository, tmp_path):
    """Layers that are there are not read again, even where their blobs are gone; events and result say so."""
    old, new = layer(1), layer(2)
    composefs.import_image(repository, str(image_layout(tmp_path / "old", [old])), workers=1)
    layout = image_layout(tmp_path / "new", [old, new])
    layout.blob_path(old.digest).unlink()
    events = []

    result = composefs.import_image(repository, str(layout), workers=1, progress=events.append)

    assert [summary.status for summary in result.layers] == ["present", "imported"]
    assert progress.LayerPresent(0, old.diff_id) in events
    assert [event.diff_id for event in events if isinstance(event, progress.LayerDone)] == [new.diff_id]
    started = events[0]
    assert started.total == new.size
    assert [(plan.diff_id, plan.present) for plan in started.layers] == [(old.diff_id, True), (new.diff_id, False)]


def test_events(repository, tmp_path):
    """Events come in order: the plan, each layer, the flush, the name."""
    layers = [layer(1, 600_000), layer(2, 700_000)]
    layout = image_layout(tmp_path / "layout", layers)
    events = []

    result = composefs.import_image(repository, str(layout), name="os", workers=1, progress=events.append)

    kinds = [type(event) for event in events if not isinstance(event, progress.LayerProgress)]
    assert kinds == [
        progress.ImportStarted, progress.LayerDone, progress.LayerDone, progress.BuildingImage, progress.Syncing,
        progress.ImportDone,
    ]  # fmt: skip
    assert events[0].reference == str(layout)
    assert events[0].manifest == result.manifest
    assert events[-1].name == "os"
    last = {event.index: event for event in events if isinstance(event, progress.LayerProgress)}
    assert {index: (event.done, event.total) for index, event in last.items()} == {
        index: (layer.size, layer.size) for index, layer in enumerate(layers)
    }
    done = [event.done for event in events if isinstance(event, progress.LayerProgress) and event.index == 0]
    assert done == sorted(done)


def test_import_again(repository, tmp_path):
    """An image that is there is not written again: no flush, no new object, the same names."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])
    first = composefs.import_image(repository, str(layout), workers=1)
    before = names(repository)
    events = []

    again = composefs.import_image(repository, str(layout), workers=1, progress=events.append)

    assert names(repository) == before
    assert again.verity == first.verity
    assert again.stats.objects_new == again.stats.bytes_new == 0
    assert [type(event) for event in events] == [
        progress.ImportStarted, progress.LayerPresent, progress.LayerPresent, progress.ImportDone,
    ]  # fmt: skip


def test_second_tag(repository, tmp_path):
    """An image that is imported under a second name has both."""
    layout = image_layout(tmp_path / "layout", [layer(1)])

    composefs.import_image(repository, str(layout), name="one", workers=1)
    result = composefs.import_image(repository, str(layout), name="two", workers=1)

    wanted = f"../../oci-manifest-{result.manifest}"
    assert names(repository)["refs/oci/one"] == names(repository)["refs/oci/two"] == wanted


def test_tag_is_replaced(repository, tmp_path):
    """A name goes over to the image that was imported last, and nothing temporary is left."""
    composefs.import_image(repository, str(image_layout(tmp_path / "old", [layer(1)])), name="os", workers=1)

    result = composefs.import_image(repository, str(image_layout(tmp_path / "new", [layer(2)])), name="os", workers=1)

    assert names(repository)["refs/oci/os"] == f"../../oci-manifest-{result.manifest}"
    assert sorted(os.listdir(repository.path)) == ["images", "meta.json", "objects", "streams"]


def test_new_config(repository, tmp_path):
    """A config whose layers have other streams than it says is written again, and the manifest; its images stay."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])
    result = composefs.import_image(repository, str(layout), workers=1)
    before = names(repository)
    config_name = f"oci-config-{result.config}"
    wrong = dict.fromkeys([layer(1).diff_id, layer(2).diff_id], result.verity) | {IMAGE_REF: result.image}
    config = store_json(repository, ContentType.CONFIG, body(repository, config_name), wrong)
    repository.streams.link(config_name, config)
    events = []

    again = composefs.import_image(repository, str(layout), workers=1, progress=events.append)

    assert names(repository) == before
    assert dataclasses.replace(again, seconds=result.seconds, layers=(), stats=result.stats) == dataclasses.replace(
        result, layers=()
    )
    assert progress.BuildingImage(1, bootable=False) not in events


@pytest.mark.parametrize("kind", ["config", "manifest"])
def test_wrong_body(repository, tmp_path, kind):
    """A config or manifest stream that holds other bytes than its name says is written again."""
    layout = image_layout(tmp_path / "layout", [layer(1)])
    result = composefs.import_image(repository, str(layout), workers=1)
    before = names(repository)
    name = f"oci-{kind}-{getattr(result, kind)}"
    content_type = ContentType.CONFIG if kind == "config" else ContentType.MANIFEST
    forged = store_json(repository, content_type, b'{"forged": 1}', references(repository, name))
    repository.streams.link(name, forged)

    composefs.import_image(repository, str(layout), workers=1)

    assert names(repository) == before


@pytest.mark.parametrize("kind", ["layer", "config", "manifest"])
@pytest.mark.parametrize("lost", ["stream", "object"])
def test_interrupted_garbage_collection(repository, tmp_path, kind, lost):
    """A stream that lost itself or one of its objects is made whole again."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])
    result = composefs.import_image(repository, str(layout), workers=1)
    before = names(repository)
    digest = {"layer": layer(1).diff_id, "config": result.config, "manifest": result.manifest}[kind]
    stream = repository.streams.find(f"oci-{kind}-{digest}")
    with repository.streams.open(f"oci-{kind}-{digest}") as opened:
        content = opened.reader.object_refs[0]
    remove(repository, stream if lost == "stream" else content)

    again = composefs.import_image(repository, str(layout), workers=1)

    assert names(repository) == before
    assert repository.objects.missing({stream.raw, content.raw}) == set()
    statuses = [summary.status for summary in again.layers]
    assert statuses == ["imported" if kind == "layer" else "present", "present"]
    body(repository, f"oci-{kind}-{digest}")


@pytest.mark.parametrize("what", ["stream", "layer-name", "type"])
def test_broken_layer_stream(repository, tmp_path, what):
    """A layer whose name leads to nothing useful is imported again, and its name put right."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])
    result = composefs.import_image(repository, str(layout), workers=1)
    before = names(repository)
    name = f"oci-layer-{layer(1).diff_id}"
    if what == "stream":
        path = f"{repository.path}/objects/{result.layers[0].stream.object_path}"
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(b"broken")
    else:
        os.unlink(f"{repository.path}/streams/{name}")
        os.symlink(
            "elsewhere" if what == "layer-name" else f"oci-config-{result.config}", f"{repository.path}/streams/{name}"
        )

    composefs.import_image(repository, str(layout), workers=1)

    assert names(repository) == before
    assert layouts.sha256(body(repository, name)) == layer(1).diff_id


def test_artifact(repository, tmp_path):
    """An artifact's blobs are stored as they are, by their digests, plain archives as layers."""
    layout = Layout(tmp_path / "layout")
    text = layouts.layer(b"some text", media_type="text/plain")
    archive = layer(1)
    layout.write(layout.artifact([text, archive]))

    result = composefs.import_image(repository, str(layout), workers=1)

    assert body(repository, f"oci-layer-{text.digest}") == b"some text"
    assert body(repository, f"oci-layer-{archive.digest}") == archive.blob
    assert body(repository, f"oci-config-{result.config}") == b"{}"
    with repository.streams.open(f"oci-layer-{text.digest}", ContentType.BLOB):
        pass
    with repository.streams.open(f"oci-layer-{archive.digest}", ContentType.LAYER):
        pass


def test_compressed_archive_in_an_artifact(repository, tmp_path):
    """A compressed archive in an artifact is refused: nothing says what it should hold."""
    layout = Layout(tmp_path / "layout")
    packed = layer(1, compression="gzip")
    layout.write(layout.artifact([packed]))

    with pytest.raises(FormatError) as caught:
        composefs.import_image(repository, str(layout), workers=1)

    what = f"an artifact's archive of type {packed.media_type!r} has no digest of its contents"
    assert str(caught.value) == f"layer {packed.digest}, offset 0: {what}"
    assert names(repository) == {}


def test_image_without_layers(repository, tmp_path):
    """An image of no layers is none: it lacks /usr, as any tree that is no root file system does."""
    with pytest.raises(NotFoundError, match="^/usr does not exist"):
        composefs.import_image(repository, str(image_layout(tmp_path / "layout", [])))

    assert names(repository) == {}


@pytest.mark.parametrize("name", ["", ".", "..", "@os", "a" * 256, "/" * 86, "a\0b"])
def test_bad_name(repository, tmp_path, name):
    """A name that no tag can have is refused before any work."""
    with pytest.raises(UsageError):
        composefs.import_image(repository, "oci:/nowhere", name=name)


def test_no_image(repository):
    """An image that is not there leaves nothing."""
    with pytest.raises(NotFoundError, match="^no directory /nowhere$"):
        composefs.import_image(repository, "oci:/nowhere")

    assert names(repository) == {}


def test_unknown_features(tmp_path):
    """A repository with features that this program does not know is not written to."""
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    meta = json.loads((path / "meta.json").read_text())
    meta["features"]["read-only-compatible"].append("shiny")
    (path / "meta.json").unlink()
    (path / "meta.json").write_text(json.dumps(meta))

    with composefs.Repository.open(path) as repository, pytest.raises(RepositoryError) as caught:
        composefs.import_image(repository, str(image_layout(tmp_path / "layout", [layer(1)])))

    assert str(caught.value) == f"{path}: is read-only to this program: unknown features shiny"


@pytest.fixture(params=["threads", "processes", "own"])
def way(request):
    """Each way to run the layers: arguments of an import, for two layers at a time."""
    if request.param == "own":
        yield {"workers": 2}
        return
    kind = {"threads": concurrent.futures.ThreadPoolExecutor, "processes": concurrent.futures.ProcessPoolExecutor}
    options = {} if request.param == "threads" else {"mp_context": multiprocessing.get_context("spawn")}
    with kind[request.param](2, **options) as executor:
        yield {"executor": executor}
        assert executor.submit(abs, -1).result() == 1  # the caller's executor stays usable


def test_executors(repository, tmp_path, way):
    """Threads or processes, the caller's or our own: the image is the same."""
    layers = [layer(seed, 1000, "gzip") for seed in range(5)]
    layout = image_layout(tmp_path / "layout", layers)
    events = []

    result = composefs.import_image(repository, str(layout), progress=events.append, **way)

    assert result.stats.objects_new == 5
    for one in layers:
        assert layouts.sha256(body(repository, f"oci-layer-{one.diff_id}")) == one.diff_id
    assert sorted(event.index for event in events if isinstance(event, progress.LayerDone)) == [0, 1, 2, 3, 4]


def test_errors_come_whole(repository, tmp_path, way):
    """An error in a worker arrives with its type, its parts and its message."""
    good, bad = layer(1, 1000), layer(2, compression="gzip")
    wrong = layouts.sha256(b"wrong")
    layout = image_layout(tmp_path / "layout", [good, layouts.layer(layouts.tar({}), "gzip", diff_id=wrong), bad])

    with pytest.raises(IntegrityError) as caught:
        composefs.import_image(repository, str(layout), **way)

    got = layouts.sha256(layouts.tar({}))
    assert str(caught.value) == f"layer {wrong}, diff_id: wanted {wrong}, got {got}"
    assert (caught.value.wanted, caught.value.got) == (wrong, got)
    check_finished(repository)


def test_first_failure_stops_the_rest(repository, tmp_path, monkeypatch):
    """A small bad layer ends the import at once: large ones are given up, waiting ones are never begun (P6)."""
    large = [layer(seed, 8 << 20) for seed in (101, 102, 103)]
    bad = layouts.layer(b"no archive" * 2000)
    layout = image_layout(tmp_path / "layout", [*large, bad, *(layer(seed) for seed in range(20))])
    begun, ends = [], {}

    def slowly(job):
        begun.append(job.diff_id)
        try:
            return import_layer(job)
        except BaseException as error:
            ends[job.diff_id] = error
            raise
        finally:
            if job.diff_id == bad.diff_id:
                ends["time"] = time.monotonic()

    original = os.read

    def slow_read(fd, size):
        if size >= 1 << 18:
            time.sleep(0.05)
            size = min(size, 1 << 16)  # a large layer takes six seconds
        return original(fd, size)

    monkeypatch.setattr(missing, "work", slowly)
    monkeypatch.setattr(os, "read", slow_read)

    with concurrent.futures.ThreadPoolExecutor(4) as executor, pytest.raises(FormatError) as caught:
        composefs.import_image(repository, str(layout), executor=executor)
    elapsed = time.monotonic() - ends["time"]

    assert str(caught.value).startswith(f"layer {bad.diff_id}, entry ")
    assert elapsed < SOON
    for one in large:
        assert isinstance(ends[one.diff_id], composefs.CancelledError)
    assert len(begun) < 4 + 10  # one thread may take some while the other jobs are taken back
    check_finished(repository)


def test_jobs_that_never_began_are_not_waited_for(repository, tmp_path):
    """A failure ends the import though the caller's executor, busy with other work, has not come to the rest."""

    class Busy(Inline):
        def submit(self, function, job):
            return concurrent.futures.Future() if self.jobs else super().submit(function, job)

    layout = image_layout(tmp_path / "layout", [layouts.layer(b"no archive" * 2000), layer(1)])
    executor = Busy()

    with pytest.raises(FormatError):
        composefs.import_image(repository, str(layout), executor=executor)

    assert len(executor.jobs) == 1


def test_failure_among_processes(repository, tmp_path):
    """A bad layer ends the workers that are busy with layers that inflate to much."""
    layout = image_layout(
        tmp_path / "layout", [slow_layer(0, 600), slow_layer(1, 600), layouts.layer(b"no archive" * 100)]
    )
    start = time.monotonic()

    with pytest.raises(FormatError):
        composefs.import_image(repository, str(layout), workers=3)

    assert time.monotonic() - start < 3 * SOON  # three processes are started, too; the slow layers take much longer
    assert names(repository) == {}


def test_failing_listener(repository, tmp_path):
    """A caller's function that fails ends the import, and its error comes out; the layer that was finished is kept."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])

    def progress_listener(event):
        if isinstance(event, progress.LayerDone):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        composefs.import_image(repository, str(layout), workers=1, progress=progress_listener)

    check_finished(repository, layer(1))


def test_broken_pool(repository, tmp_path):
    """A caller's pool that is broken already gives one clear error."""
    layout = image_layout(tmp_path / "layout", [layer(1), layer(2)])
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(os._exit, 1).result()

        with pytest.raises(
            ComposefsError, match="^layer sha256:.*: its worker process died; out of memory, or killed$"
        ):
            composefs.import_image(repository, str(layout), executor=executor)

    assert names(repository) == {}


def test_two_imports_at_once(repository, tmp_path):
    """Two imports of images that share layers, under one name, both succeed; the name is that of one of them."""
    shared = [layer(seed, 200_000, "zstd") for seed in range(3)]
    both = [image_layout(tmp_path / name, [*shared, layer(name)]) for name in ("one", "two")]
    results, barrier = {}, threading.Barrier(2)

    def run(layout):
        with composefs.Repository.open(repository.path) as own:
            barrier.wait()
            results[layout] = composefs.import_image(own, str(layout), name="os", workers=1)

    threads = [threading.Thread(target=run, args=(layout,)) for layout in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 2
    manifests = {f"../../oci-manifest-{result.manifest}" for result in results.values()}
    assert names(repository)["refs/oci/os"] in manifests
    for result in results.values():
        assert layouts.sha256(body(repository, f"oci-manifest-{result.manifest}")) == result.manifest
        for summary in result.layers:
            assert layouts.sha256(body(repository, f"oci-layer-{summary.diff_id}")) == summary.diff_id
    first, second = results.values()
    assert first.stats.objects_new + second.stats.objects_new == 5  # who is later finds what the other made
    assert not [name for name in os.listdir(f"{repository.path}/objects") if name.startswith(".")]


@pytest.fixture
def running(tmp_path):
    """A `composefs-import` of three slow layers by three workers, in the midst of it; and its repository."""
    layout = image_layout(tmp_path / "layout", [slow_layer(seed, 600) for seed in range(3)])
    arguments = [layout, "--repo", tmp_path / "repository", "--workers", "3", "--progress", "json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with commands.start(tmp_path, "composefs-import", *arguments, **options) as process:
        try:
            seen = set()
            for line in process.stderr:
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") == "layer-progress":
                    seen.add(event["index"])
                if len(seen) == 3:
                    break
            yield process
        finally:
            for pid in commands.session_members(process.pid):
                os.kill(pid, signal.SIGKILL)


def check_stopped(process, path, message):
    """A command that was stopped says so in one line, leaves no name, and no process."""
    start = time.monotonic()
    out, err = process.communicate(timeout=30)
    elapsed = time.monotonic() - start
    said = [line for line in err.splitlines() if not line.startswith("{")]
    assert process.returncode == 1
    assert out == ""
    assert len(said) == 1
    assert said[0].startswith("composefs-import: ")
    assert message in said[0]
    assert elapsed < 2 * SOON
    assert not (path / "streams").exists()
    assert commands.wait_until(lambda: not commands.session_members(process.pid))


def test_interrupt(running, tmp_path):
    """Ctrl-C, which reaches all processes of the terminal, ends them all."""
    os.killpg(running.pid, signal.SIGINT)

    check_stopped(running, tmp_path / "repository", ": interrupted; what was stored is kept")


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_terminated(running, tmp_path, send):
    """SIGTERM, which a service manager sends to one process or to all, ends them in as good order."""
    send(running.pid, signal.SIGTERM)

    check_stopped(running, tmp_path / "repository", ": terminated; what was stored is kept")


def test_interrupt_twice(running, tmp_path):
    """An impatient second Ctrl-C changes nothing."""
    os.killpg(running.pid, signal.SIGINT)
    time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)

    check_stopped(running, tmp_path / "repository", ": interrupted; what was stored is kept")


def test_interrupt_while_processes_start(tmp_path):
    """Ctrl-C while worker processes come up gives one line too, from none of them a traceback."""
    layout = image_layout(tmp_path / "layout", [slow_layer(seed, 600) for seed in range(3)])
    for number in range(4):
        repository = tmp_path / f"repository{number}"
        arguments = [layout, "--repo", repository, "--workers", "3", "--progress", "json"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with commands.start(tmp_path, "composefs-import", *arguments, **options) as process:
            for line in process.stderr:
                if "import-started" in line:
                    break
            time.sleep(number * 0.03)
            os.killpg(process.pid, signal.SIGINT)

            check_stopped(process, repository, ": interrupted; what was stored is kept")


def test_killed_worker(running, tmp_path):
    """A worker that is killed, as for want of memory, ends the import with one clear error."""
    members = commands.session_members(running.pid)
    workers = [pid for pid in members if commands.parent_of(pid) not in (running.pid, os.getpid())]
    assert len(workers) == 3

    os.kill(workers[0], signal.SIGKILL)

    check_stopped(running, tmp_path / "repository", ": its worker process died; out of memory, or killed")


def test_killed_import(running, tmp_path):
    """When the import itself is killed its workers end too, no name is there, and a second import succeeds."""
    running.kill()
    running.wait()

    assert commands.wait_until(lambda: not commands.session_members(running.pid), 30)
    assert not (tmp_path / "repository/streams").exists()
    small = image_layout(tmp_path / "small", [layer(1)])
    assert commands.run(tmp_path, "composefs-import", small, "--repo", tmp_path / "repository").returncode == 0


def test_jobs_and_results_are_small():
    """What crosses process borders is a few paths, digests and counts."""
    job = LayerJob(
        "/repository", Blob(FileRange("/blob"), layouts.sha256(b""), 1, None), layouts.sha256(b""), "layer", "/board", 0
    )
    digest = composefs.Digest(Algorithm.SHA512, bytes(64))

    for value in (job, LayerResult(digest, Stats(1, 2, 3, 4))):
        packed = pickle.dumps(value)
        assert pickle.loads(packed) == value
        assert len(packed) < 1000


def test_tags_of_one_layout(repository, tmp_path):
    """Each tag of a layout is an image of its own."""
    layout = Layout(tmp_path / "layout")
    one, two = layout.image([layer(1)]), layout.image([layer(2)])
    layout.write(tagged(one, "one"), tagged(two, "two"))

    results = [composefs.import_image(repository, f"{layout}:{tag}", name=tag, workers=1) for tag in ("one", "two")]

    assert [result.manifest for result in results] == [one["digest"], two["digest"]]
