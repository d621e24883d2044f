"""The files of an image by way of fsspec, as other libraries ask for them."""

import errno
import gc
import importlib.metadata
import io
import os
import pickle
import subprocess
import sys
import zipfile
from datetime import UTC, datetime

import pytest

import composefs
from composefs import Algorithm, NotFoundError, UsageError
from composefs.errors import FormatError
from composefs.tree import Backed, Leaf
from composefs.verity import compute_digest
from tests import images
from tests.erofs_images import REGULAR, ImageBuilder
from tests.images import STAT, device, directory, external, inline, symlink

fsspec = pytest.importorskip("fsspec")
filesystem = pytest.importorskip("composefs.filesystem")

LARGE = bytes(range(256)) * 40


fsspec.register_implementation("composefs", filesystem.ComposefsFileSystem, clobber=True)  # as the entry point does


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("inner.txt", "inner text\n" * 100)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    """The path of a repository with an image called `some/image`."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        root = directory(
            {
                "etc": directory({"small": inline(b"small\n"), "large": external(repository, LARGE)}),
                "usr": directory({"bin": directory({"tool": symlink("../../etc/large")}), "empty": directory()}),
                "bin": symlink("usr/bin"),
                "nowhere": symlink("nothing"),
                "null": device(1, 3),
                "100%": inline(b"percent"),
                "a.zip": external(repository, archive()),
                "sparse": Leaf(STAT, Backed(1000)),
            },
        )
        images.store(repository.images, images.write_image(root), "some/image")
    return str(tmp_path / "repository")


@pytest.fixture
def fs(path):
    return fsspec.filesystem("composefs", repo=path, image="some/image")


def test_entry_point():
    """An installed package tells fsspec where to look."""
    (found,) = importlib.metadata.entry_points(group="fsspec.specs", name="composefs")

    assert found.load() is filesystem.ComposefsFileSystem


def test_open(path):
    """An address names the image, and a file in it; the repository is an option."""
    with fsspec.open("composefs://some%2Fimage/etc/large", repo=path) as file:
        assert file.read() == LARGE
        file.seek(5)
        assert file.read(3) == LARGE[5:8]
    with fsspec.open("composefs://some%2Fimage/bin/../../etc/small", "rt", repo=path) as file:
        assert file.read() == "small\n"


def test_by_id(path, fs):
    """The image may be named by its id, too."""
    digest = fs.fsid.rpartition(":")[2]

    with fsspec.open(f"composefs://{digest}/etc/small", repo=path) as file:
        assert file.read() == b"small\n"


def test_ls(fs):
    """Directories are listed with or without details; a file lists itself; slashes do not matter."""
    assert fs.ls("/usr", detail=False) == ["/usr/bin", "/usr/empty"]
    assert fs.ls("usr/", detail=False) == fs.ls("composefs://some%2Fimage/usr", detail=False) == fs.ls("//usr", False)
    assert [info["name"] for info in fs.ls("/etc")] == ["/etc/large", "/etc/small"]
    assert fs.ls("/etc/small") == [fs.info("/etc/small")]
    assert fs.ls("/usr/empty") == []
    assert fs.ls("/bin", detail=False) == ["/bin/tool"]
    with pytest.raises(FileNotFoundError):
        fs.ls("/nothing")


def test_info(fs):
    """Facts are those of `os.stat`, and the digest."""
    assert fs.info("/etc/large") == {
        "name": "/etc/large",
        "type": "file",
        "size": len(LARGE),
        "islink": False,
        "mode": 0o100644,
        "uid": 0,
        "gid": 0,
        "mtime": 1_700_000_000.0,
        "ino": fs.info("/etc/large")["ino"],
        "nlink": 1,
        "digest": str(compute_digest(LARGE, Algorithm.SHA256)),
    }
    assert fs.info("/")["type"] == fs.info("")["type"] == "directory"
    assert fs.info("/null")["type"] == "other"
    assert fs.info("/sparse")["digest"] is fs.info("/etc/small")["digest"] is None


def test_links(fs):
    """A link to a file counts as the file; one to a directory is entered by name, but not in a walk."""
    listed = {info["name"]: info for info in fs.ls("/usr/bin") + fs.ls("/")}

    assert listed["/usr/bin/tool"] == fs.info("/usr/bin/tool")
    assert listed["/usr/bin/tool"] | {"name": 1} == fs.info("/etc/large") | {
        "name": 1,
        "islink": True,
        "destination": "../../etc/large",
    }
    assert (listed["/bin"]["type"], listed["/bin"]["islink"]) == ("link", True)
    assert fs.info("/bin")["type"] == "directory"
    assert (listed["/nowhere"]["type"], listed["/nowhere"]["destination"]) == ("link", "nothing")
    assert fs.isdir("/bin")
    assert fs.cat("/bin/tool") == LARGE
    with pytest.raises(FileNotFoundError):
        fs.info("/nowhere")
    assert fs.lexists("/nowhere")
    assert not fs.exists("/nowhere")
    assert not fs.lexists("/nothing")


def test_what_fsspec_makes_of_it(fs, tmp_path):
    """All that builds on these works."""
    assert fs.find("/etc") == ["/etc/large", "/etc/small"]
    assert fs.find("/usr") == ["/usr/bin/tool"]
    assert fs.glob("/**/l*") == ["/etc/large"]
    assert [entry[0] for entry in fs.walk("/")] == ["/", "/etc", "/usr", "/usr/bin", "/usr/empty"]
    assert fs.cat(["/etc/small", "/100%"]) == {"/etc/small": b"small\n", "/100%": b"percent"}
    assert fs.cat_file("/etc/large", start=1000, end=1010) == LARGE[1000:1010]
    assert fs.head("/etc/large", 4) == LARGE[:4]
    assert fs.du("/etc") == len(LARGE) + 6
    assert fs.exists("/etc/small")
    assert not fs.exists("/nothing")
    assert fs.isfile("/etc/small")
    assert not fs.isfile("/etc")
    assert fs.size("/etc/small") == 6
    assert fs.modified("/etc/small") == datetime.fromtimestamp(1_700_000_000, UTC)
    assert fs.get_mapper("/etc")["small"] == b"small\n"
    assert fs.ukey("/etc/large") != fs.ukey("/etc/small")
    fs.get("/etc", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got/large").read_bytes() == LARGE


def test_addresses(fs):
    """An address comes from a path and leads back to it."""
    address = fs.unstrip_protocol("/etc/small")

    assert address == "composefs://some%2Fimage/etc/small"
    assert fs._strip_protocol(address) == "/etc/small"
    assert fs._strip_protocol([address, "100%", ""]) == ["/etc/small", "/100%", "/"]
    assert fs.cat("/100%") == fs.cat(fs.unstrip_protocol("/100%")) == b"percent"


def test_chained(path):
    """Addresses can be chained: an archive in an image, and a cache in front of one."""
    options = {"repo": path}
    with fsspec.open("zip://inner.txt::composefs://some%2Fimage/a.zip", "rt", composefs=options) as file:
        assert file.readline() == "inner text\n"
    with fsspec.open("simplecache::composefs://some%2Fimage/etc/small", composefs=options) as file:
        assert file.read() == b"small\n"


def test_other_processes(fs):
    """A pickled one opens the repository again."""
    assert pickle.loads(pickle.dumps(fs)).cat("/etc/small") == b"small\n"


def test_nothing_can_be_written(fs):
    """Writing is refused as on any file system that is read only."""
    for call in (
        lambda: fs.open("/etc/new", "wb"),
        lambda: fs.open("/etc/small", "ab"),
        lambda: fs.mkdir("/new"),
        lambda: fs.makedirs("/new/dir"),
        lambda: fs.rmdir("/usr/empty"),
        lambda: fs.rm("/etc/small"),
        lambda: fs.touch("/etc/small"),
    ):
        with pytest.raises(OSError, match="Read-only file system") as caught:
            call()
        assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda fs: fs.open("/etc"), IsADirectoryError),
        (lambda fs: fs.open("/nothing"), FileNotFoundError),
        (lambda fs: fs.cat("/nowhere"), FileNotFoundError),
        (lambda fs: fs.info("/etc/small/x"), NotADirectoryError),
    ],
)
def test_wrong_paths(fs, call, error):
    """Errors are those that users of fsspec know."""
    with pytest.raises(error):
        call(fs)


def test_arguments(path):
    """What is missing is said."""
    with pytest.raises(UsageError, match="which repository"):
        fsspec.filesystem("composefs", image="some/image")
    with pytest.raises(UsageError, match="which image"):
        fsspec.filesystem("composefs", repo=path)
    with pytest.raises(UsageError, match="which image"):
        fsspec.open("composefs:///etc", repo=path)
    with pytest.raises(NotFoundError, match="image not found: other"):
        fsspec.open("composefs://other/etc", repo=path)
    with pytest.raises(NotFoundError, match="no repository"):
        fsspec.filesystem("composefs", repo=path + "x", image="some/image")


def test_lock(path, fs):
    """The repository is held while a file system or a file from `fsspec.open` lives, and not longer."""
    assert is_locked(path)
    fs.close()
    fs.close()
    assert not is_locked(path)

    opened = fsspec.open("composefs://some%2Fimage/etc/large", repo=path)
    assert is_locked(path)
    with opened as file:
        del opened
        gc.collect()
        assert file.read() == LARGE
    del file
    gc.collect()
    assert not is_locked(path)


def is_locked(path):
    """Tell whether anybody has the repository open."""
    script = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False).returncode != 0


def test_loops(tmp_path, path):
    """A hostile image, in which a directory is in itself, is not walked for ever."""
    builder = ImageBuilder(1)
    nid = builder.next_nid()
    file = builder.inode
    builder.directory([(b"again", nid)])
    with composefs.Repository.open(path) as repository:
        images.store(repository.images, builder.finish(nid), "loop")
    assert file(REGULAR)

    fs = fsspec.filesystem("composefs", repo=path, image="loop")

    assert fs.ls("/again/again", detail=False) == ["/again/again/again"]
    for call in (fs.find, fs.du, lambda where: list(fs.walk(where)), lambda where: fs.glob(f"{where}**")):
        with pytest.raises(FormatError, match="two names"):
            call("/")


def test_names_that_are_no_text(tmp_path, path):
    """Names need not be UTF-8."""
    name = os.fsdecode(b"\xff\n")
    with composefs.Repository.open(path) as repository:
        images.store(repository.images, images.write_image(directory({name: inline(b"odd")})), "odd")

    fs = fsspec.filesystem("composefs", repo=path, image="odd")

    assert fs.ls("/", detail=False) == [f"/{name}"]
    assert fs.cat(f"/{name}") == b"odd"


def test_without_fsspec():
    """Nothing but this module needs fsspec, and it says how to get it."""
    script = (
        "import sys; sys.modules['fsspec'] = sys.modules['fsspec.spec'] = None; import composefs.image, composefs.cli\n"
        "try:\n    import composefs.filesystem\nexcept ImportError as error:\n    print(error)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "composefs.filesystem needs fsspec: pip install 'composefs[fsspec]'\n"
