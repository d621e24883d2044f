"""`mkcomposefs` and `composefs-info` of composefs-rs as second opinions, where they and the C programs agree."""

import io
import os
import stat
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import given

from composefs.cli import main
from composefs.digest import Algorithm
from composefs.dumpfile import parse_dump, read_lines
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, TreeError
from composefs.tree import Backed, Directory, Inline, Leaf, Object, Stat, Symlink, object_path
from composefs.verity import compute_digest
from tests.property.test_dumpfile import DUMPS
from tests.tools import require_tool


def theirs(tool, *arguments, **options):
    """Run cfsctl by the name *tool*, and return what became of it."""
    command = [tool, *map(str, arguments)]
    environment = os.environ | {"RUST_BACKTRACE": "0"}  # which take long
    options |= {"executable": require_tool("cfsctl"), "env": environment}
    return subprocess.run(command, capture_output=True, check=False, **options)


@pytest.fixture
def ours(monkeypatch, capfdbinary):
    """Return a function that runs ours, and returns what it printed."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        status = main()
        out, err = capfdbinary.readouterr()
        assert (status, err) == (0, b"")
        return out

    return run


def verdict(text):
    """Return the digest of the image of a dump, None if there is none."""
    try:
        root = parse_dump(read_lines(io.BytesIO(text)), "x", algorithm=Algorithm.SHA256).root
        return compute_digest(write_image(root, 1), Algorithm.SHA256).hex
    except (FormatError, TreeError):
        return None


def test_any_dump():
    """The same dumps are taken, and the same images made of them."""
    require_tool("cfsctl")

    @hypothesis.settings(max_examples=400)
    @given(DUMPS)
    def check(text):
        done = theirs("mkcomposefs", "--from-file", "--min-version=1", "--print-digest-only", "-", input=text)
        assert verdict(text) == (done.stdout.decode().strip() if done.returncode == 0 else None)

    check()


@pytest.fixture
def source(tmp_path):
    """A directory with what the two programs make the same of: no times before 1970, no whiteouts."""
    root = tmp_path / "source"
    (root / "a" / "b").mkdir(parents=True)
    for size in (0, 1, 64, 65, 4096, 4097, 300_000):
        (root / "a" / f"{size}").write_bytes(bytes(i * size & 0xFF for i in range(size)))
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    os.link(root / "a" / "65", root / "a" / "b" / "again")
    os.link(root / "a" / "64", root / "!first")
    os.symlink("nowhere", root / "link")
    os.link(root / "link", root / "a" / "link", follow_symlinks=False)
    os.mkfifo(root / "fifo")
    (root / "a" / "b").chmod(0o1777)
    for number, (directory, _, names) in enumerate(os.walk(root)):
        for name in [*names, "."]:
            path = os.path.join(directory, name)
            os.utime(path, ns=(0, 1_700_000_000_000_000_000 + number * len(names)), follow_symlinks=False)
    if os.getuid() == 0:
        for name, kind, device in (("null", stat.S_IFCHR, (1, 3)), ("disk", stat.S_IFBLK, (8, 0x12345))):
            try:
                os.mknod(root / name, kind | 0o640, os.makedev(*device))
            except PermissionError:
                break
            os.utime(root / name, (0, 5))
        os.chown(root / "sparse", 70000, 1)
    for name in (b"user.a", b"user.b", b"trusted.overlay.opaque", b"security.x"):
        for path in (root / "sparse", root / "a"):
            try:
                os.setxattr(path, name, b"value")
            except OSError:
                break
    return root


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--use-epoch"],
        ["--skip-devices"],
        ["--skip-xattrs"],
        ["--user-xattrs"],
        ["--hardlinks"],
        ["--min-version=1"],
        ["--min-version=0", "--max-version=0"],
        ["--threads=3", "--use-epoch", "--hardlinks"],
    ],
    ids=" ".join,
)
def test_directory(options, source, tmp_path, ours):
    """The images are the same, and so are the stores."""
    stores = [tmp_path / name for name in ("ours", "theirs")]

    image = ours("mkcomposefs", *options, "--digest-store", stores[0], "--print-digest", source, "-")
    done = theirs("mkcomposefs", *options, "--digest-store", stores[1], "--print-digest", source, "-")

    assert done.returncode == 0, done.stderr
    assert image == done.stdout
    ours_stored, theirs_stored = (
        {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()} for store in stores
    )
    assert ours_stored == theirs_stored
    assert len(ours_stored) == 5


@pytest.fixture
def image(tmp_path):
    """An image of what the tools list differently."""
    info = Stat(0o644, 0, 0, 1, 0, {b"user.a=b": b"\0-=", b"user.e": b""})
    twice = Leaf(info, Object(100, bytes(range(32))))
    link = Leaf(info, Symlink(b"../\\ \n\xff"))
    below = {
        b"twice": twice,
        b"link": link,
        b"\t\xfe \\": Leaf(info, Object(5, bytes(32))),
        b"in": Leaf(info, Inline(b"-")),
    }
    root = Directory(
        Stat(0o755, 0, 0, 1, 0),
        {
            b"d": Directory(info, below),
            b"z": twice,
            b"y": link,
            b"sparse": Leaf(info, Backed(5)),
            b"no-digest": Leaf(info, Backed(5, object_path(b"\x77" * 32))),
        },
    )
    path = tmp_path / "image"
    path.write_bytes(write_image(root))
    return path


@pytest.mark.parametrize("verb", ["ls", "dump", "objects", "measure-file"])
def test_info(verb, image, ours):
    done = theirs("composefs-info", verb, image, image)

    assert done.returncode == 0, done.stderr
    assert ours("composefs-info", verb, image, image) == done.stdout


@pytest.mark.parametrize("names", [["d"], ["y", "none"], ["d", "z", "sparse"]], ids=" ".join)
def test_filter(names, image, ours):
    """That of `dump` has no effect there."""
    filters = [f"--filter={name}" for name in names]

    assert ours("composefs-info", "ls", *filters, image) == theirs("composefs-info", "ls", *filters, image).stdout


def test_missing_objects(image, tmp_path, ours):
    (tmp_path / "objects" / "00").mkdir(parents=True)
    (tmp_path / "objects" / "00" / ("00" * 31)).touch()
    arguments = ["missing-objects", "--basedir", tmp_path / "objects", image, image]

    printed = ours("composefs-info", *arguments)

    assert printed == theirs("composefs-info", *arguments).stdout
    assert len(printed.splitlines()) == 1


def test_a_dump_of_ours_is_read_there(image, tmp_path, ours):
    """What one program dumps, the other makes the same image of."""
    text = ours("composefs-info", "dump", "--filter=d", "--filter=y", "--filter=z", image)

    mine = ours("mkcomposefs", "--from-file", "--print-digest-only", write(tmp_path / "dump", text))

    assert mine == theirs("mkcomposefs", "--from-file", "--print-digest-only", "-", input=text).stdout


def write(path, data):
    path.write_bytes(data)
    return path
