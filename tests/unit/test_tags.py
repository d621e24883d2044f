"""Tags are given and taken away, and images are found by tag, manifest or config."""

import os

import pytest

from composefs import FormatError, NotFoundError, RepositoryError, UsageError, import_image
from composefs.oci import tags
from composefs.oci.tags import Found, NamedBy
from tests import layouts
from tests.layouts import files_layer, image_layout, noise

NONE = "sha256:" + "0" * 64


@pytest.fixture
def image(repository, tmp_path):
    layout = image_layout(tmp_path / "layout", [files_layer({"usr/a": noise(100)})])
    return import_image(repository, str(layout), name="os", workers=1)


def stands_for(repository, name):
    return os.readlink(f"{repository.path}/streams/refs/oci/{name}")


def test_tag(repository, image):
    """A tag is a link to the manifest, encoded as composefs-rs does; one that exists is moved."""
    assert tags.tag_image(repository, image.manifest, "a/b:c%") == image.manifest
    assert stands_for(repository, "a%2Fb:c%25") == f"../../oci-manifest-{image.manifest}"


@pytest.mark.parametrize("form", ["{manifest}", "@{manifest}", "{config}", "@{config}", "os"])
def test_tag_by(repository, image, form):
    """What is tagged may be named in any way."""
    name = form.format(manifest=image.manifest, config=image.config)

    assert tags.tag_image(repository, name, "new") == image.manifest
    assert stands_for(repository, "new") == stands_for(repository, "os")


def test_tag_moves(repository, image, tmp_path):
    """A tag that another image has is taken from it."""
    other = image_layout(tmp_path / "other", [files_layer({"usr/b": noise(100)})])
    second = import_image(repository, str(other), name="other", workers=1)

    tags.tag_image(repository, second.manifest, "os")

    assert stands_for(repository, "os") == f"../../oci-manifest-{second.manifest}"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (NONE, NotFoundError, f"no manifest and no config {NONE}"),
        ("@" + NONE, NotFoundError, f"no manifest and no config {NONE}"),
        ("none", NotFoundError, "no tag none"),
        ("sha256:00", NotFoundError, "no tag sha256:00"),
        ("@sha256:00", UsageError, "'@sha256:00' is no digest; wanted sha256: and 64 digits of 0-9a-f"),
        ("@", UsageError, "'@' is no digest"),
        ("", UsageError, "'' is no name for an image"),
        ("..", UsageError, "'..' is no name for an image"),
    ],
)
def test_not_found(repository, image, name, error, message):
    """What is not there, or can be nowhere, is refused, and no tag is made."""
    with pytest.raises(error, match=message):
        tags.tag_image(repository, name, "new")

    assert os.listdir(f"{repository.path}/streams/refs/oci") == ["os"]


@pytest.mark.parametrize("name", ["@new", "", ".", "..", "a" * 256, "a\0b"])
def test_bad_tag(repository, image, name):
    """A name that no tag can have is refused."""
    with pytest.raises(UsageError):
        tags.tag_image(repository, image.manifest, name)


def test_dangling_tag(repository, image):
    """A tag whose manifest is gone is no way to it, and can be removed."""
    os.unlink(f"{repository.path}/streams/oci-manifest-{image.manifest}")

    with pytest.raises(NotFoundError, match=f"no stream oci-manifest-{image.manifest}"):
        tags.find(repository, "os")
    tags.untag_image(repository, "os")

    assert os.listdir(f"{repository.path}/streams/refs/oci") == []


def test_tag_of_no_manifest(repository, image):
    """A tag that leads to something else is named."""
    layer = image.layers[0].diff_id
    repository.streams.set_ref("oci/odd", f"oci-layer-{layer}")

    with pytest.raises(FormatError, match=f"tag odd, offset 0: stands for oci-layer-{layer}, which is no manifest"):
        tags.find(repository, "odd")


def test_untag(repository, image):
    """The name goes, the image stays until garbage is collected."""
    tags.untag_image(repository, "os")

    assert os.listdir(f"{repository.path}/streams/refs/oci") == []
    assert tags.find(repository, image.manifest).manifest == image.manifest


@pytest.mark.parametrize("name", ["none", "os/..", "@none"])
def test_untag_nothing(repository, image, name):
    """A tag that is not there cannot be removed."""
    with pytest.raises(NotFoundError, match=f"no tag {name}"):
        tags.untag_image(repository, name)

    assert os.listdir(f"{repository.path}/streams/refs/oci") == ["os"]


def test_untag_reserved(repository, image):
    """A tag that begins with @, as composefs-rs makes some, can be removed."""
    repository.streams.set_ref("oci/@odd", f"oci-manifest-{image.manifest}")

    tags.untag_image(repository, "@odd")

    assert os.listdir(f"{repository.path}/streams/refs/oci") == ["os"]


@pytest.mark.parametrize("call", [lambda r, m: tags.tag_image(r, m, "new"), lambda r, m: tags.untag_image(r, "os")])
def test_read_only(repository, image, monkeypatch, call):
    """A repository that cannot be written is named."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    with pytest.raises(RepositoryError, match="is not writable"):
        call(repository, image.manifest)


def test_find(repository, image):
    """It is told what an image was found by; a tag goes before a digest without @."""
    by_tag = Found(image.manifest, image.config, NamedBy.TAG)
    tags.tag_image(repository, "os", image.config)

    assert tags.find(repository, "os") == by_tag
    assert tags.find(repository, image.manifest) == Found(image.manifest, image.config, NamedBy.MANIFEST)
    assert tags.find(repository, "@" + image.config) == Found(image.manifest, image.config, NamedBy.CONFIG)
    assert tags.find(repository, image.config) == by_tag


def test_config_of_two_manifests(repository, tmp_path):
    """A config that two manifests name is no way to either."""
    layer = files_layer({"usr/a": noise(100)})
    layout = layouts.Layout(tmp_path / "layout")
    first = layout.image([layer])
    second = layout.image([files_layer({"usr/a": noise(100)}, "gzip")])
    layout.write(layouts.tagged(first, "one"), layouts.tagged(second, "two"))
    one, two = (import_image(repository, f"{layout}:{tag}", name=tag, workers=1) for tag in ("one", "two"))

    assert one.config == two.config
    with pytest.raises(UsageError, match=f"config {one.config} has 2 manifests, name one of them: ") as raised:
        tags.find(repository, "@" + one.config)
    assert all(result.manifest in str(raised.value) for result in (one, two))


def test_config_without_manifest(repository, image):
    """An import that was cut short leaves a config, which is found; where a manifest is needed, it is said."""
    os.unlink(f"{repository.path}/streams/oci-manifest-{image.manifest}")

    found = tags.find(repository, "@" + image.config)

    assert found == Found(None, image.config, NamedBy.CONFIG)
    with pytest.raises(NotFoundError, match=f"no manifest of config {image.config}"):
        tags.require_manifest(repository, found)


def test_config_beside_broken_manifests(repository, image, tmp_path, caplog):
    """A manifest that is broken, perhaps of another config, is no manifest of this one; it is logged."""
    other = import_image(repository, str(image_layout(tmp_path / "other", [files_layer({})])), name="b", workers=1)
    with open(f"{repository.path}/objects/{other.verity.object_path}", "wb"):
        pass

    assert tags.find(repository, "@" + image.config) == Found(image.manifest, image.config, NamedBy.CONFIG)
    assert [record.message[:80] for record in caplog.records] == [f"oci-manifest-{other.manifest}"[:80]]
    assert tags.find(repository, "@" + other.config) == Found(None, other.config, NamedBy.CONFIG)


@pytest.mark.parametrize("text", [NONE, "@" + NONE])
def test_digest(text):
    """A digest may stand behind an @."""
    assert tags.parse_digest(text) == NONE


@pytest.mark.parametrize(
    "text", ["", "@", "0" * 64, NONE[:-1], NONE + "0", "@@" + NONE, "sha512:" + "0" * 128, "sha256:" + "A" * 64]
)
def test_no_digest(text):
    """Anything else is no digest."""
    with pytest.raises(UsageError, match="is no digest; wanted sha256: and 64 digits of 0-9a-f"):
        tags.parse_digest(text)
