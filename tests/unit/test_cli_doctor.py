"""`composefs doctor`: what is printed, exit statuses, and other users."""

import errno
import fcntl
import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from composefs import Repository, doctor
from composefs.cli import main
from composefs.doctor import Finding, Job, Status, examination
from composefs.hostconfig import HostConfig
from tests import commands
from tests.layouts import noise
from tests.tools import require_root, require_tool
from tests.trees_on_disk import times

NOBODY = "65534"
BOTH = (Job.IMPORT, Job.MOUNT)
FINDINGS = [
    Finding("kernel.erofs", "EROFS", Status.OK, "works", None, (Job.MOUNT,)),
    Finding("kernel.verity", "fs-verity", Status.MISSING, "this kernel has none " * 5, "boot a kernel " * 9),
    Finding("filesystem.space", "space", Status.DEGRADED, "0.1 GB free", "make room", (Job.IMPORT,)),
    Finding("repository.lock", "lock", Status.UNKNOWN, "locked by \x1b[31m"),
]
WRONG = Finding("filesystem.access", "access", Status.MISSING, "mounted read-only", None, (Job.IMPORT,))
GONE = Finding("repository.path", "repository", Status.MISSING, "a file", None, BOTH)


@pytest.fixture
def given(monkeypatch):
    """Have findings instead of looking; the value is a list of them, and what was asked for."""
    findings, calls = list(FINDINGS), []

    def examine(path, *, host, **options):
        assert isinstance(host, HostConfig)
        calls.append((path, options))
        return findings

    monkeypatch.setattr(doctor, "examine", examine)
    return findings, calls


@pytest.fixture
def repository(tmp_path):
    """The path of a repository that has objects."""
    Repository.init(tmp_path / "repository", require_verity=False)
    with Repository.open(tmp_path / "repository") as opened:
        for seed in range(8):
            opened.objects.ensure(noise(100, seed))
    return tmp_path / "repository"


def test_report(given, capsys):
    """Findings are told in groups, each with its remedy, in 80 columns and without what a terminal would obey."""
    assert main(["doctor", "/srv/repo"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [
        "kernel",
        "  ok        EROFS              works",
        "  missing   fs-verity          this kernel has none this kernel has none this",
    ]
    remedy = next(index for index, line in enumerate(lines) if "->" in line)
    assert lines[remedy].startswith(" " * 12 + "-> boot a kernel boot")
    assert lines[remedy + 1].startswith(" " * 15 + "kernel boot a kernel")
    assert "file system" in lines
    assert "\x1b" not in out
    assert lines[-2:] == ["import: can be done", "mount: can be done"]


@pytest.mark.parametrize(
    ("wrong", "last"),
    [
        (WRONG, ["import: cannot be done: access (file system)", "mount: can be done"]),
        (GONE, ["import: cannot be done: repository (repository)", "mount: cannot be done: repository (repository)"]),
    ],
)
def test_what_cannot_be_done(given, capsys, wrong, last):
    """What cannot be done comes last, with what prevents it; the exit status is 1."""
    given[0].append(wrong)

    assert main(["doctor", "/srv/repo"]) == 1

    assert capsys.readouterr().out.splitlines()[-2:] == last


def test_json(given, capsys):
    """All is there for programs, too."""
    given[0].append(WRONG)

    assert main(["doctor", "/srv/repo", "--json"]) == 1

    value = json.loads(capsys.readouterr().out)
    assert (value["path"], value["can_import"], value["can_mount"]) == ("/srv/repo", False, True)
    assert value["findings"][0] == {
        "id": "kernel.erofs",
        "status": "ok",
        "title": "EROFS",
        "found": "works",
        "remedy": None,
        "needed_for": ["mount"],
    }


def test_arguments(given, capsys):
    """The path is the one given, or that of the repository; fs-verity can be demanded."""
    main(["doctor", "/srv/a"])
    main(["--repo", "/srv/b", "--require-verity", "doctor"])
    main(["--system", "doctor"])

    assert given[1] == [
        ("/srv/a", {"require_verity": False}),
        ("/srv/b", {"require_verity": True}),
        ("/sysroot/composefs", {"require_verity": False}),
    ]
    assert main(["doctor", ""]) == 2
    assert "PATH is empty" in capsys.readouterr().err
    assert main(["doctor", "a", "b"]) == 2


def test_healthy_repository(repository, capsys):
    """What is told of a repository agrees with the exit status; nothing in it changes."""
    before = times(repository)

    status = main(["doctor", str(repository), "--json"])

    value = json.loads(capsys.readouterr().out)
    found = {finding["id"]: finding for finding in value["findings"]}
    assert status == (0 if value["can_import"] and value["can_mount"] else 1)
    assert value["can_import"]
    assert found["repository.metadata"]["status"] == "ok"
    assert found["repository.objects"]["found"].startswith("8 objects looked at")
    assert times(repository) == before


def test_report_of_this_machine(repository, capsys):
    """The report fits in 80 columns, but for paths, and says what can be done."""
    main(["doctor", str(repository)])

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or "/" in line for line in lines)
    assert [line for line in lines if line and not line.startswith(" ")][:6] == [
        "kernel",
        "mount",
        "file system",
        "repository",
        "registry",
        "machine",
    ]
    assert re.fullmatch("import: can be done", lines[-2])


def test_locked_repository(repository, tmp_path):
    """A repository that somebody keeps locked is told about at once."""
    fd = os.open(repository, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    done = commands.run(tmp_path, "composefs", "doctor", repository)
    os.close(fd)

    assert f"locked by process {os.getpid()}" in " ".join(done.stdout.split())


def test_identifiers_are_documented(repository, capsys, monkeypatch):
    """docs/json.md has all identifiers of findings, and no others."""
    monkeypatch.setattr(examination, "SYSTEM_PATH", str(repository))
    main(["doctor", str(repository), "--json"])

    found = [finding["id"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    section = (Path(__file__).parents[2] / "docs/json.md").read_text().partition("## `composefs doctor`")[2]
    told = re.findall(r"`([a-z]+\.[a-z0-9-]+)`", section.partition("\n## ")[0])
    assert sorted(told) == sorted(found)


# --- other users, other file systems


@pytest.fixture
def shared(repository):
    """A directory that everybody sees, with the repository in it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        repository.rename(directory / "repository")
        yield directory


def run_as_nobody(directory, path):
    """Run the command as a user without any rights; return its exit status and what it found."""
    require_root("another user")
    require_tool("setpriv")
    wrapper = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    done = commands.run(directory, "composefs", "doctor", path, "--json", wrapper=wrapper)
    assert done.stderr == ""
    value = json.loads(done.stdout)
    return done.returncode, value, {finding["id"]: finding for finding in value["findings"]}


def test_closed_repository(shared):
    """Who may not look into a repository is told whose it is."""
    status, value, found = run_as_nobody(shared, shared / "repository")

    assert status == 1
    assert (value["can_import"], value["can_mount"]) == (False, False)
    assert "it belongs to uid 0, mode 0700; this is uid 65534" in found["repository.path"]["found"]
    assert "repository.metadata" not in found


def test_repository_of_somebody_else(shared):
    """Who may only look into a repository cannot import; what the kernel can do is not tried, and that is said."""
    (shared / "repository").chmod(0o755)

    status, value, found = run_as_nobody(shared, shared / "repository")

    assert (status, value["can_import"]) == (1, False)
    assert found["filesystem.access"]["status"] == "missing"
    assert found["repository.objects"]["status"] == "ok"
    assert found["repository.lock"]["found"] == "nobody has it open"
    assert found["mount.kernel"]["status"] == "unknown"
    assert value["can_mount"] == (found["mount.fuse"]["status"] == "ok")
    tried = {found[name]["found"] for name in found if name.startswith("kernel.")}
    assert "works" not in tried


def test_directory_of_nobody(shared):
    """Anybody can import into a directory of his own."""
    (shared / "own").mkdir()
    os.chown(shared / "own", int(NOBODY), int(NOBODY))

    _, value, found = run_as_nobody(shared, shared / "own/repository")

    assert value["can_import"]
    assert found["repository.path"]["status"] == "missing"
    assert os.listdir(shared / "own") == []


@pytest.mark.parametrize("options", ["ro", "size=1m,nr_inodes=0"])
def test_other_file_systems(tmp_path, options):
    """A file system that is read-only, or small, and in memory, is examined with all else."""
    require_root("mounts")
    require_tool("unshare")
    place = tmp_path / "place"
    place.mkdir()
    mount = f'mount -t tmpfs -o {options} none {place} && exec "$@"'
    wrapper = ["unshare", "--mount", "sh", "-c", mount, "sh"]

    done = commands.run(tmp_path, "composefs", "doctor", place / "repository", "--json", wrapper=wrapper)

    assert done.stderr == ""
    found = {finding["id"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["filesystem.type"]["found"] == f"tmpfs, none at {place}: in memory, and lost when the machine stops"
    if options == "ro":
        assert done.returncode == 1
        assert found["filesystem.access"]["found"] == "mounted read-only"
        assert found["filesystem.access"]["remedy"].startswith(f"mount -o remount,rw {place};")
        assert os.strerror(errno.EROFS) in found["filesystem.unnamed-files"]["found"]
    else:
        assert found["filesystem.space"]["status"] == "degraded"
        assert found["filesystem.inodes"]["found"] == "no limit"
