"""The whole examination, and what is said of mounts and of what computes."""

import contextlib
import errno
import os
from dataclasses import replace

import pytest

import composefs
from composefs import Algorithm, Repository, doctor, kernel
from composefs.doctor import Finding, Job, Status, examine, machine, mounting
from composefs.doctor.machine import Hashing, Libraries, judge_hashing, judge_libraries
from composefs.doctor.mounting import Attempt, What, judge_fuse, judge_mount, try_mount
from composefs.errors import MountError
from composefs.fuse import server
from tests.layouts import files_layer, image_layout, noise
from tests.tools import require_root
from tests.trees_on_disk import times


@pytest.fixture
def repository(tmp_path):
    """The path of a repository that has an image."""
    layer = files_layer({"usr/": b"", **{f"usr/{seed}": noise(100, seed) for seed in range(8)}})
    image_layout(tmp_path / "layout", [layer])
    Repository.init(tmp_path / "repository", require_verity=False)
    with Repository.open(tmp_path / "repository") as opened:
        composefs.import_image(opened, f"oci:{tmp_path / 'layout'}", name="os", workers=1)
    return tmp_path / "repository"


def by_id(findings):
    return {finding.id: finding for finding in findings}


# --- findings


def test_prevents():
    """Only what is missing prevents anything."""
    finding = Finding("a.b", "b", Status.MISSING, "found", None, (Job.MOUNT,))

    assert finding.prevents == (Job.MOUNT,)
    for status in (Status.OK, Status.DEGRADED, Status.UNKNOWN):
        assert replace(finding, status=status).prevents == ()


# --- what computes


@pytest.mark.parametrize(
    ("hashing", "status", "found", "remedy"),
    [
        (Hashing(Algorithm.SHA256, "shani", ("shani", "avx2", "generic")), Status.OK, "shani, accelerated", None),
        (
            Hashing(Algorithm.SHA256, "generic", ("shani", "avx2", "generic")),
            Status.DEGRADED,
            "generic, though this CPU can run shani",
            "unset COMPOSEFS_HASH_IMPL",
        ),
        (Hashing(Algorithm.SHA512, "generic", ("generic",)), Status.DEGRADED, "generic: no vector units", "-cpu host"),
    ],
)
def test_hashing(hashing, status, found, remedy):
    """The fastest kernel is in use, or it is said why not."""
    finding = judge_hashing(hashing)

    assert finding.id == f"machine.{hashing.algorithm.hash_name}"
    assert finding.status is status
    assert found in finding.found
    assert (finding.remedy is None) if remedy is None else (remedy in finding.remedy)


@pytest.mark.parametrize(
    ("libraries", "statuses"),
    [
        (Libraries((1, 5, 7), "1.8.0"), [Status.OK, Status.OK]),
        (Libraries((1, 5, 6), None), [Status.DEGRADED, Status.DEGRADED]),
        (Libraries(None, None), [Status.MISSING, Status.DEGRADED]),
    ],
)
def test_libraries(libraries, statuses):
    """Without libzstd nothing is imported; another version of it makes other ids of streams."""
    findings = judge_libraries(libraries)

    assert [finding.status for finding in findings] == statuses
    assert [finding.remedy is None for finding in findings] == [status is Status.OK for status in statuses]
    assert findings[0].prevents == ((Job.IMPORT,) if libraries.zstd is None else ())


def test_this_machine():
    """What hashes here is known, and so are the libraries that the package depends on."""
    assert [each.algorithm for each in machine.find_hashing()] == list(Algorithm)
    assert all(each.chosen in each.usable for each in machine.find_hashing())
    assert machine.find_libraries().zstd is not None


def test_broken_installation(monkeypatch):
    """Libraries that cannot be imported are told, instead of the doctor failing."""
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    monkeypatch.setitem(__import__("sys").modules, "isal", None)

    assert machine.find_libraries() == Libraries(None, None)


# --- mounts


@pytest.mark.parametrize(
    ("attempt", "may_mount", "status", "found"),
    [
        (Attempt(What.NEW), True, Status.OK, "a new image was mounted where nobody sees it"),
        (Attempt(What.NEW, has_object=True), True, Status.OK, "and an object read through it"),
        (Attempt(What.OWN), True, Status.OK, "an image of the repository was mounted"),
        (Attempt(What.OWN, problem="fsopen: No such device"), True, Status.MISSING, "fsopen: No such device"),
        (Attempt(None, problem="for a reason"), True, Status.UNKNOWN, "not tried: for a reason"),
        (None, True, Status.UNKNOWN, "cannot be looked at"),
        (None, False, Status.UNKNOWN, "no right to mount"),
    ],
)
def test_mount_by_kernel(attempt, may_mount, status, found):
    """An attempt says it all; without one it stays unknown."""
    finding = judge_mount(attempt, may_mount=may_mount)

    assert finding.status is status
    assert found in finding.found
    assert finding.prevents == ((Job.MOUNT,) if status is Status.MISSING else ())


def test_remedies_of_mounts():
    """What the kernel's interface advises comes first; without advice there is the log, and FUSE."""
    assert judge_mount(Attempt(What.NEW, problem="no", remedy="do it"), may_mount=True).remedy == "do it"
    assert "dmesg" in judge_mount(Attempt(What.NEW, problem="no"), may_mount=True).remedy
    assert "mount --fuse" in judge_mount(None, may_mount=False).remedy


def test_mount_by_fuse():
    """FUSE is what those have who may not mount; for others it need not be there."""
    assert judge_fuse(None, may_mount=False).status is Status.OK
    missing = judge_fuse("libfuse 3 is missing: install the package fuse3", may_mount=False)
    assert (missing.found, missing.remedy) == ("libfuse 3 is missing", "install the package fuse3")
    assert missing.prevents == (Job.MOUNT,)
    assert judge_fuse("no: do", may_mount=True).prevents == ()


def test_what_fuse_says(monkeypatch):
    """Why there is no FUSE comes with what to do, behind the last colon."""
    monkeypatch.setattr(server, "DEVICE", "/nonexistent/fuse")

    finding = judge_fuse(mounting.find_fuse_obstacle(), may_mount=False)

    assert finding.status is Status.MISSING
    assert finding.found
    assert finding.remedy
    assert ": " not in finding.remedy


def test_no_right_to_serve(monkeypatch):
    """FUSE that is there is of no use where nobody gets the right to mount."""
    monkeypatch.setattr(mounting.fuse, "is_available", lambda: None)
    monkeypatch.setattr(mounting, "may_serve", lambda: False)

    finding = judge_fuse(mounting.find_fuse_obstacle(), may_mount=False)

    assert finding.prevents == (Job.MOUNT,)
    assert finding.remedy == "run it outside of the container or sandbox"
    monkeypatch.setattr(mounting, "may_serve", lambda: True)
    assert mounting.find_fuse_obstacle() is None


def test_try_mount(repository):
    """An image is mounted in the repository, and an object read; nobody sees it, and nothing stays."""
    require_root("mounts")
    sample = sample_of(repository)
    before = os.stat(repository).st_ctime_ns, mounts()

    assert try_mount(str(repository), sample, Algorithm.SHA512, 1, require_verity=False) == Attempt(What.NEW, True)
    assert try_mount(str(repository), None, Algorithm.SHA512, 1, require_verity=False) == Attempt(What.NEW)
    assert try_mount(str(repository.parent), None, Algorithm.SHA512, 1, require_verity=False) == Attempt(What.NEW)

    assert (os.stat(repository).st_ctime_ns, mounts()) == before


def test_try_mount_where_nothing_can_be_written(repository, monkeypatch):
    """Where no image can be made, one of the repository's is mounted; without one nothing is tried."""
    require_root("mounts")
    monkeypatch.setattr(mounting._native, "store_file", refuse(errno.EROFS))

    assert try_mount(str(repository), None, Algorithm.SHA512, 1, require_verity=False) == Attempt(What.OWN)
    found = try_mount(str(repository.parent), None, Algorithm.SHA512, 1, require_verity=False)
    assert (found.what, found.problem) == (None, "nothing can be written here, and there is no image")


def test_try_mount_without_data_only_layers(repository, monkeypatch):
    """Without data-only layers whatever is beside the objects would be seen, so it takes a directory of them."""
    monkeypatch.setattr(kernel, "probe", lambda: kernel.Features("6.1", data_only_layers=False))
    monkeypatch.setattr(kernel, "mount_image", lambda *_: contextlib.nullcontext())

    found = try_mount(str(repository.parent), None, Algorithm.SHA512, 1, require_verity=False)

    assert (found.what, found.problem) == (None, "with this kernel it takes a directory of objects")
    assert try_mount(str(repository), None, Algorithm.SHA512, 1, require_verity=False) == Attempt(What.NEW)


def test_try_mount_of_unsealed_objects(repository):
    """Objects without fs-verity cannot be read where the kernel must enforce their digests."""
    require_root("mounts")
    sample = sample_of(repository)

    found = try_mount(str(repository), sample, Algorithm.SHA512, 1, require_verity=True)

    assert (found.what, found.has_object) == (What.NEW, True)
    assert found.problem


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (MountError("fsopen erofs", errno.ENODEV, remedy="modprobe erofs"), "fsopen erofs: No such device", "modprobe"),
        (
            MountError("overlay", errno.EOPNOTSUPP, feature="data-only layers (Linux 6.5)", remedy="boot it"),
            "overlay: this kernel lacks data-only layers (Linux 6.5)",
            "boot it",
        ),
        (MountError("fsconfig", errno.EINVAL, messages=("overlay: a", "overlay: b")), "overlay: a; overlay: b", None),
        (OSError(errno.EIO, "Input/output error"), "Input/output error", None),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "objects"), "objects: Not a directory", None),
    ],
)
def test_mount_fails(tmp_path, monkeypatch, error, problem, remedy):
    """What fails is told with step, cause and remedy."""

    def mount_image(*_):
        raise error

    monkeypatch.setattr(kernel, "probe", lambda: kernel.Features("6.18", data_only_layers=True))
    monkeypatch.setattr(kernel, "mount_image", mount_image)

    found = try_mount(str(tmp_path), None, Algorithm.SHA256, 1, require_verity=False)

    assert problem in found.problem
    assert (found.remedy is None) if remedy is None else (remedy in found.remedy)
    if remedy is not None:
        assert found.remedy not in found.problem


def sample_of(repository):
    """Return the path of an object, below the repository."""
    return str(min((repository / "objects").glob("??/*")).relative_to(repository))


def mounts():
    with open("/proc/self/mountinfo") as file:
        return file.read()


# --- all together


def test_examine(repository):
    """A repository is examined without a change to it, its groups together."""
    before = times(repository)
    fds = len(os.listdir("/proc/self/fd"))

    findings = examine(repository)

    assert times(repository) == before
    assert len(os.listdir("/proc/self/fd")) == fds
    groups = [finding.id.partition(".")[0] for finding in findings]
    assert list(dict.fromkeys(groups)) == ["kernel", "mount", "filesystem", "repository", "machine"]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)
    assert len({finding.id for finding in findings}) == len(findings)
    found = by_id(findings)
    assert found["repository.metadata"].status is Status.OK
    assert found["repository.objects"].status is Status.OK
    assert all(finding.prevents == () or finding.id.startswith(("kernel.", "mount.")) for finding in findings)


def test_examine_nothing(tmp_path):
    """Where there is no repository yet, the rest is examined."""
    found = by_id(examine(tmp_path / "a/b"))

    assert found["repository.path"].status is Status.MISSING
    assert found["filesystem.access"].status is Status.OK
    assert "repository.metadata" not in found
    assert os.listdir(tmp_path) == []


def test_examine_file(tmp_path):
    """A file is no place for a repository."""
    (tmp_path / "file").write_bytes(b"x")

    found = by_id(examine(tmp_path / "file"))

    assert found["repository.path"].prevents == (Job.IMPORT, Job.MOUNT)


def test_examine_broken_repository(repository):
    """A repository that nobody can open is examined all the same."""
    (repository / "meta.json").write_bytes(b"{}")

    found = by_id(examine(repository))

    assert found["repository.metadata"].prevents == (Job.IMPORT, Job.MOUNT)
    assert found["repository.lock"].status is Status.OK


def test_required_verity(repository):
    """Who demands fs-verity is told that this repository has none."""
    found = by_id(examine(repository, require_verity=True))

    assert found["repository.verity"].prevents == (Job.IMPORT, Job.MOUNT)


def test_public_names():
    """The library call is documented, and what it returns has names."""
    assert set(doctor.__all__) == {"Finding", "Job", "Status", "examine"}


def refuse(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail
