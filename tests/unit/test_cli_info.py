"""`composefs-info`: what it prints of image files, and what it refuses."""

import stat
import sys

import pytest

from composefs.cli import main
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump
from composefs.erofs.writer import write_image
from composefs.tree import Backed, Directory, Inline, Leaf, Object, Special, Stat, Symlink, object_path
from composefs.verity import compute_digest

INFO = Stat(0o644, 0, 0, 1, 0)
FIRST, SECOND = (digit * 32 for digit in (b"\x11", b"\x22"))


def leaf(content):
    return Leaf(INFO, content)


@pytest.fixture
def root():
    """A tree with one of each."""
    twice = leaf(Object(99, SECOND))
    link = leaf(Symlink(b"../a b\n"))
    names = {b"linked": twice, b"again": twice, b"other": leaf(Object(1, FIRST)), b"link": link}
    return Directory(
        Stat(0o755, 0, 0, 1, 0),
        {
            b"dir": Directory(INFO, names),
            b"empty": leaf(Inline(b"")),
            b"link": link,
            b"no-digest": leaf(Backed(9, object_path(FIRST[::-1]))),
            b"twice": twice,
            b"\\ \t\r\n\x7f\xff": leaf(Special(stat.S_IFIFO)),
        },
    )


@pytest.fixture
def image(root, tmp_path):
    """The image of that tree."""
    path = tmp_path / "image.cfs"
    path.write_bytes(write_image(root))
    return path


@pytest.fixture
def call(monkeypatch, capfd):
    """Return a function that runs the tool, and gives its status and the lines on each stream."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["composefs-info", *map(str, arguments)])
        status = main()
        out, err = capfd.readouterr()
        return status, out.split("\n")[:-1], err.splitlines()

    return run


LISTING = [
    "/\\\\ \\t\\r\\n\\x7f\\xff",
    "/dir/\t",
    "/dir/again\t@ 22/" + "22" * 31,
    "/dir/link\t-> ../a b\\n",
    "/dir/linked",
    "/dir/other\t@ 11/" + "11" * 31,
    "/empty",
    "/link\t-> ../a b\\n",
    "/no-digest",
    "/twice",
]


def test_ls(image, call):
    """An object stands at the first name of a file, a target at each; blanks are no special characters."""
    assert call("ls", image) == (0, LISTING, [])
    assert call("ls", image, image) == (0, LISTING * 2, [])


def test_filters(image, call):
    """They name entries of the root, and may stand before the command or behind it."""
    wanted = [line for line in LISTING if line.startswith("/dir") or line == "/empty"]

    assert call("ls", "--filter=dir", "--filter", "empty", "--filter=none", image) == (0, wanted, [])
    assert call("--filter=dir", "ls", image, "--filter=empty") == (0, wanted, [])
    assert call("objects", "--filter=twice", image) == (0, ["22/" + "22" * 31], [])
    assert call("--filter=a/b", "ls", image)[0] == 2


def test_dump(image, root, call):
    """All of it is the tree's own dump; a part keeps what the root and hard links count."""
    lines = b"".join(format_dump(root)).decode().splitlines()
    digest = FIRST[::-1].hex()
    assert f"/no-digest 9 100644 1 0 0 0 1.0 {digest[:2]}/{digest[2:]} - {digest}" in lines

    assert call("dump", image) == (0, lines, [])
    status, filtered, _ = call("dump", "--filter=twice", "--filter=link", image)
    assert status == 0
    assert filtered[0] == lines[0]
    assert filtered[1] == "/link 7 120644 2 0 0 0 1.0 ../a\\x20b\\n - -"
    assert filtered[2] == f"/twice 99 100644 3 0 0 0 1.0 22/{'22' * 31} - {'22' * 32}"


def test_objects(image, call):
    """Those that fs-verity protects, each once, sorted; image by image."""
    paths = ["11/" + "11" * 31, "22/" + "22" * 31]
    assert call("objects", image, image) == (0, paths * 2, [])


def test_missing_objects(image, call, tmp_path):
    """Those of all images together that are not in the directory."""
    (tmp_path / "objects" / "11").mkdir(parents=True)
    (tmp_path / "objects" / "11" / ("11" * 31)).touch()
    wanted = (0, ["22/" + "22" * 31], [])

    assert call("missing-objects", "--basedir", tmp_path / "objects", image, image) == wanted
    assert call("--basedir", tmp_path / "objects", "missing-objects", image) == wanted
    assert call("missing-objects", "--basedir", tmp_path / "objects", "--filter=empty", image) == (0, [], [])
    status, _, err = call("missing-objects", image)
    assert status == 2
    assert "--basedir" in err[0]


def test_missing_objects_are_sorted(call, tmp_path):
    digests = [bytes([number]) * 32 for number in range(100)]
    root = Directory(INFO, {digest.hex().encode(): leaf(Object(1, digest)) for digest in digests})
    path = tmp_path / "many.cfs"
    path.write_bytes(write_image(root))

    wanted = [object_path(digest).decode() for digest in digests]
    assert call("missing-objects", "--basedir", tmp_path, path) == (0, wanted, [])


def test_sha512(tmp_path, call):
    """The digests of an image tell their algorithm."""
    path = tmp_path / "image"
    path.write_bytes(write_image(Directory(INFO, {b"f": leaf(Object(5, b"\x33" * 64))}), 2))

    assert call("objects", path) == (0, ["33/" + "33" * 63], [])


def test_measure_file(image, call):
    wanted = compute_digest(image.read_bytes(), Algorithm.SHA256).hex

    assert call("measure-file", image, image) == (0, [wanted, wanted], [])


@pytest.mark.parametrize("verb", ["ls", "dump", "objects", "measure-file"])
def test_missing_file(verb, call, tmp_path):
    status, out, err = call(verb, tmp_path / "none")

    assert (status, out) == (1, [])
    assert err[0].startswith(f"composefs-info: {tmp_path}/none: No such file")


def test_broken_image(call, tmp_path):
    """What is no image is refused with its name, before anything is printed."""
    (tmp_path / "image").write_bytes(b"x" * 5000)

    status, out, err = call("ls", tmp_path / "image")

    assert (status, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"composefs-info: {tmp_path}/image")


@pytest.mark.parametrize(
    "arguments", [[], ["ls"], ["measure-file"], ["lsx", "image"], ["measure-file", "--filter=x", "f"]]
)
def test_wrong_usage(arguments, call):
    status, out, err = call(*arguments)

    assert (status, out) == (2, [])
    assert "usage: composefs-info" in err[0]


def test_as_a_command_of_composefs(image, capfd):
    """`composefs info` is the same."""
    assert main(["info", "ls", str(image)]) == 0
    assert capfd.readouterr().out.split("\n")[:-1] == LISTING
