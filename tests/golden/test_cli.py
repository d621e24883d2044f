"""The `oci` commands print what `cfsctl` printed for the golden images, character for character."""

import json
import os

import pytest

from composefs.cli import main
from tests.golden import vectors

HASHES = ["sha256", "sha512"]
VERSIONS = [1, 2]
PULLED = {"sha256": [1], "sha512": [2, 1]}  # formats of repositories; what the others print differs in ids only
ARTIFACTS = ["blobs", "with-tar"]


@pytest.fixture(autouse=True)
def _umask():
    """The vectors were made with umask 022."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def run(tmp_path, capfdbinary):
    """Run a command in the repository called by its first argument; return what it printed."""

    def run(name, *arguments):
        capfdbinary.readouterr()
        status = main(["--repo", str(tmp_path / name), *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        assert status == 0, err.decode()
        return out.decode()

    return run


def init(run, name, hash_name, version):
    run(name, "init", "--insecure", "--algorithm", f"fsverity-{hash_name}-12", "--erofs-version", version)
    return name


def same(printed, text):
    """Compare what was printed with what is recorded of it."""
    wanted = vectors.lines(text)
    return printed == wanted if isinstance(text, list) else vectors.sha256(printed) == wanted


@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name, tmp_path, run):
    """All that is printed of an image after it was pulled, with both algorithms and in all formats."""
    vector = vectors.expected(f"images/{name}")
    layout = vectors.write_layout(name, tmp_path / "layout")
    for hash_name in HASHES:
        for version in PULLED[hash_name]:
            repository = init(run, f"{hash_name}-{version}", hash_name, version)
            _check_pull(run, repository, vector, hash_name, version, layout)
        _check_layers(run, repository, vector, hash_name)
        _check_tree(run, repository, vector, hash_name)


def _check_pull(run, repository, vector, hash_name, version, layout):
    made = vector[hash_name][f"V{version}"]
    boot = made.get("boot_image")
    options = ["--workers", "1", "--progress", "none", *(["--bootable"] if boot else [])]

    printed = run(repository, "oci", "pull", f"oci:{layout}", vector["tag"], *options).splitlines()

    wanted = list(vector[hash_name]["pull"])
    wanted[2] = f"verity   {made['streams']['manifest']['id']}"  # theirs is that of a stream that was replaced
    if boot:
        wanted.append(f"Boot image: {boot['id']}")
    if vector["case"] == "layer-repeated":  # there the reference's counts are chance
        wanted[4:] = printed[4:]
    assert printed == wanted
    assert json.loads(run(repository, "oci", "images", "--json")) == vector["images"]

    inspected = run(repository, "oci", "inspect", vector["tag"])
    assert vectors.sha256(inspected) == made["inspect"]["sha256"]
    value = json.loads(inspected)
    assert list(value) == ["manifest", "config", "referrers", "composefs_erofs", "composefs_boot_erofs"]
    assert value["composefs_erofs"] == made["image"]["id"]
    for kind in ("manifest", "config"):
        assert run(repository, "oci", "inspect", vector["tag"], f"--{kind}") == vector[kind]["text"] + "\n"


def _check_layers(run, repository, vector, hash_name):
    for layer, made in zip(vector["layers"], vector[hash_name]["layers"], strict=True):
        diff_id = layer["diff_id"]
        assert run(repository, "oci", "layer", diff_id, "--json") == json.dumps(made["json"], indent=2) + "\n"
        assert same(run(repository, "oci", "layer", diff_id, "--dumpfile"), made["dumpfile"])


def _check_tree(run, repository, vector, hash_name):
    made, tag = vector[hash_name], vector["tag"]
    bootable = "dump_bootable" in made
    keep = ["--xattrs", "keep-user-xattrs"]
    assert same(run(repository, "oci", "dump", tag), made["dump"])
    assert same(run(repository, "oci", "dump", tag, *keep), made.get("dump_keep_user_xattrs", made["dump"]))
    if bootable:
        assert same(run(repository, "oci", "dump", tag, "--bootable"), made["dump_bootable"])

    def compute_id(version, *options):
        return run(repository, "--erofs-version", version, "oci", "compute-id", tag, *options).strip()

    assert compute_id(0) == made["V0"]["image"]["id"]
    for version in VERSIONS:
        wanted = made[f"V{version}"]
        assert compute_id(version) == wanted["image"]["id"]
        assert compute_id(version, *keep) == wanted.get("image_keep_user_xattrs", wanted["image"]["id"])
        if bootable:
            assert compute_id(version, "--bootable") == wanted["boot_image"]["id"]


@pytest.mark.parametrize("name", ARTIFACTS)
@pytest.mark.parametrize("hash_name", HASHES)
def test_artifact(name, hash_name, run):
    """What is printed of an artifact, of which no image is made."""
    vector = vectors.expected(f"artifacts/{name}")
    repository = init(run, "repository", hash_name, 1)

    made = vector[hash_name]
    layout = vectors.ROOT / "artifacts" / name / "layout"

    printed = run(repository, "oci", "pull", f"oci:{layout}", "golden", "--progress", "none").splitlines()

    assert len(printed) == 5
    assert printed[: len(made["pull"])] == made["pull"]  # of `blobs` the counts are not recorded
    assert json.loads(run(repository, "oci", "images", "--json")) == made["images"]
    assert json.loads(run(repository, "oci", "inspect", "golden")) == made["inspect"]
    assert run(repository, "oci", "inspect", "golden", "--config") == made["inspect"]["config"] + "\n"
