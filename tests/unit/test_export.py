"""Exports to files: what comes back is what was stored, what was there stays, and what fails leaves nothing."""

import dataclasses
import errno
import gzip
import io
import json
import os
import tarfile
import threading

import pytest

from composefs import Repository
from composefs.digest import Algorithm
from composefs.errors import FormatError, IntegrityError, NotFoundError, UsageError
from composefs.oci.export import layer as layer_module
from composefs.oci.export import reading
from composefs.oci.export.archive import ArchiveDestination, _member
from composefs.oci.export.directory import DirectoryDestination
from composefs.oci.export.events import ExportDone, ExportStarted, LayerExported
from composefs.oci.export.exporter import export_image
from composefs.oci.export.manifest import ENCODING, REMADE_FROM
from composefs.oci.importer import import_image
from composefs.oci.manifest import REF_NAME, Compression, Descriptor, Image
from composefs.oci.names import layer_name, manifest_name, name_image
from composefs.oci.progress import LayerPresent
from composefs.oci.schema2 import SOURCE_DIGEST
from tests import layouts
from tests.layouts import files_layer, image_layout, noise, sha256, tagged

FILES = [{"usr/a": noise(100_000), "usr/b": b"small"}, {"usr/c": b"words " * 5000}, {"usr/d": noise(3000)}]
PLACES = ["oci:{}/out:a/b:c", "oci-archive:{}/out.tar:tag", "dir:{}/out"]


@pytest.fixture(autouse=True)
def _no_flush(no_flush):
    """No test here is about power cuts."""


def import_layers(repository, path, layers, **options):
    """Import the image of *layers* as `os`."""
    return import_image(repository, str(image_layout(path, layers, **options)), name="os", workers=1)


@pytest.fixture
def image(repository, tmp_path):
    """An image of three layers, one of each compression."""
    layers = [files_layer(files, kind) for files, kind in zip(FILES, ("none", "gzip", "zstd"), strict=True)]
    return import_layers(repository, tmp_path / "layout", layers)


def foreign(files):
    """Return a gzip layer as no library here makes it."""
    archive = layouts.tar(layouts.rooted(files))
    return layouts.layer(archive, "gzip", blob=gzip.compress(archive[:700], 1) + gzip.compress(archive[700:], 9))


def summary(result):
    """Return what tells images apart, but for the manifest."""
    return result.config, tuple(layer.diff_id for layer in result.layers), result.image


def back(tmp_path, place, name="back"):
    """Import what was exported into a new repository."""
    Repository.init(tmp_path / name, Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / name) as opened:
        return import_image(opened, place, name="os", workers=1)


def manifest_of(path, result):
    """Return the manifest in a layout."""
    return json.loads((path / "blobs/sha256" / result.manifest.partition(":")[2]).read_bytes())


def entries(path):
    """Return tags and digests of the index of a layout."""
    index = json.loads((path / "index.json").read_bytes())
    return [(entry.get("annotations", {}).get(REF_NAME), entry["digest"]) for entry in index["manifests"]]


def tree(path):
    """Return all that is below *path*."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@pytest.mark.parametrize("place", PLACES)
def test_round_trip(place, repository, image, tmp_path):
    """What Python's libraries compressed comes back with the same manifest."""
    place = place.format(tmp_path)

    result = export_image(repository, "os", place)

    assert (result.manifest, result.is_kept, result.destination) == (image.manifest, True, place)
    assert [layer.status for layer in result.layers] == ["written"] * 3
    again = back(tmp_path, place)
    assert again.manifest == image.manifest
    assert summary(again) == summary(image)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("compression", Compression)
def test_other_compression(compression, place, repository, image, tmp_path):
    """All layers have the compression that is asked for; the image is the same, the manifest says what it was."""
    place = place.format(tmp_path)

    result = export_image(repository, "os", place, compression=compression)

    assert not result.is_kept
    assert result.stored_manifest == image.manifest
    suffix = {Compression.NONE: ".tar", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}[compression]
    assert all(layer.media_type.endswith(suffix) for layer in result.layers)
    again = back(tmp_path, place)
    assert again.manifest == result.manifest
    assert summary(again) == summary(image)


def test_new_manifest(repository, image, tmp_path):
    """A new manifest names the old one, and of the layers that are new how they were made."""
    result = export_image(repository, "os", f"oci:{tmp_path}/out", compression=Compression.GZIP, level=1)

    manifest = manifest_of(tmp_path / "out", result)
    assert manifest["annotations"] == {REMADE_FROM: image.manifest}
    assert [layer.get("annotations") for layer in manifest["layers"]] == [{ENCODING: "gzip-1"}] * 3


@pytest.mark.parametrize(("compression", "level"), [(Compression.GZIP, 2), (Compression.ZSTD, 7)])
def test_exported_again(compression, level, repository, image, tmp_path):
    """What was exported once is exported again without another manifest: it says how it was made."""
    place = f"oci:{tmp_path}/out"
    result = export_image(repository, "os", place, compression=compression, level=level)
    back(tmp_path, place)

    with Repository.open(tmp_path / "back") as opened:
        again = export_image(opened, "os", f"oci:{tmp_path}/again")

    assert (again.manifest, again.is_kept) == (result.manifest, True)


@pytest.mark.parametrize("compression", [None, *Compression])
def test_workers_make_no_difference(compression, repository, image, tmp_path):
    """Any number of processes makes the same archive."""
    for workers in (1, 3):
        place = f"oci-archive:{tmp_path}/{workers}.tar:tag"
        export_image(repository, "os", place, compression=compression, workers=workers)

    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "3.tar").read_bytes()


def test_archive(repository, image, tmp_path):
    """An archive has nothing of the host, and goes to a stream as to a file."""
    stream = io.BytesIO()
    export_image(repository, "os", f"oci-archive:{tmp_path}/file.tar:tag")

    export_image(repository, "os", ArchiveDestination("-", stream, "tag", str(tmp_path)))

    assert stream.getvalue() == (tmp_path / "file.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        members = archive.getmembers()
    assert [member.name for member in members[:2]] == ["oci-layout", "index.json"]
    assert [member.name.rpartition("/")[2] for member in members[2:]] == [
        digest.partition(":")[2] for digest in (image.manifest, image.config, *(layer.digest for layer in image.layers))
    ]
    assert {(m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0o644, 0, 0, "", "", 0)}
    assert tree(tmp_path / "repository") == tree(tmp_path / "repository")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_archive_is_replaced(repository, image, tmp_path):
    """A file is replaced, through a link, too; one that cannot be finished stays."""
    (tmp_path / "real.tar").write_bytes(b"old")
    (tmp_path / "link.tar").symlink_to("real.tar")

    with pytest.raises(RuntimeError):
        export_image(repository, "os", f"oci-archive:{tmp_path}/link.tar", progress=failing(LayerExported))
    assert (tmp_path / "real.tar").read_bytes() == b"old"

    export_image(repository, "os", f"oci-archive:{tmp_path}/link.tar")
    assert (tmp_path / "link.tar").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "real.tar")


def test_archive_into_a_pipe(repository, image, tmp_path):
    """A pipe is written to, and stays one."""
    os.mkfifo(tmp_path / "pipe")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    thread.start()

    export_image(repository, "os", f"oci-archive:{tmp_path}/pipe:tag")

    thread.join()
    export_image(repository, "os", f"oci-archive:{tmp_path}/file:tag")
    assert read == [(tmp_path / "file").read_bytes()]
    assert (tmp_path / "pipe").is_fifo()


def test_archive_of_large_layers():
    """Beyond 8 GiB a header more says how long a member is."""
    header = next(_member("blobs/sha256/x", 9 << 30, []))

    with tarfile.open(fileobj=io.BytesIO(header), ignore_zeros=True) as archive:
        assert archive.next().size == 9 << 30


def test_other_images_stay(repository, image, tmp_path):
    """A layout keeps its images, and what else its index says; a tag goes from one image to the other."""
    out = layouts.Layout(tmp_path / "out")
    first, second = (out.image([files_layer({"usr/x": noise(10, seed)})]) for seed in (1, 2))
    out.write(tagged(first, "first"), tagged(second, "second"), second)
    index = json.loads((out.path / "index.json").read_bytes())
    (out.path / "index.json").write_text(json.dumps(index | {"annotations": {"a": "ä"}, "x": [1]}))

    export_image(repository, "os", f"oci:{out.path}:second")

    expected = [("first", first["digest"]), (None, second["digest"]), ("second", image.manifest)]
    assert entries(out.path) == expected
    index = json.loads((out.path / "index.json").read_bytes())
    assert (index["annotations"], index["x"]) == ({"a": "ä"}, [1])
    export_image(repository, "os", f"oci:{out.path}")
    export_image(repository, "os", f"oci:{out.path}")
    assert entries(out.path) == [*expected, (None, image.manifest)]


def test_blobs_that_are_there(repository, image, tmp_path):
    """A blob that is there is proved and stays; a wrong one is made again."""
    place, out = f"oci:{tmp_path}/out:tag", tmp_path / "out"
    export_image(repository, "os", place)
    paths = [out / "blobs/sha256" / layer.digest.partition(":")[2] for layer in image.layers]
    inodes = [path.stat().st_ino for path in paths]
    data = paths[1].read_bytes()
    paths[1].write_bytes(bytes(len(data)))
    paths[2].write_bytes(b"short")
    events = []

    result = export_image(repository, "os", place, progress=events.append)

    assert [layer.status for layer in result.layers] == ["present", "written", "written"]
    assert result.bytes_written == sum(layer.size for layer in image.layers[1:])
    assert paths[0].stat().st_ino == inodes[0]
    assert paths[1].read_bytes() == data
    assert [sha256(path.read_bytes()) for path in paths] == [layer.digest for layer in image.layers]
    assert [event.index for event in events if isinstance(event, LayerPresent)] == [0]


def test_foreign_blobs(repository, tmp_path):
    """What cannot be made again is made anew, unless the destination has it."""
    layers = [files_layer(FILES[0]), foreign(FILES[1]), files_layer(FILES[2], "zstd")]
    image = import_layers(repository, tmp_path / "layout", layers)

    kept = export_image(repository, "os", f"oci:{tmp_path}/layout:tag")
    new = export_image(repository, "os", f"oci:{tmp_path}/out:tag")

    assert (kept.manifest, [layer.status for layer in kept.layers]) == (image.manifest, ["present"] * 3)
    assert not new.is_kept
    assert [new.layers[i].digest for i in (0, 2)] == [layers[i].digest for i in (0, 2)]
    manifest = manifest_of(tmp_path / "out", new)
    assert [layer["mediaType"] for layer in manifest["layers"]] == [layer.media_type for layer in layers]
    assert [ENCODING in layer.get("annotations", {}) for layer in manifest["layers"]] == [False, True, False]
    assert summary(back(tmp_path, f"oci:{tmp_path}/out")) == summary(image)


def test_annotations(repository, tmp_path):
    """What was said of the image and its layers stays, but for what was said of blobs that are gone."""
    layout = layouts.Layout(tmp_path / "layout")
    layer = foreign(FILES[1])
    descriptor = layout.image([layer])
    manifest = json.loads(layout.blob_path(descriptor["digest"]).read_bytes())
    chunked = {
        "io.github.containers.zstd-chunked.manifest-checksum": "x",
        "containerd.io/snapshot/stargz/toc.digest": "y",
    }
    manifest["layers"][0] |= {"annotations": {"note": "kept", **chunked}, "urls": ["https://example.org"]}
    manifest |= {"annotations": {"title": "kept"}, "subject": descriptor, "artifactType": "a/b"}
    layout.write(layout.json(manifest, layouts.MANIFEST))
    image = import_image(repository, str(layout), name="os", workers=1)

    result = export_image(repository, "os", f"oci:{tmp_path}/out")

    found = manifest_of(tmp_path / "out", result)
    assert found["annotations"] == {"title": "kept", REMADE_FROM: image.manifest}
    assert (found["subject"], found["artifactType"]) == (descriptor, "a/b")
    assert found["layers"][0]["annotations"] == {"note": "kept", ENCODING: "gzip-4"}
    assert "urls" not in found["layers"][0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("compression", [None, Compression.ZSTD])
def test_artifact(compression, place, repository, tmp_path):
    """The blobs of an artifact go as they are, whatever is asked for; one may be its config, too."""
    layout = layouts.Layout(tmp_path / "layout")
    blobs = [
        layouts.Layer(data, kind, sha256(data), sha256(data), len(data))
        for data, kind in ((b"{}", layouts.EMPTY), (noise(5000), "text/plain"), (b"", "text/x"))
    ]
    layout.write(layout.artifact(blobs))
    image = import_image(repository, str(layout), name="os", workers=1)
    place = place.format(tmp_path)

    result = export_image(repository, "os", place, compression=compression)

    assert (result.manifest, result.is_kept) == (image.manifest, True)
    assert back(tmp_path, place).manifest == image.manifest


def test_repeated_layers(repository, tmp_path):
    """A layer that comes twice is one blob."""
    layer = files_layer(FILES[1], "zstd")
    import_layers(repository, tmp_path / "layout", [layer, files_layer(FILES[0]), layer])
    events = []

    result = export_image(repository, "os", f"oci:{tmp_path}/out", compression=Compression.GZIP, progress=events.append)

    assert result.layers[0] == result.layers[2]
    assert result.bytes_written == result.layers[0].size + result.layers[1].size
    assert len(tree(tmp_path / "out/blobs/sha256")) == 4
    assert sorted(event.index for event in events if isinstance(event, LayerExported)) == [0, 1]


@pytest.fixture
def docker(repository, tmp_path):
    """The digest of a manifest of Docker's, stored as it is, as older versions and composefs-rs have done."""
    layer = files_layer(FILES[1], "gzip", media_type=layouts.DOCKER_TAR_GZIP)
    layout = layouts.Layout(tmp_path / "docker")
    descriptor = layout.image([layer], docker=True)
    layout.write(descriptor)
    image = import_image(repository, str(layout), name="os", workers=1)
    return descriptor["digest"], image


@pytest.mark.parametrize("place", PLACES[:2])
def test_docker_manifest(place, docker, repository, tmp_path):
    """An image of Docker's is an OCI image, in a layout; where it came from is in its manifest."""
    digest, image = docker
    place = place.format(tmp_path)

    export_image(repository, "os", place)

    again = back(tmp_path, place)
    assert summary(again) == summary(image)
    with Repository.open(tmp_path / "back") as opened, opened.streams.open(manifest_name(again.manifest)) as stream:
        manifest = json.loads(stream.read_body())
    assert manifest["mediaType"] == layouts.MANIFEST
    assert manifest["layers"][0]["mediaType"] == layouts.TAR_GZIP
    assert manifest["annotations"] == {SOURCE_DIGEST: digest}


@pytest.mark.parametrize("place", [PLACES[0], PLACES[2]])
@pytest.mark.parametrize("kind", ["gzip", "foreign"])
def test_stored_docker_manifest(kind, place, repository, image, tmp_path):
    """A manifest of Docker's that is stored as it is stays so where that is understood, if its blobs are the same."""
    layer = foreign(FILES[1]) if kind == "foreign" else files_layer(FILES[1], "gzip")
    layer = dataclasses.replace(layer, media_type=layouts.DOCKER_TAR_GZIP)
    layout = layouts.Layout(tmp_path / "docker")
    data = layout.blob_path(layout.image([layer], docker=True)["digest"]).read_bytes()
    config = layout.blob_path(json.loads(data)["config"]["digest"]).read_bytes()
    stored = Image.parse(Descriptor(layouts.DOCKER_MANIFEST, sha256(data), len(data)), data, config)
    streams = {diff_id: repository.streams.find(layer_name(diff_id)) for diff_id in stored.diff_ids}
    name_image(repository, stored, streams, [], tag="docker", before_sync=lambda: None)

    result = export_image(repository, "docker", place.format(tmp_path))

    assert result.stored_manifest == sha256(data)
    assert result.is_kept == (kind == "gzip" and place.startswith("dir:"))
    again = back(tmp_path, place.format(tmp_path))
    assert (again.config, again.source_manifest) == (
        sha256(config),
        sha256(data) if result.is_kept else result.manifest,
    )


def test_broken_object(repository, image, tmp_path):
    """A layer that is not what it was is not exported; the object that is to blame is named."""
    damaged = next(path for path in (tmp_path / "repository/objects").glob("??/*") if path.stat().st_size == 100_000)
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(100_000))

    with pytest.raises(IntegrityError, match=damaged.name):
        export_image(repository, "os", f"oci:{tmp_path}/out/deep")
    with pytest.raises(IntegrityError, match=damaged.name):
        export_image(repository, "os", f"oci-archive:{tmp_path}/out.tar")
    damaged.unlink()
    with pytest.raises(NotFoundError, match=damaged.name):
        export_image(repository, "os", f"dir:{tmp_path}/out")

    assert sorted(os.listdir(tmp_path)) == ["layout", "repository"]


def failing(kind):
    """Return a listener that fails at the first event of this *kind*."""

    def listener(event):
        if isinstance(event, kind):
            raise RuntimeError("enough")

    return listener


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
@pytest.mark.parametrize("kind", [ExportStarted, LayerExported])
@pytest.mark.parametrize("place", PLACES)
def test_stopped(place, kind, unnamed, repository, image, tmp_path, request):
    """Whatever ends an export, nothing is left of it, also where files cannot be without a name."""
    if not unnamed:
        request.getfixturevalue("no_unnamed_files")

    with pytest.raises(RuntimeError):
        export_image(repository, "os", place.format(tmp_path), progress=failing(kind))

    assert sorted(os.listdir(tmp_path)) == ["layout", "repository"]


def test_stopped_in_a_layout(repository, image, tmp_path):
    """A layout that was there is as before."""
    out = tmp_path / "layout"
    before = {name: (out / name).stat() for name in tree(out)}

    for _ in range(2):
        with pytest.raises(RuntimeError):
            export_image(
                repository, "os", f"oci:{out}:new", compression=Compression.ZSTD, progress=failing(LayerExported)
            )

    found = {name: (out / name).stat() for name in tree(out)}
    assert found.keys() == before.keys()
    assert all(found[name].st_ino == before[name].st_ino for name in found)


@pytest.fixture
def no_unnamed_files(monkeypatch):
    """A file system that has no O_TMPFILE."""
    plain_open = os.open

    def without(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return plain_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", without)


@pytest.mark.parametrize("place", PLACES)
def test_without_unnamed_files(place, no_unnamed_files, repository, image, tmp_path):
    """Where files cannot be without a name, they have one that nobody sees in the end."""
    export_image(repository, "os", place.format(tmp_path))

    assert back(tmp_path, place.format(tmp_path)).manifest == image.manifest
    assert not [name for name in tree(tmp_path) if ".composefs-export" in name]
    assert export_image(repository, "os", f"oci:{tmp_path}/layout:again").is_kept


@pytest.mark.parametrize("place", PLACES)
def test_full_disk(place, repository, image, tmp_path, monkeypatch):
    """A full disk is told with the place that is full, and leaves nothing."""
    real, left = os.write, 3

    def write(fd, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)

    with pytest.raises(OSError, match="No space") as caught:
        export_image(repository, "os", place.format(tmp_path), compression=Compression.GZIP)

    assert str(tmp_path) in str(caught.value.filename)
    assert sorted(os.listdir(tmp_path)) == ["layout", "repository"]


def test_full_device(repository, image):
    """A device that is full is told, too, and so is a stream."""
    with pytest.raises(OSError, match="No space") as caught:
        export_image(repository, "os", "oci-archive:/dev/full")
    assert caught.value.filename == "/dev/full"

    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space") as caught:
        export_image(repository, "os", ArchiveDestination("oci-archive:-", full, None, "/var/tmp"))
    assert caught.value.filename == "oci-archive:-"


def test_short_writes(repository, image, tmp_path, monkeypatch):
    """A write that takes only a part is gone on with."""
    real = os.write
    monkeypatch.setattr(layer_module.os, "write", lambda fd, data: real(fd, bytes(data[:1000])))

    export_image(repository, "os", f"oci:{tmp_path}/out")

    assert back(tmp_path, f"oci:{tmp_path}/out").manifest == image.manifest


def test_modes(repository, image, tmp_path):
    """Files have the mode that the umask leaves them."""
    before = os.umask(0o027)
    try:
        export_image(repository, "os", f"oci:{tmp_path}/out")
        export_image(repository, "os", f"oci-archive:{tmp_path}/out.tar")
    finally:
        os.umask(before)

    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o640}
    assert (tmp_path / "out/blobs").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out.tar").stat().st_mode & 0o777 == 0o640


def test_at_the_same_time(repository, image, tmp_path):
    """Exports into one layout wait for each other: none loses the name of another."""
    errors = []

    def export(tag):
        try:
            export_image(repository, "os", f"oci:{tmp_path}/out:{tag}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=export, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert sorted(entries(tmp_path / "out")) == [(str(number), image.manifest) for number in range(6)]


def test_events(repository, image, tmp_path):
    """The events tell the layers, their blobs and the end."""
    events = []

    result = export_image(repository, "os", f"oci:{tmp_path}/out", progress=events.append)

    started = events[0]
    assert (started.image, started.destination, started.manifest) == ("os", f"oci:{tmp_path}/out", image.manifest)
    assert [layer.digest for layer in started.layers] == [layer.digest for layer in image.layers]
    assert started.total == sum(len(layouts.tar(layouts.rooted(files))) for files in FILES)
    made = [event for event in events if isinstance(event, LayerExported)]
    assert sorted((event.index, event.digest) for event in made) == list(
        enumerate(layer.digest for layer in image.layers)
    )
    assert isinstance(events[-1], ExportDone)
    assert events[-1].manifest == result.manifest


def test_digests_name_images(repository, image, tmp_path):
    """An image is found by the digest of its manifest or config, too."""
    for number, name in enumerate((f"@{image.manifest}", image.config)):
        assert export_image(repository, name, f"oci:{tmp_path}/{number}").manifest == image.manifest


def test_converted_by_others(repository, image, tmp_path):
    """An image that is stored under the digest of another manifest goes out under its own."""
    other = "sha256:" + "1" * 64
    repository.streams.link(manifest_name(other), repository.streams.find(manifest_name(image.manifest)))
    repository.streams.set_ref("oci/theirs", manifest_name(other))

    result = export_image(repository, "theirs", f"oci:{tmp_path}/out")

    assert (result.manifest, result.is_kept) == (image.manifest, True)


@pytest.mark.parametrize("place", PLACES[:2])
def test_tag_that_is_no_text(place, repository, image, tmp_path):
    """A tag that JSON cannot hold is refused before anything is made."""
    place = place.format(tmp_path) + "\udcff"

    with pytest.raises(UsageError, match="the tag is not UTF-8, as an index must be"):
        export_image(repository, "os", place)
    assert sorted(os.listdir(tmp_path)) == ["layout", "repository"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("oci:", "'oci:' names no directory; wanted oci:PATH[:TAG]"),
        ("oci:{}/x:@0", "'oci:{}/x:@0': a number stands for an image that is there already; WANTED"),
        ("oci-archive:-", "'oci-archive:-' is standard output only for the command; open an ArchiveDestination"),
        ("docker-archive:{}/x", "nothing is exported to docker-archive: here; WANTED"),
        ("containers-storage:x", "nothing is exported to containers-storage: here; WANTED"),
        ("{}/file", "'{}/file' is a file; write oci-archive:{}/file to replace it"),
        ("-", "'-' is a file; write oci-archive:- for standard output"),
        ("oci:{}", "{} is no OCI layout, and not empty: it has no index.json"),
        ("dir:{}", "{} is not empty, and what has one image cannot have another in one step"),
    ],
)
def test_wrong_places(place, message, repository, image, tmp_path):
    """What cannot be a destination is refused, and untouched."""
    (tmp_path / "file").write_bytes(b"old")
    wanted = "wanted oci:PATH[:TAG], oci-archive:PATH[:TAG], dir:PATH or docker://HOST/NAME[:TAG]"

    with pytest.raises(UsageError) as caught:
        export_image(repository, "os", place.replace("{}", str(tmp_path)))

    assert str(caught.value) == message.replace("{}", str(tmp_path)).replace("WANTED", wanted)
    assert sorted(os.listdir(tmp_path)) == ["file", "layout", "repository"]


def test_bare_path(repository, image, tmp_path):
    """A path alone is that of a layout; one that begins with a transport ends at the first colon."""
    export_image(repository, "os", f"{tmp_path}/out:tag")
    export_image(repository, "os", f"oci:{tmp_path}/new:localhost/a:b")

    assert entries(tmp_path / "out") == [("tag", image.manifest)]
    assert entries(tmp_path / "new") == [("localhost/a:b", image.manifest)]


def test_level_needs_a_compression(repository, image, tmp_path):
    """A level alone makes no sense."""
    with pytest.raises(UsageError, match="a compression level needs gzip or zstd"):
        export_image(repository, "os", f"oci:{tmp_path}/out", level=3)
    assert not (tmp_path / "out").exists()


def test_directory_in_the_way(repository, image, tmp_path):
    """An archive does not take the place of a directory."""
    with pytest.raises(IsADirectoryError):
        export_image(repository, "os", f"oci-archive:{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        export_image(repository, "os", f"oci:{tmp_path}/file/out")


def test_broken_index(repository, image, tmp_path):
    """An index that cannot be read stays as it is."""
    (tmp_path / "layout/index.json").write_text('{"manifests": [')

    with pytest.raises(FormatError, match=r"layout/index.json, offset 15: broken JSON"):
        export_image(repository, "os", f"oci:{tmp_path}/layout:new")

    assert (tmp_path / "layout/index.json").read_text() == '{"manifests": ['


def test_no_image_for_an_open_destination(repository, tmp_path):
    """One that is open already is closed all the same."""
    with pytest.raises(NotFoundError):
        export_image(repository, "os", DirectoryDestination("dir:out", str(tmp_path / "out")))

    assert sorted(os.listdir(tmp_path)) == ["repository"]


def test_no_image(repository, tmp_path):
    """What is not there is not exported, and nothing is made for it."""
    with pytest.raises(NotFoundError, match="no tag none"):
        export_image(repository, "none", f"oci:{tmp_path}/out")
    assert os.listdir(tmp_path) == ["repository"]


def test_short_stream(repository, image, tmp_path, monkeypatch):
    """A stream that says another size than it has is broken, although its contents are right."""
    real = reading.unproved_contents

    def shorter(stream, *rest):
        stream.reader.size += 1
        return real(stream, *rest)

    monkeypatch.setattr(reading, "unproved_contents", shorter)

    with pytest.raises(FormatError, match="bytes, not the"):
        export_image(repository, "os", f"oci:{tmp_path}/out")

    assert not (tmp_path / "out").exists()
