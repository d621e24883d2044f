"""An image is read as a file system: paths, metadata, contents, names, and what is wrong with them."""

import errno
import io
import itertools
import json
import os
import pathlib
import pickle
import re
import stat
import subprocess
import sys
import threading

import pytest

import composefs
from composefs import Algorithm, Digest, IntegrityError, NotFoundError
from composefs.dumpfile import format_below
from composefs.erofs.writer import write_image
from composefs.errors import FormatError
from composefs.image import Image, resolve
from composefs.image.subtree import load_subtree
from composefs.image.walking import walk_inodes
from composefs.tree import Backed, Leaf
from composefs.verity import compute_digest
from tests import images
from tests.erofs_images import CHUNKED, LINK, REGULAR, TRUSTED, ImageBuilder, xattr, xattr_area
from tests.golden import vectors
from tests.images import device, directory, external, fifo, inline, symlink
from tests.layouts import files_layer, image_layout, rooted
from tests.tools import require_root

LARGE = bytes(range(256)) * 40
ROOT = pathlib.Path(__file__).parents[2]
ESCAPED = re.compile(rb"[^ -~]")
# Trees whose images composefs-rs can read.
TREES = [
    path.name
    for path in sorted((vectors.ROOT / "trees").iterdir())
    if isinstance(vectors.expected(f"trees/{path.name}")["sha256"]["V1"]["info_ls"], list)
]


def sample(repository):
    """Return a tree of a bit of everything."""
    shared = external(repository, LARGE, uid=70_000, xattrs={b"user.a": b"1", b"trusted.overlay.b": b"\xff"})
    return directory(
        {
            "etc": directory({"empty": inline(), "small": inline(b"small\n", mode=0o4755), "large": shared}),
            "usr": directory({"bin": directory({"tool": shared}), "lib": directory(mode=0o500)}, mtime=-5),
            "bin": symlink("usr/bin"),
            "dev": directory({"null": device(1, 3), "fifo": fifo(), "whiteout": device(0, 0)}),
            "sparse": Leaf(images.STAT, Backed(5_000_000)),
            "lost": Leaf(images.STAT, Backed(100, digest=b"\1" * 32)),
            "odd": directory({os.fsdecode(b"\xff\xfe"): inline(b"odd"), "a b\n": inline()}),
        },
        mode=0o751,
    )


def read(image, path):
    """Return the content of a file."""
    with image.open(path) as file:
        return file.read()


@pytest.fixture
def image(repository):
    with images.open_tree(repository, sample(repository)) as opened:
        yield opened


# Metadata


def test_stat(image):
    """Metadata are those of the tree, as `os.stat` gives them."""
    info = image.stat("/etc/large")

    assert isinstance(info, os.stat_result)
    assert (info.st_mode, info.st_nlink, info.st_uid, info.st_gid) == (stat.S_IFREG | 0o644, 2, 70_000, 0)
    assert (info.st_size, info.st_blocks, info.st_blksize, info.st_dev) == (len(LARGE), 20, 4096, 0)
    assert info.st_mtime_ns == info.st_atime_ns == info.st_ctime_ns == 1_700_000_000_000_000_005
    assert (info.st_mtime, info[stat.ST_MTIME]) == (1_700_000_000.0, 1_700_000_000)
    assert info.st_ino == image.stat("/usr/bin/tool").st_ino != image.stat("/etc").st_ino
    assert pickle.loads(pickle.dumps(info)) == info


@pytest.mark.parametrize(
    ("path", "mode", "size", "rdev"),
    [
        ("/", stat.S_IFDIR | 0o751, None, 0),
        ("/usr/lib", stat.S_IFDIR | 0o500, None, 0),
        ("/etc/small", stat.S_IFREG | 0o4755, 6, 0),
        ("/sparse", stat.S_IFREG | 0o644, 5_000_000, 0),
        ("/bin", stat.S_IFLNK | 0o777, 7, 0),
        ("/dev/null", stat.S_IFCHR | 0o644, 0, os.makedev(1, 3)),
        ("/dev/whiteout", stat.S_IFCHR | 0o644, 0, 0),
        ("/dev/fifo", stat.S_IFIFO | 0o644, 0, 0),
    ],
)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_stat_of_types(repository, version, path, mode, size, rdev):
    """So they are of every type of file, in every format of images."""
    with images.open_tree(repository, sample(repository), version) as image:
        info = image.lstat(path)

    assert (info.st_mode, info.st_rdev) == (mode, rdev)
    assert size is None or info.st_size == size


def test_times_before_1970(image):
    """Times before the epoch are negative; nanoseconds go forward."""
    assert image.stat("/usr").st_mtime_ns == -5_000_000_000 + 5
    assert image.stat("/usr")[stat.ST_MTIME] == -5


def test_xattrs(image):
    """Attributes are those of the tree: without what tells overlayfs where contents are, and without its escapes."""
    assert image.xattrs("/etc/large") == {b"user.a": b"1", b"trusted.overlay.b": b"\xff"}
    assert image.xattrs("/dev/whiteout") == image.xattrs("/dev") == image.xattrs("/") == {}


# Paths


def test_bytes_or_text(image):
    """What comes out is as what went in; a path object is text."""
    name = os.fsdecode(b"\xff\xfe")

    assert image.listdir(b"/odd") == [b"a b\n", b"\xff\xfe"]
    assert image.listdir("/odd") == ["a b\n", name]
    assert [entry.path for entry in image.scandir(b"odd")] == [b"odd/a b\n", b"odd/\xff\xfe"]
    assert read(image, b"/odd/\xff\xfe") == read(image, f"/odd/{name}") == b"odd"
    assert image.readlink(b"/bin") == b"usr/bin"
    assert image.realpath(b"/bin/tool") == b"/usr/bin/tool"
    assert read(image, pathlib.PurePosixPath("/odd") / name) == b"odd"
    assert image.listdir("/") == sorted(image.listdir("/")) == ["bin", "dev", "etc", "lost", "odd", "sparse", "usr"]


@pytest.mark.parametrize(
    ("call", "path", "error", "number"),
    [
        ("stat", "/nothing", FileNotFoundError, errno.ENOENT),
        ("stat", "", FileNotFoundError, errno.ENOENT),
        ("stat", b"/usr/nothing/x", FileNotFoundError, errno.ENOENT),
        ("stat", "/etc/small/x", NotADirectoryError, errno.ENOTDIR),
        ("stat", "/etc/small/", NotADirectoryError, errno.ENOTDIR),
        ("open", "/etc", IsADirectoryError, errno.EISDIR),
        ("open", "/dev/null", OSError, errno.EINVAL),
        ("digest", "/usr", IsADirectoryError, errno.EISDIR),
        ("digest", "/dev/fifo", OSError, errno.EINVAL),
        ("listdir", "/etc/small", NotADirectoryError, errno.ENOTDIR),
        ("listdir", "/dev/null", NotADirectoryError, errno.ENOTDIR),
        ("readlink", "/etc", OSError, errno.EINVAL),
        ("readlink", "/etc/small", OSError, errno.EINVAL),
        ("xattrs", "/nothing", FileNotFoundError, errno.ENOENT),
        ("realpath", "/nothing", FileNotFoundError, errno.ENOENT),
    ],
)
def test_wrong_paths(image, call, path, error, number):
    """A wrong path is the error of the system that everybody knows, with the path."""
    with pytest.raises(error) as caught:
        getattr(image, call)(path)

    assert (caught.value.errno, caught.value.filename) == (number, path)


def test_wrong_paths_of_iterators(image):
    """So it is for what is read step by step."""
    for call in (image.scandir, image.walk):
        with pytest.raises(NotADirectoryError):
            next(call("/etc/small"))


@pytest.mark.parametrize(
    ("path", "found"),
    [("/", True), ("etc/small", True), ("/bin/tool", True), ("/nothing", False), ("/etc/small/x", False), ("", False)],
)
def test_exists(image, path, found):
    """A path exists or not; why not does not matter."""
    assert image.exists(path) is found


def links_tree(repository):
    """Return a tree of links of all kinds, in which paths of a few parts lead everywhere."""
    chain = {f"chain{number}": symlink(f"chain{number + 1}") for number in range(40)}
    return directory(
        {
            "d": directory({"f": inline(b"f"), "e": directory({"up": symlink("../.."), "f": inline()})}),
            "rel": symlink("d/e"),
            "abs": symlink("/d"),
            "slash": symlink("d/"),
            "dots": symlink(".././d/../d//e"),
            "file": symlink("d/f"),
            "fileslash": symlink("d/f/"),
            "nowhere": symlink("nothing"),
            "loop": symlink("loop"),
            "root": symlink("/"),
            "outside": symlink("../../../../etc/passwd"),
            **chain,
            "chain40": symlink("d"),
        }
    )


PARTS = [
    "d",
    "e",
    "f",
    "up",
    "rel",
    "abs",
    "slash",
    "dots",
    "file",
    "fileslash",
    "nowhere",
    "loop",
    "root",
    "..",
    ".",
    "",
]


def test_paths_as_in_the_kernel(repository, tmp_path):
    """Paths lead where they lead for a process whose root is the same tree, to the same errors, too."""
    require_root("chroot")
    with images.open_tree(repository, links_tree(repository)) as image:
        (tmp_path / "root/d/e").mkdir(parents=True)
        (tmp_path / "root/d/f").write_bytes(b"f")
        (tmp_path / "root/d/e/f").touch()
        for path, inode in walk_inodes(image, b"", image.root):
            if stat.S_ISLNK(inode.mode):
                os.symlink(image.readlink(path), os.fsencode(tmp_path) + b"/root" + path)
        paths = ["/".join(parts) for count in (1, 2, 3) for parts in itertools.product(PARTS, repeat=count)]
        paths += [f"chain{number}" for number in range(41)] + [
            "chain0/f",
            "chain1/f",
            "outside",
            "/outside",
            "d/" * 3000,
        ]
        names = {image.stat(path).st_ino: path for path in ("/", "/d", "/d/e", "/d/f", "/d/e/f")}
        wanted = in_chroot(tmp_path / "root", paths, list(names.values()))

        def look(path, *, follow_symlinks):
            try:
                info = image.stat(path, follow_symlinks=follow_symlinks)
            except OSError as error:
                return error.errno
            return names.get(info.st_ino, "link")

        got = [[look(path, follow_symlinks=follow) for follow in (True, False)] for path in paths]

    differ = [(path, *pair) for path, *pair in zip(paths, wanted, got, strict=True) if pair[0] != pair[1]]
    assert [path for path, *_ in differ] == ["d/" * 3000]  # longer than the kernel takes a path
    assert {"link", "/", "/d/f", errno.ENOENT, errno.ENOTDIR, errno.ELOOP} <= {value for pair in got for value in pair}


def in_chroot(root, paths, known):
    """Return what `os.stat` finds at *paths*, with and without links, in a process whose root is *root*."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # a child that ends like this
        os.chroot(root)
        os.chdir("/")
        names = {os.stat(path).st_ino: path for path in known}

        def look(path, *, follow_symlinks):
            try:
                info = os.stat(path, follow_symlinks=follow_symlinks)
            except OSError as error:
                return error.errno
            return names.get(info.st_ino, "link")

        found = [[look(path, follow_symlinks=follow) for follow in (True, False)] for path in paths]
        os.close(reader)
        with open(writer, "w") as file:
            json.dump(found, file)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        found = json.load(file)
    assert os.waitpid(pid, 0)[1] == 0
    return found


def test_long_targets(repository):
    """A link to more than PATH_MAX cannot be followed, as in the kernel; but read it can be."""
    builder = ImageBuilder(1, blocks=[b"/x" * 2048])
    link = builder.inode(LINK, size=4096, address=16)
    with images.open_bytes(repository, builder.finish(builder.directory([(b"l", link)]))) as image:
        assert len(image.readlink("/l")) == 4096
        with pytest.raises(OSError, match="too long") as caught:
            image.stat("/l")
    assert caught.value.errno == errno.ENAMETOOLONG


# Directories


def test_scandir(image):
    """Entries tell what they are, as `os.DirEntry` does."""
    entries = {entry.name: entry for entry in image.scandir("/")}

    assert list(entries) == image.listdir("/")
    assert entries["bin"].is_symlink()
    assert entries["bin"].is_dir()
    assert not entries["bin"].is_dir(follow_symlinks=False)
    assert entries["bin"].inode() == image.lstat("/bin").st_ino
    assert entries["bin"].stat() == image.stat("/usr/bin")
    assert entries["bin"].stat(follow_symlinks=False) == image.lstat("/bin")
    assert entries["sparse"].is_file()
    assert not entries["etc"].is_file()
    assert repr(entries["etc"]) == "<Entry 'etc'>"
    assert not any(entry.is_file() or entry.is_dir() for entry in image.scandir("/dev"))


def test_broken_links_are_nothing(repository):
    """A link that leads nowhere is neither a file nor a directory; one that leads in a circle is an error."""
    with images.open_tree(repository, links_tree(repository)) as image:
        entries = {entry.name: entry for entry in image.scandir("/")}

        assert not entries["nowhere"].is_file()
        assert not entries["nowhere"].is_dir()
        with pytest.raises(OSError, match="Too many levels") as caught:
            entries["loop"].is_dir()
    assert caught.value.errno == errno.ELOOP


def test_walk(image, tmp_path):
    """Directories come as from `os.walk`, sorted, and what is taken from the list of names is not entered."""
    found = list(image.walk("/"))

    assert found[0] == ("/", ["dev", "etc", "odd", "usr"], ["bin", "lost", "sparse"])
    assert [path for path, _, _ in found] == ["/", "/dev", "/etc", "/odd", "/usr", "/usr/bin", "/usr/lib"]
    assert list(image.walk(b"usr")) == [
        (b"usr", [b"bin", b"lib"], []),
        (b"usr/bin", [], [b"tool"]),
        (b"usr/lib", [], []),
    ]
    pruned = []
    for path, names, _ in image.walk("/"):
        names[:] = [name for name in names if name != "usr"]
        pruned.append(path)
    assert pruned == ["/", "/dev", "/etc", "/odd"]


def test_stubs_are_not_there(repository):
    """What stands in the root for overlayfs only is not listed and not found, unless it is something else."""
    root = directory(
        {"00": inline(b"file"), "ab": directory(), "zz": device(0, 0), "d": directory({"ff": device(0, 0)})}
    )
    with images.open_tree(repository, root) as image:
        assert image.listdir("/") == ["00", "ab", "d", "zz"]
        assert image.listdir("/d") == ["ff"]
        assert image.exists("/d/ff")
        assert not image.exists("/ff")
        assert not image.exists("/01", follow_symlinks=False)


# Contents


@pytest.mark.parametrize(
    ("path", "data"),
    [("/etc/empty", b""), ("/etc/small", b"small\n"), ("/bin/tool", LARGE), ("/sparse", bytes(5_000_000))],
)
def test_open(image, path, data):
    """A file is a binary file as any other, wherever its content is."""
    with image.open(path) as file:
        assert file.read() == data
        assert file.read() == b""
        file.seek(-min(3, len(data)), os.SEEK_END)
        assert file.read() == data[-3:]
        file.seek(0)
        assert file.read(2) == data[:2]
        assert file.tell() == min(2, len(data))
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
    assert file.closed


def test_zeros_seek(image):
    """Zeros can be sought in as any file."""
    with image.open("/sparse") as file:
        assert file.seek(10) == 10
        assert file.seek(5, os.SEEK_CUR) == 15
        assert file.seek(6_000_000) == 6_000_000
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="seek to -1"):
            file.raw.seek(-1)


def test_text(image):
    """Text is what `io` makes of it."""
    with io.TextIOWrapper(image.open("/etc/small"), "utf-8") as file:
        assert file.read() == "small\n"


def test_digest(image):
    """The digest of a file is that of its object; there is none of what has no object."""
    assert image.digest("/bin/tool") == compute_digest(LARGE, Algorithm.SHA256)
    assert image.digest("/etc/small") is image.digest("/sparse") is None


def test_missing_object(image):
    """A file whose object is not in the repository can be looked at, but not opened."""
    assert image.stat("/lost").st_size == 100
    with pytest.raises(NotFoundError, match=r"no object sha256:0101"):
        image.open("/lost")


def test_broken_object(repository, image):
    """An object that was changed is found out before a byte of it is read."""
    path = f"{repository.path}/objects/{image.digest('/etc/large').object_path}"
    with open(path, "r+b") as file:
        file.write(b"!")

    with pytest.raises(IntegrityError, match="wanted"):
        image.open("/etc/large")


@pytest.mark.parametrize("size", [len(LARGE) - 1, len(LARGE) + 1, 1 << 60])
def test_wrong_size(repository, size):
    """An image that lies about the size of an object is found out when the file is opened."""
    file = external(repository, LARGE)
    file.content.size = size
    with (
        images.open_tree(repository, directory({"f": file})) as image,
        pytest.raises(IntegrityError, match=rf"wanted {size} bytes, got {len(LARGE)} bytes"),
    ):
        image.open("/f")


def test_object_without_digest(repository):
    """What has the path of an object only is proved by its name, in a repository; another path is no object."""
    digest = Digest(Algorithm.SHA256, repository.objects.ensure(LARGE)[0])
    root = directory(
        {
            "good": Leaf(images.STAT, Backed(len(LARGE), digest.object_path.encode())),
            "bad": Leaf(images.STAT, Backed(1, digest.object_path.upper().encode())),
        }
    )
    with images.open_tree(repository, root) as image:
        assert read(image, "/good") == LARGE
        assert image.digest("/good") is None
        with pytest.raises(NotFoundError, match="is no object of fsverity-sha256-12"):
            image.open("/bad")
        with open(f"{repository.path}/objects/{digest.object_path}", "r+b") as file:
            file.write(b"!")
        with pytest.raises(IntegrityError):
            image.open("/good")


def test_close(repository, image):
    """Files that are open stay open when the image is closed, and closing it twice does no harm."""
    files = [image.open(path) for path in ("/etc/small", "/etc/large", "/sparse")]

    image.close()
    image.close()

    assert [len(file.read()) for file in files] == [6, len(LARGE), 5_000_000]
    for file in files:
        file.close()


def test_threads(image):
    """Several threads read one image."""
    right = []

    def look():
        right.extend(read(image, "/bin/tool") == LARGE and len(image.listdir("/dev")) == 3 for _ in range(20))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert right == [True] * 80


# Names


def test_names(repository):
    """An image is found by its id, by a ref with `refs/` or without."""
    digest = images.store(repository.images, write_image(directory({"a": inline()})), "some/name")

    for name in (digest.hex, "refs/some/name", "some/name"):
        with Image.open(repository, name) as image:
            assert image.id == digest
            assert image.listdir("/") == ["a"]


@pytest.mark.parametrize("name", ["nothing", "refs/nothing", "0" * 64, "@sha256:" + "0" * 64])
def test_unknown_names(repository, name):
    """A name that leads nowhere is said not to be found."""
    with pytest.raises(NotFoundError, match="nothing|000"):
        Image.open(repository, name)


def test_tags(repository, tmp_path):
    """The tag of an OCI image, its manifest and its config stand for the image that was made of it."""
    layout = image_layout(tmp_path / "layout", [files_layer(rooted({"usr/a": b"x" * 100}))])
    result = composefs.import_image(repository, str(layout), name="quay.io/x/y:1", workers=1)

    names = ["quay.io/x/y:1", f"@{result.manifest}", f"@{result.config}"]

    (digest,) = {resolve(repository, name) for name in names}
    with Image.open(repository, "quay.io/x/y:1") as image:
        assert image.id == digest
        assert read(image, "/usr/a") == b"x" * 100


def test_ref_before_tag(repository, tmp_path):
    """A ref hides a tag of the same name."""
    layout = image_layout(tmp_path / "layout", [files_layer(rooted({"usr/a": b"x" * 100}))])
    composefs.import_image(repository, str(layout), name="name", workers=1)
    tagged = resolve(repository, "name")

    named = images.store(repository.images, write_image(directory()), "name")

    assert resolve(repository, "name") == named != tagged


def test_broken_image(repository):
    """An image whose bytes were changed is not opened."""
    digest = images.store(repository.images, write_image(directory()))
    with open(f"{repository.path}/objects/{digest.object_path}", "r+b") as file:
        file.seek(1200)
        file.write(b"!")

    with pytest.raises(IntegrityError):
        Image.open(repository, "image")


@pytest.mark.parametrize("data", [b"", b"no image" * 1000])
def test_no_image(repository, data):
    """What is named as an image need not be one."""
    with pytest.raises(FormatError, match="image image"):
        images.open_bytes(repository, data)


# Image files


@pytest.fixture
def objects(repository, tmp_path):
    """The path of an image file, and of a directory with its objects."""
    (tmp_path / "file.cfs").write_bytes(write_image(sample(repository)))
    return tmp_path / "file.cfs", tmp_path / "repository/objects"


def test_image_file(objects):
    """An image file with a directory of objects reads as one in a repository."""
    with Image.open_file(*objects) as image:
        assert image.id is None
        assert read(image, "/bin/tool") == LARGE
        assert read(image, "/etc/small") == b"small\n"
        with pytest.raises(NotFoundError, match="no object .*objects/01/0101"):
            image.open("/lost")


def test_objects_of_a_directory_are_proved(objects, repository):
    """There, too, an object is proved if the image has its digest."""
    file, directory_path = objects
    with Image.open_file(file, directory_path) as image:
        path = directory_path / image.digest("/bin/tool").object_path
        path.write_bytes(LARGE[:-1] + b"!")
        with pytest.raises(IntegrityError, match=str(path)):
            image.open("/bin/tool")


@pytest.mark.parametrize("path", [b"../secret", b"x/../../secret", b"link", b"dir", b"/secret"])
def test_paths_of_objects(tmp_path, repository, path):
    """A path in an image does not lead out of the directory of objects, nor through a link there."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store/dir").mkdir(parents=True)
    (tmp_path / "store/link").symlink_to("../secret")
    builder = ImageBuilder(1)
    xattrs = xattr_area(xattr(TRUSTED, b"overlay.metacopy", b""), xattr(TRUSTED, b"overlay.redirect", b"/" + path))
    leaf = builder.inode(REGULAR, b"\xff\xff\xff\xff", size=6, layout=CHUNKED, xattrs=xattrs)
    (tmp_path / "file.cfs").write_bytes(builder.finish(builder.directory([(b"f", leaf)])))

    with (
        Image.open_file(tmp_path / "file.cfs", tmp_path / "store") as image,
        pytest.raises((NotFoundError, OSError)) as caught,
    ):
        image.open("/f")

    assert "store" in str(caught.value)


def test_image_file_errors(objects, tmp_path):
    """What is missing is named."""
    missing = tmp_path / "nothing"
    for arguments in ((missing, objects[1]), (objects[0], missing)):
        with pytest.raises(FileNotFoundError) as caught:
            Image.open_file(*arguments)
        assert caught.value.filename == str(missing)


# The documentation


def test_example(repository, tmp_path):
    """The example program of the documentation runs."""
    root = directory({"usr": directory({"a": external(repository, LARGE), "b": symlink("a")})})
    images.open_tree(repository, root).close()

    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            ROOT / "docs/reading_example.py",
            repository.path,
            "image",
            tmp_path / "target",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "-rw-r--r--      10240 /usr/a\n" in done.stdout
    assert "target has 1 files, 0 hard links" in done.stdout
    assert (tmp_path / "target/usr/b").read_bytes() == LARGE


@pytest.mark.parametrize("version", [0, 1, 2])
def test_in_memory(repository, version):
    """A copy in memory is the same image, and does not see what is done to the file; it is proved when it is made."""
    with images.open_tree(repository, sample(repository), version) as image:
        file = pathlib.Path(repository.path, "images", image.id.hex).resolve()
        copy = image.in_memory()
        wanted = list(image.walk("/"))
        file.chmod(0o600)
        for offset, error in ((file.stat().st_size - 1, IntegrityError), (0, FormatError)):
            with file.open("r+b") as writable:
                writable.seek(offset)
                writable.write(b"?")
            with pytest.raises(error, match=image.reader.source):
                image.in_memory()
        os.truncate(file, 0)

        assert copy.id == image.id
        assert list(copy.walk("/")) == wanted
        for path, content in (("/etc/small", b"small\n"), ("/etc/large", LARGE)):
            with copy.open(path) as opened:
                assert opened.read() == content


def test_every_call_is_documented():
    """The page names every public call."""
    page = (ROOT / "docs/reading.md").read_text()
    calls = {name for name, value in vars(Image).items() if not name.startswith("_") and callable(value)}

    internal = {"open_path", "open_image", "find", "lookup", "children", "stat_inode", "readlink_inode", "open_content"}
    assert {name for name in calls - internal - {"close"} if f"{name}(" not in page} == set()


# What composefs-rs says of its own images


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_golden_trees(repository, name, version):
    """Images of composefs-rs are listed and dumped as `composefs-info` does it."""
    made = vectors.expected(f"trees/{name}")["sha256"][version]
    with images.open_bytes(repository, vectors.read(vectors.ROOT / "trees" / name / made["file"])) as image:
        listed = b"".join(info_lines(image))
        node, counts = load_subtree(image, image.root)

    check_text(name, made["info_ls"], listed)
    check_text(name, made["info_dump"], b"".join(format_below(node, b"/", counts)))


def info_lines(image):
    """Yield what `composefs-info ls` prints: an object at the first name of its file only."""
    seen = set()
    for path, inode in walk_inodes(image, b"/", image.root):
        line = ESCAPED.sub(lambda match: b"\\x%02x" % ord(match[0]), path.replace(b"\\", b"\\\\"))
        if stat.S_ISDIR(inode.mode):
            line += b"/\t"
        elif stat.S_ISLNK(inode.mode):
            line += b"\t-> " + image.readlink(path)
        elif stat.S_ISREG(image.lstat(path).st_mode) and inode.nid not in seen:
            seen.add(inode.nid)
            digest = image.digest(path)
            line += b"\t@ " + digest.object_path.encode() if digest else b""
        yield line + b"\n"


def check_text(name, record, printed):
    """Check that *printed* is what was recorded: lines, a file, or a long text's hash."""
    if isinstance(record, list):
        assert printed.decode().splitlines() == record
    elif isinstance(record, str):
        (source,) = (vectors.ROOT / "trees" / name / "sha256").glob(f"{record}*")
        assert printed == vectors.read(source)
    else:
        assert vectors.sha256(printed.decode()) == record["sha256"]
