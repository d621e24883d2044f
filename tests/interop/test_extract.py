"""What is extracted is what was there before: by every field, and by what composefs-rs and tar say."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import composefs
from composefs.cli import main
from composefs.image import Image, extract
from tests import trees_on_disk
from tests.golden import vectors
from tests.layouts import image_layout, layer
from tests.tools import require_root, require_tool
from tests.trees_on_disk import make_archivable, make_everything, snapshot

ALGORITHMS = list(composefs.Algorithm)
# OCI images of all kinds that Linux can hold: no modes of links, no owner -1, no capabilities that are none.
IMAGES = [
    "entry-types",
    "hard-links",
    "device-numbers",
    "contents-repeated",
    "names-odd-bytes",
    "times",
    "four-layers",
    "types-replaced",
    "directory-3000",
    "directory-deep",
    "whiteouts",
    "opaque-directories",
    "whiteouts-of-hard-links",
]
ONE_WAY = ["--no-propagate-usr-to-root"]


@pytest.fixture
def cfsctl():
    """Run `cfsctl` with arguments, and return what it printed."""
    program = require_tool("cfsctl")

    def run(*arguments, **options):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return run


@pytest.fixture
def scratch():
    """A directory on a tmpfs, where root can set owners, devices and attributes of all kinds."""
    require_root("owners, devices and trusted xattrs")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        yield Path(directory)


def init(cfsctl, path, algorithm):
    cfsctl("init", "--insecure", "--algorithm", algorithm.value, path)
    return path


def extract_image(repository, name, target):
    with composefs.Repository.open(repository) as opened, Image.open(opened, name) as image:
        return extract(image, target)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_directory(cfsctl, scratch, algorithm):
    """A directory that composefs-rs stored comes back with every field, attribute, link and byte."""
    source, repository = scratch / "source", init(cfsctl, scratch / "repository", algorithm)
    make_everything(source)
    image = cfsctl("--repo", repository, "create-image", *ONE_WAY, source, "everything")

    result = extract_image(repository, "everything", scratch / "target")

    assert snapshot(scratch / "target") == snapshot(source)
    assert result.shortfalls == []
    assert cfsctl("--repo", repository, "compute-id", *ONE_WAY, scratch / "target") == image.partition(":")[2]


def test_holes(cfsctl, tmp_path):
    """An object with holes makes a file with holes, and one without makes one without."""
    require_root("owners")
    source, repository = tmp_path / "source", init(cfsctl, tmp_path / "repository", composefs.Algorithm.SHA256)
    source.mkdir()
    (source / "holes").touch()
    os.truncate(source / "holes", 10_000_000)
    cfsctl("--repo", repository, "create-image", *ONE_WAY, source, "image")
    (found,) = (path for path in repository.glob("objects/*/*") if path.stat().st_size == 10_000_000)
    with found.open("r+b") as file:
        file.truncate(0)
        file.truncate(10_000_000)

    extract_image(repository, "image", tmp_path / "target")

    assert (tmp_path / "target/holes").read_bytes() == bytes(10_000_000)
    assert (tmp_path / "target/holes").stat().st_blocks < 100


@pytest.mark.parametrize("name", IMAGES)
def test_oci_image(cfsctl, scratch, name):
    """The files of an OCI image, found by its tag, have the id of the image that composefs-rs made of the layers."""
    repository = init(cfsctl, scratch / "repository", composefs.Algorithm.SHA512)
    layout = vectors.write_layout(name, scratch / "layout")
    cfsctl("--repo", repository, "oci", "pull", f"oci:{layout}", "a/tag")

    result = extract_image(repository, "a/tag", scratch / "target")

    with composefs.Repository.open(repository) as opened, Image.open(opened, "a/tag") as image:
        assert cfsctl("--repo", repository, "compute-id", *ONE_WAY, scratch / "target").strip() == image.id.hex
    assert result.shortfalls == []


def test_tar(cfsctl, scratch):
    """The files of a layer are those that tar extracts, without extended attributes; the root is that of OCI images."""
    tar = require_tool("tar")
    source, repository = scratch / "source", init(cfsctl, scratch / "repository", composefs.Algorithm.SHA256)
    make_everything(source)
    shutil.rmtree(source / "run")
    make_archivable(source)
    subprocess.run([tar, "-C", source, "--format=pax", "-cf", scratch / "layer.tar", "."], check=True)
    (scratch / "tar").mkdir()
    subprocess.run([tar, "-C", scratch / "tar", "-xpf", scratch / "layer.tar"], check=True)
    archive = (scratch / "layer.tar").read_bytes()
    layout = image_layout(scratch / "layout", [layer(archive)])
    cfsctl("--repo", repository, "oci", "pull", str(layout), "tag")

    extract_image(repository, "tag", scratch / "target")

    wanted, got = snapshot(scratch / "tar"), snapshot(scratch / "target")
    assert wanted.pop(b"")[0] != got.pop(b"")[0]
    assert got == wanted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_commands(cfsctl, scratch, algorithm, capfdbinary):
    """dump-files and image-objects say of an image what cfsctl says, line for line."""
    source, repository = scratch / "source", init(cfsctl, scratch / "repository", algorithm)
    make_everything(source)
    image = cfsctl("--repo", repository, "create-image", *ONE_WAY, source, "everything").strip()
    os.chmod(source, 0o755)

    def both(*arguments):
        theirs = cfsctl("--repo", repository, *arguments)
        capfdbinary.readouterr()
        assert main(["--repo", str(repository), *arguments]) == 0
        return theirs.encode(), capfdbinary.readouterr().out

    for name in ("everything", "refs/everything", image.partition(":")[2]):
        theirs, ours = both("image-objects", name)
        assert ours.splitlines() == sorted(theirs.splitlines())
        assert len(ours.splitlines()) > 5
    for paths in (
        ["/usr"],
        ["usr/bin/tool", "/etc/tool3", "//usr//bin/", "usr/./lib/deep", "/usr/bin/tool"],
        [*(f"/{name}" for name in os.listdir(source))],
        [f"/var/{os.fsdecode(name)}" for name in trees_on_disk.NAMES],
        [],
    ):
        theirs, ours = both("dump-files", "everything", *paths)
        assert ours == theirs
        assert bool(ours) == bool(paths)
    leaves = [
        "/usr/bin/tool",
        "usr//lib/size-65",
        "/usr/lib/size-64",
        "/usr/up",
        "/dev/null",
        "/dev/fifo",
        "/var/sparse",
    ]
    theirs, ours = both("dump-files", "--backing-path-only", "everything", *leaves)
    assert ours == theirs
    assert ours.count(b" inline\n") == 4


@pytest.mark.parametrize("paths", [["/nothing"], ["/usr/nothing"], ["/usr/absolute/tool3"], ["/usr/../usr"]])
def test_commands_refuse(cfsctl, scratch, paths, capfd):
    """What cfsctl does not find, we do not find, and what was found before is printed by both."""
    source, repository = scratch / "source", init(cfsctl, scratch / "repository", composefs.Algorithm.SHA256)
    make_everything(source)
    cfsctl("--repo", repository, "create-image", *ONE_WAY, source, "everything")
    arguments = ["--repo", str(repository), "dump-files", "everything", "/usr/bin/tool", *paths]
    program = require_tool("cfsctl")
    theirs = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    capfd.readouterr()

    status = main(arguments)

    out, err = capfd.readouterr()
    assert (status, out) == (theirs.returncode, theirs.stdout)
    assert paths[0] in err
