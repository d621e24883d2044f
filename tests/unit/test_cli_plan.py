"""`composefs oci plan` as a user meets it: tables that fit a terminal, JSON, and exit statuses."""

import json
import os
import signal
import time

import pytest

import composefs
from composefs import Algorithm
from composefs.cli import main
from composefs.cli.options import binary_size
from composefs.oci import cost, room
from composefs.oci.room import Room
from tests import commands
from tests.layouts import files_layer, image_layout, noise
from tests.registries import answers

WIDTH = 80
FILES = {"usr/a": noise(100_000), "usr/b": noise(10_000, 1)}


@pytest.fixture
def layout(tmp_path):
    """A layout of an image of two layers."""
    return image_layout(tmp_path / "layout", [files_layer(FILES, "gzip"), files_layer({"usr/c": noise(1000)})])


@pytest.fixture
def repository(tmp_path):
    """The path of an empty repository."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    return tmp_path / "repository"


@pytest.fixture
def set_room(monkeypatch):
    """Set what is free."""

    def set_room(free, inodes=None):
        monkeypatch.setattr(Room, "of", classmethod(lambda cls, _: cls(free, inodes, 4096)))

    set_room(10 << 30, 1000)
    return set_room


@pytest.fixture
def run(repository, layout, set_room, capsys):
    """Run the command; return its status, its output, and the lines on standard error."""

    def run(*arguments, path=repository, reference=layout):
        status = main(["--repo", str(path), "oci", "plan", str(reference), *arguments])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def test_text(run, layout, monkeypatch):
    """Layers, what is needed, what is free, and what follows from that."""
    monkeypatch.chdir(layout.path.parent)

    status, out, err = run(reference="oci:layout")

    assert (status, err) == (0, [])
    lines = out.splitlines()
    index = json.loads((layout.path / "index.json").read_bytes())
    assert lines[:3] == ["image    oci:layout", f"manifest {index['manifests'][0]['digest']}", ""]
    manifest = json.loads(layout.blob_path(index["manifests"][0]["digest"]).read_bytes())
    digests = [layer["digest"].removeprefix("sha256:")[:12] for layer in manifest["layers"]]
    sizes = [binary_size(layer["size"]) for layer in manifest["layers"]]  # what zlib makes of it varies
    whole = binary_size(sum(layer["size"] for layer in manifest["layers"]))
    assert [line.split() for line in lines[3:6]] == [
        ["LAYER", "STATE", "SIZE", "ARCHIVE", "FILES", "KNOWN", "BY"],
        [digests[0], "missing", *sizes[0].split(), "120.00", "KiB", "~4", "end", "of", "the", "blob"],
        [digests[1], "missing", "10.00", "KiB", "10.00", "KiB", "~0", "its", "size"],
    ]
    assert [line.split("  ")[0] for line in lines[7:14]] == [
        "NEEDED",
        "new files",
        "their size",
        "streams of layers",
        "EROFS images",
        "disk in all",
        "inodes in all",
    ]
    assert lines[15:] == [f"read     {whole}", "free     10.00 GiB, 1,000 inodes", "verdict  fits"]
    assert max(map(len, lines)) <= WIDTH


def test_what_is_there(run, repository, layout):
    """What is there costs nothing."""
    with composefs.Repository.open(repository) as opened:
        composefs.import_image(opened, str(layout), workers=1)

    status, out, _ = run()

    assert status == 0
    assert out.count("  present  ") == 2
    assert out.count("the repository\n") == 2
    assert "disk in all        0 B    0 B     0 B\n" in out
    assert "read     0 B; 2 layers of 2 present\n" in out


def test_no_repository_yet(run, tmp_path):
    """The repository need not exist, and is not made."""
    status, out, _ = run(path=tmp_path / "new/one")

    assert status == 0
    assert "verdict  fits\n" in out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("free", "inodes", "status", "verdict"),
    [
        (10 << 30, None, 0, "fits"),
        (1 << 20, 1000, 0, "does not fit, if the image is as usual"),
        (10 << 30, 290, 0, "fits, if the image is as usual"),
        (10_000, 1000, 1, "does not fit"),
        (10 << 30, 2, 1, "does not fit"),
    ],
)
def test_verdict(free, inodes, status, verdict, run, set_room):
    """The status is 1 if it cannot fit."""
    set_room(free, inodes)

    got, out, err = run()

    assert (got, err) == (status, [])
    assert out.endswith(f"\nverdict  {verdict}\n")


def test_json(run, layout, set_room):
    """The same as JSON."""
    set_room(12345)

    status, out, err = run("--json", "--bootable")

    value = json.loads(out)
    assert (status, err) == (1, [])
    assert list(value) == [
        "reference", "manifest", "config", "layers", "fetched", "objects", "object_size", "streams", "images", "disk",
        "inodes", "free", "free_inodes", "verdict",
    ]  # fmt: skip
    assert value["reference"] == str(layout)
    assert (value["free"], value["free_inodes"], value["verdict"]) == (12345, None, "impossible")
    assert [layer["known_by"] for layer in value["layers"]] == ["trailer", "plain"]
    assert list(value["layers"][0]) == ["digest", "diff_id", "status", "size", "known_by", "archive", "objects"]
    assert value["fetched"] == sum(layer["size"] for layer in value["layers"])
    assert list(value["disk"]) == ["least", "likely", "most"]
    assert 50_000 < value["disk"]["least"] <= value["disk"]["likely"] <= value["disk"]["most"]


def test_mistakes(run, layout):
    """What is no image, or for another platform, is told as of an import."""
    status, out, err = run(reference="nothing/there:1")
    assert (status, out) == (2, "")
    assert err[0].startswith("composefs: 'nothing/there:1' is ambiguous: ")

    status, out, err = run("--platform", "linux/m68k")
    assert (status, out) == (1, "")
    assert err[0].startswith(f"composefs: {layout.path} has no image for linux/m68k")


def test_nothing_of_a_layer_is_read(run, layout):
    """Layers that are not there change nothing but what is known of them."""
    for blob in (layout.path / "blobs/sha256").iterdir():
        if blob.stat().st_size > 5000:
            blob.unlink()

    status, out, _ = run("--json")

    assert status == 0
    assert [layer["known_by"] for layer in json.loads(out)["layers"]] == ["usual", "plain"]


def test_stopped(server, layout, tmp_path):
    """A registry that says nothing of a layer is not waited for after Ctrl-C."""
    server.contents.put_layout(layout.path, "x", "tag")
    manifest = json.loads(server.contents.manifests["x", "tag"][1])
    server.always(f"GET .*/blobs/{manifest['layers'][0]['digest']}", answers.silent)
    arguments = ["--repo", tmp_path / "none", "oci", "plan", f"docker://{server.address}/x:tag", "--tls-verify=false"]

    with commands.start(tmp_path, "composefs", *arguments, stdout=-1, stderr=-1, text=True) as process:
        assert commands.wait_until(lambda: len(server.blob_requests) > 1)  # the config, and then the layer
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=commands.TIMEOUT)

    assert (process.returncode, out, err) == (1, "", "composefs: interrupted\n")
    assert time.monotonic() - began < 5


def test_one_room():
    """Both the cost and the check ask for the same room, which these tests set."""
    assert cost.Room is room.Room
