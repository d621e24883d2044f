"""`gc` as a user meets it: what it prints, and exit statuses."""

import json
import os

import pytest

from composefs import Repository
from composefs.cli import main
from composefs.digest import object_path
from composefs.repository.gc.clock import Clock
from tests.damage import HIGH, SHARED, TAG

TAGGED = "streams/refs/oci/os:42"
NOTHING = "Objects: 0 removed (0 bytes)\n"


@pytest.fixture
def run(place, capsys):
    """Run a command; return its status, its output, and what it says on standard error."""

    def run(*arguments):
        status = main(["--repo", str(place.path), *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def clock(monkeypatch):
    """Let all happen at one time, or at those that are set."""
    times = {"now": Clock(1_800_000_000, "boot", 1000)}
    monkeypatch.setattr(Clock, "read", classmethod(lambda cls: times["now"]))
    return times


def test_collecting(run, place):
    """It says what cfsctl does."""
    assert run("gc", "-n") == (0, "Dry run (no files deleted):\nObjects: 1 removed (70000 bytes)\n", "")
    assert run("gc") == (0, "Objects: 1 removed (70000 bytes)\n", "")
    assert run("gc") == (0, NOTHING, "")
    run("oci", "untag", TAG)
    (place.path / place.ref).unlink()
    status, out, _ = run("gc", "--dry-run")
    assert (status, out.splitlines()[2]) == (0, "Pruned symlinks: 1 images, 4 streams")
    assert run("gc") == (0, out.partition("\n")[2], "")


def test_roots(run, place):
    """Each is kept; one that is nowhere is an error."""
    run("oci", "untag", TAG)
    (place.path / place.ref).unlink()
    stream = os.path.basename(place.layer_stream(0))

    assert run("gc", "-n", "-r", stream, "--root", place.image)[1].count("Pruned symlinks: 0 images, 3 streams") == 1
    status, out, err = run("gc", "--root", "nothing")
    assert (status, out) == (1, "")
    assert err == f"composefs: {place.path}: no entry nothing in images/ or streams/; nothing was removed\n"


def test_what_else_is_told(run, place):
    """Leftovers and strays have their lines."""
    (place.path / "objects/.tmp-object-0123456789ab").touch()
    stray = place.path / os.path.dirname(place.unused) / "stray\n"
    stray.touch()

    assert run("gc")[1].splitlines()[1:] == [
        "Leftovers: 1 removed",
        f"Left alone, since it is no object: {os.path.dirname(place.unused)}/stray\\n",
    ]


def test_trash(run, place, clock):
    """What goes into the trash comes back, and is deleted in its time."""
    run("oci", "untag", TAG)
    first = run("gc", "--trash", 14)
    assert first[0] == 0
    assert first[1].splitlines()[2:] == [
        "Trash: batch 000001, kept until 2027-01-29T08:00:00Z; `composefs gc --undo` brings it back"
    ]
    assert run("gc") == (0, NOTHING, "")
    assert run("gc", "--undo") == (
        0,
        "Restored: 7 objects, 4 names of batch 000001\n"
        "No reference keeps them: tag what you want to keep before garbage is collected again\n",
        "",
    )
    assert run("oci", "tag", place.manifest, TAG)[0] == 0
    assert run("gc", "--trash", 1)[1].startswith("Objects: 1 removed (70000 bytes)\nTrash: batch 000001")
    clock["now"] = Clock(1_800_000_000 - 10 * 86_400, "another", 1)
    assert run("gc")[1].splitlines()[1:] == [
        "Trash: batch 000001 lies in the future, for the clock was set back: it is kept for longer"
    ]
    clock["now"] = Clock(1_800_000_000 + 86_400, "another", 1)
    assert run("gc")[1].splitlines()[1:] == ["Trash: deleted batch 000001 with 1 objects (70000 bytes)"]
    status, out, err = run("gc", "--undo")
    assert (status, out) == (1, "")
    assert err == f"composefs: {place.path}: there is nothing in trash/ to bring back\n"


def test_undo_tells_what_it_leaves(run, place, clock):
    """Names that are taken, or whose objects are gone, are told."""
    run("oci", "untag", TAG)
    run("gc", "--trash", 14)
    (place.path / place.layer_stream(0)).symlink_to(f"../{place.object(HIGH)}")
    batch = place.path / "trash/000001"
    (batch / place.object_of(f"trash/000001/{place.layer_stream(1)}").removeprefix("trash/000001/")).unlink()

    lines = run("gc", "--undo")[1].splitlines()

    assert lines == [
        "Restored: 6 objects, 0 names of batch 000001",
        f"Not restored, since it leads to something else by now: {place.layer_stream(0)}",
        *[
            f"Not restored, since an object that it needs is gone: {path}"
            for path in (place.layer_stream(1), place.config_stream, place.manifest_stream)
        ],
    ]


def test_a_batch_that_nobody_can_read(run, place, clock):
    """It is left alone and told, also to who wants it back."""
    run("oci", "untag", TAG)
    run("gc", "--trash", 14)
    (place.path / "trash/000001/batch.json").write_text("{")

    assert run("gc")[1].splitlines()[1:] == ["Left alone, since it is no batch of the trash: trash/000001"]
    status, _, err = run("gc", "--undo")
    assert status == 1
    what = "there is nothing in trash/ to bring back; what stands there is no batch: trash/000001"
    assert err == f"composefs: {place.path}: {what}\n"


def test_explain_by_digest(run, place):
    """A manifest or config is found as other commands print it."""
    config = place.config_stream.rpartition("-")[2]
    for what in (f"@{place.manifest}", place.manifest, f"@{config}"):
        status, out, _ = run("gc", "--explain", what)
        assert status == 0
        assert out.startswith(f"{place.config_stream if what.endswith(config) else place.manifest_stream}: is kept\n")
    assert run("gc", "--explain", "@sha256:nothing")[0] == 1
    run("oci", "untag", TAG)
    run("gc", "--trash", 1)
    status, out, _ = run("gc", "--explain", f"@{place.manifest}")
    assert (status, out.splitlines()[1][:42]) == (0, "  it is in the trash, in batch 000001, unt")


@pytest.mark.parametrize(
    "what", ["", ".", "..", "refs", "streams/", "streams/..", "images/..", "../batch.json", "@", "/"]
)
def test_explain_what_is_no_name(run, place, what):
    """Directories are no names, either, in the trash."""
    run("oci", "untag", TAG)
    run("gc", "--trash", 14)
    assert (place.path / "trash/000001/streams").is_dir()

    status, out, err = run("gc", f"--explain={what}")

    assert (status, out) == (1, "")
    assert err == f"composefs: {place.path}: no {what} among objects, streams and images, nor in the trash\n"


def test_explain(run, place, clock):
    """The ways are told, one a line; or what is known."""
    path = place.object(HIGH)
    status, out, _ = run("gc", "--explain", path)
    assert status == 0
    assert out.splitlines() == [
        f"{path}: is kept",
        f"  {place.ref} -> {place.image_name} -> {path}",
        f"  {TAGGED} -> {place.manifest_stream} -> {place.layer_stream(1)} -> {path}",
    ]
    run("oci", "untag", TAG)
    (place.path / place.ref).unlink()
    os.utime(place.path / path, (10, 1_700_000_000))
    assert run("gc", "--explain", path)[1].splitlines() == [
        f"{path}: nothing keeps it, since when is not recorded",
        "  its object is there, written 2023-11-14T22:13:20Z",
        f"  {place.image_name} refers to it, and nothing keeps that",
        f"  {place.layer_stream(1)} refers to it, and nothing keeps that",
    ]
    run("gc", "--trash", 1)
    assert run("gc", "--explain", path)[1].splitlines() == [
        f"{path}: nothing keeps it, since 2027-01-15T08:00:00Z at the latest",
        "  it is in the trash, in batch 000001, until 2027-01-16T08:00:00Z",
    ]
    status, _, err = run("gc", "--explain", "nothing")
    assert (status, err) == (
        1,
        f"composefs: {place.path}: no nothing among objects, streams and images, nor in the trash\n",
    )


def test_many_references(run, place):
    """Eight are told; JSON has all."""
    for number in range(10):
        run("oci", "tag", place.manifest, f"tag{number}")
    path = place.object(SHARED)

    lines = run("gc", "--explain", path)[1].splitlines()

    assert (len(lines), lines[-1]) == (10, "  and by 4 more references")
    assert len(json.loads(run("gc", "--explain", path, "--json")[1])["chains"]) == 12


def test_while_others_have_it_open(run, place):
    """Who is in the way is told, and nothing is waited for unless that was said."""
    with Repository.open(place.path):
        for options in ([], ["--wait", "0.05"], ["--undo"]):
            status, out, err = run("gc", *options)
            assert (status, out) == (1, "")
            assert err.startswith(f"composefs: {place.path}: is in use by process {os.getpid()} (")
        assert run("gc", "-n")[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--trash", "0"],
        ["--trash", "1.5"],
        ["--trash", "36501"],
        ["--trash", "1", "--undo"],
        ["--undo", "--explain", "x"],
        ["--undo", "-n"],
        ["--undo", "-r", "x"],
        ["--wait", "-1"],
        ["--wait", "nan"],
        ["--wait", "for ever"],
        ["more"],
    ],
)
def test_wrong_usage(run, place, options):
    """It ends with 2, and nothing is done."""
    try:
        status = run("gc", *options)[0]
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2
    assert (place.path / place.unused).exists()


def test_what_is_broken(run, place):
    """The message says what is wrong, what needs it, and that nothing was removed."""
    path = place.path / place.object_of(place.config_stream)
    path.write_bytes(b"x" + path.read_bytes()[1:])

    status, out, err = run("gc")

    assert (status, out) == (1, "")
    assert f"{place.config_stream} is needed by a reference; nothing was removed" in err
    assert (place.path / place.unused).exists()
    path.unlink()
    assert f"no object sha256:{place.object_of(place.config_stream)[8:].replace('/', '')}" in run("gc")[2]
    assert object_path(bytes(32)) not in run("gc")[2]
