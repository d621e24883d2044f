"""The list of tagged images: what it says of each, and that a broken one hides no other."""

import logging
import os

import pytest

import composefs
from composefs import Algorithm
from composefs.oci import names
from composefs.oci.images import list_images
from composefs.splitstream import ContentType
from tests import layouts
from tests.layouts import Layout, files_layer, image_layout


@pytest.fixture
def repository(tmp_path):
    """An open, empty repository."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA512, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        yield repository


def imported(repository, path, name, seed=0, **options):
    layout = image_layout(path, [files_layer({"file": b"%d" % seed})], **options)
    platform = composefs.Platform.parse(options["platform"]) if "platform" in options else None
    return composefs.import_image(repository, str(layout), name=name, platform=platform, workers=1)


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
