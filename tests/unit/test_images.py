"""The images of a repository: what is said of each, and that a broken one hides no other."""

import logging
import os

import pytest

import composefs
from composefs import Algorithm
from composefs.oci import names
from composefs.oci.images import linked_images, list_images, open_image
from composefs.oci.slots import Slot
from composefs.splitstream import ContentType
from tests import layouts
from tests.layouts import Layout, files_layer, image_layout


@pytest.fixture
def repository(tmp_path):
    """An open, empty repository."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA512, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        yield repository


BOOT = {"boot/": b"", "sysroot/": b"", "boot/vmlinuz": b"x"}


def imported(repository, path, name, seed=0, *, bootable=False, files=None, **options):
    layout = image_layout(path, [files_layer({"file": b"%d" % seed} | (files or {}))], **options)
    platform = composefs.Platform.parse(options["platform"]) if "platform" in options else None
    return composefs.import_image(repository, str(layout), name=name, platform=platform, bootable=bootable, workers=1)


def test_empty(repository):
    """A new repository has no images."""
    assert list(list_images(repository)) == []


def test_image(repository, tmp_path):
    """Of a container image name, digest, platform, time and number of layers are listed."""
    result = imported(
        repository, tmp_path / "layout", "registry/os:42", platform="linux/arm64", created="2026-01-01T00:00:00Z"
    )

    (image,) = list_images(repository)

    assert image.as_json() == {
        "name": "registry/os:42",
        "manifest_digest": result.manifest,
        "is_container": True,
        "architecture": "arm64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "layer_count": 1,
        "referrer_count": 0,
    }


@pytest.mark.parametrize("created", [None, 7, ["x"]])
def test_no_time(repository, tmp_path, created):
    """An image without a time, or with one that is none, has none."""
    imported(repository, tmp_path / "layout", "os", created=created)

    (image,) = list_images(repository)

    assert image.created is None


def test_artifact(repository, tmp_path):
    """An artifact has no platform."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.artifact([layouts.layer(b"text", media_type="text/plain")] * 2))
    composefs.import_image(repository, str(layout), name="list", workers=1)

    (image,) = list_images(repository)

    assert not image.is_container
    assert (image.architecture, image.os, image.created, image.layer_count) == ("", "", None, 2)


def test_order(repository, tmp_path):
    """Images are sorted by the file names of their tags, and names are decoded."""
    names = ["b", "a/b", "100%", "a%2Fb", "é"]
    for seed, name in enumerate(names):
        imported(repository, tmp_path / str(seed), name, seed)

    found = [image.name for image in list_images(repository)]

    assert found == sorted(names, key=lambda name: name.replace("%", "%25").replace("/", "%2F"))


def test_referrers(repository, tmp_path):
    """What refers to an image is counted."""
    result = imported(repository, tmp_path / "layout", "os")
    for number in range(2):
        repository.streams.set_ref(
            f"oci-referrers/{result.manifest}/sha256:{number}", f"oci-manifest-{result.manifest}"
        )

    (image,) = list_images(repository)

    assert image.referrer_count == 2


def break_manifest_stream(repository, result):
    digest = repository.streams.find(f"oci-manifest-{result.manifest}")
    os.unlink(f"{repository.path}/objects/{digest.object_path}")


def break_config_stream(repository, result):
    os.unlink(f"{repository.path}/streams/oci-config-{result.config}")


def break_config(repository, result):
    config = names.store_json(repository, ContentType.CONFIG, b"[]", {})
    repository.streams.link(f"oci-config-{result.config}", config)


def break_config_json(repository, result):
    config = names.store_json(repository, ContentType.CONFIG, b'{"a": ' + b"9" * 5000, {})
    repository.streams.link(f"oci-config-{result.config}", config)


def break_type(repository, result):
    repository.streams.link(f"oci-manifest-{result.manifest}", repository.streams.find(f"oci-config-{result.config}"))


def break_tag(repository, result):
    repository.streams.set_ref("oci/broken", f"oci-config-{result.config}")


@pytest.mark.parametrize(
    "damage",
    [break_manifest_stream, break_config_stream, break_config, break_config_json, break_type, break_tag],
)
def test_broken_image(repository, tmp_path, caplog, damage):
    """An image that cannot be read is logged with its tag, and the others are listed."""
    imported(repository, tmp_path / "good", "good", 1)
    result = imported(repository, tmp_path / "broken", "broken", 2)
    damage(repository, result)

    with caplog.at_level(logging.WARNING):
        found = [image.name for image in list_images(repository)]

    assert found == ["good"]
    (record,) = caplog.records
    assert record.getMessage().startswith("tag broken: ")


def test_open(repository, tmp_path):
    """An image is opened by its tag, or by the digest of its manifest or config, and has all that belongs to it."""
    result = imported(repository, tmp_path / "layout", "os", bootable=True, files=BOOT)
    repository.streams.set_ref(f"oci-referrers/{result.manifest}/sha256:1", f"oci-manifest-{result.manifest}")

    image = open_image(repository, "os")

    assert (image.manifest, image.config) == (result.manifest, result.config)
    assert layouts.sha256(image.manifest_bytes) == result.manifest
    assert layouts.sha256(image.config_bytes) == result.config
    assert image.layers == {layer.diff_id: layer.stream for layer in result.layers}
    assert image.erofs == {made.slot: made.digest for made in result.images}
    assert image.referrers == ("sha256:1",)
    for name in (result.manifest, f"@{result.manifest}", result.config, f"@{result.config}"):
        assert open_image(repository, name) == image


def test_open_artifact(repository, tmp_path):
    """An artifact has its blobs for layers, and no image."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.artifact([layouts.layer(b"text", media_type="text/plain")]))
    result = composefs.import_image(repository, str(layout), name="list", workers=1)

    image = open_image(repository, "list")

    assert image.layers == {layouts.sha256(b"text"): result.layers[0].stream}
    assert image.erofs == {}
    assert image.erofs_image(1) is None


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (break_manifest_stream, composefs.NotFoundError),
        (break_config_stream, composefs.NotFoundError),
        (break_config, composefs.IntegrityError),
        (break_config_json, composefs.IntegrityError),
        (break_type, composefs.FormatError),
    ],
)
def test_open_broken(repository, tmp_path, damage, error):
    """An image that is not what it was imported as is refused."""
    result = imported(repository, tmp_path / "layout", "os")
    damage(repository, result)

    with pytest.raises(error):
        open_image(repository, "os")


def test_forged_manifest(repository, tmp_path):
    """A manifest that has another digest is taken by tag, since that is how skopeo converts Docker's, not by digest."""
    result = imported(repository, tmp_path / "layout", "os")
    name = f"oci-manifest-{result.manifest}"
    with repository.streams.open(name) as stream:
        forged = names.store_json(repository, ContentType.MANIFEST, stream.read_body() + b" ", stream.reader.named_refs)
    repository.streams.link(name, forged)

    assert open_image(repository, "os").manifest_bytes.endswith(b" ")
    with pytest.raises(composefs.IntegrityError, match=f"^manifest {result.manifest}: wanted {result.manifest}, got "):
        open_image(repository, result.manifest)


def test_missing_layer_reference(repository, tmp_path):
    """A config that does not refer to all of its layers is refused."""
    result = imported(repository, tmp_path / "layout", "os")
    name = f"oci-config-{result.config}"
    with repository.streams.open(name) as stream:
        forged = names.store_json(repository, ContentType.CONFIG, stream.read_body(), {})
    repository.streams.link(name, forged)

    with pytest.raises(composefs.FormatError, match="refers to no layer sha256:"):
        open_image(repository, "os")


def test_linked_images(repository, tmp_path):
    """From each image all that belong to the same OCI image are found, tagged or not; broken ones are passed over."""
    broken = imported(repository, tmp_path / "broken", "broken", 1)
    result = imported(repository, tmp_path / "layout", "os", 2, bootable=True, files=BOOT)
    os.unlink(f"{repository.path}/streams/oci-config-{broken.config}")
    os.symlink("nowhere", f"{repository.path}/streams/oci-config-{broken.config}")
    os.unlink(f"{repository.path}/streams/refs/oci/os")

    for made in result.images:
        assert linked_images(repository, made.digest) == {image.slot: image.digest for image in result.images}
    with pytest.raises(composefs.NotFoundError, match=f"image not found: {result.verity.hex}$"):
        linked_images(repository, result.verity)


def test_linked_images_of_a_broken_config(repository, tmp_path, caplog):
    """A config that cannot be read is logged, and the others are looked at."""
    broken = imported(repository, tmp_path / "broken", "broken", 1)
    result = imported(repository, tmp_path / "layout", "os", 2)
    repository.streams.link(f"oci-config-{broken.config}", broken.layers[0].stream)

    with caplog.at_level(logging.WARNING):
        found = [linked_images(repository, result.image) for _ in range(2)]

    assert found == [{Slot(1): result.image}] * 2
    assert all(broken.config in record.getMessage() for record in caplog.records)
