"""One repository for two: what composefs-rs makes of an image and what we make of it are the same, and serve both."""

import hashlib
import io
import json
import subprocess
import tarfile

import pytest

import composefs
from tests.golden import vectors
from tests.tools import require_tool

ALGORITHMS = list(composefs.Algorithm)
IMAGES = ["four-layers", "compression-zstd-frames", "compression-gzip-members", "layer-repeated", "whiteouts"]


@pytest.fixture
def cfsctl(tmp_path):
    """Run `cfsctl` with arguments, and return what it printed."""
    program = require_tool("cfsctl")

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


def import_there(cfsctl, path, reference, algorithm, name="image"):
    if not path.exists():
        cfsctl("init", "--insecure", "--algorithm", algorithm.value, path)
    return cfsctl("--repo", path, "oci", "pull", reference, name)


def layers(path):
    return {link.name: link.readlink() for link in (path / "streams").glob("oci-layer-*")}


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
    """Each tool imports into a repository of its own: the same layer streams, and the same objects but for images."""
    reference = f"oci:{vectors.write_layout(name, tmp_path / 'layout')}"

    import_here(tmp_path / "ours", reference, algorithm, workers=2)
    import_there(cfsctl, tmp_path / "theirs", reference, algorithm)

    assert layers(tmp_path / "ours") == layers(tmp_path / "theirs")
    ours, theirs = objects(tmp_path / "ours"), objects(tmp_path / "theirs")
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
    assert json.loads(inspected)["composefs_erofs"]
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


def test_v0(cfsctl, tmp_path):
    """A repository of the format V0, into which composefs-rs cannot import, takes imports here."""
    path = tmp_path / "repository"
    cfsctl("init", "--insecure", "--erofs-version", "0", path)
    layout = vectors.write_layout("whiteouts", tmp_path / "layout")

    import_here(path, str(layout), composefs.Algorithm.SHA512)

    check_clean(cfsctl, path)


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
