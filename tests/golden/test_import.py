"""Importing the golden images gives the repositories that composefs-rs gives, EROFS images and all.

It is compared with what the reference leaves before it collects garbage: config and manifest are written twice there,
before and after the image is linked, and once here.  So the `verity` that the reference prints is that of a manifest
stream which is replaced already; ours is the current one.
"""

import json
import os

import pytest

import composefs
from composefs import verity
from composefs.cli import main, main_import
from composefs.dumpfile import format_dump, format_entry, format_hard_link
from composefs.erofs.writer import write_image
from composefs.oci.images import linked_images, open_image
from composefs.oci.slots import Slot
from composefs.oci.trees import layer_entries, tree_of_image
from composefs.transform import XattrFilter
from tests.golden import vectors

ALGORITHMS = {"sha256": composefs.Algorithm.SHA256, "sha512": composefs.Algorithm.SHA512}
PLATFORM = composefs.Platform("linux", "amd64")
TAG = "golden"


@pytest.fixture(autouse=True)
def _umask():
    """The vectors were made with umask 022."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def _no_sync(monkeypatch):
    """Flush nothing: hundreds of times take long on a busy disk."""
    monkeypatch.setattr(composefs.Repository, "sync", lambda _: None)


@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name, tmp_path, capsys):
    """Output, streams, objects, images and the tree of the repository are those of `cfsctl oci pull`."""
    vector = vectors.expected(f"images/{name}")
    layout = vectors.write_layout(name, tmp_path / "layout")
    for hash_name, algorithm in ALGORITHMS.items():
        path, made = tmp_path / hash_name, vector[hash_name]
        arguments = [
            f"oci:{layout}",
            *("--repo", str(path), "--name", vector["tag"], "--algorithm", algorithm.value),
            *("--workers", "1", "--progress", "none", "--platform", "linux/amd64"),
        ]
        if "boot_image" in made["V1"]:
            arguments.append("--bootable")

        assert main_import(arguments) == 0

        printed = capsys.readouterr().out.splitlines()
        assert f"verity   {made['V1']['streams']['manifest']['id']}" in printed
        for line in made["pull"]:
            # Where a layer stands there twice the reference's counts are chance.
            assert line in printed or line.startswith("verity")
        for layer, recorded in zip(vector["layers"], made["layers"], strict=True):
            stream = (path / "streams" / f"oci-layer-{layer['diff_id']}").read_bytes()
            assert verity.compute_digest(stream, algorithm).hex == recorded["id"]
            if "file" in recorded:
                assert stream == vectors.read(vectors.ROOT / "images" / name / recorded["file"])
        check_tree(path, made, 1)


def check_tree(path, made, version):
    """The repository is the recorded one, but for the two streams that are garbage there."""
    listing = vectors.with_garbage(vectors.listing(path), made)
    assert vectors.is_text(vectors.tree_lines(made, version), "".join(f"{line}\n" for line in listing))


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("name", vectors.image_names())
def test_formats(name, tmp_path):
    """Images of every format have the recorded ids, dumps the recorded lines; a repository of V0 imports, too."""
    vector = vectors.expected(f"images/{name}")
    layout = vectors.write_layout(name, tmp_path / "layout")
    for hash_name, algorithm in ALGORITHMS.items():
        made = vector[hash_name]
        bootable = "boot_image" in made["V1"]
        for version in (0, 1, 2):
            path, recorded = tmp_path / f"{hash_name}-{version}", made[f"V{version}"]
            composefs.Repository.init(path, algorithm, erofs_version=version, require_verity=False)
            with composefs.Repository.open(path) as repository:
                result = composefs.import_image(
                    repository, f"oci:{layout}", name=vector["tag"], platform=PLATFORM, bootable=bootable, workers=1
                )

                assert result.image.hex == recorded["image"]["id"]
                if version == 0:
                    check_slots(repository, result, 0)
                    continue
                check_slots(repository, result, version)
                if bootable:
                    assert result.boot_image.digest.hex == recorded["boot_image"]["id"]
                for kind in ("config", "manifest"):
                    stream = repository.streams.find(f"oci-{kind}-{getattr(result, kind)}")
                    assert stream.hex == recorded["streams"][kind]["id"]
                check_inspect(repository, vector, recorded)
                if version == 1:
                    check_dumps(repository, vector, made)
                kept = tree_of_image(repository, vector["tag"], xattrs=XattrFilter.KEEP_USER_XATTRS)
                wanted = recorded.get("image_keep_user_xattrs", recorded["image"]["id"])
                assert verity.compute_digest(write_image(kept, version), algorithm).hex == wanted
            if version == 2 and isinstance(made["V1"]["tree"], list):
                check_tree(path, made, 2)


def check_slots(repository, result, version):
    """The config refers to the images that were made, and each of them leads to all."""
    slots = {image.slot: image.digest for image in result.images}
    assert open_image(repository, result.name).erofs == slots
    assert {slot.epoch for slot in slots} == {2 if version == 2 else 1}
    for digest in slots.values():
        assert linked_images(repository, digest) == slots


def check_inspect(repository, vector, recorded):
    """What is read back is what `cfsctl oci inspect` prints."""
    image = open_image(repository, vector["tag"])
    version = repository.meta.erofs_default
    boot = image.erofs_image(version, bootable=True)
    value = {
        "manifest": image.manifest_bytes.decode(),
        "config": image.config_bytes.decode(),
        "referrers": list(image.referrers),
        "composefs_erofs": image.erofs_image(version).hex,
        "composefs_boot_erofs": boot and boot.hex,
    }
    assert vectors.sha256(json.dumps(value, indent=2) + "\n") == recorded["inspect"]["sha256"]
    assert value["composefs_boot_erofs"] == recorded["inspect"]["composefs_boot_erofs"]


def check_dumps(repository, vector, made):
    """The trees of the image, and the entries of its layers, are the recorded ones."""
    variants = {
        "dump": {},
        "dump_keep_user_xattrs": {"xattrs": XattrFilter.KEEP_USER_XATTRS},
        "dump_bootable": {"bootable": True},
    }
    for key, options in variants.items():
        if key in made:
            root = tree_of_image(repository, vector["tag"], **options)
            assert vectors.is_text(made[key], b"".join(format_dump(root)).decode())
    root = tree_of_image(repository, f"@{vector['config']['digest']}")  # every layer proved by its diff_id
    assert vectors.is_text(made["dump"], b"".join(format_dump(root)).decode())
    for layer, recorded in zip(vector["layers"], made["layers"], strict=True):
        lines = [
            format_hard_link(entry.path, entry.target)
            if entry.target is not None
            else format_entry(entry.path, entry.stat, entry.content)
            for entry in layer_entries(repository, layer["diff_id"])
        ]
        assert vectors.is_text(recorded["dumpfile"], b"".join(lines).decode())
        assert len(lines) == recorded["json"]["entryCount"]


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize("name", ["V1-and-V2", "V2-and-V1", "V1-and-V0", "V0-and-V1", "V0-and-V2", "V1-and-V0-V2"])
def test_several_formats(name, hash_name, tmp_path):
    """A repository of several formats gets an image of each, of which the config records one in each slot."""
    vector = vectors.expected("formats")
    recorded = vector[f"{hash_name} {name}"]
    tars = [vectors.read(vectors.ROOT / "formats" / file) for file in vector["layers"]]
    layout = tmp_path / "layout"
    vectors.layers_layout([vectors.layer(tar, tar) for tar in tars]).write(layout)
    path = tmp_path / "repository"
    composefs.Repository.init(path, ALGORITHMS[hash_name], require_verity=False)
    (path / "meta.json").write_text(recorded["meta.json"])
    with composefs.Repository.open(path) as repository:
        result = composefs.import_image(repository, f"oci:{layout}", name=TAG, platform=PLATFORM, workers=1)

        images = [line for line in recorded["tree"] if line.startswith("l images/")]
        assert [line for line in vectors.listing(path) if line.startswith("l images/")] == images
        assert tuple(image.version for image in result.images) == repository.meta.erofs_versions
        if "status" in recorded:  # which the reference does not import
            assert {slot.epoch for slot in open_image(repository, TAG).erofs} == {1, 2}
            return
        assert result.image.hex == recorded["compute_id"]
        linked = [
            {
                "id": digest.hex,
                "bootable": slot.bootable,
                "version": slot.epoch,
                "xattrMode": slot.xattrs.value if slot.bootable else None,
            }
            for slot, digest in linked_images(repository, open_image(repository, TAG).erofs[Slot(1)]).items()
        ]
        assert linked == recorded["linked_erofs_images"]
        assert repository.streams.find(f"oci-config-{result.config}").hex == recorded["config_stream"]["id"]


@pytest.mark.parametrize("name", ["blobs", "with-tar"])
def test_artifact(name, tmp_path, capsys):
    """Artifacts, of which no image is made, give the same repository to the last entry."""
    vector = vectors.expected(f"artifacts/{name}")
    for hash_name, algorithm in ALGORITHMS.items():
        path = tmp_path / hash_name
        layout = vectors.ROOT / "artifacts" / name / "layout"
        arguments = [f"oci:{layout}", "--repo", str(path), "--name", TAG, "--progress", "none"]

        status = main_import([*arguments, "--algorithm", algorithm.value])

        assert status == 0
        assert capsys.readouterr().out.splitlines()[:4] == vector[hash_name]["pull"][:4]
        wanted = vector[hash_name]["tree"]
        assert vectors.listing(path) == sorted(wanted, key=lambda line: line.split(" -> ")[0].split(" ")[-1])


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("vector", vectors.expected("random"), ids=lambda vector: vector["case"])
def test_random_image(vector, tmp_path):
    """Layers made by dice, and the images of them, have the ids that composefs-rs gives them."""
    layout = vectors.write_layout(vector["case"], tmp_path / "layout")
    for hash_name, algorithm in ALGORITHMS.items():
        recorded = vector[hash_name]
        composefs.Repository.init(tmp_path / hash_name, algorithm)
        with composefs.Repository.open(tmp_path / hash_name) as repository:
            for version in (0, 1, 2):
                result = composefs.import_image(
                    repository, f"oci:{layout}", name=TAG, platform=PLATFORM, erofs_version=version, workers=1
                )
                assert [layer.stream.hex for layer in result.layers] == recorded["layers"]
                assert result.image.hex == recorded[f"V{version}"]["image"]
            assert vectors.is_text(recorded["dump"], b"".join(format_dump(tree_of_image(repository, TAG))).decode())
            kept = tree_of_image(repository, TAG, xattrs=XattrFilter.KEEP_USER_XATTRS)
            for version in (0, 1, 2):
                digest = verity.compute_digest(write_image(kept, version), algorithm)
                assert digest.hex == recorded[f"V{version}"]["image_keep_user_xattrs"]


@pytest.mark.parametrize("name", ["sha256 V0", "sha256 V1", "sha256 V2", "sha512 V0", "sha512 V1", "sha512 V2"])
def test_init(name, tmp_path, capsys, monkeypatch):
    """`composefs init` prints and writes what `cfsctl init` does."""
    recorded = json.loads((vectors.ROOT / "configurations.json").read_text())["configurations"][name]
    hash_name, version = name.split(" V")
    monkeypatch.chdir(tmp_path)
    status = main(
        ["--repo", "repo", "init", "--insecure", "--algorithm", f"fsverity-{hash_name}-12", "--erofs-version", version]
    )

    assert status == 0
    assert capsys.readouterr().out.splitlines() == recorded["init"]
    assert (tmp_path / "repo/meta.json").read_text() == recorded["meta.json"]
    assert vectors.listing(tmp_path / "repo") == recorded["tree"]
