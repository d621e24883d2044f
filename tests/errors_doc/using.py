"""Repositories that cannot be used as asked, names that lead nowhere, and wrong usage."""

import json
import os
import re
from types import SimpleNamespace
from unittest import mock

from composefs import Repository, _native, verity
from composefs.erofs.writer import write_image
from tests.damage import HIGH
from tests.errors_doc.cases import case
from tests.errors_doc.scene import Scene, plain_layer
from tests.images import directory, inline, store
from tests.layouts import Layout, layer, noise

# The repository


@case
def no_repository(scene: Scene) -> str:
    return scene.run("images")


@case
def no_metadata(scene: Scene) -> str:
    scene.repository.mkdir()
    return scene.run("images")


@case
def broken_metadata(scene: Scene) -> str:
    scene.damaged("meta")
    return scene.run("images")


@case
def newer_version(scene: Scene) -> str:
    scene.damaged("meta-newer")
    return scene.run("images")


def _with_feature(scene: Scene, kind: str) -> None:
    path = scene.made() / "meta.json"
    value = json.loads(path.read_text())
    value["features"][kind].append("later")
    path.write_text(json.dumps(value))


@case
def unknown_feature(scene: Scene) -> str:
    _with_feature(scene, "incompatible")
    return scene.run("images")


@case
def unknown_feature_to_write(scene: Scene) -> str:
    _with_feature(scene, "read-only-compatible")
    return scene.refuses(scene.layout())


@case
def other_algorithm(scene: Scene) -> str:
    scene.made()
    return scene.run("--hash", "sha512", "images")


@case
def other_algorithm_to_import(scene: Scene) -> str:
    return scene.refuses(scene.layout(), "--algorithm", "fsverity-sha512-12")


@case
def repository_exists(scene: Scene) -> str:
    scene.made()
    return scene.run("init", scene.repository)


@case
def no_fsverity(scene: Scene) -> str:
    with mock.patch.object(verity, "seal", return_value=False):
        return scene.run("init", scene.repository, "--require-verity")


@case
def made_without_fsverity(scene: Scene) -> str:
    scene.made()
    return scene.run("--require-verity", "images")


@case
def other_owner(scene: Scene) -> str:
    layout = scene.layout()
    with mock.patch.object(os, "access", return_value=False):
        text = scene.refuses(layout)
    return re.sub(r"uid \d+, this is uid \d+", "uid 0, this is uid 1000", text)


@case
def read_only_repository(scene: Scene) -> str:
    scene.made()
    with mock.patch.object(os, "fstatvfs", return_value=SimpleNamespace(f_flag=os.ST_RDONLY)):
        return scene.refuses(scene.layout())


@case
def busy(scene: Scene) -> str:
    with Repository.open(scene.made()):
        text = scene.run("gc")
    return re.sub("in use by .*", "in use by process 4711 (composefs)", text)  # it was by ourselves


@case
def link_in_place_of_a_directory(scene: Scene) -> str:
    place = scene.damaged()
    (place.path / "objects").rename(scene.path / "elsewhere")
    (place.path / "objects").symlink_to("../elsewhere")
    return scene.refuses(scene.layout(plain_layer({"usr/": b"", "usr/new": noise(1000, 77)})))


@case
def broken_object(scene: Scene) -> str:
    scene.damaged("flipped")
    return scene.run("cat-file", "web/os", "/usr/high")


@case
def missing_object(scene: Scene) -> str:
    place = scene.damaged()
    (place.path / place.object(HIGH)).unlink()
    return scene.run("cat-file", "web/os", "/usr/high")


# Names


@case
def no_image(scene: Scene) -> str:
    scene.made()
    return scene.run("ls", "fedora")


@case
def no_tag(scene: Scene) -> str:
    scene.made()
    return scene.run("oci", "inspect", "fedora")


@case
def no_stream(scene: Scene) -> str:
    scene.made()
    return scene.run("cat", "refs/fedora")


@case
def no_path(scene: Scene) -> str:
    with Repository.open(scene.made()) as repository:
        store(repository.images, write_image(directory({"usr": directory({"f": inline()})}), 1), "os")
    return scene.run("cat-file", "os", "/etc/passwd")


@case
def no_boot_image(scene: Scene) -> str:
    layout = Layout(scene.path / "artifact")
    layout.write(layout.artifact([layer(b"", blob=noise(1000, 8), media_type="application/x-thing")]))
    return scene.refuses(layout, "--bootable", "--quiet")


# Garbage


@case
def gc_broken_image(scene: Scene) -> str:
    scene.damaged("image-flipped")
    return scene.run("gc")


@case
def gc_broken_stream(scene: Scene) -> str:
    scene.damaged("stream-header")
    return scene.run("gc")


@case
def gc_reference(scene: Scene) -> str:
    scene.damaged("ref-to-object")
    return scene.run("gc")


@case
def gc_nothing_to_undo(scene: Scene) -> str:
    scene.made()
    return scene.run("gc", "--undo")


@case
def gc_nothing_to_explain(scene: Scene) -> str:
    scene.made()
    return scene.run("gc", "--explain", "fedora")


# Repair


@case
def repair_from_another_algorithm(scene: Scene) -> str:
    scene.damaged("removed")
    Repository.init(scene.path / "backup", require_verity=False)
    return scene.run("fsck", "--repair-from", scene.path / "backup")


@case
def repair_from_itself(scene: Scene) -> str:
    scene.damaged("removed")
    return scene.run("fsck", "--repair-from", scene.repository)


@case
def not_mended(scene: Scene) -> str:
    scene.damaged("removed")
    Repository.init(scene.path / "backup", scene.algorithm, require_verity=False)
    out, _ = scene.outcome("fsck", "--repair-from", scene.path / "backup")
    return "not mended" + out.partition("not mended")[2].partition("\nnow")[0]


@case
def set_aside(scene: Scene) -> str:
    scene.damaged("flipped")
    out, _ = scene.outcome("fsck", "--quarantine")
    return "set aside" + out.partition("set aside")[2]


# Usage


@case
def usage_platform(scene: Scene) -> str:
    return scene.refuses("oci:x", "--platform", "linux")


@case
def usage_size(scene: Scene) -> str:
    return scene.refuses("oci:x", "--max-layer-size", "64 GB").splitlines()[-1]


@case
def usage_name(scene: Scene) -> str:
    return scene.refuses("oci:x", "--name", "@home")


@case
def usage_long_name(scene: Scene) -> str:
    return scene.refuses("oci:x", "--name", "n" * 256).replace("n" * 256, "nnn…")


@case
def usage_terminal(scene: Scene) -> str:
    scene.made()
    return scene.run("import-image", "base", stdin=None)


# Directories, copies


@case
def directory_without_usr(scene: Scene) -> str:
    scene.made()
    (scene.path / "root/etc").mkdir(parents=True)
    return scene.run("create-image", scene.path / "root", "web/os", "--bootable")


@case
def directory_that_changes(scene: Scene) -> str:
    scene.made()
    (scene.path / "root/usr").mkdir(parents=True)
    (scene.path / "root/usr/log").write_bytes(b"x" * 100_000)
    compute = _native.verity_digest

    def change(*arguments: object) -> object:
        with (scene.path / "root/usr/log").open("ab") as file:
            file.write(b"y")
        return compute(*arguments)

    with mock.patch.object(_native, "verity_digest", change):
        return scene.run("create-image", scene.path / "root", "web/os")


@case
def tag_of_no_manifest(scene: Scene) -> str:
    scene.made()
    return scene.run("oci", "tag", f"sha256:{'ab' * 32}", "os")


@case
def shared_contents_of_another_algorithm(scene: Scene) -> str:
    scene.damaged()
    Repository.init(scene.path / "other", require_verity=False)
    source = ("--from", scene.repository)
    return scene.run("--repo", scene.path / "other", "oci", "copy", *source, "os:42", "--zerocopy")
