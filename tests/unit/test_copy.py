"""Copies of images between repositories: the same as an import, whatever the source says of itself."""

import hashlib
import os
import shutil

import pytest

from composefs import (
    Algorithm,
    FormatError,
    IntegrityError,
    NotFoundError,
    Repository,
    RepositoryError,
    UsageError,
    import_image,
)
from composefs.oci.copy import copy_image
from composefs.oci.images import list_images, open_image
from composefs.oci.names import store_json
from composefs.splitstream import ContentType
from tests import layouts
from tests.golden import vectors
from tests.layouts import files_layer, image_layout, noise

LAYERS = [
    files_layer({"usr/a": noise(100), "usr/b": noise(3 << 20, 1), "usr/small": b"x"}),
    files_layer({"usr/c": noise(5000, 2), "usr/d": noise(100)}, "gzip"),
]


def make(path, algorithm=Algorithm.SHA512, version=1):
    Repository.init(path, algorithm, erofs_version=version, require_verity=False)
    return Repository.open(path)


@pytest.fixture
def layout(tmp_path):
    return image_layout(tmp_path / "layout", LAYERS)


@pytest.fixture
def source(tmp_path, layout):
    """An open repository with one image, called os."""
    with make(tmp_path / "source") as repository:
        import_image(repository, str(layout), name="os", workers=1)
        yield repository


@pytest.fixture
def target(tmp_path):
    with make(tmp_path / "target") as repository:
        yield repository


def object_paths(repository):
    root = f"{repository.path}/objects"
    return sorted(f"objects/{two}/{rest}" for two in os.listdir(root) for rest in os.listdir(f"{root}/{two}"))


def named(repository):
    return {name for name, _ in repository.streams.names()}


def is_empty(repository):
    return not os.path.exists(f"{repository.path}/streams")


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_as_an_import(source, layout, tmp_path, algorithm, version):
    """A copy, into a repository of any algorithm and format, is what an import makes there, byte for byte."""
    with (
        make(tmp_path / "target", algorithm, version) as target,
        make(tmp_path / "wanted", algorithm, version) as wanted,
    ):
        result = copy_image(source, target, "os", name="new")
        imported = import_image(wanted, str(layout), name="new", workers=1)

    assert vectors.listing(tmp_path / "target") == vectors.listing(tmp_path / "wanted")
    assert (result.manifest, result.config, result.name) == (imported.manifest, imported.config, "new")
    assert (result.verity, result.images) == (imported.verity, imported.images)
    assert (result.stats.objects_new, result.stats.objects_present) == (3, 1)
    assert result.stats.bytes_new == 100 + (3 << 20) + 5000
    assert result.stats.bytes_inline == imported.stats.bytes_inline


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_workers(source, tmp_path, monkeypatch, workers):
    """Any number of workers makes the same repository."""
    monkeypatch.setattr("composefs.oci.copy._POOL_COST", 0)
    paths = [tmp_path / "one", tmp_path / "many"]
    for path, count in zip(paths, (1, workers), strict=True):
        with make(path) as target:
            copy_image(source, target, "os", name="new", workers=count)

    assert vectors.listing(paths[1]) == vectors.listing(paths[0])


def test_without_a_name(source, target):
    """Without a name there is no tag; the image can be found by its digest, and named later."""
    result = copy_image(source, target, "os")

    assert result.name is None
    assert list(list_images(target)) == []
    assert open_image(target, result.manifest).config == result.config


@pytest.mark.parametrize("form", ["{manifest}", "@{manifest}", "@{config}"])
def test_by_digest(source, target, form):
    """The image may be named by the digest of its manifest or config."""
    image = open_image(source, "os")

    result = copy_image(source, target, form.format(manifest=image.manifest, config=image.config), name="new")

    assert result.manifest == image.manifest


def test_again(source, target):
    """What is there is not copied again."""
    first = copy_image(source, target, "os", name="one")
    before = object_paths(target)

    again = copy_image(source, target, "os", name="two")

    assert (again.verity, again.config_verity, again.images) == (first.verity, first.config_verity, first.images)
    assert again.stats.objects_new == again.stats.objects_present == again.stats.bytes_inline == 0
    assert object_paths(target) == before
    assert [image.name for image in list_images(target)] == ["one", "two"]


def test_some_layers_are_there(source, target, tmp_path):
    """Layers that the target has are not copied, and the image is made of all."""
    other = image_layout(tmp_path / "other", LAYERS[:1])
    import_image(target, str(other), name="other", workers=1)

    result = copy_image(source, target, "os", name="new")

    assert result.stats.objects_new == 1
    assert result.images == tuple(
        image for image in import_image(source, str(tmp_path / "layout"), name="os", workers=1).images
    )


def test_into_itself(source):
    """A repository can be copied from into itself: another name."""
    before = object_paths(source)

    copy_image(source, source, "os", name="new")

    assert object_paths(source) == before
    assert [image.name for image in list_images(source)] == ["new", "os"]


def test_other_format(source, target):
    """The format of the image can be chosen."""
    result = copy_image(source, target, "os", name="new", erofs_version=2)

    (image,) = result.images
    assert image.version == 2
    assert open_image(target, "new").erofs_image(2) == image.digest


def test_zerocopy(source, target):
    """Objects are shared with the source, by block or by name; what is made anew is not."""
    result = copy_image(source, target, "os", name="new", zerocopy=True)

    same = [path for path in object_paths(target) if path in object_paths(source)]
    linked = [path for path in same if os.path.samefile(f"{source.path}/{path}", f"{target.path}/{path}")]
    assert (result.stats.objects_new, result.stats.objects_present) == (3, 1)
    if linked:  # else the file system shares blocks
        assert sorted(os.stat(f"{target.path}/{path}").st_size for path in linked) == [100, 5000, 3 << 20]
    assert [image.name for image in list_images(target)] == ["new"]


def test_zerocopy_of_an_artifact(tmp_path, target):
    """Blobs are shared, too."""
    blob = layouts.layer(noise(10_000), media_type="text/plain")
    layout = layouts.Layout(tmp_path / "artifact")
    layout.write(layout.artifact([blob]))
    with make(tmp_path / "other") as source:
        import_image(source, str(layout), name="art", workers=1)

        result = copy_image(source, target, "art", name="art", zerocopy=True)

    assert (result.images, result.stats.bytes_new) == ((), 10_000)


def test_zerocopy_between_algorithms(source, tmp_path):
    """Objects of another algorithm cannot be shared, and nothing is made."""
    with make(tmp_path / "other", Algorithm.SHA256) as target:
        with pytest.raises(RepositoryError, match="it can share no objects named by fsverity-sha512-12"):
            copy_image(source, target, "os", name="new", zerocopy=True)
        assert is_empty(target)


def test_zerocopy_between_file_systems(source, target, monkeypatch):
    """Where nothing can be shared, nothing is copied instead; the error says why."""

    def refuse(_fd):
        raise OSError(18, os.strerror(18), "somewhere")

    monkeypatch.setattr("composefs.repository.objects.ObjectStore.share_file", lambda self, fd: refuse(fd))

    with pytest.raises(OSError, match="cross-device") as raised:
        copy_image(source, target, "os", name="new", zerocopy=True, workers=1)

    assert "to share contents, both repositories must be on one file system, and of one owner" in raised.value.__notes__
    assert is_empty(target)


@pytest.mark.parametrize("name", ["@new", "", "a" * 300])
def test_bad_name(source, target, name):
    """A name that no tag can have is refused before any work."""
    with pytest.raises(UsageError):
        copy_image(source, target, "os", name=name)

    assert is_empty(target)


def test_no_image(source, target):
    """An image that is not there is named."""
    with pytest.raises(NotFoundError, match="no tag none"):
        copy_image(source, target, "none", name="new")

    assert is_empty(target)


def test_read_only(source, target, monkeypatch):
    """A target that cannot be written is named before anything is read."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    with pytest.raises(RepositoryError, match="target: is not writable"):
        copy_image(source, target, "os")


def damaged(source, digest, data):
    """Replace an object by *data*, whole or not."""
    path = f"{source.path}/objects/{digest.object_path}"
    os.unlink(path)
    with open(path, "wb") as file:
        file.write(data)


def test_damaged_object(source, target):
    """An object that is not what its name says is found, and nothing gets a name but the layer that is finished."""
    diff_id = LAYERS[0].diff_id
    with source.streams.open(f"oci-layer-{diff_id}") as stream:
        digest = stream.reader.object_refs[0]
    damaged(source, digest, noise(100, 9))

    with pytest.raises(IntegrityError, match=digest.object_path):
        copy_image(source, target, "os", name="new")

    assert named(target) <= {f"oci-layer-{LAYERS[1].diff_id}"}


def test_missing_layer(source, target):
    """A layer that is gone is named."""
    os.unlink(f"{source.path}/streams/oci-layer-{LAYERS[1].diff_id}")

    with pytest.raises(NotFoundError, match=f"no stream oci-layer-{LAYERS[1].diff_id}"):
        copy_image(source, target, "os", name="new")

    assert is_empty(target)


def forge(source, diff_id, content_type, chunks):
    """Let the stream of a layer be made of *chunks*: bytes inline, or bytes in a list as an object."""
    writer = source.streams.writer(content_type)
    for chunk in chunks:
        if isinstance(chunk, list):
            digest, _ = source.objects.ensure(chunk[0])
            writer.external(digest, len(chunk[0]))
        else:
            writer.inline(chunk)
    source.streams.link(f"oci-layer-{diff_id}", source.streams.store(writer))


ARCHIVE = LAYERS[0].blob
CONTENT = ARCHIVE.index(noise(100))


@pytest.mark.parametrize(
    ("chunks", "error", "message"),
    [
        ([ARCHIVE], FormatError, "100 bytes that are no object"),
        (
            [ARCHIVE[:CONTENT], [ARCHIVE[CONTENT : CONTENT + 1536]], ARCHIVE[CONTENT + 1536 :]],
            FormatError,
            "entry usr/a, offset 512: object of 1536 bytes, where 100 are wanted",
        ),
        ([[ARCHIVE]], FormatError, "an object, where no contents are due"),
        (
            [ARCHIVE[:CONTENT], [ARCHIVE[CONTENT : CONTENT + 50]], ARCHIVE[CONTENT + 50 :]],
            FormatError,
            "object of 50 bytes, where 100 are wanted",
        ),
        ([ARCHIVE[:CONTENT]], FormatError, "archive ends 100 bytes before the contents do"),
        (
            [layouts.tar({"usr/": b"", "usr/evil": b"x"})],
            IntegrityError,
            f"diff_id: wanted {LAYERS[0].diff_id}, got sha256:",
        ),
        ([], IntegrityError, f"got {layouts.sha256(b'')}"),
    ],
    ids=["inline", "object-hides-entries", "all-in-one", "short-object", "cut", "other-archive", "empty"],
)
def test_forged_layer(source, target, chunks, error, message):
    """A layer that is not what its diff_id says is refused, and so is one that is split in another way.

    The digest of the archive does not tell how it is split: an object that held more than a file would hide entries.
    """
    forge(source, LAYERS[0].diff_id, ContentType.LAYER, chunks)

    with pytest.raises(error, match=message):
        copy_image(source, target, "os", name="new")

    assert named(target) <= {f"oci-layer-{LAYERS[1].diff_id}"}


def test_layer_that_is_a_blob(source, target):
    """A stream of another content type is no layer."""
    forge(source, LAYERS[0].diff_id, ContentType.BLOB, [[ARCHIVE]])

    with pytest.raises(FormatError, match="content type b'oci_blob', wanted b'ocilayer'"):
        copy_image(source, target, "os", name="new")


def test_artifact_copied_by_others(tmp_path, target):
    """composefs-rs copies an artifact's blobs as if they were archives; here they become blobs again."""
    blobs = [layouts.layer(noise(size, size), media_type="text/plain") for size in (0, 5, 64, 5000)]
    layout = layouts.Layout(tmp_path / "artifact")
    layout.write(layout.artifact(blobs))
    with make(tmp_path / "other") as source, make(tmp_path / "wanted") as wanted:
        import_image(source, str(layout), name="art", workers=1)
        import_image(wanted, str(layout), name="art", workers=1)
        for blob in blobs:
            chunks = [[blob.blob]] if len(blob.blob) > 64 else [blob.blob]
            forge(source, blob.digest, ContentType.LAYER, chunks)

        copy_image(source, target, "art", name="art")

    assert vectors.listing(tmp_path / "target") == vectors.listing(tmp_path / "wanted")


def test_converted_manifest(source, target):
    """A manifest that is stored under another digest, as of Docker's images by composefs-rs, gets its own."""
    image = open_image(source, "os")
    other = "sha256:" + hashlib.sha256(b"as it was").hexdigest()
    refs = {f"config:{image.config}": source.streams.find(f"oci-config-{image.config}")} | image.layers
    stream = store_json(source, ContentType.MANIFEST, image.manifest_bytes, refs)
    source.streams.link(f"oci-manifest-{other}", stream)
    source.streams.set_ref("oci/docker", f"oci-manifest-{other}")

    result = copy_image(source, target, "docker", name="new")

    assert result.manifest == image.manifest
    with pytest.raises(IntegrityError, match=f"wanted {other}, got {image.manifest}"):
        copy_image(source, target, other, name="other")


def test_order(source, target, monkeypatch):
    """Names appear after the flush, the tag last."""
    events = []
    link, sync, set_ref = target.streams.link, target.sync, target.streams.set_ref
    monkeypatch.setattr(target.streams, "link", lambda name, *a: (events.append(name[:10]), link(name, *a))[1])
    monkeypatch.setattr(target.images, "link", lambda *a: events.append("image"))
    monkeypatch.setattr(target, "sync", lambda: (events.append("sync"), sync())[1])
    monkeypatch.setattr(target.streams, "set_ref", lambda *a: (events.append("tag"), set_ref(*a))[1])

    copy_image(source, target, "os", name="new")

    assert events == ["sync", "image", "oci-layer-", "oci-layer-", "oci-config", "oci-manife", "tag"]


def test_repository_in_the_way(source, tmp_path):
    """A target that is the same directory under another path is no danger."""
    os.symlink(source.path, tmp_path / "link")
    with Repository.open(tmp_path / "link") as target:
        copy_image(source, target, "os", name="new", zerocopy=True)

    shutil.rmtree(tmp_path / "layout")
    assert [image.name for image in list_images(source)] == ["new", "os"]
