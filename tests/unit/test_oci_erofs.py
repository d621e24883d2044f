"""The EROFS images of an OCI image: which are made, kept, recorded and named, and what a failure leaves: nothing."""

import concurrent.futures
import io
import os
import tarfile
import threading

import pytest

import composefs
from composefs import Algorithm, Digest, FormatError, NotFoundError, TreeError, UsageError
from composefs.erofs.writer import write_image
from composefs.oci import erofs, index, missing, names, plan, progress, read, work
from composefs.oci.erofs import ErofsMaker, ErofsRequest
from composefs.oci.images import open_image
from composefs.oci.names import store_json
from composefs.oci.slots import Slot
from composefs.oci.sources.access import Access
from composefs.oci.sources.opening import open_source
from composefs.oci.trees import tree_of_image
from composefs.repository import refs
from composefs.splitstream import ContentType
from composefs.transform import XattrFilter
from composefs.verity import compute_digest
from tests import layouts
from tests.layouts import Layout, files_layer, image_layout, noise

V1, V2 = "composefs.image.v1", "composefs.image"
BOOT = {"boot/": b"", "sysroot/": b"", "boot/vmlinuz": noise(300, 3)}


@pytest.fixture
def layout(tmp_path):
    """A layout of two layers that can be booted."""
    return image_layout(tmp_path / "layout", [files_layer({"usr/a": noise(100), **BOOT}), files_layer({"b": b"b"})])


def imported(repository, layout, **options):
    return composefs.import_image(repository, str(layout), name="os", workers=1, **options)


def config_refs(repository, result):
    """Return the references of the config that are to no layer."""
    with repository.streams.open(f"oci-config-{result.config}") as stream:
        layers = {layer.diff_id for layer in result.layers}
        return {key: digest for key, digest in stream.reader.named_refs.items() if key not in layers}


def images(repository):
    """Return the names below images/."""
    path = f"{repository.path}/images"
    return set(os.listdir(path)) if os.path.exists(path) else set()


def everything(repository):
    """Return all names, with what they stand for, and the objects."""
    found = {}
    for directory, _, files in os.walk(repository.path):
        for file in files:
            path = f"{directory}/{file}"
            found[path] = os.readlink(path) if os.path.islink(path) else os.stat(path).st_ino
    return found


@pytest.fixture
def idle(monkeypatch):
    """Fail where a layer is looked at, an image made, or the file system flushed."""

    def forbidden(*_, **__):
        raise AssertionError("nothing is to be done")

    for place in (
        "composefs.oci.missing.run_jobs",
        "composefs.oci.missing.stored_layer",
        "composefs.oci.read.stored_batches",
        "composefs.oci.plain.plain_image",
        "composefs.Repository.sync",
    ):
        monkeypatch.setattr(place, forbidden)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_formats(tmp_path, layout, version):
    """A repository gets an image of its format, named by its digest, and recorded in the slot of that format."""
    composefs.Repository.init(tmp_path / "other", Algorithm.SHA512, erofs_version=version, require_verity=False)
    with composefs.Repository.open(tmp_path / "other") as repository:
        result = imported(repository, layout)

        (image,) = result.images
        assert (image.version, image.bootable, image.digest) == (version, False, result.image)
        assert config_refs(repository, result) == {V2 if version == 2 else V1: result.image}
        assert images(repository) == {result.image.hex}
        with repository.images.open(result.image.hex) as file:
            assert file.read()[12:16] == bytes([version, 0, 0, 0])
        assert result.boot_image is None


def test_version_for_one_import(repository, layout):
    """A format that is asked for is made instead of the repository's; an image in the other slot stays."""
    first = imported(repository, layout)
    second = imported(repository, layout, erofs_version=2)

    assert [image.version for image in second.images] == [2]
    assert config_refs(repository, second) == {V1: first.image, V2: second.image}
    assert images(repository) == {first.image.hex, second.image.hex}


def test_v0_takes_the_slot_of_v1(repository, layout):
    """V0 and V1 share a slot: the last one that was asked for has it, the other stays until garbage is collected."""
    first = imported(repository, layout)
    second = imported(repository, layout, erofs_version=0)

    assert config_refs(repository, second) == {V1: second.image}
    assert images(repository) == {first.image.hex, second.image.hex}
    assert config_refs(repository, imported(repository, layout)) == {V1: first.image}


def test_again(repository, layout, request):
    """Importing again what is there, in any way that is recorded, changes nothing and looks at no layer."""
    wanted = [imported(repository, layout, **options) for options in ({}, {"erofs_version": 2}, {"bootable": True})]
    before = everything(repository)
    request.getfixturevalue("idle")

    again = [imported(repository, layout, **options) for options in ({}, {"erofs_version": 2}, {"bootable": True})]

    assert [result.images for result in again] == [result.images for result in wanted]
    assert everything(repository) == before


def test_missing_layer_alone(repository, layout, monkeypatch):
    """A layer that was lost is imported again, without a look at the others: the image is there."""
    first = imported(repository, layout)
    before = everything(repository)
    os.unlink(f"{repository.path}/streams/oci-layer-{first.layers[1].diff_id}")
    jobs = []
    monkeypatch.setattr(missing, "work", lambda job: jobs.append(job) or work.work(job))

    again = imported(repository, layout)

    assert [job.wants_index for job in jobs] == [False]
    assert everything(repository) == before
    assert again.images == first.images


def damage_object(repository, digest, how):
    path = f"{repository.path}/objects/{digest.object_path}"
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    if how != "lost":
        with open(path, "wb") as file:
            file.write({"cut": data[:-4096], "changed": bytes([data[0] ^ 1]) + data[1:]}[how])


@pytest.mark.parametrize("how", ["lost", "cut", "changed"])
def test_damaged_image(repository, layout, how):
    """An image that is recorded but not whole is made again."""
    first = imported(repository, layout, bootable=True)
    before = everything(repository)
    damage_object(repository, first.image, how)

    again = imported(repository, layout, bootable=True)

    assert again.images == first.images
    assert everything(repository).keys() == before.keys()
    with repository.images.open(again.image.hex) as file:
        assert len(file.read()) > 4096


def test_lost_name(repository, layout, monkeypatch):
    """An image that lost its name gets it again, after a flush, and is not made again."""
    first = imported(repository, layout)
    before = everything(repository)
    os.unlink(f"{repository.path}/images/{first.image.hex}")
    events = []

    imported(repository, layout, progress=events.append)

    assert everything(repository) == before
    assert progress.Syncing() in events
    assert progress.BuildingImage(1, bootable=False) not in events


def test_recorded_is_no_image(repository, layout):
    """What stands in the slot of an image but is none, or is of another format, does not count."""
    first = imported(repository, layout)
    second = imported(repository, layout, erofs_version=2)
    name = f"oci-config-{first.config}"
    with repository.streams.open(name) as stream:
        refs_, body = stream.reader.named_refs, stream.read_body()
    for wrong in (first.layers[0].stream, second.image, first.verity):
        stream = store_json(repository, ContentType.CONFIG, body, refs_ | {V1: wrong})
        repository.streams.link(name, stream)

        again = imported(repository, layout)

        assert again.image == first.image
        assert config_refs(repository, again)[V1] == first.image


def test_dead_references(repository, layout):
    """A reference to an image that does not exist is dropped, so that a check of the repository finds nothing."""
    first = imported(repository, layout)
    other = imported(repository, layout, erofs_version=2)
    damage_object(repository, other.image, "lost")

    again = imported(repository, layout)

    assert config_refs(repository, again) == {V1: first.image}


def test_bootable(repository, layout):
    """An image for booting is made beside the plain one, and has another slot; it stays when it is not asked for."""
    result = imported(repository, layout, bootable=True)

    plain, boot = result.images
    assert (plain.bootable, boot.bootable) == (False, True)
    assert result.boot_image == boot
    assert plain.digest != boot.digest
    assert config_refs(repository, result) == {V1: plain.digest, "composefs.image.boot.v1": boot.digest}
    assert images(repository) == {plain.digest.hex, boot.digest.hex}
    imported(repository, layout, erofs_version=2)
    assert len(config_refs(repository, result)) == 3


def test_boot_image_alone(repository, layout, monkeypatch):
    """Where the plain image is there only the one for booting is made, of the same digest as with the other."""
    plain = imported(repository, layout)
    events = []

    result = imported(repository, layout, bootable=True, progress=events.append)

    built = [event for event in events if isinstance(event, progress.BuildingImage)]
    assert built == [progress.BuildingImage(1, bootable=True)]
    assert result.images[0] == plain.images[0]
    composefs.Repository.init(f"{repository.path}2", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(f"{repository.path}2") as other:
        assert imported(other, layout, bootable=True).images == result.images


def test_order_of_references(repository, layout):
    """References stand in the order of composefs-rs, whatever the images were made in: layers, V2, V1, for booting."""
    for options in ({"bootable": True}, {"bootable": True, "erofs_version": 2}):
        result = imported(repository, layout, **options)

    with repository.streams.open(f"oci-config-{result.config}") as stream:
        keys = {digest: key for key, digest in stream.reader.named_refs.items()}
        order = [keys[digest] for digest in stream.reader.stream_refs]
    layers = [layer.diff_id for layer in result.layers]
    assert order == [*layers, V2, V1, "composefs.image.boot", "composefs.image.boot.v1"]


def test_two_at_once(repository, layout):
    """Imports of one image at the same time lose none of the images that another one makes."""
    results = []

    def import_other():
        with composefs.Repository.open(repository.path) as other:
            results.append(imported(other, layout, erofs_version=2))

    thread = threading.Thread(target=import_other)

    def listen(event):
        if isinstance(event, progress.Syncing):  # config and manifest are stored, and have no names
            thread.start()
            thread.join(0.5)  # without a lock it would be done by then

    first = imported(repository, layout, bootable=True, progress=listen)
    thread.join()

    plain, boot = first.images
    refs_ = config_refs(repository, first)
    assert refs_ == {V2: results[0].image, V1: plain.digest, "composefs.image.boot.v1": boot.digest}
    with repository.streams.open(f"oci-manifest-{first.manifest}") as stream:
        assert stream.reader.named_refs[f"config:{first.config}"] == repository.streams.find(
            f"oci-config-{first.config}"
        )


@pytest.fixture
def layout_with_xattrs(tmp_path):
    """A layout of one layer that has an extended attribute which only one of the modes keeps."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("usr", "boot", "sysroot"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.pax_headers = {"SCHILY.xattr.user.a": name}
            archive.addfile(info)
    return image_layout(tmp_path / "with-xattrs", [layouts.layer(buffer.getvalue())])


@pytest.mark.parametrize("xattrs", XattrFilter)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_expected_digest(repository, tmp_path, layout_with_xattrs, xattrs, version):
    """The image for booting that has the expected digest is found among formats and modes, made, and recorded."""
    first = imported(repository, layout_with_xattrs)
    tree = tree_of_image(repository, "os", xattrs=xattrs, bootable=True)
    expected = compute_digest(write_image(tree, version), Algorithm.SHA256)

    result = imported(repository, layout_with_xattrs, expected_digest=expected)

    boot = result.boot_image
    assert (boot.digest, boot.version, boot.xattrs, boot.bootable) == (expected, version, xattrs, True)
    assert config_refs(repository, result) == {V1: first.image, boot.slot.key: expected}
    assert expected.hex in images(repository)


def test_expected_digest_again(repository, layout, request):
    """An expected image that is recorded is looked for no further."""
    expected = imported(repository, layout, bootable=True).boot_image
    request.getfixturevalue("idle")

    assert imported(repository, layout, expected_digest=expected.digest).boot_image == expected


def test_unexpected_digest(repository, layout):
    """If no image for booting has the expected digest there is no name, and the error says how many were tried."""
    expected = Digest(Algorithm.SHA256, bytes(32))

    with pytest.raises(NotFoundError) as caught:
        imported(repository, layout, expected_digest=expected)

    assert str(caught.value) == f"no image for booting is {'00' * 32}; tried 6 formats and xattr modes"
    kept = os.listdir(f"{repository.path}/streams")
    assert all(name.startswith("oci-layer-") for name in kept)  # they are finished
    assert images(repository) == set()


def test_expected_digest_of_another_algorithm(repository, layout):
    """What no image here can be is refused before any work."""
    with pytest.raises(
        UsageError, match="^the expected digest is of fsverity-sha512-12, images here of fsverity-sha256"
    ):
        imported(repository, layout, expected_digest=Digest(Algorithm.SHA512, bytes(64)))

    assert not os.path.exists(f"{repository.path}/objects")


def test_artifact(repository, tmp_path):
    """An artifact has no image, and none for booting can be expected of it."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.artifact([layouts.layer(b"text", media_type="text/plain")]))

    result = imported(repository, layout, bootable=True)

    assert (result.images, result.image, result.boot_image) == ((), None, None)
    assert images(repository) == set()
    with pytest.raises(UsageError, match="is an artifact, of which no image for booting is made"):
        imported(repository, layout, expected_digest=Digest(Algorithm.SHA256, bytes(32)))


def test_docker_config(repository, tmp_path):
    """Docker's config is one of a container, of which an image is made."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.image([files_layer({})], docker=True))

    assert imported(repository, layout).image is not None


@pytest.mark.parametrize(
    ("files", "options", "error"),
    [
        ({"etc/": b""}, {}, NotFoundError),
        ({"usr": b""}, {}, TreeError),
        ({"usr/": b"", "no/parent": b""}, {}, FormatError),
        ({"usr/": b"", "boot/": b""}, {"bootable": True}, NotFoundError),
        ({"usr/": b"", "boot/": b"", "sysroot": b""}, {"bootable": True}, TreeError),
        ({"usr/": b"", "boot/": b""}, {"expected_digest": Digest(Algorithm.SHA256, bytes(32))}, NotFoundError),
        ({"usr/": b"", "n" * 256: b""}, {}, TreeError),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_failure_leaves_nothing(repository, tmp_path, files, options, error, count):
    """A tree of which no image can be made leaves no name, and the repository as it was."""
    other = image_layout(tmp_path / "other", [files_layer({"x": noise(100)})])
    imported(repository, other)
    before = everything(repository)
    layers = [layouts.layer(layouts.tar(files)), *(layouts.layer(layouts.tar({f"{n}": b""})) for n in range(count - 1))]
    layout = image_layout(tmp_path / "layout", layers)

    with pytest.raises(error):
        composefs.import_image(repository, str(layout), name="os", workers=count, **options)

    after = everything(repository)
    assert {name: after[name] for name in before} == before
    kept = ("objects/", "streams/oci-layer-")  # the layers are finished
    new = (os.path.relpath(name, repository.path) for name in after.keys() - before.keys())
    assert all(name.startswith(kept) for name in new)


def test_names_come_last(repository, layout, monkeypatch):
    """Every object is there before the one flush, and every name comes after it, the tag last."""
    order = []
    link, sync, ensure = refs.link, composefs.Repository.sync, type(repository.objects).ensure

    def record(what, call):
        def recorded(*arguments, **options):
            order.append((what, arguments))
            return call(*arguments, **options)

        return recorded

    monkeypatch.setattr(refs, "link", record("name", link))
    monkeypatch.setattr(composefs.Repository, "sync", record("sync", sync))
    monkeypatch.setattr(type(repository.objects), "ensure", record("object", ensure))

    result = imported(repository, layout, bootable=True)

    kinds = [what for what, _ in order]
    at = kinds.index("sync")
    assert kinds.count("sync") == 1
    assert set(kinds[:at]) == {"object"}
    assert set(kinds[at + 1 :]) == {"name"}
    named = [arguments[1] for what, arguments in order if what == "name"]
    assert set(named[:-1]) == {
        *(f"streams/oci-layer-{layer.diff_id}" for layer in result.layers),
        *(f"images/{image.digest.hex}" for image in result.images),
        f"streams/oci-config-{result.config}",
        f"streams/oci-manifest-{result.manifest}",
    }
    assert named[-1] == "streams/refs/oci/os"


@pytest.mark.parametrize("way", ["one by one", "processes", "stream", "threads"])
def test_layers_that_are_there(repository, tmp_path, monkeypatch, way):
    """Indexes of layers that are there, read in whatever way, give the image that the import gave."""
    layers = [files_layer({f"usr/{n}": noise(100 + n, n), f"d{n}/e": b"x", "same": b"%d" % n}) for n in range(4)]
    layout = image_layout(tmp_path / "layout", layers)
    wanted = imported(repository, layout)
    recorded = erofs._recorded_refs
    monkeypatch.setattr(erofs, "_recorded_refs", lambda *_: {})
    options, run, jobs = {"workers": 1}, missing.run_jobs, []
    monkeypatch.setattr(missing, "run_jobs", lambda *a, **o: jobs.extend(a[1]) or run(*a, **o))
    if way != "one by one":
        monkeypatch.setattr(read, "_POOL_COST", -1)
        options["workers"] = 2
    if way == "stream":
        monkeypatch.setattr(index, "_KEPT_WEIGHT", 0)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        if way in ("stream", "threads"):
            options["executor"] = executor
        result = composefs.import_image(repository, str(layout), name="os", **options)

    assert result.images == wanted.images
    assert len(jobs) == (0 if way == "one by one" else 4)
    monkeypatch.setattr(erofs, "_recorded_refs", recorded)
    assert config_refs(repository, result) == config_refs(repository, wanted)


@pytest.mark.parametrize("workers", [1, 3])
def test_old_and_new_layers(repository, tmp_path, workers):
    """An image of layers that are there and new ones is that of an import of all."""
    layers = [files_layer({f"usr/{n}": noise(100 + n, n), "same": b"%d" % n}) for n in range(5)]
    layout = image_layout(tmp_path / "layout", layers)
    imported(repository, image_layout(tmp_path / "old", layers[1:3]))
    composefs.Repository.init(tmp_path / "fresh", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "fresh") as fresh:
        wanted = imported(fresh, layout)

    result = composefs.import_image(repository, str(layout), name="os", workers=workers)

    assert [layer.status for layer in result.layers].count("present") == 2
    assert result.images == wanted.images


def test_large_index(repository, tmp_path, monkeypatch):
    """A layer whose index is too large to be kept is read again from its stream."""
    layout = image_layout(tmp_path / "layout", [files_layer({f"usr/{n}": noise(50 + n, n) for n in range(100)})])
    composefs.Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "other") as other:
        wanted = imported(other, layout)
    monkeypatch.setattr(index, "_KEPT_WEIGHT", 0)

    assert imported(repository, layout).images == wanted.images


def test_missing_stream(repository, layout, monkeypatch):
    """Two layers of one image, one of which was lost while the other was read: the error names the stream."""
    result = imported(repository, layout)
    os.unlink(f"{repository.path}/objects/{result.layers[0].stream.object_path}")
    monkeypatch.setattr(erofs, "_recorded_refs", lambda *_: {})
    streams = repository.streams
    monkeypatch.setattr(
        plan, "find_layers", lambda _, layers: {each: streams.find(names.layer_name(each)) for each in layers}
    )

    with pytest.raises(NotFoundError, match=f"no object {result.layers[0].stream}, the stream of layer sha256:"):
        imported(repository, layout)


def test_request(repository):
    """A request is for the formats of the repository, or for one."""
    assert ErofsRequest.of(repository) == ErofsRequest((1,))
    assert ErofsRequest.of(repository, 2, bootable=True) == ErofsRequest((2,), bootable=True)


@pytest.mark.parametrize("version", [-1, 3, 7])
def test_no_such_format(repository, layout, version):
    """A format that does not exist is refused before any work."""
    with pytest.raises(UsageError, match=f"EROFS format {version} is none of"):
        imported(repository, layout, erofs_version=version)

    assert not os.path.exists(f"{repository.path}/objects")


def test_maker_by_itself(repository, layout):
    """What is recorded is found without an import."""
    result = imported(repository, layout, bootable=True)
    image = open_source(str(layout), Access()).image()

    maker = ErofsMaker(repository, image, ErofsRequest((1,), bootable=True))
    other = ErofsMaker(repository, image, ErofsRequest((1, 2)))

    assert maker.is_done
    assert maker.images == result.images
    assert not other.is_done
    assert other.images == result.images[:1]


def test_stored_image(repository, layout):
    """What is recorded can be asked for by format."""
    result = imported(repository, layout, bootable=True)
    image = open_image(repository, "os")

    assert image.erofs == {Slot(1): result.image, Slot(1, bootable=True): result.boot_image.digest}
    assert image.erofs_image(0) == image.erofs_image(1) == result.image
    assert image.erofs_image(2) is None
    assert image.erofs_image(1, bootable=True) == result.boot_image.digest
