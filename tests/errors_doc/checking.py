"""What `composefs fsck` and `composefs oci fsck` find: a situation for each kind."""

import errno
import json
import os
from collections.abc import Callable
from unittest import mock

from composefs import Digest, Repository, import_image
from composefs._native import FoundObjects, ObjectChecker, ObjectState
from composefs.oci.fsck import OciKind
from composefs.oci.names import config_name, layer_name, manifest_name, store_json
from composefs.repository.fsck import Kind
from composefs.repository.fsck import images as fsck_images
from composefs.repository.refs import OCI_REFERRERS
from composefs.splitstream import ContentType
from tests import damage, layouts
from tests.errors_doc.cases import CASES, Make, case
from tests.errors_doc.scene import Scene, failing
from tests.layouts import Layout, noise
from tests.oci_checking import rewrite, sha256, store_layer, without
from tests.unit.test_oci_fsck import NONE, image_of

# A damage that shows each kind.
_BY_DAMAGE = {
    Kind.METADATA_PARSE_FAILED: "meta",
    Kind.OBJECT_INVALID_NAME: "stray-object",
    Kind.OBJECT_OPEN_FAILED: "directory-as-object",
    Kind.OBJECT_DIGEST_MISMATCH: "flipped",
    Kind.ENTRY_NOT_SYMLINK: "file-as-stream",
    Kind.BROKEN_SYMLINK: "stream-object-gone",
    Kind.STAT_FAILED: "loop-as-stream",
    Kind.UNEXPECTED_FILE_TYPE: "file-as-ref",
    Kind.STREAM_OPEN_FAILED: "stream-header",
    Kind.STREAM_REFS_INVALID: "refs-in-disorder",
    Kind.MISSING_OBJECT_REF: "removed",
    Kind.MISSING_NAMED_REF: "stream-object-gone",
    Kind.IMAGE_INVALID: "image-flipped",
    Kind.IMAGE_MISSING_OBJECT: "removed",
    Kind.LINK_INVALID: "stream-outside",
    Kind.IMAGE_NAME_MISMATCH: "image-called-otherwise",
    Kind.STREAM_TYPE_MISMATCH: "other-stream",
    Kind.REF_INVALID: "ref-to-object",
}


def _of_damage(kind: Kind, name: str) -> Make:
    def make(scene: Scene) -> str:
        scene.damaged(name)
        return scene.finds(kind.value)

    return make


CASES.update({kind.value: _of_damage(kind, name) for kind, name in _BY_DAMAGE.items()})


@case
def metadata_algorithm_mismatch(scene: Scene) -> str:
    """A `meta.json` that changes when the repository is open, as it would by another program."""
    path = scene.damaged().path / "meta.json"
    opened = Repository.open

    def open_and_change(*arguments: object, **options: object) -> Repository:
        repository = opened(*arguments, **options)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"algorithm": "fsverity-sha512-12"}))
        return repository

    with mock.patch.object(Repository, "open", open_and_change):
        return scene.finds(Kind.METADATA_ALGORITHM_MISMATCH.value)


def _with_state(scene: Scene, state: ObjectState, error: int, kind: Kind) -> str:
    """Check a repository in which an object gives what no test can make a disk give."""
    place = scene.damaged()
    unused = bytes.fromhex(place.unused.removeprefix("objects/").replace("/", ""))
    check_all = ObjectChecker.check

    def check(self: ObjectChecker, digests: bytes) -> FoundObjects:
        found = check_all(self, digests)
        at = bytes(digests).find(unused) // len(unused)
        if at < 0:
            return found
        found.states[at] = state
        return FoundObjects(found.digests, found.states, [*found.errors[:at], error, *found.errors[at + 1 :]])

    with mock.patch.object(ObjectChecker, "check", check):
        return scene.finds(kind.value)


@case
def object_verity_failed(scene: Scene) -> str:
    return _with_state(scene, ObjectState.NOT_READ, errno.EIO, Kind.OBJECT_VERITY_FAILED)


@case
def object_verity_missing(scene: Scene) -> str:
    return _with_state(scene, ObjectState.NOT_SEALED, 0, Kind.OBJECT_VERITY_MISSING)


@case
def image_open_failed(scene: Scene) -> str:
    scene.damaged()
    with mock.patch.object(fsck_images, "open_object", failing(errno.EIO)):
        return scene.finds(Kind.IMAGE_OPEN_FAILED.value)


@case
def image_read_failed(scene: Scene) -> str:
    scene.damaged()
    with mock.patch.object(fsck_images, "read_image", failing(errno.EIO)):
        return scene.finds(Kind.IMAGE_READ_FAILED.value)


@case
def what_it_hurts(scene: Scene) -> str:
    """The whole of a report."""
    scene.damaged("flipped")
    out, _ = scene.outcome("fsck")
    return out


# OCI images


def _oci(scene: Scene, kind: OciKind) -> str:
    return scene.finds(f"{kind.value}:", "oci", "fsck")


@case
def invalid_ref_name(scene: Scene) -> str:
    place = scene.damaged()
    os.rename(place.path / place.tag, place.path / "streams/refs/oci/@tag")
    return _oci(scene, OciKind.INVALID_REF_NAME)


@case
def ref_resolve_failed(scene: Scene) -> str:
    place = scene.damaged()
    with Repository.open(place.path) as repository:
        repository.streams.set_ref("oci/other", config_name(place.config))
    return _oci(scene, OciKind.REF_RESOLVE_FAILED)


@case
def manifest_read_failed(scene: Scene) -> str:
    scene.damaged("tag-dangles")
    return _oci(scene, OciKind.MANIFEST_READ_FAILED)


@case
def manifest_digest_mismatch(scene: Scene) -> str:
    place = scene.damaged()
    rewrite(place, manifest_name(place.manifest), ContentType.MANIFEST, lambda _, refs: (b"{}", refs))
    return _oci(scene, OciKind.MANIFEST_DIGEST_MISMATCH)


@case
def manifest_parse_failed(scene: Scene) -> str:
    place = scene.damaged()
    with Repository.open(place.path) as repository:
        name = manifest_name(sha256(b"{}"))
        repository.streams.link(name, store_json(repository, ContentType.MANIFEST, b"{}", {}))
        repository.streams.set_ref("oci/other", name)
    return _oci(scene, OciKind.MANIFEST_PARSE_FAILED)


@case
def config_ref_missing(scene: Scene) -> str:
    place = scene.damaged()
    rewrite(place, manifest_name(place.manifest), ContentType.MANIFEST, without(f"config:{place.config}"))
    return _oci(scene, OciKind.CONFIG_REF_MISSING)


@case
def config_read_failed(scene: Scene) -> str:
    place = scene.damaged()
    damage.flip(place.path / place.object_of(place.config_stream), 2)
    return _oci(scene, OciKind.CONFIG_READ_FAILED)


@case
def config_digest_mismatch(scene: Scene) -> str:
    place = scene.damaged()
    changed = b'{"rootfs": {"diff_ids": []}}'
    rewrite(place, config_name(place.config), ContentType.CONFIG, lambda _, refs: (changed, refs))
    return _oci(scene, OciKind.CONFIG_DIGEST_MISMATCH)


@case
def config_parse_failed(scene: Scene) -> str:
    image_of(scene.damaged(), b"[]", {})
    return _oci(scene, OciKind.CONFIG_PARSE_FAILED)


@case
def layer_ref_missing(scene: Scene) -> str:
    place = scene.damaged()
    rewrite(place, config_name(place.config), ContentType.CONFIG, without(place.layers[1]))
    return _oci(scene, OciKind.LAYER_REF_MISSING)


@case
def layer_stream_missing(scene: Scene) -> str:
    place = scene.damaged()
    (place.path / place.layer_stream(0)).unlink()
    return _oci(scene, OciKind.LAYER_STREAM_MISSING)


@case
def layer_check_failed(scene: Scene) -> str:
    scene.damaged("removed")
    return _oci(scene, OciKind.LAYER_CHECK_FAILED)


@case
def layer_object_missing(scene: Scene) -> str:
    scene.damaged("stream-object-gone")
    return _oci(scene, OciKind.LAYER_OBJECT_MISSING)


@case
def layer_digest_mismatch(scene: Scene) -> str:
    place = scene.damaged()
    with Repository.open(place.path) as repository:
        store_layer(repository, b"forged", layer_name(NONE))
    return _oci(scene, OciKind.LAYER_DIGEST_MISMATCH)


@case
def seal_image_missing(scene: Scene) -> str:
    labels = {"containers.composefs.fsverity": "0" * 64}
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "config": {"Labels": labels}}
    image_of(scene.damaged(), config, {})
    return _oci(scene, OciKind.SEAL_IMAGE_MISSING)


def _artifact(scene: Scene) -> tuple[str, str, str]:
    """Import an artifact, and return the digests of its manifest, its config, and a blob."""
    layout = Layout(scene.path / "artifact")
    blob = layouts.layer(b"", blob=noise(1000, 8), media_type="application/x-thing")
    layout.write(layout.artifact([blob]))
    with Repository.open(scene.damaged().path) as repository:
        result = import_image(repository, str(layout), name="artifact", workers=1)
    return result.manifest, result.config, blob.digest


@case
def artifact_layer_ref_missing(scene: Scene) -> str:
    manifest, config, blob = _artifact(scene)
    with Repository.open(scene.repository) as repository:
        for name, kind in ((config_name(config), ContentType.CONFIG), (manifest_name(manifest), ContentType.MANIFEST)):
            with repository.streams.open(name) as stream:
                data, refs = stream.read_body(), dict(stream.reader.named_refs)
            del refs[blob]
            if kind is ContentType.MANIFEST:
                refs[f"config:{config}"] = repository.streams.find(config_name(config))
            repository.streams.link(name, store_json(repository, kind, data, refs))
    return _oci(scene, OciKind.ARTIFACT_LAYER_REF_MISSING)


@case
def artifact_layer_object_missing(scene: Scene) -> str:
    _, _, blob = _artifact(scene)
    with Repository.open(scene.repository) as repository:
        digest = repository.streams.find(layer_name(blob))
        assert digest is not None
    (scene.repository / "objects" / digest.object_path).unlink()
    return _oci(scene, OciKind.ARTIFACT_LAYER_OBJECT_MISSING)


def _recorded(scene: Scene, change: Callable[[damage.Place, dict[str, Digest]], None]) -> None:
    """Change what the config of an image records."""
    place = scene.damaged()

    def record(data: bytes, refs: dict[str, Digest]) -> tuple[bytes, dict[str, Digest]]:
        change(place, refs)
        return data, refs

    rewrite(place, config_name(place.config), ContentType.CONFIG, record)


@case
def erofs_image_invalid(scene: Scene) -> str:
    def change(place: damage.Place, refs: dict[str, Digest]) -> None:
        refs["composefs.image.v1"] = refs[place.layers[0]]

    _recorded(scene, change)
    return _oci(scene, OciKind.EROFS_IMAGE_INVALID)


@case
def erofs_image_unnamed(scene: Scene) -> str:
    place = scene.damaged()
    (place.path / place.ref).unlink()
    (place.path / place.image_name).unlink()
    return _oci(scene, OciKind.EROFS_IMAGE_UNNAMED)


@case
def referrer_invalid(scene: Scene) -> str:
    place = scene.damaged()
    with Repository.open(place.path) as repository:
        other = place.manifest[:-1] + ("0" if place.manifest[-1] != "0" else "1")
        repository.streams.set_ref(f"{OCI_REFERRERS}/{place.manifest}/{other}", manifest_name(place.manifest))
    return _oci(scene, OciKind.REFERRER_INVALID)


@case
def config_stream_missing(scene: Scene) -> str:
    place = scene.damaged()
    (place.path / place.config_stream).unlink()
    return _oci(scene, OciKind.CONFIG_STREAM_MISSING)
