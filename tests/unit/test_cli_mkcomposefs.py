"""`mkcomposefs`: of a dump or a directory an image, whole or not at all."""

import io
import os
import stat
import sys

import pytest

from composefs.cli import main
from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.erofs.load import load_tree
from composefs.erofs.writer import write_image
from composefs.tree import Directory, Inline, Leaf, Object, Special, Stat, Symlink
from composefs.verity import compute_digest

INFO = Stat(0o644, 0, 0, 1, 0)
ROOT = Directory(Stat(0o755, 0, 0, 1, 0), {b"f": Leaf(INFO, Inline(b"abc")), b"w": Leaf(INFO, Special(stat.S_IFCHR))})
DUMP = b"".join(format_dump(ROOT))
IMAGE = write_image(ROOT, 1, dialect=Dialect.C)
DIGEST = compute_digest(IMAGE, Algorithm.SHA256).hex


@pytest.fixture
def call(monkeypatch, capfdbinary):
    """Return a function that runs the tool, and gives its status and what it printed."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["mkcomposefs", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return main(), *capfdbinary.readouterr()

    return run


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump"
    path.write_bytes(DUMP)
    return path


@pytest.fixture
def source(tmp_path):
    """A directory of files that fit into an image, and some that do not."""
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "d" / "small").write_bytes(b"abc")
    (root / "d" / "edge").write_bytes(b"e" * 64)
    (root / "large").write_bytes(b"l" * 65)
    os.link(root / "large", root / "d" / "again")
    os.symlink("large", root / "link")
    os.mkfifo(root / "fifo", 0o600)
    (root / "empty").touch()
    for path in (root / "d" / "small", root / "d"):
        os.utime(path, (5, 7))
    return root


def test_from_a_dump(dump, tmp_path, call):
    """To a file, to standard output, from standard input; the digest comes last."""
    path = tmp_path / "image"
    line = DIGEST.encode() + b"\n"

    assert call("--from-file", dump, path) == (0, b"", b"")
    assert path.read_bytes() == IMAGE
    assert call("--from-file", "-", "-", stdin=DUMP) == (0, bytes(IMAGE), b"")
    assert call("--from-file", "--print-digest", dump, "-") == (0, IMAGE + line, b"")
    assert call("--from-file", "--print-digest-only", dump) == (0, line, b"")


def test_the_mode_of_the_image(dump, tmp_path, call):
    """As of any new file."""
    former = os.umask(0o027)
    try:
        assert call("--from-file", dump, tmp_path / "image")[0] == 0
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == 0o640


@pytest.mark.parametrize("existing", [None, b"an old image"])
def test_nothing_is_written_after_an_error(existing, tmp_path, call):
    """An image that cannot be made leaves no file, or the one that was there; one line says why."""
    path, dump = tmp_path / "image", tmp_path / "dump"
    if existing is not None:
        path.write_bytes(existing)
    dump.write_bytes(DUMP + b"/f 0 100644 1 0 0 0 1.0 - - -\n")

    status, out, err = call("--from-file", dump, path)

    assert (status, out) == (1, b"")
    where = f"mkcomposefs: {dump}, offset {len(DUMP)}: line 4, column 1: PATH: wanted".encode()
    assert err.startswith(where)
    assert err.count(b"\n") == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dump"] + ["image"] * (existing is not None)
    assert existing is None or path.read_bytes() == existing


def test_an_image_replaces_a_file(dump, tmp_path, call):
    """Who reads the old one goes on reading it; a symbolic link stays one."""
    path, link = tmp_path / "image", tmp_path / "link"
    path.write_bytes(b"old")
    link.symlink_to("image")

    with path.open("rb") as old:
        assert call("--from-file", dump, link)[0] == 0
        assert old.read() == b"old"
    assert link.is_symlink()
    assert path.read_bytes() == IMAGE
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dump", "image", "link"]


def test_an_image_into_what_is_no_file(dump, tmp_path, call):
    """A device stays what it is."""
    assert call("--from-file", dump, "/dev/null") == (0, b"", b"")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    status, _, err = call("--from-file", dump, tmp_path)
    assert status == 1
    assert b"Is a directory" in err


def test_a_full_disk(dump, tmp_path, call, monkeypatch):
    """What was begun is removed."""

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    status, _, err = call("--from-file", dump, tmp_path / "image")

    assert status == 1
    assert b"No space left on device" in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["dump"]


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ((), 1),
        (("--min-version=0",), 0),
        (("--min-version=1",), 1),
        (("--max-version=0",), 0),
        (("--max-version=1",), 1),
        (("--min-version=0", "--max-version=1"), 1),
        (("--min-version=1", "--max-version=0"), 1),
    ],
)
def test_version(options, version, dump, call):
    """Whiteouts want version 1, unless that is forbidden."""
    status, image, _ = call("--from-file", *options, dump, "-")

    assert status == 0
    assert image == write_image(ROOT, version, dialect=Dialect.C)


def test_strict(tmp_path, call, monkeypatch):
    """It is the environment that asks for it, with any value."""
    path = tmp_path / "dump"
    path.write_bytes(DUMP.removesuffix(b"\n"))

    assert call("--from-file", path, "-")[0] == 0
    monkeypatch.setenv("CFS_PARSE_STRICT", "")
    status, _, err = call("--from-file", path, "-")
    assert status == 1
    assert b"wanted a newline at the end" in err


def test_options_without_effect(dump, call):
    """What is about directories leaves the image of a dump as it is, and a line says so."""
    names = ("--use-epoch", "--skip-devices", "--skip-xattrs", "--user-xattrs", "--hardlinks", "--digest-store=none")

    status, out, err = call("--from-file", "--print-digest-only", *names, dump)

    assert (status, out.decode()) == (0, DIGEST + "\n")
    assert len(err.splitlines()) == len(names)
    assert b"warning: --digest-store is ignored when --from-file is specified\n" in err
    assert not os.path.exists("none")


def test_from_a_directory(source, tmp_path, call):
    """Contents to 64 bytes are in the image, others are objects; every name is a file of its own."""
    path = tmp_path / "image"

    assert call(source, path) == (0, b"", b"")

    root = load_tree(path.read_bytes())
    digest = compute_digest(b"l" * 65, Algorithm.SHA256).raw
    below = root.entries[b"d"].entries
    assert below[b"small"].content == Inline(b"abc")
    assert below[b"small"].stat.mtime == 7
    assert below[b"edge"].content == Inline(b"e" * 64)
    assert root.entries[b"large"].content == below[b"again"].content == Object(65, digest)
    assert root.entries[b"large"] is not below[b"again"]
    assert root.entries[b"link"].content == Symlink(b"large")
    assert root.entries[b"fifo"].content == Special(stat.S_IFIFO)
    assert path.read_bytes()[12] == 0


def test_hard_links(source, call):
    root = load_tree(call("--hardlinks", source, "-")[1])

    assert root.entries[b"large"] is root.entries[b"d"].entries[b"again"]


def test_digest_store(source, tmp_path, call):
    """Contents that are not in the image are in the store, which is made."""
    store = tmp_path / "a" / "store"

    for _ in range(2):  # what is there stays
        assert call("--digest-store", store, "--threads=2", source, "-")[0] == 0

    digest = compute_digest(b"l" * 65, Algorithm.SHA256)
    assert [path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()] == [digest.object_path]
    assert (store / digest.object_path).read_bytes() == b"l" * 65
    assert stat.S_IMODE((store / digest.object_path).stat().st_mode) & ~0o444 == 0o200


def test_use_epoch(source, call):
    """The time of reading does not show."""
    image = call("--use-epoch", source, "-")[1]
    os.utime(source / "large")
    os.utime(source)

    assert call("--use-epoch", source, "-")[1] == image
    assert load_tree(image).entries[b"d"].entries[b"small"].stat[3:5] == (0, 0)


def test_xattrs(source, call):
    try:
        os.setxattr(source / "large", "user.a", b"1")
    except OSError:
        pytest.skip("no user xattrs here")

    assert load_tree(call(source, "-")[1]).entries[b"large"].stat.xattrs[b"user.a"] == b"1"
    assert dict(load_tree(call("--user-xattrs", source, "-")[1]).entries[b"large"].stat.xattrs) == {b"user.a": b"1"}
    assert dict(load_tree(call("--skip-xattrs", source, "-")[1]).entries[b"large"].stat.xattrs) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes devices")
def test_devices(source, call):
    """A whiteout on disk is a device like others."""
    try:
        os.mknod(source / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
        os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")

    with_devices = call(source, "-")[1]

    assert with_devices[12] == 1
    assert load_tree(with_devices).entries[b"null"].content == Special(stat.S_IFCHR, os.makedev(1, 3))
    without = call("--skip-devices", source, "-")[1]
    assert without[12] == 0
    assert not {b"null", b"whiteout"} & load_tree(without).entries.keys()


@pytest.mark.parametrize("name", ["none", "file", "link"])
def test_a_source_that_is_no_directory(name, tmp_path, source, call):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(source)

    status, out, err = call(tmp_path / name, tmp_path / "image")

    assert (status, out) == (1, b"")
    assert err.startswith(f"mkcomposefs: {tmp_path}/{name}: ".encode())
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: SOURCE"),
        (["."], "IMAGE is missing (or --print-digest-only)"),
        (["--print-digest-only", ".", "image"], "IMAGE must be left out with --print-digest-only"),
        (["", "image"], "SOURCE is empty"),
        (["--skip-xattrs", "--user-xattrs", ".", "image"], "exclude each other"),
        (["--min-version=2", ".", "image"], "--min-version"),
        (["--max-version=-1", ".", "image"], "--max-version"),
        (["--threads=0", ".", "image"], "--threads"),
        (["--hard", ".", "image"], "unrecognized arguments: --hard"),
        ([".", "image", "more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_usage(arguments, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    status, out, err = call(*arguments)

    assert (status, out) == (2, b"")
    assert message in err.decode()
    assert not list(tmp_path.iterdir())


def test_an_image_is_not_for_a_terminal(dump, call, monkeypatch):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)

    status, out, err = call("--from-file", dump, "-")

    assert (status, out) == (2, b"")
    assert b"an image is not for a terminal" in err


def test_as_a_command_of_composefs(dump, capfdbinary):
    """`composefs mkcomposefs` is the same."""
    assert main(["mkcomposefs", "--from-file", "--print-digest-only", str(dump)]) == 0
    assert capfdbinary.readouterr().out.decode() == DIGEST + "\n"
