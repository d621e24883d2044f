"""What is said of file systems, of made-up ones and of those of this machine."""

import errno
import os
from dataclasses import replace

import pytest

from composefs import Algorithm, _native
from composefs.doctor import Job, Status, filesystem
from composefs.doctor.filesystem import FileSystem, find_file_system, judge_file_system
from composefs.doctor.trial import WORKS, Trial, try_directory
from composefs.mountinfo import MountPoint

BOTH = dict.fromkeys(Algorithm, WORKS)
GOOD = FileSystem(
    directory="/srv/repo",
    mount=MountPoint("ext4", "/dev/vdb", "/srv", "254:16"),
    block_size=4096,
    read_only=False,
    writable=True,
    available=100_000_000_000,
    inodes=10_000_000,
    knows_verity=True,
    trial=Trial(WORKS, WORKS, BOTH),
)
NO_VERITY = replace(GOOD, knows_verity=False, trial=Trial(WORKS, WORKS, dict.fromkeys(Algorithm, errno.EOPNOTSUPP)))
UNTRIED = Trial(errno.EROFS)


def judge(facts, *, kernel_verity=True, require_verity=False, algorithm=Algorithm.SHA512):
    findings = judge_file_system(facts, algorithm=algorithm, kernel_verity=kernel_verity, require_verity=require_verity)
    return {finding.id.removeprefix("filesystem."): finding for finding in findings}


def of_kind(kind, source="none", **but):
    return replace(GOOD, mount=MountPoint(kind, source, "/srv", "0:50"), **but)


def test_good():
    """A file system that has all is ok in every line."""
    findings = judge(GOOD, require_verity=True)

    assert {finding.status for finding in findings.values()} == {Status.OK}
    assert [finding.remedy for finding in findings.values() if finding.remedy] == []
    assert list(findings) == ["type", "access", "unnamed-files", "verity", "reflinks", "space", "inodes"]
    assert findings["type"].found == "ext4, /dev/vdb at /srv"
    assert findings["verity"].found == "enabled for an unnamed file, by sha256 and sha512"


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("xfs", Status.OK, "xfs"),
        ("tmpfs", Status.DEGRADED, "lost when the machine stops"),
        ("overlay", Status.DEGRADED, "as in a container"),
        ("nfs4", Status.DEGRADED, "as good as its server"),
        ("fuse.sshfs", Status.DEGRADED, "as good as its server"),
        ("vfat", Status.MISSING, "no symbolic links"),
    ],
)
def test_type(kind, status, text):
    """Types are judged by what a repository needs."""
    found = judge(of_kind(kind))["type"]

    assert found.status is status
    assert text in found.found
    assert (found.remedy is None) == (status is Status.OK)
    assert found.prevents == ((Job.IMPORT,) if status is Status.MISSING else ())


def test_unknown_mount():
    """Without /proc the type stays unknown, and remedies speak of a device."""
    findings = judge(replace(NO_VERITY, mount=None))

    assert findings["type"].found == "an unknown file system"


@pytest.mark.parametrize(
    ("facts", "kernel_verity", "status", "found", "remedy"),
    [
        (NO_VERITY, True, Status.MISSING, "the feature flag is not set", "tune2fs -O verity /dev/vdb, then mount"),
        (NO_VERITY, None, Status.MISSING, "the feature flag is not set", "tune2fs -O verity /dev/vdb"),
        (NO_VERITY, False, Status.MISSING, "this kernel has none", "CONFIG_FS_VERITY"),
        (
            of_kind("tmpfs", knows_verity=False, trial=NO_VERITY.trial),
            False,
            Status.MISSING,
            "this kernel has none",
            "boot a kernel with CONFIG_FS_VERITY, and keep the repository on ext4",
        ),
        (replace(NO_VERITY, block_size=1024), True, Status.MISSING, "flag", "mkfs.ext4 -b 4096 -O verity /dev/vdb"),
        (
            of_kind("xfs", "/dev/vdc", knows_verity=False, trial=NO_VERITY.trial),
            True,
            Status.MISSING,
            "xfs does not have it with this kernel",
            "ext4 (mkfs.ext4 -O verity), btrfs or f2fs",
        ),
        (
            replace(GOOD, block_size=1024, trial=Trial(WORKS, WORKS, dict.fromkeys(Algorithm, errno.EINVAL))),
            True,
            Status.MISSING,
            "blocks of 1024 bytes; fs-verity needs 4096 here",
            "make the file system anew: mkfs.ext4 -b 4096 -O verity /dev/vdb",
        ),
        (
            replace(GOOD, trial=Trial(WORKS, WORKS, {Algorithm.SHA256: WORKS, Algorithm.SHA512: errno.ENOPKG})),
            True,
            Status.MISSING,
            "enabling it by sha512 fails: Package not installed",
            "boot a kernel with CONFIG_CRYPTO_SHA512",
        ),
        (
            replace(GOOD, trial=Trial(WORKS, WORKS, dict.fromkeys(Algorithm, errno.EIO))),
            True,
            Status.MISSING,
            "fails: Input/output error",
            "dmesg",
        ),
        (replace(GOOD, trial=UNTRIED), True, Status.OK, "not tried: Read-only file system", None),
        (replace(GOOD, trial=Trial(WORKS, WORKS, dict.fromkeys(Algorithm, errno.ENOSPC))), True, Status.OK, "", None),
        (replace(GOOD, knows_verity=None, trial=Trial()), True, Status.UNKNOWN, "cannot be opened", None),
    ],
)
def test_verity(facts, kernel_verity, status, found, remedy):
    """Why there is no fs-verity is found out, and what to do follows from that."""
    finding = judge(facts, kernel_verity=kernel_verity)["verity"]

    assert finding.status is status
    assert found in finding.found
    assert (finding.remedy is None) if remedy is None else (remedy in finding.remedy)
    assert ("checked by programs" in finding.found) == (status is Status.MISSING)
    assert finding.prevents == ()


def test_verity_of_the_other_algorithm():
    """What counts is the hash of the repository."""
    facts = replace(GOOD, trial=Trial(WORKS, WORKS, {Algorithm.SHA256: WORKS, Algorithm.SHA512: errno.ENOPKG}))

    assert judge(facts, algorithm=Algorithm.SHA256)["verity"].status is Status.OK


def test_required_verity():
    """Where digests must be enforced, nothing can be done without fs-verity."""
    found = judge(NO_VERITY, require_verity=True)["verity"]

    assert found.prevents == (Job.IMPORT, Job.MOUNT)


@pytest.mark.parametrize(
    ("but", "name", "status", "text"),
    [
        ({"read_only": True}, "access", Status.MISSING, "mounted read-only"),
        ({"writable": False}, "access", Status.MISSING, "has no right to write in /srv/repo"),
        ({"trial": Trial(errno.EOPNOTSUPP)}, "unnamed-files", Status.DEGRADED, "temporary names"),
        ({"trial": UNTRIED}, "unnamed-files", Status.UNKNOWN, "Read-only file system"),
        ({"trial": Trial(WORKS, errno.EOPNOTSUPP, BOTH)}, "reflinks", Status.DEGRADED, "copy"),
        ({"trial": UNTRIED}, "reflinks", Status.UNKNOWN, "Read-only file system"),
        ({"trial": Trial(WORKS, errno.ENOSPC, BOTH)}, "reflinks", Status.UNKNOWN, "No space left"),
        ({"available": 3_000_000_000}, "space", Status.DEGRADED, "3.0 GB free; a typical OS image takes 4.6 GB"),
        ({"available": 4096}, "space", Status.MISSING, "0.0 GB free"),
        ({"available": None}, "space", Status.OK, "no limit but the memory"),
        ({"inodes": 100_000}, "inodes", Status.DEGRADED, "100,000 free; a typical OS image has 156,000 objects"),
        ({"inodes": 0}, "inodes", Status.MISSING, "0 free"),
        ({"inodes": None}, "inodes", Status.OK, "no limit"),
    ],
)
def test_lines(but, name, status, text):
    """Each line has its limits; what is missing there prevents an import, and no mount."""
    found = judge(replace(GOOD, **but))[name]

    assert found.status is status
    assert text in found.found
    assert found.prevents == ((Job.IMPORT,) if status is Status.MISSING else ())
    assert (found.remedy is None) == (status in {Status.OK, Status.UNKNOWN})


def test_read_only_remedy():
    """A bootc host has its repository on a read-only mount: who imports takes one of his own."""
    remedy = judge(replace(GOOD, read_only=True))["access"].remedy

    assert remedy.startswith("mount -o remount,rw /srv;")


def snapshot(directory):
    """Return all that a change of a directory would change."""
    info = os.stat(directory)
    return info.st_mtime_ns, info.st_ctime_ns, sorted(os.listdir(directory))


def test_facts(tmp_path):
    """What a directory can do is tried, and nothing in it changes."""
    (tmp_path / "file").write_bytes(b"x")
    before = snapshot(tmp_path)

    found = find_file_system(str(tmp_path))

    assert snapshot(tmp_path) == before
    assert found.mount is not None
    assert found.available > 0
    assert (found.writable, found.read_only) == (True, False)
    assert found.trial.unnamed_files is not None


@pytest.mark.parametrize(("kind", "limited"), [("ramfs", False), ("tmpfs", False), ("proc", True)])
def test_no_blocks(tmp_path, monkeypatch, kind, limited):
    """A file system in memory without blocks takes what there is; another one without has no room at all."""
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[2] = fields[3] = fields[4] = 0  # blocks, free ones, those for us
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    monkeypatch.setattr(filesystem, "find_mount", lambda _: MountPoint(kind, "none", "/", "0:9"))

    assert find_file_system(str(tmp_path)).available == (0 if limited else None)


def test_reserve(tmp_path, monkeypatch):
    """What the file system keeps for root counts for those who get it."""
    fields = list(os.statvfs(tmp_path))
    fields[1:8] = [1, 900, 90, 70, 900, 50, 30]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    for has_reserve, amounts in ((True, (90, 50)), (False, (70, 30))):
        monkeypatch.setattr(filesystem, "may_use_reserve", lambda has_reserve=has_reserve: has_reserve)
        found = find_file_system(str(tmp_path))
        assert (found.available, found.inodes) == amounts


def test_attempts_fail(tmp_path, monkeypatch):
    """Attempts that fail are told by their errno, and leave nothing open."""
    monkeypatch.setattr(_native, "reflink", refuse(errno.EXDEV))
    monkeypatch.setattr(_native, "enable_verity", refuse(errno.ENOTTY))
    fds = len(os.listdir("/proc/self/fd"))

    dir_fd = os.open(tmp_path, os.O_RDONLY)
    found = try_directory(dir_fd)
    os.close(dir_fd)

    assert found == Trial(WORKS, errno.EXDEV, dict.fromkeys(Algorithm, errno.ENOTTY))
    assert len(os.listdir("/proc/self/fd")) == fds


def test_attempts_succeed(tmp_path, monkeypatch):
    """What is sealed is a file that nobody has open for writing."""
    modes = []
    monkeypatch.setattr(_native, "reflink", lambda *_: None)
    monkeypatch.setattr(_native, "enable_verity", lambda fd, _: modes.append(os.readlink(f"/proc/self/fd/{fd}")))

    dir_fd = os.open(tmp_path, os.O_RDONLY)
    found = try_directory(dir_fd)
    os.close(dir_fd)

    assert found == Trial(WORKS, WORKS, BOTH)
    assert len(modes) == len(Algorithm)
    assert all(name.endswith(" (deleted)") for name in modes)


def test_no_unnamed_files():
    """Where no file can be made, nothing else is tried."""
    dir_fd = os.open("/proc", os.O_RDONLY)
    found = try_directory(dir_fd)
    os.close(dir_fd)

    assert found.unnamed_files not in {WORKS, None}
    assert (found.reflinks, found.verity) == (None, {})


def test_file_system_of_the_kernel():
    """A directory in which nobody can write, not even root, is judged, too."""
    findings = judge(find_file_system("/proc"))

    assert findings["type"].found.startswith("proc")
    assert findings["unnamed-files"].status is not Status.OK
    assert findings["verity"].status is Status.MISSING


def refuse(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail
