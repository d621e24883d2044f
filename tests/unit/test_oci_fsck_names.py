"""The check of OCI images: what has no tag, names, EROFS images, referrers."""

import json
import os

import pytest

from composefs import Repository
from composefs.oci.fsck import OciFinding, OciKind
from composefs.oci.names import config_name, layer_name, manifest_name, store_json
from composefs.repository.fsck import Kind
from composefs.splitstream import ContentType
from tests import layouts
from tests.damage import DAMAGES, TAG
from tests.layouts import noise
from tests.oci_checking import check, counts, relink, rewrite, sha256, store_layer, without

NONE = "sha256:" + "0" * 64


def untag(place):
    (place.path / place.tag).unlink()


def test_a_manifest_without_a_tag(place):
    """What has no tag is checked, too, and counted apart; findings are named by its stream."""
    untag(place)
    clean = check(place)
    rewrite(place, config_name(place.config), ContentType.CONFIG, without(place.layers[1]))

    report = check(place)

    assert (clean.findings, counts(clean), clean.untagged_checked, clean.untagged_corrupted) == ([], (0, 0, 2, 0), 1, 0)
    name = manifest_name(place.manifest)
    assert report.findings == [OciFinding(OciKind.LAYER_REF_MISSING, name, digest=place.layers[1])]
    assert (report.untagged_checked, report.untagged_corrupted) == (1, 1)
    assert check(place, "nothing").untagged_checked == 0


def test_a_config_without_a_manifest(place):
    """So is a config to which no manifest has led."""
    untag(place)
    (place.path / place.manifest_stream).unlink()
    clean = check(place)
    rewrite_body(place, config_name(place.config), ContentType.CONFIG, b"{}")

    report = check(place)

    assert (clean.findings, clean.untagged_checked) == ([], 1)
    wrong = {"wanted": place.config, "got": sha256(b"{}")}
    assert report.findings == [OciFinding(OciKind.CONFIG_DIGEST_MISMATCH, config_name(place.config), **wrong)]
    what = f"wanted {place.config}, got {sha256(b'{}')}"
    target = os.path.basename(os.readlink(place.path / place.config_stream))
    assert report.wrong == [(place.config_stream, "config-digest-mismatch", what, target)]


def rewrite_body(place, name, content_type, body):
    with Repository.open(place.path) as repository:
        relink(repository, name, store_json(repository, content_type, body, {}))


def test_a_config_without_a_name(place):
    """The stream of a config has a name of its own, by which imports find it."""
    (place.path / place.config_stream).unlink()

    report = check(place)

    assert report.findings == [OciFinding(OciKind.CONFIG_STREAM_MISSING, TAG, digest=place.config)]
    assert report.stale == {place.config_stream}


@pytest.mark.parametrize(
    ("encoded", "name", "what"),
    [
        ("a%41", "a%41", "no tag is stored as a%41"),
        ("a/b", "a/b", "no tag is stored as a/b"),
        ("@a", "@a", "a leading @ is for digests"),
    ],
)
def test_a_tag_that_no_name_leads_to(place, encoded, name, what):
    """A file that is called as no tag is, is a finding, and itself wrong."""
    path = place.path / "streams/refs/oci" / encoded
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(f"../../{'../' * encoded.count('/')}{manifest_name(place.manifest)}")

    report = check(place)

    assert report.findings == [OciFinding(OciKind.INVALID_REF_NAME, name, what)]
    target = manifest_name(place.manifest)
    assert report.wrong == [(f"streams/refs/oci/{encoded}", "invalid-ref-name", what, target)]
    assert counts(report)[:2] == (2, 1)


# EROFS images


def record_images(place, change):
    """Let *change* change what the config records of images, by key."""

    def changed(data, refs):
        return data, change(refs)

    rewrite(place, config_name(place.config), ContentType.CONFIG, changed)


@pytest.mark.parametrize("key", ["composefs.image", "composefs.image.boot"])
def test_an_image_in_the_wrong_place(place, key):
    """What a config records as an image of a format must be of that."""
    record_images(place, lambda refs: refs | {key: refs["composefs.image.v1"]})

    report = check(place)

    what = f"{key} is an image of the format V1"
    assert report.findings == [OciFinding(OciKind.EROFS_IMAGE_INVALID, TAG, what, place.image)]


def test_an_image_that_is_none(place):
    """Any object may be recorded, but not every one is an image."""
    with Repository.open(place.path) as repository:
        raw, _ = repository.objects.ensure(b"short")
        config = repository.streams.find(config_name(place.config))
        digest = type(config)(config.algorithm, raw)
    record_images(place, lambda refs: refs | {"composefs.image.v1": digest})

    report = check(place)

    what = "composefs.image.v1 is no composefs image"
    assert report.findings == [OciFinding(OciKind.EROFS_IMAGE_INVALID, TAG, what, digest.hex)]


def test_an_image_without_a_name(place):
    """An image that is recorded has a name by which it is mounted."""
    (place.path / place.ref).unlink()
    (place.path / place.image_name).unlink()

    report = check(place)

    assert report.findings == [OciFinding(OciKind.EROFS_IMAGE_UNNAMED, TAG, "composefs.image.v1", place.image)]
    assert report.stale == {place.image_name}


# Referrers


SUBJECT = "sha256:" + "5" * 64


def refer(place, path, manifest=None, subject=None):
    """Store an artifact that says it is about *subject*, and refer to it, or to *manifest*, by *path*."""
    empty = b"{}"
    config = {"mediaType": layouts.EMPTY, "digest": sha256(empty), "size": len(empty)}
    value = {"schemaVersion": 2, "config": config, "layers": []}
    if subject is not None:
        value["subject"] = {"mediaType": layouts.MANIFEST, "digest": subject, "size": 1}
    data = json.dumps(value).encode()
    with Repository.open(place.path) as repository:
        stream = store_json(repository, ContentType.CONFIG, empty, {})
        relink(repository, config_name(sha256(empty)), stream)
        digest = store_json(repository, ContentType.MANIFEST, data, {f"config:{sha256(empty)}": stream})
        relink(repository, manifest_name(sha256(data)), digest)
        target = manifest or manifest_name(sha256(data))
        repository.streams.set_ref(path.replace("ARTIFACT", sha256(data)), target)
    return sha256(data)


@pytest.mark.parametrize("subject", [SUBJECT, None])
def test_a_referrer(place, subject):
    """A manifest about another one is checked by its reference; that it is about one that is not here is no fault."""
    refer(place, f"oci-referrers/{SUBJECT}/ARTIFACT", subject=subject)

    report = check(place)

    assert (report.findings, report.untagged_checked, report.untagged_corrupted) == ([], 1, 0)


def test_a_referrer_of_another_image(place):
    """A reference must say what the manifest says it is about."""
    artifact = refer(place, f"oci-referrers/{SUBJECT}/ARTIFACT", subject=NONE)

    report = check(place)

    name = f"oci-referrers/{SUBJECT}/{artifact}"
    what = f"the subject of its manifest is {NONE}"
    assert report.findings == [OciFinding(OciKind.REFERRER_INVALID, name, what)]
    assert report.wrong == [(f"streams/refs/{name}", "referrer-invalid", what, manifest_name(artifact))]
    assert (report.untagged_checked, report.untagged_corrupted) == (1, 1)


@pytest.mark.parametrize("path", ["oci-referrers/x/ARTIFACT", f"oci-referrers/{SUBJECT}/x", "oci-referrers/ARTIFACT"])
def test_a_referrer_that_is_called_otherwise(place, path):
    """The names of a reference are two digests."""
    artifact = refer(place, path, subject=SUBJECT)

    report = check(place)

    name = path.replace("ARTIFACT", artifact)
    assert report.findings == [OciFinding(OciKind.REFERRER_INVALID, name, "is not called by two digests")]


def test_a_referrer_that_stands_for_something_else(place):
    """It stands for the manifest that it is called by."""
    artifact = refer(place, f"oci-referrers/{SUBJECT}/ARTIFACT", manifest_name(place.manifest))

    report = check(place)

    name = f"oci-referrers/{SUBJECT}/{artifact}"
    what = f"stands for {manifest_name(place.manifest)}"
    assert report.findings == [OciFinding(OciKind.REFERRER_INVALID, name, what)]


def test_a_referrer_whose_manifest_is_gone(place):
    """That nothing is there was found before."""
    with Repository.open(place.path) as repository:
        repository.streams.set_ref(f"oci-referrers/{SUBJECT}/{NONE}", manifest_name(NONE))

    report = check(place)

    assert report.findings == []
    assert [finding.kind for finding in report.repository.findings] == [Kind.BROKEN_SYMLINK]


def test_a_layer_that_cannot_be_read_back(place):
    """A stream that is its archive, but cut otherwise than readers want it, is a finding."""
    archive = layouts.tar({"usr/file": noise(1000)})
    with Repository.open(place.path) as repository:
        store_layer(repository, archive, layer_name(sha256(archive)))

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.digest) == (OciKind.LAYER_CHECK_FAILED, sha256(archive))
    assert "1000 bytes of contents, where an object is due" in finding.detail


def test_a_layer_of_another_size_than_it_says(place):
    """What a stream says of its size is what it is."""
    archive = layouts.tar({"usr/file": b"x"})
    with Repository.open(place.path) as repository:
        writer = repository.streams.writer(ContentType.LAYER)
        writer.inline(archive)
        writer._size = 5 - len(archive)
        relink(repository, layer_name(sha256(archive)), repository.streams.store(writer))

    report = check(place)

    what = f"stream layer {sha256(archive)}, offset 0: has more than the 5 bytes that it says"
    assert [(each.kind, each.detail) for each in report.findings] == [(OciKind.LAYER_CHECK_FAILED, what)]


def test_a_link_as_directory_of_references(place):
    """Where references cannot be read, the repository's check says so, and what they lead to has none."""
    os.rename(place.path / "streams/refs", place.path / "elsewhere")
    (place.path / "streams/refs").symlink_to("../elsewhere")

    report = check(place)

    assert (report.findings, counts(report), report.untagged_checked) == ([], (0, 0, 2, 0), 1)
    assert [finding.kind for finding in report.repository.findings] == [Kind.UNEXPECTED_FILE_TYPE]
    assert [finding.kind for finding in check(place, TAG).findings] == [OciKind.REF_RESOLVE_FAILED]


def test_a_file_as_a_tag(place):
    """What is no link is no tag."""
    (place.path / "streams/refs/oci/file").touch()

    assert [finding.kind for finding in check(place, "file").findings] == [OciKind.REF_RESOLVE_FAILED]


def test_an_image_whose_name_is_no_link(place):
    """That something else has the name of an image was found before."""
    DAMAGES["file-as-image"].do(place)

    assert check(place).findings == []


def test_an_image_that_is_broken(place):
    """So was that the image of a config is broken."""
    DAMAGES["image-flipped"].do(place)

    assert check(place).findings == []
