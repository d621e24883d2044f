"""The trees that cfsctl makes of directories for containers and for booting are those that we make."""

import os
import re
import stat
import subprocess

import pytest

from composefs.boot import transform_for_boot, transform_for_boot_from_directory
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.errors import FormatError
from composefs.scan import scan_directory
from composefs.transform import XattrFilter, transform_for_oci
from composefs.tree import walk
from tests import bootable
from tests.policies import random_policy
from tests.tools import require_root, require_tool

POLICIES = range(60)
# What an automaton cannot match or what nobody writes, and cfsctl takes: docs/compatibility.md.
NOT_SUPPORTED = re.compile(
    "expression .*(is not supported|are not supported|a brace that is no quantifier|unlimited length|too far behind)"
)


@pytest.fixture(scope="module")
def cfsctl():
    """Run `cfsctl` with arguments, and return its status and what it printed."""
    program = require_tool("cfsctl")
    require_root("devices and xattrs of every name space")
    environment = {name: value for name, value in os.environ.items() if name != "RUST_BACKTRACE"}

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, env=environment)
        return done.returncode, done.stdout, done.stderr.decode()

    return run


def dump(root):
    return b"".join(format_dump(root))


@pytest.fixture
def root_directory(tmp_path):
    """Make a root file system with all that the transform for containers changes."""
    root = tmp_path / "root"
    for path in ("usr/bin", "run/lock", "etc"):
        (root / path).mkdir(parents=True)
    (root / "run/lock/file").write_bytes(b"only here")
    (root / "run/shared").write_bytes(b"also below /usr")
    os.link(root / "run/shared", root / "usr/bin/shared")
    (root / "etc/link").symlink_to("nothing")
    os.mkfifo(root / "etc/fifo")
    names = ["security.capability", "security.selinux", "security.other", "trusted.a", "trusted.user.a"]
    for path in (root, root / "usr", root / "run", root / "usr/bin/shared"):
        for name in [*names, "user.a", "user.", "user.user."][: None if path.is_dir() else -1]:
            value = bytes.fromhex("0100000200200000000000000000000000000000") if name == names[0] else b"value"
            if name != "user.":
                os.setxattr(path, name, value)
    for name in ("security.selinux", "trusted.a"):
        os.setxattr(root / "etc/link", name, b"value", follow_symlinks=False)
    os.chown(root / "usr", 3, 4)
    os.chmod(root / "usr", 0o1751)
    os.utime(root / "usr", ns=(0, 1_600_000_000_123_456_789))
    os.utime(root / "run", ns=(0, 5))
    return root


@pytest.mark.parametrize("mode", XattrFilter)
def test_containers(cfsctl, root_directory, mode):
    """Metadata of the root, /run and extended attributes."""
    tree = scan_directory(root_directory, Algorithm.SHA512)
    transform_for_oci(tree, mode)

    status, printed, _ = cfsctl("--no-repo", "create-dumpfile", "--xattrs", mode.value, root_directory)

    assert status == 0
    assert dump(tree).splitlines() == printed.splitlines()


def test_containers_without_run(cfsctl, root_directory):
    (root_directory / "run").rename(root_directory / "ran")
    tree = scan_directory(root_directory, Algorithm.SHA512)
    transform_for_oci(tree)

    assert dump(tree) == cfsctl("--no-repo", "create-dumpfile", root_directory)[1]


@pytest.mark.parametrize(("name", "what"), [("usr", None), ("usr", "file"), ("run", "file"), ("run", "link")])
def test_what_is_no_container(cfsctl, root_directory, name, what):
    path = root_directory / name
    path.rename(root_directory / "away")
    if what == "file":
        path.write_bytes(b"")
    elif what == "link":
        path.symlink_to("away")

    assert cfsctl("--no-repo", "create-dumpfile", root_directory)[0] == 1


@pytest.fixture(scope="module")
def repository(cfsctl, tmp_path_factory):
    """Make a repository, and return its path."""
    path = tmp_path_factory.mktemp("boot") / "repository"
    assert cfsctl("init", "--insecure", path)[0] == 0
    return path


@pytest.mark.parametrize(
    ("paths", "is_good"),
    [
        *((paths, True) for paths in bootable.TAKEN.values()),
        *((paths, False) for paths, _, _ in bootable.REFUSED.values()),
    ],
    ids=[*bootable.TAKEN, *bootable.REFUSED],
)
def test_what_may_be_booted(cfsctl, repository, tmp_path, paths, is_good):
    """cfsctl takes and refuses the same trees as the unit tests, and makes the same image."""
    if not bootable.write(tmp_path, paths):
        return  # sparse files are not to be had on disk

    status, _, error = cfsctl("--repo", repository, "create-image", "--bootable", tmp_path)

    assert status == (0 if is_good else 1), error
    if is_good:
        tree = scan_directory(tmp_path, Algorithm.SHA512)
        transform_for_oci(tree)
        paths_of = {node: path for path, node in walk(tree)}
        transform_for_boot(tree, lambda leaf: (tmp_path / os.fsdecode(paths_of[leaf])[1:]).read_bytes())
        assert dump(tree) == cfsctl("--no-repo", "create-dumpfile", "--bootable", tmp_path)[1]


NAMES = ["a", "b", "ab", "aa", "b.c", "a-b", "A", "a1", "é", "_x", "a\nb", "foo", "foo.so", "foo.so.1", "lib", "lib64"]
NAMES += ["x y", "a[b", "{1}"]


@pytest.fixture(scope="module")
def labelled(cfsctl, tmp_path_factory):
    """Make a directory with nodes of every type and odd names, and return it and the paths that a policy can spell."""
    root = tmp_path_factory.mktemp("labelled")
    for name in ("usr", "boot", "sysroot", "etc/selinux/t/contexts/files"):
        (root / name).mkdir(parents=True)
    kinds = [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
    number = 0
    for outer in NAMES:
        (root / "usr" / outer).mkdir()
        for inner in NAMES[number % 3 :: 3]:
            path = root / "usr" / outer / inner
            number += 1
            match number % 9:
                case 0:
                    path.symlink_to("x")
                case 1:
                    os.mknod(path, kinds[number // 9 % 4] | 0o644, os.makedev(1, 3))
                case 2:
                    path.mkdir()
                    (path / "foo").write_bytes(b"")
                case 3:
                    path.write_bytes(b"")
                    os.link(path, root / "usr" / f"link-{number}")
                case 4:
                    path.symlink_to("y")
                    os.link(path, root / "usr" / outer / f"link-{number}", follow_symlinks=False)
                case _:
                    path.write_bytes(b"")
    paths = [path.decode() for path, _ in walk(scan_directory(root, Algorithm.SHA512))]
    return root, [path for path in paths if not re.search(r"\s", path)]


@pytest.mark.parametrize("seed", POLICIES)
def test_random_policies(cfsctl, labelled, seed):
    """Labels and broken hard links are the same, and so is the verdict on a policy."""
    root, paths = labelled
    directory = root / "etc/selinux/t/contexts/files"
    for old in directory.iterdir():
        old.unlink()
    for name, text in random_policy(seed, paths).items():
        (directory / name).write_text(text)
    (root / "etc/selinux/config").write_text("# a comment\nSELINUX=disabled\n selinuxtype = t \n")
    tree = scan_directory(root, Algorithm.SHA512)
    transform_for_oci(tree)

    status, printed, message = cfsctl("--no-repo", "create-dumpfile", "--bootable", root)

    if status:
        assert "Building SELinux policy" in message
        with pytest.raises(FormatError):
            transform_for_boot_from_directory(tree, root)
        return
    try:
        transform_for_boot_from_directory(tree, root)
    except FormatError as error:
        if not NOT_SUPPORTED.search(str(error)):
            raise
    else:
        assert dump(tree).splitlines() == printed.splitlines()


@pytest.mark.parametrize("mark", ["\\1", "(?>a)", "a++", "(?i)", "{,2}"])
def test_what_is_not_supported_is_refused_by_name(cfsctl, labelled, mark):
    """cfsctl takes what an automaton cannot match; we say so and make no other labels."""
    root, _ = labelled
    (root / "etc/selinux/config").write_text("SELINUXTYPE=t\n")
    (root / "etc/selinux/t/contexts/files/file_contexts").write_text(f"/(a)(?!x){mark} x\n")
    tree = scan_directory(root, Algorithm.SHA512)

    assert cfsctl("--no-repo", "create-dumpfile", "--bootable", root)[0] == 0
    with pytest.raises(FormatError, match=NOT_SUPPORTED):
        transform_for_boot_from_directory(tree, root)
