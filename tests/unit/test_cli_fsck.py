"""`fsck` and `oci fsck` as a user meets them: what they print, and exit statuses."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from composefs import Algorithm, Repository
from composefs.cli import main
from tests import commands
from tests.damage import DAMAGES, HIGH, LOW, SHARED, TAG

CLEAN = """\
meta.json: ok
objects: 11/11 ok
streams: 4/4 ok
images: 1/1 ok
status: ok
"""


@pytest.fixture
def run(place, capsys):
    """Run a command; return its status, its output, and the lines on standard error."""

    def run(*arguments, path=place.path):
        status = main(["--repo", str(path), *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def test_a_clean_repository(run):
    """Where nothing is wrong, all counts are told, as cfsctl does, and the status is 0."""
    assert run("fsck") == (0, CLEAN, [])
    assert run("oci", "fsck") == (0, f"{CLEAN}oci images: 1/1 ok\noci layers: 2/2 ok\n", [])
    assert run("oci", "fsck", TAG, "--workers", 1) == (0, f"{CLEAN}oci images: 1/1 ok\noci layers: 2/2 ok\n", [])


@pytest.mark.parametrize("option", ["--fast", "--metadata-only"])
def test_fast(run, place, option):
    """Without a look into objects, that is said."""
    DAMAGES["flipped"].do(place)
    text = CLEAN.replace("objects: 11/11 ok", "objects: 11/11 ok (names only)")

    assert run("fsck", option) == (0, text, [])
    assert run("oci", "fsck", option) == (0, f"{text}oci images: 1/1 ok\n", [])


def test_findings(run, place):
    """Each finding is a line as of cfsctl, with the names that it hurts; the status is 1."""
    DAMAGES["emptied"].do(place)
    DAMAGES["removed"].do(place)
    layers = sorted(map(place.layer_stream, (0, 1)))
    missing = place.object(SHARED).removeprefix("objects/").replace("/", "")
    hurts = f"      hurts {place.ref}, {place.tag}, and"

    status, out, err = run("fsck")

    got = "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"
    assert (status, err) == (1, [])
    assert out.splitlines() == [
        "meta.json: ok",
        "objects: 9/10 ok",
        "streams: 4/4 ok",
        "images: 1/1 ok",
        "missing objects: 3",
        "status: 4 error(s)",
        f"  - fsck: object-digest-mismatch: {place.unused}: measured {got}",
        f"  - fsck: missing-object-ref: {layers[0]}: {missing}",
        f"{hurts} 4 more",
        "      files /usr/also, /usr/shared",
        f"  - fsck: missing-object-ref: {layers[1]}: {missing}",
        f"{hurts} 4 more",
        "      files /usr/also, /usr/shared",
        f"  - fsck: image-missing-object: {place.image_name}: {missing}",
        f"{hurts} 4 more",
        "      files /usr/also, /usr/shared",
    ]


def test_what_hurts_nobody_by_name(run, place):
    """Where no reference leads to what is hurt, that itself is told."""
    (place.path / place.tag).unlink()
    (place.path / place.ref).unlink()
    DAMAGES["stream-flipped"].do(place)

    _, out, _ = run("fsck")

    hurt = (place.config_stream, place.layer_stream(1), place.manifest_stream)
    assert out.splitlines()[-1] == f"      hurts {', '.join(sorted(hurt))}"


def test_broken_links(run, place):
    """Links that lead nowhere are counted."""
    DAMAGES["tag-dangles"].do(place)

    status, out, _ = run("fsck")

    assert status == 1
    assert out.splitlines()[-3:] == [
        "broken symlinks: 1",
        "status: 1 error(s)",
        f"  - fsck: broken-symlink: {place.tag}",
    ]


def test_findings_of_images(run, place):
    """What is wrong with an image stands behind what is wrong with its repository."""
    DAMAGES["swapped"].do(place)

    status, out, err = run("oci", "fsck")

    assert (status, err) == (1, [])
    lines = out.splitlines()
    start = lines.index("oci images: 0/1 ok")
    assert lines[5] == f"  - {lines[5].removeprefix('  - ')}"
    assert lines[start:][1:3] == ["oci layers: 1/2 ok", "oci errors: 1"]
    assert lines[-1].startswith(f"  - fsck: layer-digest-mismatch: {TAG}: expected {place.layers[0]}, got sha256:")


@pytest.mark.parametrize("command", [["fsck"], ["oci", "fsck"]])
@pytest.mark.parametrize(("name", "status"), [("none", 0), ("flipped", 1), ("tag-dangles", 1)])
def test_json(run, place, command, name, status):
    """One object has all of it; the status is that of the text."""
    DAMAGES[name].do(place)

    found, out, err = run(*command, "--json")

    value = json.loads(out)
    assert (found, err, value["ok"]) == (status, [], status == 0)
    repository = value if command == ["fsck"] else value["repo"]
    assert list(repository) == [
        "ok",
        "has_metadata",
        "objects_checked",
        "objects_corrupted",
        "streams_checked",
        "streams_corrupted",
        "images_checked",
        "images_corrupted",
        "broken_links",
        "missing_objects",
        "errors",
        "findings",
    ]
    assert [finding["path"] for finding in repository["findings"]] == [
        error.split(": ")[2] for error in repository["errors"]
    ]


def test_broken_metadata(run, place):
    """A repository whose `meta.json` is broken is checked all the same."""
    DAMAGES["meta"].do(place)

    status, out, err = run("fsck")

    assert (status, err) == (1, [])
    assert out.splitlines()[:5] == ["meta.json: error", *CLEAN.splitlines()[1:4], "status: 1 error(s)"]


def test_broken_metadata_is_no_excuse(run, place, tmp_path):
    """Where something is demanded of the repository, or nothing else tells what it is, it is refused."""
    DAMAGES["meta"].do(place)

    for demand in (["--require-verity"], ["--hash", "sha256"]):
        status = main([*demand, "--repo", str(place.path), "fsck"])
        assert status == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/meta.json").write_text("{")
    status, out, err = run("fsck", path=tmp_path / "empty")
    assert (status, out) == (1, "")
    assert "empty/meta.json, offset" in err[-1]


def test_no_metadata(run, place):
    """Repositories of old tools have no `meta.json`, and get none by being looked at."""
    (place.path / "meta.json").unlink()

    assert run("fsck") == (0, CLEAN.replace("meta.json: ok", "meta.json: absent"), [])
    assert not (place.path / "meta.json").exists()


def test_no_repository(run, tmp_path):
    """A directory that is not there is no empty repository."""
    status, out, err = run("fsck", path=tmp_path / "nothing")

    assert (status, out) == (1, "")
    assert err == [f"composefs: no repository at {tmp_path}/nothing; `composefs init` makes one"]


def test_a_directory_that_is_none(run, place):
    """What is no directory is an error, which is one line with its path."""
    os.rename(place.path / "streams", place.path / "old")
    (place.path / "streams").touch()

    assert run("fsck") == (1, "", [f"composefs: {place.path}/streams: Not a directory"])


@pytest.mark.parametrize("arguments", [["fsck", "--workers", "0"], ["fsck", "extra"], ["oci", "fsck", "a", "b"]])
def test_wrong_usage(run, arguments):
    """Wrong usage ends with 2."""
    status, out, err = run(*arguments)

    assert (status, out) == (2, "")
    assert err[0].startswith("usage: composefs ")


def test_a_tag_that_cannot_be(run):
    """A tag that nothing can have is wrong usage, too."""
    status, _, err = run("oci", "fsck", "")

    assert (status, err) == (2, ["composefs: '' is no name for an image (see composefs --help)"])


def test_hostile_names(run, place):
    """Names that would move the cursor are escaped."""
    (place.path / "streams/refs/a\n\x1b[2Jb").symlink_to("nowhere")

    _, out, _ = run("fsck")

    assert out.splitlines()[-1] == "  - fsck: broken-symlink: streams/refs/a\\n\\x1b[2Jb"


def test_a_bar_on_a_terminal(place, tmp_path):
    """On a terminal there is a bar, which vanishes; results go to standard output alone."""
    ours, theirs = pty.openpty()
    with commands.start(
        tmp_path, "composefs", "--repo", place.path, "oci", "fsck", stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the other end is closed
            pass
        out = process.stdout.read()
    os.close(ours)

    assert process.returncode == 0
    assert out.startswith(CLEAN)
    assert {b"objects", b"layers"} <= set(re.findall(rb"objects|layers", shown))


def test_interrupted(tmp_path):
    """Ctrl-C ends it within moments, with one line."""
    Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "repository") as repository:
        repository.objects.ensure(b"x")
    path = next((tmp_path / "repository/objects").glob("*/*"))
    os.truncate(path, 1 << 40)  # a hole, which takes minutes to hash
    with commands.start(
        tmp_path,
        "composefs",
        "--repo",
        tmp_path / "repository",
        "fsck",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert commands.wait_until(lambda: _reads(process.pid, path))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=commands.TIMEOUT)
        finally:
            process.kill()  # it would go on for ever, were it not for the signal

    assert (process.returncode, out) == (1, "")
    assert err == "composefs: interrupted\n"


def _reads(pid, path):
    """Tell whether the process has the file open."""
    names = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return str(path) in names


def test_objects_are_the_contents_of_layers(place):
    """The sizes that the damages need."""
    assert all((place.path / place.object(data)).read_bytes() == data for data in (LOW, HIGH, SHARED))
