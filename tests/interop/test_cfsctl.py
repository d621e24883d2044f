"""One repository for two: what composefs-rs makes of an image and what we make of it are the same, and serve both."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

import composefs
from composefs.dumpfile import format_dump
from composefs.oci.images import open_image
from composefs.oci.trees import tree_of_image
from composefs.transform import XattrFilter
from tests import debian, layouts
from tests.golden import vectors
from tests.layouts import files_layer, image_layout
from tests.property import test_merge
from tests.tools import require_root, require_tool

ALGORITHMS = list(composefs.Algorithm)
IMAGES = ["four-layers", "compression-zstd-frames", "compression-gzip-members", "layer-repeated", "whiteouts"]


@pytest.fixture(scope="session")
def cfsctl_path():
    return require_tool("cfsctl")


@pytest.fixture
def cfsctl(cfsctl_path):
    """Run `cfsctl` with arguments, and return what it printed."""
    program = cfsctl_path

    def run(*arguments, **options):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    assert run("--version") == b"cfsctl 0.9.4\n"
    return run


def import_here(path, reference, algorithm, name="image", **options):
    if not composefs.Repository.exists(path):
        composefs.Repository.init(path, algorithm)
    with composefs.Repository.open(path) as repository:
        return composefs.import_image(repository, reference, name=name, **options)


def import_there(cfsctl, path, reference, algorithm, name="image", *options):
    if not path.exists():
        cfsctl("init", "--insecure", "--algorithm", algorithm.value, path)
    return cfsctl("--repo", path, "oci", "pull", reference, name, *options)


def layers(path):
    return {link.name: link.readlink() for link in (path / "streams").glob("oci-layer-*")}


def images(path):
    return {link.name: link.readlink() for link in (path / "images").iterdir()}


def config(path):
    (link,) = (path / "streams").glob("oci-config-*")
    return link.readlink()


def dump_here(path, image="image", **options):
    with composefs.Repository.open(path) as repository:
        return b"".join(format_dump(tree_of_image(repository, image, **options)))


def objects(path):
    return {file.relative_to(path): file.read_bytes() for file in (path / "objects").rglob("*/*")}


def check_clean(cfsctl, path):
    """Both checks of composefs-rs find nothing."""
    for command in (["fsck"], ["oci", "fsck"]):
        printed = json.loads(cfsctl("--repo", path, *command, "--json"))
        assert printed["ok"], printed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", IMAGES)
def test_same_repository(cfsctl, tmp_path, name, algorithm):
    """Each tool imports into a repository of its own: the same streams of layers and config, images, and objects.

    Only the manifest's stream may differ, in which composefs-rs has the layers in an order of chance.
    """
    reference = f"oci:{vectors.write_layout(name, tmp_path / 'layout')}"

    import_here(tmp_path / "ours", reference, algorithm, workers=2)
    import_there(cfsctl, tmp_path / "theirs", reference, algorithm)

    assert layers(tmp_path / "ours") == layers(tmp_path / "theirs")
    assert images(tmp_path / "ours") == images(tmp_path / "theirs")
    assert config(tmp_path / "ours") == config(tmp_path / "theirs")
    ours, theirs = objects(tmp_path / "ours"), objects(tmp_path / "theirs")
    (manifest,) = (tmp_path / "ours/streams").glob("oci-manifest-*")
    del ours[manifest.resolve().relative_to(tmp_path / "ours")]
    assert ours.items() <= theirs.items()
    assert (tmp_path / "ours/meta.json").read_bytes() == (tmp_path / "theirs/meta.json").read_bytes()
    check_clean(cfsctl, tmp_path / "ours")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_they_read_ours(cfsctl, tmp_path, algorithm):
    """composefs-rs lists, reads and checks what we imported."""
    layout = vectors.write_layout("four-layers", tmp_path / "layout")
    path = tmp_path / "repository"
    result = import_here(path, str(layout), algorithm, name="a/b:c")

    (image,) = json.loads(cfsctl("--repo", path, "oci", "images", "--json"))["images"]
    assert (image["name"], image["manifest_digest"], image["layer_count"]) == ("a/b:c", result.manifest, 4)
    assert image["is_container"]
    for layer in result.layers:
        archive = cfsctl("--repo", path, "oci", "layer", layer.diff_id)
        assert "sha256:" + hashlib.sha256(archive).hexdigest() == layer.diff_id
    manifest = cfsctl("--repo", path, "cat", f"oci-manifest-{result.manifest}")
    assert "sha256:" + hashlib.sha256(manifest).hexdigest() == result.manifest
    assert json.loads(cfsctl("--repo", path, "oci", "inspect", "a/b:c"))["manifest"] == manifest.decode()
    inspected = json.loads(cfsctl("--repo", path, "oci", "inspect", "a/b:c"))
    assert inspected["composefs_erofs"] == result.image.hex
    assert cfsctl("--repo", path, "oci", "compute-id", "a/b:c").decode() == f"{result.image.hex}\n"
    assert cfsctl("--repo", path, "oci", "dump", "a/b:c") == dump_here(path, "a/b:c")
    linked = json.loads(cfsctl("--repo", path, "oci", "linked-erofs-images", result.image.hex))
    assert linked == [{"id": result.image.hex, "bootable": False, "version": 1, "xattrMode": None}]
    check_clean(cfsctl, path)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_we_read_theirs(cfsctl, tmp_path, algorithm):
    """We open what composefs-rs made, find every layer, and leave its image where it is."""
    layout = vectors.write_layout("four-layers", tmp_path / "layout")
    path = tmp_path / "repository"
    import_there(cfsctl, path, f"oci:{layout}", algorithm)
    before = vectors.listing(path)
    inspected = cfsctl("--repo", path, "oci", "inspect", "image")

    result = import_here(path, f"oci:{layout}", algorithm)

    assert {layer.status for layer in result.layers} == {"present"}
    assert vectors.listing(path) == before
    assert cfsctl("--repo", path, "oci", "inspect", "image") == inspected
    assert json.loads(inspected)["composefs_erofs"] == result.image.hex
    with composefs.Repository.open(path) as repository:
        for layer in result.layers:
            with repository.streams.open(f"oci-layer-{layer.diff_id}") as stream:
                digest = hashlib.sha256()
                for piece in stream.merged():
                    digest.update(piece)
            assert f"sha256:{digest.hexdigest()}" == layer.diff_id


def test_in_turn(cfsctl, tmp_path):
    """Imports by turns, of overlapping images, leave one clean repository; collecting garbage there loses nothing."""
    path = tmp_path / "repository"
    for number, name in enumerate(["whiteouts", "four-layers", "layer-repeated"]):
        reference = f"oci:{vectors.write_layout(name, tmp_path / name)}"
        import_here(path, reference, composefs.Algorithm.SHA512, name=f"ours-{number}")
        import_there(cfsctl, path, reference, composefs.Algorithm.SHA512, name=f"theirs-{number}")
        import_here(path, reference, composefs.Algorithm.SHA512, name=f"again-{number}")

    cfsctl("--repo", path, "gc")

    check_clean(cfsctl, path)
    assert len(json.loads(cfsctl("--repo", path, "oci", "images", "--json"))["images"]) == 9


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("bootable", [False, True])
def test_one_image_by_turns(cfsctl, tmp_path, first, bootable):
    """Pull with one, tag with the other, collect garbage, pull again: at each step all is there and whole."""
    path, algorithm = tmp_path / "repository", composefs.Algorithm.SHA256
    reference = f"oci:{vectors.write_layout('boot-selinux', tmp_path / 'layout')}"
    options = ["--bootable"] if bootable else []
    here, there = {"bootable": bootable}, options
    pull = {
        "ours": lambda: import_here(path, reference, algorithm, **here),
        "theirs": lambda: import_there(cfsctl, path, reference, algorithm, "image", *there),
    }
    second = "theirs" if first == "ours" else "ours"
    pull[first]()
    check_clean(cfsctl, path)
    made = images(path)
    assert len(made) == 1 + bootable
    with composefs.Repository.open(path) as repository:
        stored = open_image(repository, "image")
        repository.streams.set_ref("oci/by-us", f"oci-manifest-{stored.manifest}")
    cfsctl("--repo", path, "oci", "tag", stored.manifest, "by-them")
    check_clean(cfsctl, path)
    for step in (second, first, second):
        cfsctl("--repo", path, "gc")
        check_clean(cfsctl, path)
        assert images(path) == made
        pull[step]()
        check_clean(cfsctl, path)
        assert images(path) == made
    for tag in ("image", "by-us", "by-them"):
        inspected = json.loads(cfsctl("--repo", path, "oci", "inspect", tag))
        assert {inspected["composefs_erofs"], inspected["composefs_boot_erofs"]} - {None} == set(made)
        with composefs.Repository.open(path) as repository:
            assert {digest.hex for digest in open_image(repository, tag).erofs.values()} == set(made)
    for tag in ("by-us", "by-them"):
        cfsctl("--repo", path, "oci", "untag", tag)
    cfsctl("--repo", path, "gc")
    check_clean(cfsctl, path)
    before = vectors.listing(path)
    import_here(path, reference, algorithm, **here)
    assert vectors.listing(path) == before
    cfsctl("--repo", path, "oci", "untag", "image")
    cfsctl("--repo", path, "gc")
    assert not images(path)
    assert not objects(path)


def test_garbage_of_one_slot(cfsctl, tmp_path):
    """A pull there of another format drops the image that we had recorded; the next one here makes it again."""
    path, algorithm = tmp_path / "repository", composefs.Algorithm.SHA512
    reference = f"oci:{vectors.write_layout('whiteouts', tmp_path / 'layout')}"
    first = import_here(path, reference, algorithm)
    cfsctl("--repo", path, "--erofs-version", "2", "oci", "pull", reference, "image")
    cfsctl("--repo", path, "gc")
    assert first.image.hex not in images(path)

    again = import_here(path, reference, algorithm)

    assert again.image == first.image
    assert len(images(path)) == 2
    cfsctl("--repo", path, "gc")
    assert len(images(path)) == 2
    check_clean(cfsctl, path)


def mounted_files(cfsctl, tmp_path, path, *what):
    """Mount an image there, and return the contents of its files."""
    target = tmp_path / "mounted"
    target.mkdir(exist_ok=True)
    cfsctl("--repo", path, *what, target)
    try:
        return {
            file.relative_to(target).as_posix(): file.read_bytes()
            for file in target.rglob("*")
            if file.is_file() and not file.is_symlink()
        }
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_mount(cfsctl, tmp_path, version):
    """The kernel mounts the images that we make, of any format, and shows the files of the layers."""
    require_root("mounts")
    path = tmp_path / "repository"
    cfsctl("init", "--insecure", "--erofs-version", str(version), path)
    files = {"usr/small": b"small", "usr/large": b"large" * 100, "usr/lib/deep": b"d" * 70}
    layout = image_layout(tmp_path / "layout", [files_layer(files), files_layer({"usr/.wh.small": b""})])
    result = import_here(path, str(layout), composefs.Algorithm.SHA512)
    if "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no EROFS")

    found = mounted_files(cfsctl, tmp_path, path, "mount", result.image.hex)

    del files["usr/small"]
    assert found == files


def test_v0(cfsctl, tmp_path):
    """A repository of the format V0, into which composefs-rs cannot import, takes imports here, and serves there."""
    path = tmp_path / "repository"
    cfsctl("init", "--insecure", "--erofs-version", "0", path)
    layout = vectors.write_layout("whiteouts", tmp_path / "layout")

    result = import_here(path, str(layout), composefs.Algorithm.SHA512)

    assert result.image.hex == vectors.expected("images/whiteouts")["sha512"]["V0"]["image"]["id"]
    assert json.loads(cfsctl("--repo", path, "oci", "inspect", "image"))["composefs_erofs"] == result.image.hex
    assert cfsctl("--repo", path, "oci", "compute-id", "image").decode() == f"{result.image.hex}\n"
    linked = json.loads(cfsctl("--repo", path, "oci", "linked-erofs-images", result.image.hex))
    assert linked == [{"id": result.image.hex, "bootable": False, "version": 1, "xattrMode": None}]
    check_clean(cfsctl, path)
    cfsctl("--repo", path, "gc")
    assert images(path).keys() == {result.image.hex}
    before = vectors.listing(path)
    import_here(path, str(layout), composefs.Algorithm.SHA512)
    assert vectors.listing(path) == before


def test_debian(cfsctl, tmp_path):
    """Layers of what at least 20 of Debian's packages have installed here make the same image in both tools."""
    require_tool("dpkg-query")
    algorithm = composefs.Algorithm.SHA512
    packages = [package for package in debian.PACKAGES if debian.package_files(package)]
    assert len(packages) >= 20
    archives = sorted((debian.package_layer(packages[start::3]) for start in range(3)), key=len)
    found = [layouts.layer(archive, kind) for archive, kind in zip(archives, ("gzip", "zstd", "none"), strict=True)]
    reference = str(image_layout(tmp_path / "layout", found))

    result = import_here(tmp_path / "ours", reference, algorithm)
    import_there(cfsctl, tmp_path / "theirs", reference, algorithm)

    assert layers(tmp_path / "ours") == layers(tmp_path / "theirs")
    assert images(tmp_path / "ours") == images(tmp_path / "theirs")
    assert images(tmp_path / "ours").keys() == {result.image.hex}
    theirs = tmp_path / "theirs"
    assert cfsctl("--repo", theirs, "oci", "compute-id", "image").decode() == f"{result.image.hex}\n"
    dump = cfsctl("--repo", theirs, "oci", "dump", "image")
    assert dump.count(b"\n") > 3000
    assert dump_here(tmp_path / "ours") == dump
    kept = cfsctl("--repo", theirs, "oci", "dump", "image", "--xattrs", "keep-user-xattrs")
    assert dump_here(theirs, xattrs=XattrFilter.KEEP_USER_XATTRS) == kept
    for version in ("0", "2"):
        wanted = cfsctl("--repo", theirs, "--erofs-version", version, "oci", "compute-id", "image").decode()
        again = import_here(tmp_path / "ours", reference, algorithm, erofs_version=int(version))
        assert f"{again.image.hex}\n" == wanted
    check_clean(cfsctl, tmp_path / "ours")


@settings(max_examples=25)
@given(test_merge.LAYERS)
def test_layers_by_chance(cfsctl_path, described):
    """Layers of all types of entries, whiteouts and links, made by dice, make the same dump and id in both tools."""
    made = [layouts.layer(test_merge.build(members)) for members in test_merge.last(described)]
    made.append(files_layer({}))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(composefs.Repository, "sync", lambda _: None)
        path = Path(directory, "repository")
        layout = image_layout(Path(directory, "layout"), made)
        result = import_here(path, str(layout), composefs.Algorithm.SHA256, workers=1)

        def run(*arguments):
            command = [cfsctl_path, "--repo", path, "oci", *arguments, "image"]
            return subprocess.run(command, capture_output=True, check=True).stdout

        assert run("dump") == dump_here(path)
        assert run("compute-id").decode() == f"{result.image.hex}\n"


def tree(root):
    """Make a small root file system below *root*."""
    for number in range(40):
        file = root / "usr" / f"d{number % 4}" / f"file{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * (number * 50))
    (root / "usr/link").symlink_to("d0/file0")


def umoci_layout(tmp_path):
    """Return a layout of two layers that umoci made."""
    umoci = require_tool("umoci")
    layout, archive = tmp_path / "umoci", tmp_path / "layer.tar"

    def run(*arguments):
        subprocess.run([umoci, *map(str, arguments)], check=True, capture_output=True)

    run("init", "--layout", layout)
    run("new", "--image", f"{layout}:tag")
    for number in range(2):
        tree(tmp_path / f"tree{number}")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(tmp_path / f"tree{number}/usr", arcname="usr")
        archive.write_bytes(out.getvalue())
        run("raw", "add-layer", "--image", f"{layout}:tag", archive)
    return layout


def skopeo_layout(tmp_path, *options):
    """Return a layout that skopeo copied from umoci's."""
    skopeo = require_tool("skopeo")
    source, layout = umoci_layout(tmp_path), tmp_path / "skopeo"
    command = [skopeo, "--insecure-policy", "copy", *options, f"oci:{source}:tag", f"oci:{layout}:tag"]
    subprocess.run(command, check=True, capture_output=True)
    return layout


@pytest.mark.parametrize("make", [umoci_layout, skopeo_layout], ids=["umoci", "skopeo"])
def test_layouts_of_others(cfsctl, tmp_path, make):
    """Layouts as other programs make them import to what composefs-rs makes of them."""
    reference = f"oci:{make(tmp_path)}:tag"

    result = import_here(tmp_path / "ours", reference, composefs.Algorithm.SHA256)
    import_there(cfsctl, tmp_path / "theirs", reference, composefs.Algorithm.SHA256)

    assert len(result.layers) == 2
    assert layers(tmp_path / "ours") == layers(tmp_path / "theirs")
    check_clean(cfsctl, tmp_path / "ours")


def test_skopeo_zstd(cfsctl, tmp_path):
    """So do layers that skopeo compressed with zstd."""
    layout = skopeo_layout(tmp_path, "--dest-compress-format", "zstd", "--dest-compress")
    if not any(blob.read_bytes().startswith(b"\x28\xb5\x2f\xfd") for blob in (layout / "blobs/sha256").iterdir()):
        pytest.skip("this skopeo keeps the layers as they are")

    result = import_here(tmp_path / "ours", f"oci:{layout}:tag", composefs.Algorithm.SHA256)

    assert {layer.status for layer in result.layers} == {"imported"}
    check_clean(cfsctl, tmp_path / "ours")
