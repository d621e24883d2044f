"""Directories on disk: ids, dumps, kernel arguments and repositories are those that cfsctl makes of them.

COMPOSEFS_ROOTS names the real root file systems to compare, separated by colons; `COMPOSEFS_ROOTS=/usr` is the whole
machine's.
"""

import json
import os
import random
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from composefs.cli import main
from composefs.digest import Algorithm
from composefs.repository import Repository
from composefs.repository.meta import Meta
from tests.golden import vectors
from tests.tools import require_root, require_tool

ROOTS = os.environ.get("COMPOSEFS_ROOTS", "/usr/include:/etc").split(":")
OPTIONS = [
    [],
    ["--bootable"],
    ["--xattrs", "keep-user-xattrs"],
    ["--no-propagate-usr-to-root"],
    ["--no-propagate-usr-to-root", "--bootable"],
]
SIZES = [0, 1, 64, 65, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(scope="module")
def cfsctl():
    """Run `cfsctl` with arguments, and return what it printed."""
    program = require_tool("cfsctl")

    def run(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, check=True).stdout

    return run


@pytest.fixture
def ours(capfdbinary):
    """Run `composefs` with arguments in this process, and return what it printed."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        out, err = capfdbinary.readouterr()
        assert (status, err) == (0, b"")
        return out

    return run


@pytest.fixture(scope="module")
def scratch():
    """An empty directory on a tmpfs, where root can set extended attributes of all kinds on all kinds."""
    require_root("devices, owners and extended attributes of links")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def root(scratch):
    """A root file system with every kind of node, metadata at its edges, and names of any bytes."""
    root = scratch / "root"
    for name in (
        "usr/bin",
        "run/lock",
        "boot/efi",
        "sysroot/ostree",
        "etc",
        "usr/empty",
        "/".join(["usr", *"d" * 300]),
    ):
        (root / name).mkdir(parents=True)
    usr = root / "usr"
    noise = random.Random(7)
    for size in SIZES:
        (usr / f"size{size}").write_bytes(noise.randbytes(size))
    for name in (
        b"\xff\xfe",
        b" ",
        b"new\nline",
        b"tab\t\\x41",
        "é".encode(),
        b"-",
        b"=",
        b"n" * 255,
        b"...",
        b".wh.x",
    ):
        (root / "etc" / os.fsdecode(name)).write_bytes(name * 20)
    with (usr / "sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(2_000_000)
        file.write(b"data")
    (usr / "link").symlink_to("size65")
    (usr / "link of bytes").symlink_to(os.fsdecode(b"\xff" * 1000))
    for first, second in (("size4096", "bin/hard"), ("size1", "../etc/hard"), ("link", "hard link"), ("size65", "a")):
        os.link(usr / first, usr / second, follow_symlinks=False)
    os.mkfifo(usr / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(usr / "socket"))
    for name, kind, number in [
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("large", stat.S_IFCHR, os.makedev(4095, 0xFFFFF)),
        ("block", stat.S_IFBLK, os.makedev(259, 70_000)),
        ("whiteout", stat.S_IFCHR, 0),
    ]:
        os.mknod(usr / name, kind | 0o640, number)
    for name, xattr, value in [
        ("", "user.directory", b""),
        ("size64", "security.capability", CAPABILITY),
        ("size65", "user.long", b"v" * 3000),
        ("size65", "user." + "n" * 250, b"1"),
        ("link", "trusted.link", b"l"),
        ("fifo", "trusted.fifo", b"f"),
        ("null", "trusted.overlay.opaque", b"y"),
        ("size0", "user.overlay.whiteout", b""),
    ]:
        os.setxattr(usr / name, xattr, value, follow_symlinks=False)
    os.chmod(usr / "size65", 0o6755)
    os.chmod(usr / "size1", 0)
    os.chown(usr / "size0", 1000, 0xFFFFFFFE)
    for name, nanoseconds in [
        ("size0", -1_500_000_000),
        ("size1", (1 << 34) * 10**9 + 5),
        ("", 1_700_000_000_123_456_789),
    ]:
        os.utime(usr / name, ns=(0, nanoseconds))
    return root


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_kind(cfsctl, ours, root, algorithm, options):
    """Ids in every version, and the dump, of a tree that has everything."""
    before = ["--no-repo", "--hash", algorithm.hash_name]

    for version in (0, 1, 2):
        command = [*before, "--erofs-version", version, "compute-id", *options, root]
        assert ours(*command) == cfsctl(*command)
    command = [*before, "create-dumpfile", *options, root]
    assert ours(*command) == cfsctl(*command)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("version", [[], ["--erofs-version=0"], ["--erofs-version=1"], ["--erofs-version=2"]])
def test_kernel_argument(cfsctl, ours, root, version, algorithm):
    """Kernel arguments, and the version where none is chosen."""
    for insecure, options in ([], []), (["--insecure"], ["--no-propagate-usr-to-root"]):
        command = ["--no-repo", "--hash", algorithm.hash_name, *insecure, *version, "compute-karg", *options, root]
        assert ours(*command) == cfsctl(*command)


@pytest.mark.parametrize("before", [[], ["--hash", "sha512"], ["--hash", "sha256"], ["--no-repo"]])
@pytest.mark.parametrize("version", [0, 2])
def test_choice_of_algorithm(cfsctl, ours, root, tmp_path, before, version):
    """A repository gives the algorithm, but not the version."""
    path = tmp_path / "repository"
    Repository.init(path, Algorithm.SHA256, erofs_version=version, require_verity=False)

    for command in ("compute-id", "compute-karg", "create-dumpfile"):
        arguments = ["--repo", path, *before, command, root]
        assert ours(*arguments) == cfsctl(*arguments)


def contents(path):
    """Return what is in a repository: modes, sizes and targets of links by path, and objects."""
    return vectors.listing(path), {file.name: file.read_bytes() for file in (path / "objects").rglob("*/*")}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_create_image(cfsctl, ours, root, tmp_path, algorithm, options):
    """The same repository comes about: objects, images of every version, names; and cfsctl finds nothing wrong."""
    for name in ("ours", "theirs"):
        Repository.init(tmp_path / name, algorithm, require_verity=False)
        (tmp_path / name / "meta.json").write_bytes(Meta(algorithm, 1, (0, 2)).pack())
    command = ["create-image", *options, root, "some/name"]

    assert ours("--repo", tmp_path / "ours", *command) == cfsctl("--repo", tmp_path / "theirs", *command)

    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    assert json.loads(cfsctl("--repo", tmp_path / "ours", "fsck", "--json"))["ok"]


@pytest.mark.parametrize("sharing", ["copy", "reflink", "hardlink"])
def test_in_turn(cfsctl, ours, root, scratch, sharing):
    """Both tools store the same directory in one repository, by turns; collecting garbage there loses nothing."""
    path = scratch / f"repository-{sharing}"
    Repository.init(path, Algorithm.SHA256, require_verity=False)
    printed = {
        cfsctl("--repo", path, "create-image", root, "theirs"),
        ours("--repo", path, "create-image", "--sharing", sharing, root, "ours"),
        ours("--repo", path, "create-image", "--sharing", sharing, root, "ours-again"),
        cfsctl("--repo", path, "create-image", root, "theirs-again"),
    }

    cfsctl("--repo", path, "gc")

    assert len(printed) == 1
    assert json.loads(cfsctl("--repo", path, "fsck", "--json"))["ok"]
    images = json.loads(cfsctl("--repo", path, "images", "--json"))["images"]
    assert {image["name"] for image in images} == {"theirs", "ours", "ours-again", "theirs-again"}


@pytest.mark.parametrize("path", ROOTS)
def test_real_roots(cfsctl, ours, path):
    """What lies on this machine's disk has the same id and dump."""
    options = ["--no-propagate-usr-to-root", path]

    assert ours("--no-repo", "compute-id", *options) == cfsctl("--no-repo", "compute-id", *options)
    assert ours("--no-repo", "create-dumpfile", *options) == cfsctl("--no-repo", "create-dumpfile", *options)
