"""`oci export` as a user meets it: what is printed and where, exit statuses, and what is left when it is ended."""

import io
import json
import os
import pty
import signal
import sys
import tarfile

import pytest

import composefs
from composefs import Algorithm
from composefs.cli import main
from tests import commands
from tests.layouts import files_layer, image_layout, noise

FILES = [{"usr/a": noise(100_000)}, {"usr/b": b"words " * 5000}]
WANTED = "wanted oci:PATH[:TAG], oci-archive:PATH[:TAG], dir:PATH or docker://HOST/NAME[:TAG]"


@pytest.fixture
def repository(tmp_path):
    """The path of a repository with an image called `os`."""
    path = tmp_path / "repository"
    layout = image_layout(tmp_path / "layout", [files_layer(FILES[0]), files_layer(FILES[1], "gzip")])
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(path) as opened:
        composefs.import_image(opened, str(layout), name="os", workers=1)
    return path


@pytest.fixture
def manifest(repository):
    with composefs.Repository.open(repository) as opened:
        return opened.streams.ref("oci/os").removeprefix("oci-manifest-")


@pytest.fixture
def run(repository, capsys):
    """Run the command; return its status, its output, and the lines on standard error."""

    def run(*arguments, command="export"):
        status = main(["--repo", str(repository), "oci", command, *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def usage(text):
    return [f"composefs: {text} (see composefs --help)"]


@pytest.mark.parametrize("command", ["export", "push"])
def test_output(command, run, manifest, tmp_path):
    """What is at the destination is printed, and on standard error how that went."""
    place = f"oci:{tmp_path}/out:tag"

    status, out, err = run("os", place, command=command)

    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"manifest {manifest}"
    assert lines[1].startswith("config   sha256:")
    assert lines[2] == f"exported {place}"
    assert lines[3] == "layers   2 written + 0 already there; 100.17 KiB written"
    assert err[0] == f"exporting os to {place}: 2 of 2 layers, 0.1 MB"
    assert sorted(line.partition(" sha256")[0] for line in err[1:3]) == ["exported layer"] * 2
    assert err[3:] == ["flushing the file system"]


def test_again(run, manifest, tmp_path):
    """What is there already is said."""
    place = f"oci:{tmp_path}/out:tag"
    run("os", place, "-q")

    status, out, err = run("os", place)

    assert status == 0
    assert out.splitlines()[3] == "layers   0 written + 2 already there; 0 B written"
    assert err[0] == f"exporting os to {place}: 0 of 2 layers, 0.0 MB"
    assert [line.partition(" sha256")[0] for line in err[1:3]] == ["already there: layer"] * 2


def test_new_manifest(run, manifest, tmp_path):
    """Of a new manifest it is said what it was made of."""
    _, out, _ = run("os", f"oci:{tmp_path}/out:tag", "--compression", "zstd", "--level", "1")

    lines = out.splitlines()
    assert lines[0] != f"manifest {manifest}"
    assert lines[1] == f"made of  {manifest}"


def test_json(run, manifest, tmp_path):
    """The result as JSON has all of that, and nothing else is on standard output."""
    place = f"oci-archive:{tmp_path}/out.tar:tag"

    status, out, err = run("os", place, "--json", "--progress", "json", "--compression", "gzip")

    assert status == 0
    value = json.loads(out)
    assert list(value) == [
        *("destination", "manifest", "stored_manifest", "config", "layers", "bytes_written", "kept", "seconds"),
    ]
    assert (value["destination"], value["stored_manifest"], value["kept"]) == (place, manifest, False)
    assert set(value["layers"][0]) == {"digest", "size", "media_type", "diff_id", "status", "library"}
    assert value["layers"][0]["library"].startswith("zlib ")
    assert value["bytes_written"] == sum(layer["size"] for layer in value["layers"])
    events = [json.loads(line)["event"] for line in err]
    assert events[0] == "export-started"
    assert events[-1] == "export-done"
    assert {"layer-progress", "layer-exported", "syncing"} < set(events)


def test_quiet(run, tmp_path):
    """Nothing is printed if nothing is wrong."""
    assert run("os", f"dir:{tmp_path}/out", "--quiet") == (0, "", [])


def test_bars(repository, tmp_path):
    """On a terminal there are bars, and then they are gone."""
    leader, follower = pty.openpty()
    arguments = ["--repo", repository, "oci", "export", "os", f"oci:{tmp_path}/out"]

    done = commands.run(tmp_path, "composefs", *arguments, stderr=follower, env={"TERM": "xterm", "COLUMNS": "80"})
    os.close(follower)

    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0
    assert "total" in shown


@pytest.mark.parametrize("place", ["oci-archive:-", "oci-archive:-:tag"])
def test_standard_output(place, repository, tmp_path):
    """An archive on standard output is that of a file; all else is on standard error."""
    file = place.replace("archive:-", f"archive:{tmp_path}/file")
    base = ["--repo", repository, "oci", "export", "os"]
    assert commands.run(tmp_path, "composefs", *base, file, "-q").returncode == 0

    done = commands.run(tmp_path, "composefs", *base, place, "--json", "--progress", "none", text=False)

    assert done.returncode == 0
    assert done.stdout == (tmp_path / "file").read_bytes()
    assert json.loads(done.stderr)["destination"] == place
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames()[0] == "oci-layout"


def test_standard_output_is_a_terminal(run, monkeypatch):
    """No archive is written to a terminal."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    status, out, err = run("os", "oci-archive:-")

    assert (status, out) == (2, "")
    assert err == usage("an archive is not for a terminal: redirect it to a file or a pipe")


def test_nobody_reads(repository, tmp_path):
    """When whoever reads the archive goes, the command ends, and says nothing of its own."""
    read, write = os.pipe()
    os.close(read)
    arguments = ["--repo", repository, "oci", "export", "os", "oci-archive:-", "-q"]

    done = commands.run(tmp_path, "composefs", *arguments, stdout=write)
    os.close(write)

    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["os", "oci:x", "--level", "3"], "a compression level needs gzip or zstd"),
        (["os", "oci:x", "--compression", "none", "--level", "3"], "a compression level needs gzip or zstd"),
        (["os", "oci:x", "--compression", "gzip", "--level", "12"], "gzip has the levels 1 to 9, not 12"),
        (["os", "docker-daemon:x:y"], f"nothing is exported to docker-daemon: here; {WANTED}"),
        (
            ["os", "docker://me:secret@example.org/x"],
            "a reference holds no credentials; give them by --creds or --authfile",
        ),
    ],
)
def test_wrong_usage(arguments, message, run, tmp_path, monkeypatch):
    """What makes no sense is refused, and nothing is made."""
    monkeypatch.chdir(tmp_path)

    assert run(*arguments) == (2, "", usage(message))
    assert not (tmp_path / "x").exists()


def test_no_image(run, repository, tmp_path):
    """An image that is not there is no reason to make anything."""
    assert run("none", f"oci:{tmp_path}/x") == (1, "", [f"composefs: {repository}: no tag none"])
    assert not (tmp_path / "x").exists()


def test_which_digest(run, repository, tmp_path):
    """A digest of a config is taken, and it is said for what."""
    config = json.loads(run("os", f"oci:{tmp_path}/x", "--json")[1])["config"]

    _, _, err = run(f"@{config}", f"oci:{tmp_path}/y", "--progress", "none")

    assert err[0].startswith(f"{config} is a config, of manifest sha256:")


def test_full_disk(run, tmp_path):
    """A full disk is one line, with what to do."""
    status, out, err = run("os", "oci-archive:/dev/full", "--progress", "none")

    assert (status, out) == (1, "")
    assert len(err) == 1
    assert err[0].endswith("No space left on device; the disk is full: make room and run it again")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The path of a repository with an image of two layers that take a second to compress."""
    directory = tmp_path_factory.mktemp("slow")
    layers = [files_layer({"usr/x": noise(40_000_000, seed)}) for seed in range(2)]
    layout = image_layout(directory / "layout", layers)
    composefs.Repository.init(directory / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(directory / "repository") as opened:
        composefs.import_image(opened, str(layout), name="os")
    return directory / "repository"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("place", ["oci:{}/out", "oci-archive:{}/out"])
def test_ended(place, signum, slow, tmp_path):
    """Whatever ends the command in the middle, nothing is left of what it wrote, and no process."""
    options = ["--compression", "gzip", "--level", "9", "--workers", "2", "--progress", "json"]
    arguments = ["--repo", slow, "oci", "export", "os", place.format(tmp_path), *options]
    with commands.start(tmp_path, "composefs", *arguments, stdout=-1, stderr=-1, text=True) as process:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "layer-progress" and event["done"] > 1 << 20:
                break
        os.kill(process.pid, signum)
        _, err = process.communicate(timeout=commands.TIMEOUT)

    assert process.returncode == (-signum if signum == signal.SIGKILL else 1)
    if signum != signal.SIGKILL:
        text = "interrupted" if signum == signal.SIGINT else "terminated"
        assert err.splitlines()[-1] == f"composefs: {text}"
        assert os.listdir(tmp_path) == ["composefs"]
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert commands.wait_until(lambda: not commands.session_members(process.pid))
