"""`create-image`, `compute-id`, `compute-karg`, `create-dumpfile`: what they print and make, and how they fail."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess

import pytest

from composefs.boot import transform_for_boot_from_directory
from composefs.cli import main
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.erofs.writer import write_image
from composefs.repository import Repository
from composefs.repository.meta import Meta
from composefs.scan import scan_directory
from composefs.transform import XattrFilter, transform_for_oci
from composefs.verity import compute_digest
from tests import commands
from tests.tools import require_root

SHA256, SHA512 = Algorithm.SHA256, Algorithm.SHA512
COMPUTING = ["compute-id", "compute-karg", "create-dumpfile"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home directory without a repository, also for root."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "getuid", lambda: 1000)


@pytest.fixture
def root(tmp_path):
    """A root file system with something of each kind."""
    root = tmp_path / "root"
    for name in ("usr/bin", "run/lock", "boot/efi", "sysroot/ostree", "etc"):
        (root / name).mkdir(parents=True)
    for size in (0, 64, 65, 4097, 300_000):
        (root / "usr" / str(size)).write_bytes(b"%d " % size * size)
    (root / "usr/bin/link").symlink_to("../65")
    os.link(root / "usr/4097", root / "usr/bin/hard")
    os.setxattr(root / "usr/65", "user.kept", b"sometimes")
    os.utime(root / "usr", ns=(0, 1_700_000_000_000_000_007))
    return root


@pytest.fixture
def repository(tmp_path):
    """The path of an empty repository that makes images of all versions, first of 2."""
    path = tmp_path / "repository"
    Repository.init(path, SHA256, require_verity=False)
    (path / "meta.json").write_bytes(Meta(SHA256, 2, (0, 1)).pack())
    return path


@pytest.fixture
def call(capfdbinary):
    """Return a function that runs a command in this process, and gives its status and what it printed."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


def tree(root, algorithm=SHA512, *, oci=True, bootable=False, xattrs=XattrFilter.ALLOWLIST_ONLY):
    found = scan_directory(root, algorithm)
    if oci:
        transform_for_oci(found, xattrs)
    if bootable:
        transform_for_boot_from_directory(found, root)
    return found


def id_of(root, version=1, algorithm=SHA512, **options):
    return compute_digest(write_image(tree(root, algorithm, **options), version), algorithm).hex


OPTIONS = [
    ([], {}),
    (["--bootable"], {"bootable": True}),
    (["--xattrs", "allowlist-only"], {}),
    (["--xattrs", "keep-user-xattrs"], {"xattrs": XattrFilter.KEEP_USER_XATTRS}),
    (["--no-propagate-usr-to-root"], {"oci": False}),
    (["--no-propagate-usr-to-root", "--xattrs=allowlist-only", "--bootable"], {"oci": False, "bootable": True}),
]


@pytest.mark.parametrize(("options", "meaning"), OPTIONS)
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_compute_id(root, call, options, meaning, version, algorithm):
    """The id is that of the image, by algorithm, version and transform."""
    before = ["--hash", algorithm.hash_name, "--erofs-version", version]

    assert call(*before, "compute-id", root, *options) == (0, id_of(root, version, algorithm, **meaning) + "\n", "")


def test_the_cases_differ(root):
    """The tree above tells the options apart."""
    assert len({id_of(root, **meaning) for _, meaning in OPTIONS}) == 5


@pytest.mark.parametrize(("options", "meaning"), OPTIONS)
def test_create_dumpfile(root, call, options, meaning):
    """The dump is that of the same tree."""
    assert call("create-dumpfile", *options, root) == (0, b"".join(format_dump(tree(root, **meaning))).decode(), "")


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("insecure", [[], ["--insecure"]])
@pytest.mark.parametrize("version", [None, 0, 1, 2])
def test_compute_karg(root, call, version, insecure, algorithm):
    """The kernel argument names format and algorithm up to version 1; it is always of a bootable image."""
    chosen = [] if version is None else ["--erofs-version", version]
    status, out, err = call("--hash", algorithm.hash_name, *chosen, *insecure, "compute-karg", root)

    mark = "?" if insecure else ""
    start = f"composefs={mark}" if version == 2 else f"composefs.digest={mark}v1-{algorithm.hash_name}-12:"
    number = 1 if version is None else version
    assert (status, out, err) == (0, start + id_of(root, number, algorithm, bootable=True) + "\n", "")


@pytest.mark.parametrize(
    ("before", "algorithm"),
    [
        ([], SHA512),
        (["--hash", "sha256"], SHA256),
        (["--repo", "missing"], SHA512),
        (["--repo", "repository"], SHA256),
        (["--repo", "repository", "--hash", "sha512"], SHA512),
        (["--repo", "repository", "--no-repo"], SHA512),
        (["--repo", "broken"], SHA512),
    ],
)
def test_algorithm(root, repository, tmp_path, call, monkeypatch, before, algorithm):
    """The algorithm is what is asked for, else the repository's, if there is one; the version is 1 whatever it has."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/meta.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    assert call(*before, "compute-id", root)[1] == id_of(root, 1, algorithm) + "\n"


def test_algorithm_of_the_default_repository(root, tmp_path, call):
    """That holds for the default repository, too."""
    Repository.init(tmp_path / "home/.var/lib/composefs", SHA256, require_verity=False)

    assert call("compute-id", root)[1] == id_of(root, 1, SHA256) + "\n"
    assert call("--no-repo", "compute-id", root)[1] == id_of(root, 1, SHA512) + "\n"


@pytest.mark.parametrize("command", COMPUTING)
def test_nothing_is_written(root, repository, call, command):
    """What only computes leaves the repository as it is."""
    before = {path: path.lstat().st_mtime_ns for path in (repository, *repository.rglob("*"))}

    assert call("--repo", repository, command, root)[0] == 0

    assert {path: path.lstat().st_mtime_ns for path in (repository, *repository.rglob("*"))} == before


def test_json(root, repository, call):
    """As JSON, the facts are named."""
    wanted = {"id": id_of(root, 0), "algorithm": "fsverity-sha512-12", "erofs_version": 0}
    karg = {"id": id_of(root, 0, bootable=True), "algorithm": "fsverity-sha512-12", "erofs_version": 0}

    assert json.loads(call("--erofs-version", 0, "compute-id", "--json", root)[1]) == wanted
    karg["argument"] = f"composefs.digest=v1-sha512-12:{karg['id']}"
    assert json.loads(call("--erofs-version", 0, "compute-karg", "--json", root)[1]) == karg
    made = json.loads(call("--repo", repository, "create-image", "--json", root, "a/b")[1])
    default, *others = (
        {"id": id_of(root, version, SHA256), "algorithm": "fsverity-sha256-12", "erofs_version": version}
        for version in (2, 0, 1)
    )
    assert made == default | {"name": "a/b", "others": others}
    assert json.loads(call("--repo", repository, "create-image", "--json", root)[1])["name"] is None


@pytest.mark.parametrize("sharing", [[], ["--sharing=copy"], ["--sharing=reflink"], ["--sharing=hardlink"]])
@pytest.mark.parametrize(("options", "meaning"), OPTIONS)
def test_create_image(root, repository, call, options, meaning, sharing):
    """An image of each version is there, named by its id; the default one has the name, and all objects exist."""
    status, out, err = call("--repo", repository, "create-image", *options, *sharing, root, "some/name")

    found = tree(root, SHA256, **meaning)
    images = {version: bytes(write_image(found, version)) for version in (0, 1, 2)}
    ids = {version: compute_digest(image, SHA256).hex for version, image in images.items()}
    assert (status, out, err) == (0, f"sha256:{ids[2]}\n", "")
    assert {path.name for path in (repository / "images").iterdir()} == {*ids.values(), "refs"}
    for version, image in images.items():
        assert (repository / "images" / ids[version]).read_bytes() == image
    assert (repository / "images/refs/some/name").resolve().read_bytes() == images[2]
    for size in (65, 4097, 300_000):
        data = b"%d " % size * size
        assert (repository / "objects" / compute_digest(data, SHA256).object_path).read_bytes() == data


def test_create_image_of_one_version(root, repository, call):
    """A version that is asked for takes the place of all; without a name there is no ref."""
    assert call("--repo", repository, "--erofs-version", 0, "create-image", root)[1] == (
        f"sha256:{id_of(root, 0, SHA256)}\n"
    )
    assert [path.name for path in (repository / "images").iterdir()] == [id_of(root, 0, SHA256)]


def test_name_comes_last(root, repository, call, monkeypatch):
    """An image gets its names after all that it needs was flushed, and if flushing fails it gets none."""

    def fail(self):
        raise OSError(5, "Input/output error", self.path)

    monkeypatch.setattr(Repository, "sync", fail)

    status, out, err = call("--repo", repository, "create-image", root, "name")

    assert (status, out) == (1, "")
    assert "Input/output error" in err
    assert not (repository / "images").exists() or list((repository / "images").iterdir()) == []


def test_bootable_looks_at_entries(root, repository, call):
    """What is stored as bootable must be so; compute-id, as the reference, does not ask."""
    (root / "boot/loader/entries").mkdir(parents=True)
    (root / "boot/loader/entries/a.conf").write_text("linux /missing\n" + "# padding\n" * 20)

    status, out, err = call("--repo", repository, "create-image", "--bootable", root)

    assert (status, out) == (1, "")
    assert "/boot/loader/entries/a.conf: names a file that cannot be had: /missing not found" in err
    assert not (repository / "images").exists() or list((repository / "images").iterdir()) == []
    assert call("compute-id", "--bootable", root)[0] == 0


# What goes wrong


@pytest.mark.parametrize("command", [*COMPUTING, "create-image"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "missing: No such file or directory"),
        ("file", "file: Not a directory"),
        ("link", "link: is a symbolic link, which is not followed; a slash behind it names where it leads"),
        (
            "empty",
            "empty: /usr does not exist, but such an image must have it; for what is no root file system there is",
        ),
    ],
)
def test_wrong_path(tmp_path, repository, call, monkeypatch, command, path, message):
    """A path that is no root file system is named, in one line."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path)

    status, out, err = call("--repo", repository, command, path)

    assert (status, out) == (1, "")
    assert err.startswith(f"composefs: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compute-id"], "the following arguments are required: PATH"),
        (["compute-id", ""], "composefs: PATH is empty (see composefs --help)"),
        (["compute-id", "--xattrs", "some", "."], "argument --xattrs: invalid choice: 'some'"),
        (["compute-id", "--workers", "0", "."], "argument --workers: '0' is no number above zero"),
        (["compute-karg", "--bootable", "."], "unrecognized arguments: --bootable"),
        (["compute-karg", "--xattrs=keep-user-xattrs", "."], "unrecognized arguments: --xattrs=keep-user-xattrs"),
        (["create-image", "--sharing", "all", "."], "argument --sharing: invalid choice: 'all'"),
        (["create-image", ".", "a", "b"], "unrecognized arguments: b"),
        (["create-image", ".", "../escape"], "'../escape' is no name for a reference"),
        (["--no-repo", "create-image", "."], "--no-repo is only for commands that compute"),
    ],
)
def test_usage(call, repository, arguments, message):
    """Wrong usage exits with 2."""
    before = [] if "--no-repo" in arguments else ["--repo", repository]
    status, out, err = call(*before, *arguments)

    assert (status, out) == (2, "")
    assert message in err
    assert not (repository / "objects").exists() or list((repository / "objects").iterdir()) == []


def test_not_bootable(root, call):
    """A tree that cannot be made bootable is told what it lacks."""
    (root / "sysroot/ostree").rmdir()
    (root / "sysroot").rmdir()

    assert call("compute-karg", root) == (
        1,
        "",
        "composefs: /sysroot does not exist, but such an image must have it\n",
    )


def test_no_repository(root, tmp_path, call):
    """create-image needs a repository that is there, and of the algorithm that is asked for."""
    status, _, err = call("--repo", tmp_path / "missing", "create-image", root)
    assert status == 1
    assert f"no repository at {tmp_path}/missing" in err


def test_other_algorithm(root, repository, call):
    status, _, err = call("--repo", repository, "--hash", "sha512", "create-image", root)
    assert status == 1
    assert "has the algorithm fsverity-sha256-12, but --hash sha512 was given" in err


def test_what_an_image_cannot_hold(tmp_path, call):
    """The file is named whose extended attribute is too long."""
    require_root("a tmpfs")
    directory = tmp_path / "mounted"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    try:
        (directory / "some").mkdir()
        (directory / "some/file").touch()
        try:
            os.setxattr(directory / "some/file", "user.long", bytes(65536))
        except OSError:
            pytest.skip("no tmpfs of this kernel has such an extended attribute")

        status, out, err = call("compute-id", "--no-propagate-usr-to-root", directory)
    finally:
        subprocess.run(["umount", directory], check=True)

    assert (status, out) == (1, "")
    assert err == "composefs: /some/file: has an xattr user.long of 65536 bytes, more than 65535\n"


@pytest.fixture
def small_disk(tmp_path):
    """A repository on a disk of 1 MiB."""
    require_root("mounting a tmpfs")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mounted], check=True)
    Repository.init(mounted / "repository", SHA256, require_verity=False)
    yield mounted / "repository"
    subprocess.run(["umount", mounted], check=True)


def test_full_disk(root, small_disk, call):
    """A full disk is said to be one; no image has a name then."""
    (root / "usr/large").write_bytes(os.urandom(3_000_000))

    status, out, err = call("--repo", small_disk, "create-image", root, "name")

    assert (status, out) == (1, "")
    assert re.fullmatch(rf"composefs: {small_disk}/objects.*: No space left on device; the disk is full: .*\n", err)
    assert not (small_disk / "images").exists() or list((small_disk / "images").iterdir()) == []


def test_read_only_repository(root, small_disk, call):
    """A repository that cannot be written is said to be so before anything is read."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)

    status, out, err = call("--repo", small_disk, "create-image", root / "missing")

    assert (status, out) == (1, "")
    assert "is not writable: the file system is mounted read-only" in err
    assert call("--repo", small_disk, "compute-id", root)[1] == id_of(root, 1, SHA256) + "\n"


@pytest.mark.parametrize("command", ["compute-id", "create-image"])
@pytest.mark.parametrize(("signum", "what"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_interrupt(root, repository, tmp_path, command, signum, what):
    """Ctrl-C or SIGTERM while a large file is read ends the command within moments, in one line, and nothing stays."""
    with (root / "usr/large").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(50):
        (root / f"usr/file{number}").write_bytes(bytes(100))

    process = commands.start(
        tmp_path, "composefs", "--repo", repository, command, root, "--workers", 2, stderr=subprocess.PIPE, text=True
    )
    link = f"{root}/usr/large"
    assert commands.wait_until(lambda: link in open_files(process.pid), 30)
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    kept = "; what was stored is kept for the next run" if command == "create-image" else ""
    assert err == f"composefs: {what}{kept}\n"
    assert commands.session_members(process.pid) == []
    assert [path for path in repository.rglob("*") if "tmp" in path.name] == []


def open_files(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def test_reader_that_leaves(root, tmp_path):
    """A reader that has enough of a dump is no reason to complain."""
    for number in range(1500):
        (root / f"usr/{'n' * 200}{number}").touch()

    with commands.start(
        tmp_path, "composefs", "--no-repo", "create-dumpfile", root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"/ 0 40755 ")
        process.stdout.close()
        err = process.stderr.read()

    assert (process.returncode, err) == (1, b"")


def test_dump_on_a_terminal(root, tmp_path):
    """A dump is text, which a terminal can show."""
    parent, child = pty.openpty()
    with commands.start(tmp_path, "composefs", "--no-repo", "create-dumpfile", root, stdout=child) as process:
        os.close(child)
        out = b""
        try:
            while piece := os.read(parent, 65536):
                out += piece
        except OSError:  # what a terminal says at its end
            pass
    os.close(parent)

    assert process.returncode == 0
    assert out.replace(b"\r\n", b"\n") == b"".join(format_dump(tree(root)))
