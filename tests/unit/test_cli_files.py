"""The commands on the files of an image: ls, cat-file, extract, dump-files, image-objects."""

import errno
import json
import os
import pty
import stat

import pytest

from composefs import Algorithm
from composefs.cli import main
from composefs.digest import Digest
from composefs.tree import Backed, Leaf
from composefs.verity import compute_digest
from tests import commands, images
from tests.images import STAT, device, directory, external, fifo, inline, symlink
from tests.tools import require_root

LARGE = bytes(range(256)) * 40
HOSTILE = b"\x1b[2J\n\xff\\"  # as a name
SHOWN = r"\x1b[2J\x0a\xff\\"


@pytest.fixture
def path(repository):
    """The path of a repository with an image called `image`."""
    shared = external(repository, LARGE, uid=1000, gid=100)
    root = directory(
        {
            "etc": directory(
                {"small": inline(b"small\n", mode=0o4755), "large": shared, os.fsdecode(HOSTILE): inline()}
            ),
            "usr": directory({"bin": directory({"tool": shared}), "lib": directory(mtime=1 << 40)}),
            "bin": symlink("usr/bin"),
            "nowhere": symlink(b"\x07"),
            "dev": directory({"null": device(1, 3), "fifo": fifo()}),
            "sparse": Leaf(STAT, Backed(100)),
        },
    )
    images.open_tree(repository, root).close()
    return repository.path


def run(capfd, path, *arguments):
    """Run a command on a repository; return its status and what it printed."""
    capfd.readouterr()
    status = main(["--repo", path, *map(str, arguments)])
    return status, *capfd.readouterr()


# ls


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["image"], ["bin", "dev", "etc", "nowhere", "sparse", "usr"]),
        (["image", "/usr"], ["bin", "lib"]),
        (["image", "usr/bin/"], ["tool"]),
        (["image", "/bin"], ["tool"]),
        (["image", "/etc"], [SHOWN, "large", "small"]),
        (["image", "/etc/small"], ["small"]),
        (["image", "nowhere"], ["nowhere"]),
        (["image", "/usr/lib"], []),
        (["-R", "image", "/usr"], ["/usr/bin", "/usr/bin/tool", "/usr/lib"]),
        (["-R", "image", "/bin"], ["/usr/bin/tool"]),
        (["-R", "image", "/bin/tool"], ["/usr/bin/tool"]),
    ],
)
def test_ls(path, capfd, arguments, lines):
    """Names come sorted, a line each, escaped where they would move a cursor; recursively they are paths."""
    assert run(capfd, path, "ls", *arguments) == (0, "".join(f"{line}\n" for line in lines), "")


def test_ls_long(path, capfd):
    """Long lines have what `ls -l` has."""
    _, out, _ = run(capfd, path, "ls", "-l", "image", "/etc")
    assert out.splitlines() == [
        rf"-rw-r--r--   1     0     0           0 2023-11-14 22:13:20 {SHOWN}",
        "-rw-r--r--   2  1000   100       10240 2023-11-14 22:13:20 large",
        "-rwsr-xr-x   1     0     0           6 2023-11-14 22:13:20 small",
    ]
    _, out, _ = run(capfd, path, "ls", "-lR", "image")
    lines = out.splitlines()
    assert r"lrwxrwxrwx   1     0     0           1 2023-11-14 22:13:20 /nowhere -> \x07" in lines
    assert "lrwxrwxrwx   1     0     0           7 2023-11-14 22:13:20 /bin -> usr/bin" in lines
    assert "crw-r--r--   1     0     0         1:3 2023-11-14 22:13:20 /dev/null" in lines
    (line,) = (line for line in lines if line.endswith("/usr/lib"))
    assert f" @{1 << 40} " in line  # in no year that is ours
    assert len(lines) == 14


@pytest.mark.parametrize("arguments", [["-R"], ["-l", "-R"], []])
def test_ls_json(path, capfd, arguments):
    """The JSON has everything that the image knows of each file, whatever else is asked for."""
    status, out, _ = run(capfd, path, "ls", "--json", *arguments, "image")
    listed = json.loads(out)
    entries = {entry["path"]: entry for entry in listed["entries"]}

    assert status == 0
    assert listed["image"].startswith("sha256:")
    assert len(entries) == (14 if arguments else 6)
    assert entries["/bin"] == {
        "path": "/bin",
        "type": "symlink",
        "mode": "0777",
        "links": 1,
        "inode": entries["/bin"]["inode"],
        "uid": 0,
        "gid": 0,
        "size": 7,
        "mtime": 1_700_000_000,
        "nanoseconds": 5,
        "xattrs": {},
        "target": "usr/bin",
    }
    assert entries["/sparse"]["digest"] is None
    if arguments:
        assert entries["/dev/null"]["device"] == "1:3"
        assert entries["/etc/large"]["digest"] == str(compute(LARGE))
        assert entries["/etc/large"]["inode"] == entries["/usr/bin/tool"]["inode"]
        assert "digest" not in entries["/etc/small"]
        assert f"/etc/{SHOWN}" in entries


def compute(data):
    return compute_digest(data, Algorithm.SHA256)


def test_ls_json_of_nothing(path, capfd):
    """An empty directory is an empty list."""
    _, out, _ = run(capfd, path, "ls", "--json", "image", "/usr/lib")

    assert json.loads(out)["entries"] == []
    assert out.endswith('"entries": []\n}\n')


def test_ls_on_a_terminal(path, tmp_path):
    """On a terminal names stand in columns that fit it, from the top downwards."""
    assert terminal(tmp_path, 30, "--repo", path, "ls", "image") == (
        0,
        "bin      etc      sparse\ndev      nowhere  usr\n",
    )
    assert terminal(tmp_path, 10, "--repo", path, "ls", "image") == (0, "bin\ndev\netc\nnowhere\nsparse\nusr\n")
    assert terminal(tmp_path, 80, "--repo", path, "ls", "image", "/etc") == (0, f"{SHOWN}  large{' ' * 14}small\n")


def terminal(tmp_path, width, *arguments):
    """Run `composefs` on a terminal; return its status and all that came there."""
    ours, theirs = pty.openpty()
    environment = {"COLUMNS": str(width), "LINES": "24", "LANG": "C.UTF-8"}
    with commands.start(tmp_path, "composefs", *arguments, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # EIO: nobody has the terminal any more
            pass
        os.close(ours)
    return process.returncode, seen.decode().replace("\r\n", "\n")


# cat-file


def test_cat_file(path, capfdbinary):
    """Contents come one after the other, byte for byte, through links."""
    status, out, err = run(capfdbinary, path, "cat-file", "image", "/etc/small", "/bin/tool", "sparse")

    assert (status, out, err) == (0, b"small\n" + LARGE + bytes(100), b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nothing", "/nothing: No such file or directory"),
        ("/etc", "/etc: Is a directory"),
        ("/dev/null", "/dev/null: Is no regular file"),
        ("/etc/small/x", "/etc/small/x: Not a directory"),
        ("/nowhere", "/nowhere: No such file or directory"),
    ],
)
def test_cat_file_errors(path, capfd, name, message):
    """What was written before an error stays; the error is one line."""
    assert run(capfd, path, "cat-file", "image", "/etc/small", name) == (1, "small\n", f"composefs: {message}\n")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", True),
        ("\tübel\n\f".encode(), True),
        (b"\x1b[2J", False),
        (b"\xff", False),
        (b"a\0", False),
        ("\x9b2J".encode(), False),
        ("ü".encode()[:1], False),
        (b"a" * (1 << 20) + b"\x07", False),
    ],
    ids=range(8),
)
def test_cat_file_on_a_terminal(repository, tmp_path, data, shown):
    """A terminal gets text only: nothing that would control it."""
    images.open_tree(repository, directory({"f": external(repository, data)})).close()

    status, seen = terminal(tmp_path, 80, "--repo", repository.path, "cat-file", "image", "f")

    if shown:
        assert (status, seen) == (0, data.decode())
    else:
        assert status == 2
        assert "f, which is no text, is not for a terminal" in seen.replace("\n", " ")


# extract


def test_extract(path, capfd, tmp_path):
    """What was made is counted; the directory is what the image is."""
    expected = "Extracted 4 files, 5 directories, 2 symbolic links, 1 hard link, 2 special files (10.10 KiB)"

    status, out, err = run(capfd, path, "extract", "image", tmp_path / "target")

    if os.geteuid() == 0:
        assert (status, out, err) == (0, f"{expected} to {tmp_path}/target\n", "")
    assert (tmp_path / "target/bin/tool").read_bytes() == LARGE
    assert (tmp_path / "target/etc/small").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("options", [["--json"], ["--json", "--quiet"]])
def test_extract_json(path, capfd, tmp_path, options):
    """So it is in JSON."""
    status, out, _ = run(capfd, path, "extract", *options, "image", tmp_path / "target", "/etc", "/bin/tool")

    result = json.loads(out)
    assert status == 0
    assert {key: result[key] for key in ("files", "directories", "hard_links", "symlinks", "size", "shared")} == {
        "files": 3,
        "directories": 3,
        "hard_links": 1,
        "symlinks": 0,
        "size": len(LARGE) + 6,
        "shared": 0,
    }
    assert sorted(os.listdir(tmp_path / "target")) == ["etc", "usr"]


def test_extract_says_what_is_missing(repository, path, capfd, tmp_path, monkeypatch):
    """Without privileges a line on standard error tells what is missing, and the status is 0."""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "mknod", refuse)

    status, out, err = run(capfd, path, "extract", "image", tmp_path / "target")

    assert status == 0
    assert "4 files" in out
    assert err.splitlines() == [
        r"not restored: owner: 12 (Operation not permitted), /bin, /nowhere, /sparse, ...",
        "not restored: device: 2 (Operation not permitted), /dev/fifo, /dev/null",
        "not restored: set-user-id or set-group-id: 1 (Operation not permitted), /etc/small",
    ]
    assert run(capfd, path, "extract", "--quiet", "image", tmp_path / "again") == (0, "", "")
    _, out, _ = run(capfd, path, "extract", "--json", "image", tmp_path / "third")
    assert json.loads(out)["shortfalls"][1] == {
        "what": "device",
        "reason": "Operation not permitted",
        "count": 2,
        "examples": ["/dev/fifo", "/dev/null"],
    }


def test_extract_what_no_file_system_holds(repository, capfd, tmp_path):
    """What the file system cannot hold makes the status 1, though all else is there."""
    require_root("giving files away")
    root = directory({"f": inline(b"data", xattrs={b"unknown": b"1"})})
    images.open_tree(repository, root).close()

    status, _, err = run(capfd, repository.path, "extract", "image", tmp_path / "target")

    assert status == 1
    assert err.startswith("not restored: extended attribute .*: 1 (")
    assert (tmp_path / "target/f").read_bytes() == b"data"


def test_extract_errors(path, capfd, tmp_path):
    """An error is a line; nothing is there afterwards."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()

    assert run(capfd, path, "extract", "image", tmp_path / "full")[::2] == (
        1,
        f"composefs: {tmp_path}/full: Directory not empty\n",
    )
    assert run(capfd, path, "extract", "image", tmp_path / "new", "/nothing")[0] == 1
    assert not (tmp_path / "new").exists()
    assert run(capfd, path, "extract", "--nonempty", "image", tmp_path / "full")[0] == 0
    status, _, err = run(capfd, path, "extract", "--nonempty", "image", tmp_path / "full")
    message = f"{tmp_path}/full/bin: File exists; {tmp_path}/full holds what was extracted before"
    assert (status, err) == (1, f"composefs: {message}\n")


def test_extract_without_an_object(repository, path, capfd, tmp_path):
    """When an object is missing, the error says which file needs it."""
    digest = compute(LARGE)
    os.unlink(f"{path}/objects/{digest.object_path}")

    status, out, err = run(capfd, path, "extract", "image", tmp_path / "target")

    assert (status, out) == (1, "")
    assert err == f"composefs: {path}: no object {digest}; it is needed for /etc/large\n"


# dump-files


def test_dump_files(path, capfd):
    """Lines are those of a dumpfile; paths are as they were given."""
    status, out, _ = run(capfd, path, "dump-files", "image", "//usr/./bin", "etc/small", "/etc/large")

    digest = compute(LARGE)
    backing = f"{digest.object_path} - {digest.hex}"
    assert status == 0
    assert out.splitlines() == [
        "//usr/./bin 0 40755 2 0 0 0 1700000000.5 - - -",
        f"//usr/./bin/tool 10240 100644 2 1000 100 0 1700000000.5 {backing}",
        r"etc/small 6 104755 1 0 0 0 1700000000.5 - small\n -",
        f"/etc/large 10240 100644 2 1000 100 0 1700000000.5 {backing}",
    ]


def test_dump_files_of_the_root(path, capfd):
    """The root can be given, too, which cfsctl refuses; hard links refer to names before."""
    _, out, _ = run(capfd, path, "dump-files", "image", "/")

    assert len(out.splitlines()) == 15
    assert "/usr/bin/tool 0 @120000 - - - - 0.0 /etc/large - -" in out.splitlines()


def test_backing_paths(path, capfd):
    """The other form tells where contents are."""
    arguments = ["--backing-path-only", "image", "/etc/large", "/etc/small", "/bin", "dev/null", "/sparse"]
    status, out, _ = run(capfd, path, "dump-files", *arguments)

    assert status == 0
    assert out == (
        f"/etc/large {compute(LARGE).object_path}\n/etc/small inline\n/bin inline\ndev/null inline\n/sparse inline\n"
    )
    assert run(capfd, path, "dump-files", "--backing-path-only", "image", "/etc/large", "/usr") == (
        1,
        "",
        "composefs: /usr: is a directory\n",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nothing", "/nothing not found"),
        ("/bin/tool", "/bin/tool: goes through something that is no directory"),
        ("/etc/small/x", "/etc/small/x: goes through something that is no directory"),
        ("/usr/../etc", "/usr/../etc: goes up, which paths here may not"),
    ],
)
def test_dump_files_errors(path, capfd, name, message):
    """Nothing is printed if a path is wrong."""
    assert run(capfd, path, "dump-files", "image", "/etc", name) == (1, "", f"composefs: {message}\n")


def test_no_paths(path, capfd):
    """No paths are no lines."""
    assert run(capfd, path, "dump-files", "image") == (0, "", "")


# image-objects


def test_image_objects(repository, capfd):
    """Objects come sorted, once each, whether or not they are there."""
    lost = Digest(Algorithm.SHA256, b"\1" * 32)
    files = {
        "a": external(repository, LARGE),
        "b": external(repository, LARGE),
        "c": external(repository, LARGE + b"c"),
    }
    digest = images.open_tree(repository, directory({**files, "d": Leaf(STAT, Backed(9, digest=lost.raw))})).id
    wanted = sorted(map(str, [compute(LARGE), compute(LARGE + b"c"), lost]))

    assert run(capfd, repository.path, "image-objects", "image") == (0, "".join(f"{name}\n" for name in wanted), "")
    status, out, _ = run(capfd, repository.path, "image-objects", "--json", digest.hex)
    assert (status, json.loads(out)) == (0, {"image": str(digest), "objects": wanted})


def test_image_objects_checks_the_structure(repository, capfd):
    """An image without the stubs that its version has is refused, as it is by cfsctl."""
    image = bytearray(images.write_image(directory({"a": external(repository, LARGE)}), 2))
    image[12] = 1
    images.store(repository.images, image)

    status, out, err = run(capfd, repository.path, "image-objects", "image")

    assert (status, out) == (1, "")
    assert "stubs" in err


# All of them


@pytest.mark.parametrize("command", [["ls"], ["cat-file"], ["extract"], ["dump-files"], ["image-objects"]])
def test_unknown_image(path, capfd, tmp_path, command):
    """An image that is not there is said not to be."""
    rest = {"cat-file": ["/x"], "extract": [tmp_path / "target"]}.get(command[0], [])

    assert run(capfd, path, *command, "nothing", *rest) == (
        1,
        "",
        f"composefs: {path}: image not found: nothing\n",
    )


@pytest.mark.parametrize("command", ["ls", "cat-file"])
def test_nobody_reads(path, tmp_path, command):
    """A reader that goes away ends a command without noise."""
    arguments = ["-R", "image"] if command == "ls" else ["image", *["/bin/tool"] * 100]
    wrapper = ["sh", "-c", '"$@" | true', "sh"]

    done = commands.run(tmp_path, "composefs", "--repo", path, command, *arguments, wrapper=wrapper)

    assert (done.stdout, done.stderr) == ("", "")


def test_modes_of_new_directories_do_not_depend_on_the_umask(path, capfd, tmp_path):
    """Modes are those of the image, whatever the umask."""
    umask = os.umask(0o077)
    try:
        run(capfd, path, "extract", "image", tmp_path / "target")
    finally:
        os.umask(umask)

    assert (tmp_path / "target").stat().st_mode == stat.S_IFDIR | 0o755
    assert (tmp_path / "target/etc/large").stat().st_mode == stat.S_IFREG | 0o644
