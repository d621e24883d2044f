"""Importing the golden images gives the repositories that composefs-rs gives, but for what needs an image."""

import json
import os

import pytest

import composefs
from composefs import verity
from composefs.cli import main, main_import
from tests.golden import vectors

ALGORITHMS = {"sha256": composefs.Algorithm.SHA256, "sha512": composefs.Algorithm.SHA512}
TAG = "golden"


@pytest.fixture(autouse=True)
def _umask():
    """The vectors were made with umask 022."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name, tmp_path, capsys):
    """Output, streams, objects and the tree of the repository are those of `cfsctl oci pull`."""
    vector = vectors.expected(f"images/{name}")
    layout = vectors.write_layout(name, tmp_path / "layout")
    for hash_name, algorithm in ALGORITHMS.items():
        path = tmp_path / hash_name
        arguments = [
            f"oci:{layout}",
            "--repo",
            str(path),
            "--name",
            vector["tag"],
            "--workers",
            "1",
            "--progress",
            "none",
        ]

        status = main_import([*arguments, "--algorithm", algorithm.value])

        assert status == 0
        made = vector[hash_name]
        printed = capsys.readouterr().out.splitlines()
        assert printed[:4] == made["pull"][:4]
        if name != "layer-repeated":  # there the reference's counts are chance
            assert printed == made["pull"]
        for layer, recorded in zip(vector["layers"], made["layers"], strict=True):
            stream = (path / "streams" / f"oci-layer-{layer['diff_id']}").read_bytes()
            assert verity.compute_digest(stream, algorithm).hex == recorded["id"]
            if "file" in recorded:
                assert stream == vectors.read(vectors.ROOT / "images" / name / recorded["file"])
        _check_tree(path, made)


def _check_tree(path, made):
    recorded = made["V1"]
    if isinstance(recorded["tree"], list):
        wanted = vectors.before_image(made, recorded)
        assert vectors.listing(path) == sorted(wanted, key=lambda line: line.split(" -> ")[0].split(" ")[-1])


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


@pytest.mark.parametrize("vector", vectors.expected("random"), ids=lambda vector: vector["case"])
def test_random_image(vector, tmp_path):
    """Layers made by dice have the ids that composefs-rs gives them."""
    layout = vectors.write_layout(vector["case"], tmp_path / "layout")
    for hash_name, algorithm in ALGORITHMS.items():
        composefs.Repository.init(tmp_path / hash_name, algorithm)
        with composefs.Repository.open(tmp_path / hash_name) as repository:
            result = composefs.import_image(repository, f"oci:{layout}", workers=1)

        assert [layer.stream.hex for layer in result.layers] == vector[hash_name]["layers"]


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
