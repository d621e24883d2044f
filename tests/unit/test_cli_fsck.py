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
from composefs.errors import RepositoryError
from tests import commands
from tests.damage import DAMAGES, HIGH, LOW, SHARED, TAG

CLEAN = """\
meta.json: ok
objects: 11/11 ok
streams: 4/4 ok
images: 1/1 ok
status: ok
"""

LAST = ["clean", "recorded", "repair", "quarantine", "after"]


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
        "objects_unchanged",
        "errors",
        "findings",
        *(LAST if command == ["fsck"] else []),
    ]
    assert list(value)[-5:] == LAST
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

    what = "is no directory, and links are not followed"
    assert run("fsck") == (1, "", [f"composefs: {place.path}/streams: {what}"])


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


# What is done about it


@pytest.fixture
def backup(original):
    """Another repository, and the reference of the image: where to get what is broken."""
    return {"other": str(original.path), "image": f"oci:{original.path.parent / 'layout'}"}


def lines_after(out, start):
    """Return the lines from the one that begins with *start*."""
    lines = out.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith(start)) :]


@pytest.mark.parametrize("command", [["fsck"], ["oci", "fsck"]])
@pytest.mark.parametrize("source", ["other", "image"])
def test_repair(run, place, backup, command, source):
    """What was found is told as ever, then what became of it; the status is that of what is there now."""
    DAMAGES["flipped"].do(place)

    status, out, err = run(*command, "--repair-from", backup[source])

    assert (status, err) == (0, [])
    assert out.startswith("meta.json: ok\nobjects: 10/11 ok\n")
    assert lines_after(out, "mended") == [f"mended from {backup[source]}: 1", f"  - {place.object(HIGH)}", "now: ok"]
    assert run(*command)[0] == 0


def test_repair_of_what_cannot_be(run, place, backup):
    """What was not mended is told with why, and what is wrong still."""
    DAMAGES["flipped"].do(place)
    DAMAGES["file-as-stream"].do(place)
    DAMAGES["stray-object"].do(place)
    stray = f"{os.path.dirname(place.object(LOW))}/stray"

    status, out, err = run("fsck", "--repair-from", backup["other"])

    assert (status, err) == (1, [])
    told = lines_after(out, "mended")
    assert told[:4] == [
        f"mended from {backup['other']}: 1",
        f"  - {place.object(HIGH)}",
        "not mended: 1",
        f"  - {place.layer_stream(0)}: {place.path}/{place.layer_stream(0)}: is no symbolic link",
    ]
    assert [line.partition(": ")[2].partition(": is")[0] for line in told[5:]] == [
        f"object-invalid-name: {stray}",
        f"entry-not-symlink: {place.layer_stream(0)}",
    ]


def test_quarantine(run, place):
    """What was moved is told, whom that hurts, and what to do."""
    DAMAGES["flipped"].do(place)

    status, out, err = run("fsck", "--quarantine")

    assert (status, err) == (1, [])
    told = lines_after(out, "set aside")
    assert told[:4] == [
        "set aside: 1",
        f"  - {place.object(HIGH)} -> quarantine/1/{place.object(HIGH)}",
        f"kept, but not whole: {place.ref}, {place.tag}, and 4 more",
        "  to make them whole: import their images again, or use --repair-from",
    ]
    assert told[4] == "now: 2"


def test_both(run, place, backup):
    """What stands in the way of a repair is moved, and then mended."""
    DAMAGES["file-as-stream"].do(place)
    stream = place.layer_stream(0)

    status, out, err = run("oci", "fsck", "--repair-from", backup["image"], "--quarantine")

    assert (status, err) == (0, [])
    assert lines_after(out, "mended") == [
        f"mended from {backup['image']}: 1",
        f"  - {stream}",
        "set aside: 1",
        f"  - {stream} -> quarantine/1/{stream}",
        "now: ok",
    ]


@pytest.mark.parametrize("options", [[], ["--repair-from", "other"]])
def test_only_quarantine_waits(run, place, options):
    """An option that would do nothing is refused."""
    status, out, err = run("fsck", *options, "--wait", "1")

    assert (status, out) == (2, "")
    assert "--wait is for --quarantine" in err[0]


def test_quarantine_waits(run, place):
    """While others have the repository open, what was found is told, and why nothing was done."""
    DAMAGES["emptied"].do(place)

    with Repository.open(place.path):
        status, out, err = run("fsck", "--quarantine", "--wait", "0.1")

    assert (status, out.splitlines()[-2]) == (1, "status: 1 error(s)")
    assert len(err) == 1
    assert "is in use by" in err[0]
    assert run("fsck", "--quarantine", "--wait", "1")[0] == 0


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        ("", 2, "--repair-from needs a path or a reference"),
        ("nowhere", 1, "no repository at nowhere; images are called by their transport"),
        ("example.org/os:42", 1, "no repository at example.org/os:42; images are called by their transport"),
        ("docker://Example.org/Os", 2, "lower case"),
        ("dir:nowhere", 1, "no directory nowhere"),
        ("oci:nowhere", 1, "no directory nowhere"),
        ("SELF", 1, "is the repository that is to be mended"),
    ],
)
def test_sources_that_are_none(run, place, where, status, message):
    """A source that cannot be is told at once, before anything is checked."""
    found, out, err = run("fsck", "--repair-from", where.replace("SELF", str(place.path)))

    assert (found, out) == (status, "")
    assert message in err[0]


def test_a_layout_as_a_repository(run, tmp_path):
    """Who names the directory of an OCI layout is told how its images are called."""
    (tmp_path / "index.json").touch()

    what = f"{tmp_path} is no repository, but an OCI layout: its images are called oci:{tmp_path}[:TAG]"
    assert run("fsck", "--repair-from", tmp_path) == (1, "", [f"composefs: {what}"])


@pytest.mark.parametrize("command", [["fsck"], ["oci", "fsck"]])
def test_healing_as_json(run, place, backup, command):
    """Beside what was found stands what became of it."""
    for name in ("flipped", "stray-object", "file-as-ref"):
        DAMAGES[name].do(place)
    stray = f"{os.path.dirname(place.object(LOW))}/stray"
    os.utime(place.path / place.unused)

    status, out, err = run(*command, "--repair-from", backup["other"], "--quarantine", "--json")

    value = json.loads(out)
    assert (status, err) == (0, [])
    assert (value["ok"], value["clean"], value["after"]) == (False, True, {"ok": True, "errors": []})
    assert value["repair"] == {"source": backup["other"], "mended": [place.object(HIGH)], "failed": []}
    moved = value["quarantine"]["moved"]
    assert [(each["path"], each["to"], each["kind"], each["target"]) for each in moved] == [
        (stray, f"quarantine/1/{stray}", "object-invalid-name", None),
        ("streams/refs/note", "quarantine/1/streams/refs/note", "unexpected-file-type", None),
    ]
    assert (value["quarantine"]["failed"], value["quarantine"]["hurt"]) == ([], [])


def test_since_last(run, place):
    """A clean check is recorded; the next one looks into what has changed, or into all, and then says why."""
    none = "composefs: no clean check has been recorded; so all objects are looked into"
    assert run("fsck", "--since-last") == (0, CLEAN, [none])
    value = json.loads(run("fsck", "--since-last", "--json")[1])
    assert (value["recorded"], value["objects_unchanged"] <= 11) == (True, True)
    (place.path / "fsck-record").write_bytes(b"nothing")

    status, out, err = run("oci", "fsck", "--since-last")

    assert (status, out.splitlines()[1]) == (0, "objects: 11/11 ok")
    what = "fsck-record is not believed: it is cut, or its checksum is wrong; so all objects are looked into"
    assert err == [f"composefs: {what}"]
    assert run("oci", "fsck", "--since-last")[1].splitlines()[-1] == "oci layers: 2/2 ok (2 unchanged)"
    (place.path / "fsck-record").unlink()
    (place.path / "fsck-record").mkdir()
    status, _, err = run("fsck", "--since-last")
    assert (status, err) == (
        0,
        [
            "composefs: fsck-record cannot be read: Is a directory; so all objects are looked into",
            "composefs: nothing was recorded for --since-last: fsck-record: Is a directory",
        ],
    )


@pytest.mark.parametrize("options", [["--fast"], ["--fast", "--json"]])
def test_fast_records_nothing(run, place, options):
    """A check that has not looked into objects is none to begin from."""
    assert run("fsck", *options)[0] == 0
    assert not (place.path / "fsck-record").exists()


def test_findings_record_nothing(run, place):
    """Nor is one that has found something."""
    DAMAGES["emptied"].do(place)

    assert run("fsck")[0] == 1
    assert not (place.path / "fsck-record").exists()


def test_a_repair_that_ends_clean_is_recorded(run, place, backup):
    """One that was mended is."""
    DAMAGES["flipped"].do(place)

    value = json.loads(run("fsck", "--repair-from", backup["other"], "--json")[1])

    assert (value["ok"], value["clean"], value["recorded"]) == (False, True, True)


def test_what_cannot_be_recorded(run, place, monkeypatch):
    """A repository that cannot be written is checked all the same."""

    def refuse(_):
        raise RepositoryError(str(place.path), "is not writable: the file system is mounted read-only")

    monkeypatch.setattr(Repository, "check_writable", refuse)

    what = "nothing was recorded for --since-last: is not writable: the file system is mounted read-only"
    assert run("fsck") == (0, CLEAN, [f"composefs: {what}"])


def test_how_much_to_look_at_is_one_choice(run):
    """Names only, or what has changed: not both."""
    assert run("fsck", "--fast", "--since-last")[0] == 2
