"""The check of OCI images: what is wrong with one that its repository does not show."""

import dataclasses
import json
import os
import threading

import pytest

from composefs import Repository
from composefs.errors import UsageError
from composefs.oci import contents
from composefs.oci.fsck import OciFinding, OciKind
from composefs.oci.importer import import_image
from composefs.oci.names import config_name, layer_name, manifest_name, store_json
from composefs.repository.fsck import Kind
from composefs.splitstream import ContentType
from tests import damage, layouts
from tests.damage import DAMAGES, LOW, TAG
from tests.layouts import noise
from tests.oci_checking import check, counts, read, relink, rewrite, sha256, store_layer, without

NONE = "sha256:" + "0" * 64


def test_nothing_is_found_where_nothing_is_wrong(place):
    """A repository without damage is clean; every layer is proved."""
    report = check(place)

    assert (report.ok, report.findings, counts(report)) == (True, [], (1, 0, 2, 0))
    assert report.repository.counts.objects_checked == 11


def test_one_tag(place):
    """A tag by name is checked alone, with its layers."""
    with Repository.open(place.path) as repository:
        repository.streams.set_ref("oci/broken", "oci-manifest-nothing")
        store_layer(repository, b"forged", layer_name(NONE))

    report = check(place, TAG)

    assert (report.findings, counts(report)) == ([], (1, 0, 2, 0))
    assert [finding.kind for finding in report.repository.findings] == [Kind.BROKEN_SYMLINK]
    assert not report.ok


@pytest.mark.parametrize("tag", ["nothing", "a/b"])
def test_a_tag_that_does_not_exist(place, tag):
    """A tag that leads nowhere is a finding, as with cfsctl."""
    report = check(place, tag)

    assert report.findings == [OciFinding(OciKind.REF_RESOLVE_FAILED, tag, "there is no such tag")]
    assert counts(report) == (1, 1, 0, 0)


def test_a_tag_that_cannot_be(place):
    """What nothing can be called is wrong usage."""
    with pytest.raises(UsageError):
        check(place, "")


def test_a_name_that_is_for_digests(place):
    """Tags that begin with an @ can be made by nobody, and named by nobody."""
    os.rename(place.path / place.tag, place.path / "streams/refs/oci/@tag")

    report = check(place)

    assert report.findings == [OciFinding(OciKind.INVALID_REF_NAME, "@tag", "a leading @ is for digests")]
    assert counts(report) == (1, 1, 2, 0)
    assert check(place, "@tag").findings == report.findings


def test_a_tag_of_something_else(place):
    """A tag must stand for a manifest."""
    with Repository.open(place.path) as repository:
        repository.streams.set_ref("oci/other", config_name(place.config))

    report = check(place)

    what = f"stands for {config_name(place.config)}, which is no manifest"
    assert report.findings == [OciFinding(OciKind.REF_RESOLVE_FAILED, "other", what)]
    assert counts(report) == (2, 1, 2, 0)


def test_a_tag_without_its_manifest(place):
    """Where the manifest is gone, nothing more can be said of the image."""
    DAMAGES["tag-dangles"].do(place)

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.name) == (OciKind.MANIFEST_READ_FAILED, TAG)
    assert "no stream oci-manifest-" in finding.detail


def test_a_manifest_that_is_another(place):
    """A manifest is proved by its digest."""
    changed = b"{}"
    rewrite(place, manifest_name(place.manifest), ContentType.MANIFEST, lambda _, refs: (changed, refs))

    report = check(place)

    wrong = {"wanted": place.manifest, "got": sha256(changed)}
    assert report.repository.findings == []
    assert report.findings == [OciFinding(OciKind.MANIFEST_DIGEST_MISMATCH, TAG, **wrong)]
    assert str(report.findings[0]) == (
        f"fsck: manifest-digest-mismatch: {TAG}: expected {place.manifest}, got {sha256(changed)}"
    )


def test_a_manifest_that_is_none(place):
    """What is called by its digest may still be no manifest."""
    data = b"{}"
    with Repository.open(place.path) as repository:
        digest = store_json(repository, ContentType.MANIFEST, data, {})
        relink(repository, manifest_name(sha256(data)), digest)
        repository.streams.set_ref("oci/other", manifest_name(sha256(data)))

    report = check(place)

    what = f"manifest {sha256(data)}, offset 0: schemaVersion None, wanted 2"
    assert report.findings == [OciFinding(OciKind.MANIFEST_PARSE_FAILED, "other", what)]


def test_a_manifest_without_its_config(place):
    """The reference to the config is wanted."""
    rewrite(place, manifest_name(place.manifest), ContentType.MANIFEST, without(f"config:{place.config}"))

    report = check(place)

    assert report.findings == [OciFinding(OciKind.CONFIG_REF_MISSING, TAG, digest=place.config)]
    assert str(report.findings[0]) == f"fsck: config-ref-missing: {TAG}: {place.config}"


def test_a_config_that_cannot_be_read(place):
    """The config is read by the id that the manifest has."""
    damage.flip(place.path / place.object_of(place.config_stream), 2)

    report = check(place)

    assert [finding.kind for finding in report.findings] == [OciKind.CONFIG_READ_FAILED]
    assert counts(report) == (1, 1, 2, 0)


def test_a_config_that_is_another(place):
    """A config is proved by its digest."""
    changed = b'{"rootfs": {"diff_ids": []}}'
    rewrite(place, config_name(place.config), ContentType.CONFIG, lambda _, refs: (changed, refs))

    report = check(place)

    wrong = {"wanted": place.config, "got": sha256(changed)}
    assert report.findings == [OciFinding(OciKind.CONFIG_DIGEST_MISMATCH, TAG, **wrong)]


def image_of(place, config, refs, layers=()):
    """Store an image of that config, right by its digests, and tag it `made`."""
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    descriptor = {"mediaType": layouts.CONFIG, "digest": sha256(data), "size": len(data)}
    manifest = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": list(layers)}).encode()
    with Repository.open(place.path) as repository:
        streams = {name: repository.streams.find(layer_name(diff_id)) for name, diff_id in refs.items()}
        config_stream = store_json(repository, ContentType.CONFIG, data, streams)
        relink(repository, config_name(sha256(data)), config_stream)
        streams = {f"config:{sha256(data)}": config_stream, **streams}
        relink(
            repository, manifest_name(sha256(manifest)), store_json(repository, ContentType.MANIFEST, manifest, streams)
        )
        repository.streams.set_ref("oci/made", manifest_name(sha256(manifest)))
    return sha256(data)


def test_a_config_that_is_none(place):
    """What is called by its digest may still be no config."""
    digest = image_of(place, b"[]", {})

    report = check(place)

    what = f"config {digest}, offset 0: not a JSON object"
    assert report.findings == [OciFinding(OciKind.CONFIG_PARSE_FAILED, "made", what)]
    assert counts(report) == (2, 1, 2, 0)


def test_a_config_without_a_layer(place):
    """Every diff_id is the name of a reference."""
    rewrite(place, config_name(place.config), ContentType.CONFIG, without(place.layers[1]))

    report = check(place)

    assert report.findings == [OciFinding(OciKind.LAYER_REF_MISSING, TAG, digest=place.layers[1])]
    assert counts(report) == (1, 1, 2, 0)


def test_a_layer_without_a_name(place):
    """The stream of a layer has a name of its own, by which other imports find it."""
    (place.path / place.layer_stream(0)).unlink()

    report = check(place)

    assert report.repository.findings == []
    assert report.findings == [OciFinding(OciKind.LAYER_STREAM_MISSING, TAG, digest=place.layers[0])]


def test_a_layer_whose_name_leads_elsewhere(place):
    """A name that is no link to an object is a finding here, too."""
    DAMAGES["file-as-stream"].do(place)

    report = check(place)

    what = f"{place.path}/{place.layer_stream(0)}: is no symbolic link"
    assert report.findings == [OciFinding(OciKind.LAYER_CHECK_FAILED, TAG, what, place.layers[0])]


def test_a_layer_without_its_stream(place):
    """Where the object of a stream is gone, the layer is."""
    DAMAGES["stream-object-gone"].do(place)

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.digest) == (OciKind.LAYER_OBJECT_MISSING, place.layers[0])
    assert finding.detail.startswith("no object sha256:")


def test_a_layer_without_one_of_its_objects(place):
    """A layer that cannot be joined is named, with the object."""
    DAMAGES["removed"].do(place)

    report = check(place)

    what = f"{place.path}/{place.object(damage.SHARED)}: {os.strerror(2)}"
    assert sorted(report.findings, key=str) == sorted(
        [OciFinding(OciKind.LAYER_CHECK_FAILED, TAG, what, layer) for layer in place.layers], key=str
    )
    assert counts(report) == (1, 1, 2, 2)


@pytest.mark.parametrize("name", ["flipped", "swapped"])
def test_a_layer_with_a_broken_object(place, name):
    """What is wrong in an object is wrong in the layer, too."""
    number = 1 if name == "flipped" else 0
    DAMAGES[name].do(place)

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.wanted) == (OciKind.LAYER_DIGEST_MISMATCH, place.layers[number])
    assert [each.kind for each in report.repository.findings] == [Kind.OBJECT_DIGEST_MISMATCH]


def test_a_forged_layer(place):
    """A layer whose objects are all right is not what its diff_id says: cfsctl does not see it."""
    forged = layouts.tar({"usr/evil": noise(10)})
    with Repository.open(place.path) as repository:
        digest = store_layer(repository, forged, layer_name(place.layers[0]))
    for name, kind in (
        (config_name(place.config), ContentType.CONFIG),
        (manifest_name(place.manifest), ContentType.MANIFEST),
    ):
        rewrite(place, name, kind, lambda data, refs: (data, refs | {place.layers[0]: digest}))

    report = check(place)

    assert report.repository.findings == []
    wrong = {"wanted": place.layers[0], "got": sha256(forged)}
    assert report.findings == [OciFinding(OciKind.LAYER_DIGEST_MISMATCH, TAG, **wrong)]
    assert counts(report) == (1, 1, 2, 1)
    assert check(place, contents=False).findings == []


def test_a_forged_layer_that_waits_for_its_image(place):
    """A layer that no image has, but that the next import of one would take, is named by its stream."""
    with Repository.open(place.path) as repository:
        store_layer(repository, b"forged", layer_name(NONE))

    report = check(place)

    wrong = {"wanted": NONE, "got": sha256(b"forged")}
    assert report.findings == [OciFinding(OciKind.LAYER_DIGEST_MISMATCH, layer_name(NONE), **wrong)]
    assert counts(report) == (1, 0, 3, 1)


def test_a_layer_under_two_tags(place):
    """A layer is proved once, and named for each image that has it."""
    with Repository.open(place.path) as repository:
        repository.streams.set_ref("oci/second", manifest_name(place.manifest))
    DAMAGES["swapped"].do(place)

    report = check(place)

    assert [finding.name for finding in report.findings] == [TAG, "second"]
    assert counts(report) == (2, 2, 2, 1)


@pytest.mark.parametrize(
    ("chunks", "what"),
    [
        ((-5).to_bytes(8, "little", signed=True) + b"1234", "chunks end inside a chunk"),
        (b"\1\2\3", "chunks end inside a chunk"),
        ((7).to_bytes(8, "little"), "chunk refers to object 7 of 1"),
    ],
)
def test_a_layer_whose_chunks_are_broken(place, chunks, what):
    """A stream that is what it is called may be broken all the same."""
    with Repository.open(place.path) as repository:
        writer = repository.streams.writer(ContentType.LAYER)
        writer.external(bytes.fromhex(place.object(LOW).removeprefix("objects/").replace("/", "")), len(LOW))
        writer._chunks += chunks
        writer._size += 8  # so that size is not what is wrong
        relink(repository, layer_name(NONE), repository.streams.store(writer))

    report = check(place)

    where = f"layer {NONE}, offset 0"
    assert report.findings == [OciFinding(OciKind.LAYER_CHECK_FAILED, layer_name(NONE), f"{where}: {what}", NONE)]


def test_a_seal(place):
    """The image that a label of old tools tells must be there."""
    labels = {"containers.composefs.fsverity": place.image}
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "config": {"Labels": labels}}
    image_of(place, config, {})
    assert check(place).findings == []
    labels["containers.composefs.fsverity"] = "0" * 64
    image_of(place, config, {})

    (finding,) = check(place).findings

    assert (finding.kind, finding.name, finding.digest) == (OciKind.SEAL_IMAGE_MISSING, "made", "0" * 64)


# Artifacts


@pytest.fixture
def artifact(place, tmp_path):
    """The result of importing an artifact of two blobs."""
    layout = layouts.Layout(tmp_path / "artifact")
    blobs = [layouts.layer(b"", blob=blob, media_type="application/x-thing") for blob in (noise(1000, 8), b"small")]
    layout.write(layout.artifact(blobs))
    with Repository.open(place.path) as repository:
        return import_image(repository, str(layout), name="artifact", workers=1)


def test_an_artifact(place, artifact):
    """The blobs of an artifact are proved by their digests."""
    report = check(place)

    assert (report.findings, counts(report)) == ([], (2, 0, 4, 0))


def test_an_artifact_without_a_blob(place, artifact):
    """Every blob is the name of a reference; that of the config is looked at."""
    blob = artifact.layers[0].digest
    with Repository.open(place.path) as repository:
        name = config_name(artifact.config)
        data, refs = read(repository, name)
        config = store_json(repository, ContentType.CONFIG, data, {key: refs[key] for key in refs if key != blob})
        relink(repository, name, config)
        name = manifest_name(artifact.manifest)
        data, refs = read(repository, name)
        kept = {key: refs[key] for key in refs if key != blob} | {f"config:{artifact.config}": config}
        relink(repository, name, store_json(repository, ContentType.MANIFEST, data, kept))

    report = check(place)

    assert report.findings == [OciFinding(OciKind.ARTIFACT_LAYER_REF_MISSING, "artifact", digest=blob)]


def test_an_artifact_whose_blob_is_gone(place, artifact):
    """Where the stream of a blob is gone, the blob is."""
    blob = artifact.layers[0].digest
    (place.path / place.object_of(f"streams/{layer_name(blob)}")).unlink()

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.digest) == (OciKind.ARTIFACT_LAYER_OBJECT_MISSING, blob)


def test_an_artifact_whose_blob_is_broken(place, artifact):
    """A stream that is none is a finding."""
    blob = artifact.layers[0].digest
    damage.flip(place.path / place.object_of(f"streams/{layer_name(blob)}"), 2)

    report = check(place)

    (finding,) = report.findings
    assert (finding.kind, finding.digest, counts(report)) == (OciKind.LAYER_CHECK_FAILED, blob, (2, 1, 3, 0))


# How it is done


@pytest.mark.parametrize("workers", [1, 2, None])
def test_any_number_of_workers_finds_the_same(place, workers):
    """Findings come in the same order, however many threads there are."""
    DAMAGES["swapped"].do(place)
    DAMAGES["flipped"].do(place)

    findings = check(place, workers=workers).findings

    assert [finding.wanted for finding in findings] == [place.layers[1], place.layers[0]]  # the larger one first


def test_progress_goes_to_all(place):
    """Progress counts objects, and then layers."""
    told = []

    check(place, on_progress=lambda *args: told.append(args))

    assert told[-2:] == [("layers", 1, 2), ("layers", 2, 2)]
    assert {what for what, *_ in told} == {"objects", "streams", "images", "tags", "layers"}


def test_an_interrupted_check_stops(place):
    """What the caller raises ends the threads, too."""

    def interrupt(what, *_):
        if what == "layers":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(place, on_progress=interrupt, workers=1)

    assert [thread for thread in threading.enumerate() if thread.name.startswith("fsck")] == []


@pytest.mark.parametrize("slot", [1, 7, 512, 5000])
def test_layers_are_joined_in_pieces_of_any_size(place, monkeypatch, slot):
    """However chunks and objects are cut, the archive is the same."""
    monkeypatch.setattr(contents, "SLOT_SIZE", slot)

    report = check(place)

    assert (report.findings, report.layers_checked) == ([], 2)


def test_json_has_what_cfsctl_says(place):
    """Keys of cfsctl come first in use; texts are its own."""
    DAMAGES["swapped"].do(place)

    report = check(place)

    value = report.as_json()
    assert value["repo"] == report.repository.as_json()
    assert value["errors"] == [str(finding) for finding in report.findings]
    assert value["findings"] == [
        dataclasses.asdict(finding) | {"kind": "layer-digest-mismatch"} for finding in report.findings
    ]
