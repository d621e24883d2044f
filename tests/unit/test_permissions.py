"""Modes and owners of what is made: those of composefs-rs under the usual umask, whatever the umask is.

REPO                     0700, as is all of quarantine/, whose files have 0600: what was wrong is nobody's business
other directories        0755
all files                0644
"""

import os
import stat
import struct
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, Repository
from composefs.cli import main
from tests import commands, damage
from tests.layouts import files_layer, image_layout, noise
from tests.namespaces import private_mounts
from tests.tools import require_root, require_tool

UMASKS = [0o000, 0o022, 0o027, 0o077, 0o777]
USER = 1234  # who has no name here


@pytest.fixture
def place():
    """Yield a directory that all may look into; pytest's own may be closed to others by another run of it."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def layout(place):
    layers = [files_layer({"usr/low": noise(5000, 1)}), files_layer({"usr/high": noise(90_000, 2)}, "gzip")]
    return image_layout(place / "layout", layers, "os")


@pytest.fixture
def tree(place):
    """Return a directory to make an image of; its files are readable by their owner alone, as objects are not."""
    made = place / "tree"
    (made / "usr").mkdir(parents=True)
    for size in (100, 3_000_000):
        (made / f"usr/{size}").write_bytes(noise(size, size))
        (made / f"usr/{size}").chmod(0o600)
    return made


@contextmanager
def umask(value: int):
    former = os.umask(value)
    try:
        yield
    finally:
        os.umask(former)


def run(path, *arguments, status=0):
    assert main(["--repo", str(path), *map(str, arguments)]) == status


def use(path, layout, tree):
    """Do in the repository at *path* whatever makes something there."""
    run(path, "init", "--algorithm", Algorithm.SHA256.value, "--insecure", path)
    run(path, "import", f"{layout}:os", "--name", "os", "--workers", "1")
    run(path, "create-image", tree, "own/tree")
    run(path, "oci", "tag", "os", "other")
    run(path, "fsck")
    with Repository.open(path) as repository:
        repository.objects.ensure(b"garbage" * 100)
    run(path, "gc", "--trash", "3")
    damage.flip(next((path / "objects").glob("*/*")))
    run(path, "fsck", "--quarantine", status=1)


def modes(path: Path) -> dict[str, int]:
    """Return the modes of all below *path*, and itself, but for links, which have none."""
    every = [path, *path.rglob("*")]
    return {str(one.relative_to(path)): stat.S_IMODE(one.lstat().st_mode) for one in every if not one.is_symlink()}


def wanted(path: Path, name: str) -> int:
    is_directory, is_private = (path / name).is_dir(), name.partition("/")[0] == "quarantine"
    if name == ".":
        return 0o700
    if is_private:
        # What was moved there keeps its mode.
        return 0o700 if is_directory else 0o600 if name.endswith("manifest.jsonl") else 0o644
    return 0o755 if is_directory else 0o644


@pytest.mark.parametrize("mask", UMASKS)
def test_modes_do_not_depend_on_the_umask(tmp_path, layout, tree, mask, capsys):
    """Repository, objects, names, trash, quarantine and record: all by the table above."""
    path = tmp_path / "repository"
    with umask(mask):
        use(path, layout, tree)

    found = modes(path)

    assert {"objects", "streams/refs/oci", "images/refs/own", "trash", "quarantine", "fsck-record"} <= found.keys()
    assert found == {name: wanted(path, name) for name in found}


@pytest.mark.parametrize("mask", UMASKS[:-1])  # with the last one, composefs-rs cannot use what it has made
def test_never_looser_than_the_reference(tmp_path, layout, tree, mask):
    """Under the usual umask the modes are those of composefs-rs; under none, it lets everybody write."""
    program = require_tool("cfsctl")
    path = tmp_path / "theirs"
    with umask(mask):
        for arguments in (
            ("init", "--insecure", "--algorithm", Algorithm.SHA256.value, path),
            ("--repo", path, "oci", "pull", f"{layout}:os", "os"),
            ("--repo", path, "create-image", tree, "own/tree"),
        ):
            subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    found = modes(path)

    for name, mode in found.items():
        ours = wanted(path, name)
        if mask == 0o022:
            assert mode == ours, name
        assert mode & ~mask & ours == mode & ours, name
        assert ours & ~mask == mode & ours, name  # what the umask leaves of ours is what they have, or more


def test_directories_above(tmp_path):
    """Those above a new repository are no part of it: nobody else writes in them, and the umask has its say."""
    for mask, mode in ((0o000, 0o755), (0o077, 0o700)):
        with umask(mask):
            Repository.init(tmp_path / f"{mask}/a/b/repository", require_verity=False)
        for name in (".", "a", "a/b"):
            assert stat.S_IMODE((tmp_path / f"{mask}" / name).stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / f"{mask}/a/b/repository").stat().st_mode) == 0o700


def test_an_existing_directory_keeps_its_mode(tmp_path):
    """Who has made it has decided."""
    path = tmp_path / "repository"
    path.mkdir()
    path.chmod(0o2775)
    Repository.init(path, require_verity=False)

    assert stat.S_IMODE(path.stat().st_mode) == 0o2775


def test_without_unnamed_files(tmp_path, monkeypatch):
    """Where there is no O_TMPFILE, the modes are the same."""
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported", path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    path = tmp_path / "repository"
    with umask(0o777):
        Repository.init(path, Algorithm.SHA256, require_verity=False)
        with Repository.open(path) as repository:
            repository.objects._staging._has_unnamed_files = False
            repository.objects.ensure(b"one" * 100)
            repository.objects.ensure_pieces([b"two" * 100])

    found = modes(path)
    assert len(found) == 7
    assert found == {name: wanted(path, name) for name in found}


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL of entries with tag, permissions and id.  Source: <linux/posix_acl_xattr.h>."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY = 0xFFFFFFFF  # the id of entries that are of nobody in particular
_OWNER, _NAMED, _GROUP, _MASK, _OTHERS = 1, 2, 4, 16, 32  # tags


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_default_acl(tmp_path, layout, tree, mask):
    """What a default ACL takes away stays away, and what it grants is no more than the table has for the group."""
    path = tmp_path / "repository"
    path.mkdir(mode=0o755)
    entries = [
        (_OWNER, 7, _NOBODY),
        (_NAMED, 7, USER),
        (_GROUP, 7, _NOBODY),
        (_MASK, 7, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    ]
    try:
        os.setxattr(path, "system.posix_acl_default", acl(*entries))
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    with umask(mask):
        use(path, layout, tree)

    found = modes(path)
    del found["."]
    assert {mode & 0o007 for name, mode in found.items()} == {0}
    # With an ACL, the bits of the group are its mask, above which nobody named in it gets.
    assert found == {name: wanted(path, name) & 0o770 for name in found}


def test_set_group_id(tmp_path, layout, tree):
    """Below a directory that gives its group to what is made in it, all has that group; no file runs as it."""
    require_root("groups of others")
    path = tmp_path / "repository"
    path.mkdir()
    os.chown(path, 0, USER)
    path.chmod(0o2750)
    with umask(0o077):
        use(path, layout, tree)

    for one in path.rglob("*"):
        info = one.lstat()
        assert info.st_gid == USER
        if not one.is_symlink():
            own = wanted(path, str(one.relative_to(path)))
            assert stat.S_IMODE(info.st_mode) == own | (stat.S_ISGID if one.is_dir() else 0)


@pytest.fixture
def home(place, layout, tree):
    """Yield the home directory of a user, below a root that is read-only to all; only this thread sees it so."""
    require_root("mounts and another user")
    require_tool("setpriv")
    path = place / "home"
    path.mkdir()
    for file in (tree / "usr").iterdir():
        file.chmod(0o644)
    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"uid={USER},gid={USER},mode=0700", "tmpfs", path], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", "/"], check=True)
        yield path


def as_user(home: Path, *arguments: object, mask: int = 0o022, status: int = 0, name: str = "composefs") -> str:
    """Run a command as the user, and return what it printed."""
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
    return command(home, name, *arguments, status=status, umask=mask, wrapper=user)


def as_root(home: Path, *arguments: object) -> None:
    """Run `composefs`: not here, since who has had threads in a namespace cannot leave it while they end."""
    command(home, "composefs", *arguments)


def command(home: Path, name: str, *arguments: object, status: int = 0, **options: object) -> str:
    scripts = home / ".scripts"
    scripts.mkdir(exist_ok=True)
    env = {"HOME": str(home), "TMPDIR": str(home)}
    done = commands.run(scripts, name, *arguments, env=env, cwd=home, **options)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_user_needs_no_root(home, layout, tree):
    """All of a life of an image in the repository of a user, who has no privilege, and no place but his home."""
    as_user(home, f"{layout}:os", "--name", "os", "--workers", "1", name="composefs-import", mask=0o077)
    for arguments in (
        "images",
        "oci images",
        "oci inspect os",
        "oci dump os",
        f"create-image {tree} own",
        "oci tag os other",
        "oci untag os",
        "ls own /",
        f"extract own {home}/extracted",
        "fsck",
        "fsck --since-last",
        "oci fsck",
        "gc --dry-run",
        "gc --trash 3",
        "oci untag other",
        "gc --trash 3",
        "gc --undo",
        "gc",
    ):
        as_user(home, "--user", *arguments.split())
    assert "nothing" not in as_user(home, "--user", "images")

    path = home / ".var/lib/composefs"
    found = modes(path)
    assert found == {name: wanted(path, name) for name in found}
    assert {one.lstat().st_uid for one in [path, *path.rglob("*")]} == {USER}
    assert (home / "extracted/usr/100").read_bytes() == noise(100, 100)


def test_a_user_whose_umask_takes_all(home, layout):
    """Not even what the owner may do comes from the umask."""
    as_user(home, f"{layout}:os", "--name", "os", "--workers", "1", name="composefs-import", mask=0o777)
    as_user(home, "--user", "oci", "fsck", mask=0o777)

    found = modes(home / ".var/lib/composefs")
    assert found == {name: wanted(home / ".var/lib/composefs", name) for name in found}


@pytest.mark.parametrize("mask", UMASKS)
def test_processes_inherit_the_umask(tmp_path, layout, mask):
    """What workers make has the same modes, and they can be started under any umask."""
    path = tmp_path / "repository"
    arguments = ("--repo", path, f"{layout}:os", "--name", "os", "--workers", "2")
    done = commands.run(tmp_path, "composefs-import", *arguments, umask=mask)

    assert (done.returncode, path.exists()) == (0, True), done.stderr
    found = modes(path)
    assert found == {name: wanted(path, name) for name in found}


def test_users_read_what_root_has_made(home, layout, tree):
    """Who may look into the directory may read all: objects are for everybody, the directory decides."""
    path = make_as_root(home, layout, tree)
    assert "Permission denied" in as_user(home, "--repo", path, "images", status=1)

    path.chmod(0o755)
    for arguments in ("images", "oci images", "oci dump os", "ls own/tree /", "fsck --fast", "oci inspect os"):
        as_user(home, "--repo", path, *arguments.split())
    for arguments in ("oci tag os mine", "oci untag os", "gc", f"import {layout}:os", f"create-image {tree}"):
        said = as_user(home, "--repo", path, *arguments.split(), status=1)
        assert f"{path}: is not writable: it belongs to uid 0, this is uid {USER}" in said


def make_as_root(home, layout, tree) -> Path:
    """Make a repository with an image of either kind, and return its path."""
    path = home / "roots"
    as_root(home, "init", "--algorithm", Algorithm.SHA256.value, "--insecure", path)
    as_root(home, "--repo", path, "import", f"{layout}:os", "--name", "os")
    as_root(home, "--repo", path, "create-image", tree, "own/tree")
    return path


def test_a_directory_that_everybody_writes_in(home, layout, tree):
    """What another has made there one cannot remove, as the error says; then nothing is removed by half."""
    path = make_as_root(home, layout, tree)
    as_root(home, "--repo", path, "oci", "untag", "os")
    path.chmod(0o1777)
    home.chmod(0o755)

    assert f"{path}/streams" in as_user(home, "--repo", path, "gc", status=1)
    as_root(home, "--repo", path, "oci", "fsck")
    assert f"{path}/objects" in as_user(home, "--repo", path, "create-image", tree, "new", status=1)
    as_root(home, "--repo", path, "oci", "fsck")
