"""Images in container storage as a source: imported as from anywhere else, or refused with a reason."""

import json
import os
from pathlib import Path

import pytest

from composefs import Repository, import_image
from composefs.digest import Algorithm
from composefs.errors import FormatError, IntegrityError, NotFoundError, RoomError, UsageError
from composefs.oci import room
from composefs.oci.manifest import Platform
from composefs.oci.sources.access import Access
from composefs.oci.sources.skopeo import SkopeoSource
from composefs.oci.sources.storage import finding, open_storage
from composefs.reference import parse_reference
from tests.layouts import INDEX, image_layout, layer, noise, rooted, sha256, tar
from tests.storages import Storage, gzipped, tar_split

FIRST = tar(rooted({"usr/a": noise(70_000), "usr/b": b"small", "usr/c": noise(65, 1)}))
SECOND = tar({"usr/b": noise(5000, 2), "usr/.wh.c": b""})
NAME = "localhost/x:latest"

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def storage(tmp_path):
    """A store with an image of two layers, which is not written."""
    storage = Storage(tmp_path / "storage")
    storage.image([FIRST, SECOND], NAME)
    return storage


def open_image(storage, name=NAME, **access):
    return open_storage(parse_reference(f"{storage}{name}"), Access(**access))


def take(repository, storage, name=NAME, local_fetch="disabled"):
    return import_image(repository, f"{storage}{name}", name="x", workers=1, access=Access(local_fetch=local_fetch))


def contents(path):
    """Return all that a repository is."""
    found = {}
    for directory, _, names in os.walk(path):
        for name in names:
            file = Path(directory, name)
            if name != "meta.json":
                found[str(file.relative_to(path))] = file.readlink() if file.is_symlink() else file.read_bytes()
    return found


@pytest.mark.parametrize("local_fetch", ["disabled", "auto", "zerocopy"])
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_the_same_repository(tmp_path, repository, driver, local_fetch):
    """It is that of the same layers in a layout, byte for byte, but for the manifest, which names other blobs there."""
    storage = Storage(tmp_path / "storage", driver)
    storage.image([FIRST, SECOND], NAME)
    layout = image_layout(tmp_path / "layout", [layer(FIRST, "gzip"), layer(SECOND, "gzip")])
    Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)

    result = take(repository, storage.write(), local_fetch=local_fetch)
    with Repository.open(tmp_path / "other") as other:
        wanted = import_image(other, str(layout), name="x", workers=1)

    assert (result.config, result.images, result.stats) == (wanted.config, wanted.images, wanted.stats)
    assert result.manifest == wanted.manifest
    assert contents(repository.path) == contents(tmp_path / "other")


def test_names_of_the_image(storage):
    """By name, by id, or by both."""
    storage.write()
    image_id = storage.records["images"][0]["id"]

    for name in (NAME, "x", f"@{image_id}", image_id, f"x@{image_id}", image_id[:12]):
        with open_image(storage, name) as source:
            assert source.image().diff_ids == (sha256(FIRST), sha256(SECOND))
            assert (source.name, source.streams) == (f"{storage}{name}", None)


def test_an_image_of_another_platform(storage):
    """It is taken by its name, unless a platform was asked for."""
    with open_image(storage.write()) as source:
        assert source.image().diff_ids == (sha256(FIRST), sha256(SECOND))
        with pytest.raises(NotFoundError, match="has no image for linux/s390x"):
            source.image(Platform("linux", "s390x"))


def test_a_list_of_images(storage):
    """Of a list the manifest for the platform is taken."""
    record = storage.records["images"][0]
    descriptor = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": record["digest"], "size": 0}
    manifest = storage.images / record["id"] / "manifest"
    descriptor["size"] = manifest.stat().st_size
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).encode()
    storage.big_data(record["id"], "manifest", index)
    record |= {"digest": sha256(index)}
    storage.big_data(record["id"], f"manifest-{sha256(index)}", index)

    with open_image(storage.write()) as source:
        assert source.image().diff_ids == (sha256(FIRST), sha256(SECOND))


def test_forged_manifest_and_config(storage):
    """Both are proved by their digests."""
    record = storage.records["images"][0]
    config = storage.big_data(record["id"], f"sha256:{record['id']}", b"{}" * 10)
    with pytest.raises(IntegrityError, match="config sha256:"):
        open_image(storage.write()).image()
    config.unlink()
    with pytest.raises(NotFoundError, match="config sha256:.* is missing"):
        open_image(storage).image()
    storage.big_data(record["id"], f"manifest-{record['digest']}", b"{}")
    with pytest.raises(IntegrityError, match="manifest sha256:"):
        open_image(storage).image()


def test_old_stores_have_one_manifest(storage):
    """Then it is under the short key alone."""
    record = storage.records["images"][0]
    for path in (storage.images / record["id"]).iterdir():
        if path.name.startswith("=bWFuaWZlc3Qt"):  # manifest-
            path.unlink()

    assert open_image(storage.write()).image().diff_ids == (sha256(FIRST), sha256(SECOND))


def test_layers_in_another_store(tmp_path, repository):
    """An image may stand on layers of a store that was added, where they have other ids."""
    lower, upper = Storage(tmp_path / "lower"), Storage(tmp_path / "upper")
    parent = lower.layer(FIRST, "0" * 64)
    upper.image([FIRST, SECOND], NAME, top=upper.layer(SECOND, parent))
    lower.write()
    upper.write()

    reference = f"containers-storage:[overlay@{upper.root}:overlay.imagestore={lower.root}]x"
    result = import_image(repository, reference, name="x", workers=1)

    assert [each.diff_id for each in result.layers] == [sha256(FIRST), sha256(SECOND)]


def test_layers_whose_digest_nobody_wrote_down(storage, repository):
    """Then the place counts, and the diff_id proves it all the same."""
    for record in storage.records["layers"]:
        del record["diff-digest"], record["diff-size"]

    result = take(repository, storage.write())

    assert [each.diff_id for each in result.layers] == [sha256(FIRST), sha256(SECOND)]


def test_images_without_a_digest(storage):
    """Nothing tells whether the manifest is the right one."""
    for digest in ("", "sha256:" + "0" * 300, 7):
        storage.records["images"][0]["digest"] = digest
        with pytest.raises(NotFoundError, match="has no digest of its manifest"):
            open_image(storage.write()).image()


def test_a_layer_without_its_parts(storage):
    """It is told before anything is read."""
    for record in storage.records["layers"]:
        del record["diff-size"]
        storage.tar_split(record["id"]).unlink()
    source = open_image(storage.write())

    with pytest.raises(NotFoundError, match="without which it cannot be read"):
        source.blob(source.image(), 0)


def test_a_layer_that_is_missing(storage):
    """The stores are named."""
    del storage.records["layers"][1]
    source = open_image(storage.write())

    with pytest.raises(NotFoundError, match=f"no layer {sha256(SECOND)} in {storage.root}"):
        source.blob(source.image(), 1)


@pytest.mark.parametrize("local_fetch", ["disabled", "zerocopy"])
def test_a_file_that_was_changed(storage, repository, local_fetch):
    """The diff_id does not fit, and nothing gets a name."""
    top = storage.records["layers"][0]["id"]
    (storage.files(top) / "usr/a").write_bytes(noise(70_000, 9))

    with pytest.raises(IntegrityError, match=f"wanted {sha256(FIRST)}, got sha256:"):
        take(repository, storage.write(), local_fetch=local_fetch)

    assert sha256(FIRST) not in str(list(repository.streams.names()))


@pytest.mark.parametrize("local_fetch", ["disabled", "zerocopy"])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda lines: lines[:-1], (FormatError, IntegrityError)),  # no end
        (lambda lines: [*lines, *lines], IntegrityError),  # twice
        (lambda lines: lines[2:], (FormatError, IntegrityError)),  # no beginning
        (lambda lines: [line | {"size": 5} if line.get("size") else line for line in lines], IntegrityError),
        (lambda lines: [line | {"name": "usr/c"} if line.get("size") else line for line in lines], IntegrityError),
        (lambda lines: [line for line in lines if not line.get("size")], (FormatError, IntegrityError)),
        (lambda lines: [line | {"name": "../x"} if line.get("size") else line for line in lines], FormatError),
    ],
)
def test_a_tar_split_that_lies(storage, repository, change, error, local_fetch):
    """Whatever it says, the diff_id decides, and nothing gets a name."""
    bottom = storage.records["layers"][0]["id"]
    storage.tar_split(bottom).write_bytes(gzipped(change(tar_split(FIRST))))

    with pytest.raises(error):
        take(repository, storage.write(), local_fetch=local_fetch)

    assert sha256(FIRST) not in str(list(repository.streams.names()))


@pytest.mark.parametrize("local_fetch", ["disabled", "zerocopy"])
def test_an_archive_that_is_longer_than_was_said(storage, repository, local_fetch):
    """It is not read further than that."""
    storage.records["layers"][0]["diff-size"] = 20_000

    with pytest.raises(IntegrityError, match="more"):
        take(repository, storage.write(), local_fetch=local_fetch)


def test_layers_that_are_composefs(storage):
    """They cannot be read here, but skopeo can."""
    os.mkdir(storage.root / "overlay" / storage.records["layers"][0]["id"] / "composefs-data")
    source = open_image(storage.write())

    with pytest.raises(UsageError, match="--via skopeo"):
        source.blob(source.image(), 0)


def test_no_store(tmp_path):
    """The directories that were looked at are named."""
    with pytest.raises(NotFoundError, match=f"no container storage in {tmp_path}"):
        open_storage(parse_reference(f"containers-storage:[{tmp_path}]x"), Access())
    with pytest.raises(NotFoundError, match=f"no container storage in {tmp_path}/missing"):
        open_storage(parse_reference(f"containers-storage:[{tmp_path}/missing]x"), Access())


def test_stores_of_other_drivers(tmp_path):
    """They are left to skopeo."""
    Storage(tmp_path, "btrfs")

    for text in (f"[{tmp_path}]x", f"[btrfs@{tmp_path}]x"):
        with open_storage(parse_reference(f"containers-storage:{text}"), Access()) as source:
            assert isinstance(source, SkopeoSource)


def test_stores_of_the_host(storage, tmp_path, monkeypatch):
    """Without a store in the reference, those are looked at that the variables and storage.conf name."""
    monkeypatch.setattr(finding, "SYSTEM_CONFIGURATIONS", ())
    storage.write()
    environ = {"CONTAINERS_STORAGE_ROOT": f"{tmp_path}/missing", "STORAGE_OPTS": f"imagestore={storage.root}"}

    with open_storage(parse_reference(f"containers-storage:{NAME}"), Access(environ=environ)) as source:
        assert source.image().diff_ids == (sha256(FIRST), sha256(SECOND))


def test_stores_that_cannot_be_read(storage, tmp_path, monkeypatch):
    """A store that was named says so; one that may be there is told of only if the image is nowhere else."""
    real = os.stat

    def refuse(path, *args, **options):
        if str(path).startswith("/closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(finding, "SYSTEM_CONFIGURATIONS", ())
    storage.write()
    environ = {"CONTAINERS_STORAGE_ROOT": "/closed", "STORAGE_OPTS": f"imagestore={storage.root}"}

    with pytest.raises(PermissionError, match="podman unshare") as caught:
        open_storage(parse_reference("containers-storage:[/closed]x"), Access())
    assert caught.value.filename == "/closed"
    source = open_storage(parse_reference("containers-storage:y"), Access(environ=environ))
    with pytest.raises(NotFoundError) as missing:
        source.image()
    assert "/closed cannot be read: " in missing.value.__notes__[0]


def test_no_room_for_copies(storage, repository, monkeypatch):
    """Copies must fit; what is shared with the store takes no room."""
    monkeypatch.setattr(room, "room_for", lambda _: room.Room(1000, None, 4096))
    storage.write()

    with pytest.raises(RoomError):
        take(repository, storage)
    take(repository, storage, local_fetch="zerocopy")
