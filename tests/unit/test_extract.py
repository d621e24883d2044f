"""Files of an image are copied into a directory, all or nothing, and never beyond it."""

import errno
import os
import pickle
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, IntegrityError, NotFoundError, TreeError, _native
from composefs.errors import FormatError
from composefs.image import Extraction, Shortfall, extract
from composefs.tree import Backed, Leaf, Symlink
from tests import images
from tests.erofs_images import LINK, REGULAR, ImageBuilder
from tests.images import LINK_STAT, STAT, device, directory, external, fifo, inline, symlink
from tests.tools import require_root
from tests.trees_on_disk import CAPABILITY

LARGE = bytes(range(256)) * 40
NOBODY = 65534


@pytest.fixture
def target(tmp_path):
    """Where to extract to: nothing is there, but its parent is an empty directory."""
    (tmp_path / "parent").mkdir()
    return tmp_path / "parent/target"


@pytest.fixture
def outside(tmp_path):
    """A directory that nobody may touch; at the end it is as it was."""
    place = tmp_path / "outside"
    (place / "directory").mkdir(parents=True)
    (place / "file").write_bytes(b"outside")
    before = everything_of(place)
    yield place
    assert everything_of(place) == before


def everything_of(place):
    found = [place, *place.rglob("*")]
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_nlink) for path in found}


def listing(place):
    """Return the paths below *place*."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def sample(repository):
    shared = external(repository, LARGE)
    return directory(
        {
            "etc": directory({"small": inline(b"small"), "large": shared}, mtime=1000),
            "usr": directory(
                {"bin": directory({"tool": shared, "other": inline(b"other")}, mode=0o500), "large": shared}
            ),
            "bin": symlink("usr/bin"),
            "pipe": fifo(mode=0o600),
        },
        mode=0o711,
        mtime=2000,
    )


def extract_tree(repository, root, target, *paths, **options):
    with images.open_tree(repository, root) as image:
        return extract(image, target, paths, **options)


# Everything


def test_everything(repository, target):
    """All of an image appears in a directory that was not there, and is counted."""
    require_root("giving files away")
    result = extract_tree(repository, sample(repository), target)

    assert listing(target) == [
        *(
            "bin",
            "etc",
            "etc/large",
            "etc/small",
            "pipe",
            "usr",
            "usr/bin",
            "usr/bin/other",
            "usr/bin/tool",
            "usr/large",
        )
    ]
    assert (target / "usr/bin/tool").read_bytes() == LARGE
    assert (target / "usr/bin/tool").stat().st_ino == (target / "etc/large").stat().st_ino
    assert (target / "bin").readlink() == Path("usr/bin")
    assert (target / "etc/small").stat().st_mtime_ns == 1_700_000_000_000_000_005
    assert (target.stat().st_mode, target.stat().st_mtime_ns) == (stat.S_IFDIR | 0o711, 2_000_000_000_005)
    assert (target / "etc").stat().st_mtime_ns == 1_000_000_000_005
    assert (target / "usr/bin").stat().st_mode == stat.S_IFDIR | 0o500
    assert os.listdir(target.parent) == ["target"]
    size = len(LARGE) + 10
    assert result == Extraction(directories=3, files=3, symlinks=1, specials=1, hard_links=2, size=size)


def test_directory_that_is_there(repository, target):
    """An empty directory is filled, and takes the metadata of the root."""
    target.mkdir()
    inode = target.stat().st_ino

    extract_tree(repository, sample(repository), f"{target}/")

    assert target.stat().st_ino == inode
    assert target.stat().st_mode == stat.S_IFDIR | 0o711


def test_relative_target(repository, target, monkeypatch):
    """The target may be relative to the current directory."""
    monkeypatch.chdir(target.parent)

    extract_tree(repository, sample(repository), "target")

    assert (target / "etc/small").read_bytes() == b"small"


@pytest.mark.parametrize("end", ["target", "target/", "target//"])
def test_target_behind_a_link(repository, target, end):
    """The path of the target means what it means to the system: `..` behind a link is where that leads."""
    (target.parent / "below").mkdir()
    (target.parent.parent / "link").symlink_to(target.parent / "below")

    extract_tree(repository, sample(repository), f"{target.parent.parent}/link/../{end}")

    assert "etc" in os.listdir(target)


def test_sparse(repository, target):
    """A file that is zeros only takes no room."""
    extract_tree(repository, directory({"f": Leaf(STAT, Backed(1 << 30))}), target)

    assert (target / "f").stat().st_size == 1 << 30
    assert (target / "f").stat().st_blocks == 0


def test_deep(repository, target):
    """Paths may be longer than the kernel takes them in one call; also to remove what cannot be completed."""
    root = inner = directory()
    for number in range(150):
        inner.entries[b"d" * 30] = inner = directory({f"f{number}": inline()})
    result = extract_tree(repository, root, target)
    assert (result.directories, result.files) == (150, 150)
    subprocess.run(["rm", "-r", target], check=True)

    inner.entries[b"lost"] = Leaf(STAT, Backed(100, digest=b"\1" * 32))
    with pytest.raises(NotFoundError):
        extract_tree(repository, root, target)

    assert os.listdir(target.parent) == []


# Parts


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["/etc/small"], ["etc", "etc/small"]),
        (["etc"], ["etc", "etc/large", "etc/small"]),
        ([b"bin"], ["bin"]),
        (["/bin/tool"], ["usr", "usr/bin", "usr/bin/tool"]),
        (["/usr/bin/tool", "/usr/bin/", "/usr/bin"], ["usr", "usr/bin", "usr/bin/other", "usr/bin/tool"]),
        (["/usr/bin", "/usr/bin/tool"], ["usr", "usr/bin", "usr/bin/other", "usr/bin/tool"]),
        (["/pipe", "etc/../usr/large"], ["pipe", "usr", "usr/large"]),
    ],
)
def test_paths(repository, target, paths, found):
    """Chosen files come with the directories that they really are in, once each."""
    result = extract_tree(repository, sample(repository), target, *paths)

    assert listing(target) == found
    made = result.directories + result.files + result.symlinks + result.specials + result.hard_links
    assert made == len(found)


def test_paths_and_metadata(repository, target):
    """The directories above have their metadata, but the target is what any new directory is."""
    extract_tree(repository, sample(repository), target, "/usr/bin/tool")
    os.umask(umask := os.umask(0))

    assert target.stat().st_mode == stat.S_IFDIR | (0o777 & ~umask)
    assert (target / "usr/bin").stat().st_mode == stat.S_IFDIR | 0o500
    assert (target / "usr/bin").stat().st_mtime_ns == 1_700_000_000_000_000_005


def test_links_of_chosen_files(repository, target):
    """Of several names of one file, those that are chosen are one file."""
    extract_tree(repository, sample(repository), target, "/usr/bin/tool", "/etc/large")

    assert (target / "usr/bin/tool").stat().st_ino == (target / "etc/large").stat().st_ino
    assert (target / "etc/large").stat().st_nlink == 2


@pytest.mark.parametrize("path", ["/", "..", ".", "//"])
def test_root_as_path(repository, target, path):
    """The root as a path is everything."""
    result = extract_tree(repository, sample(repository), target, "/etc", path)

    assert result.directories == 3
    assert target.stat().st_mode == stat.S_IFDIR | 0o711


@pytest.mark.parametrize(
    ("path", "error"), [("/nothing", FileNotFoundError), ("/etc/small/x", NotADirectoryError), ("", FileNotFoundError)]
)
def test_wrong_paths(repository, target, path, error):
    """A path that is not in the image is an error before anything is made."""
    with pytest.raises(error) as caught:
        extract_tree(repository, sample(repository), target, "/etc", path)

    assert caught.value.filename == path
    assert os.listdir(target.parent) == []


# Targets


def test_target_is_not_empty(repository, target):
    """A directory with files in it is left alone."""
    target.mkdir()
    (target / "file").touch()

    with pytest.raises(OSError, match="not empty") as caught:
        extract_tree(repository, sample(repository), target)

    assert (caught.value.errno, caught.value.filename) == (errno.ENOTEMPTY, str(target))
    assert os.listdir(target) == ["file"]


def test_nonempty(repository, target):
    """On demand, the files go among others, none of which is changed."""
    (target / "lost+found").mkdir(parents=True)

    result = extract_tree(repository, sample(repository), target, nonempty=True)

    assert result.directories == 3
    assert "lost+found" in listing(target)
    assert target.stat().st_mode == stat.S_IFDIR | 0o711


@pytest.mark.parametrize("name", ["etc", "bin", "pipe", "usr"])
@pytest.mark.parametrize("kind", ["file", "directory", "link to a file", "link to a directory", "link to nothing"])
def test_nothing_is_replaced(repository, target, outside, name, kind):
    """What stands in the way of a file is not replaced, not written to, and not followed."""
    target.mkdir()
    if kind == "file":
        (target / name).write_bytes(b"mine")
    elif kind == "directory":
        (target / name).mkdir()
    else:
        (target / name).symlink_to(
            outside / {"file": "file", "directory": "directory"}.get(kind.split()[-1], "nothing")
        )
    before = (target / name).lstat()

    with pytest.raises(FileExistsError) as caught:
        extract_tree(repository, sample(repository), target, nonempty=True)

    assert caught.value.filename == str(target / name)
    assert caught.value.__notes__ == [f"{target} holds what was extracted before"]
    after = (target / name).lstat()
    assert (after.st_mode, after.st_size, after.st_mtime_ns) == (before.st_mode, before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("kind", ["file", "link to a file", "parent is missing", "parent is a file"])
def test_wrong_targets(repository, target, outside, kind):
    """A target that cannot be a directory is an error that names it."""
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "link to a file":
        target.symlink_to(outside / "file")
    elif kind == "parent is missing":
        target = target / "x/y"
    else:
        target = outside / "file/x"

    with pytest.raises((NotADirectoryError, FileNotFoundError)) as caught:
        extract_tree(repository, sample(repository), target)

    assert str(caught.value.filename) in (str(target), str(target.parent))


def test_link_as_target(repository, target, outside):
    """A link to a directory is the directory; one to nothing is in the way."""
    (target.parent / "real").mkdir()
    target.symlink_to("real")
    extract_tree(repository, sample(repository), target)
    assert (target.parent / "real/etc/small").read_bytes() == b"small"
    target.unlink()
    target.symlink_to(outside / "nothing")

    with pytest.raises(FileExistsError) as caught:
        extract_tree(repository, sample(repository), target)

    assert caught.value.filename == str(target)
    assert sorted(os.listdir(target.parent)) == ["real", "target"]


# Failures


def lost():
    return Leaf(STAT, Backed(100, digest=b"\1" * 32))


def test_failure_leaves_nothing(repository, target):
    """When an object is missing, there is no target afterwards, and the error names the file that needs it."""
    root = sample(repository)
    root.entries[b"zzz"] = directory({"lost": lost()}, mode=0)

    with pytest.raises(NotFoundError, match="no object sha256:0101") as caught:
        extract_tree(repository, root, target)

    assert caught.value.__notes__ == ["it is needed for /zzz/lost"]
    assert os.listdir(target.parent) == []


def test_failure_in_a_directory_that_is_there(repository, target):
    """There what was made until then stays, and the error says so."""
    target.mkdir()

    with pytest.raises(NotFoundError) as caught:
        extract_tree(repository, directory({"a": inline(), "lost": lost()}), target)

    assert caught.value.__notes__ == ["it is needed for /lost", f"{target} holds what was extracted before"]
    assert listing(target) == ["a"]


@pytest.mark.parametrize("moment", ["open", "chown", "link", "utime", "chmod"])
def test_interrupt_leaves_nothing(repository, target, monkeypatch, moment):
    """Whenever the work is interrupted, at the first file or the last, nothing stays."""
    require_root("removing directories without write permission")
    count = limit = 0
    real = getattr(os, moment)

    def interrupt(*arguments, **options):
        nonlocal count
        count += 1
        if count == limit:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with images.open_tree(repository, sample(repository)) as image:
        monkeypatch.setattr(os, moment, interrupt)
        extract(image, target)
        total = count
        shutil.rmtree(target)
        for limit in {1, 2, total // 2, total}:  # noqa: B007  # the function above reads it
            count = 0
            with pytest.raises(KeyboardInterrupt):
                extract(image, target)
            assert os.listdir(target.parent) == []


def test_target_appears_meanwhile(repository, target, monkeypatch):
    """Another who makes the target first keeps it."""
    real = _native.rename

    def rename(*arguments):
        target.mkdir()
        real(*arguments)

    monkeypatch.setattr(_native, "rename", rename)

    with pytest.raises(FileExistsError) as caught:
        extract_tree(repository, sample(repository), target)

    assert caught.value.filename == str(target)
    assert listing(target.parent) == ["target"]


def test_target_cannot_be_made(repository, target, monkeypatch):
    """Where no directory can be made, the error is about the target, and nothing is said to be left."""

    def mkdir(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    with images.open_tree(repository, sample(repository)) as image:
        monkeypatch.setattr(os, "mkdir", mkdir)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            extract(image, target)

    assert caught.value.errno == errno.EROFS
    assert caught.value.filename == str(target)
    assert not hasattr(caught.value, "__notes__")


def test_what_is_left_is_said(repository, target, monkeypatch):
    """If even that cannot be removed, the error says where it is."""
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))

    with pytest.raises(NotFoundError) as caught:
        extract_tree(repository, directory({"lost": lost()}), target)

    (left,) = target.parent.iterdir()
    assert caught.value.__notes__[-1] == f"{left} is left behind"


def test_broken_object(repository, target):
    """A changed object is not extracted."""
    root = sample(repository)
    (path,) = Path(repository.path).glob("objects/*/*")
    path.write_bytes(LARGE[:-1] + b"!")

    with pytest.raises(IntegrityError) as caught:
        extract_tree(repository, root, target)

    assert caught.value.__notes__ == ["it is needed for /etc/large"]
    assert os.listdir(target.parent) == []


def test_full_disk(repository, tmp_path):
    """On a full disk the error names the file, and the room is given back."""
    require_root("mounting a tmpfs")
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "small"], check=True)
    try:
        root = directory({"a": external(repository, LARGE), "b": external(repository, LARGE * 200)})
        with pytest.raises(OSError, match="No space left") as caught:
            extract_tree(repository, root, tmp_path / "small/target")
        assert caught.value.filename == str(tmp_path / "small/target/b")
        assert os.listdir(tmp_path / "small") == []
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


# Hostile images, and hostile neighbours


def open_hostile(repository, *entries):
    """Return an image of files with these names."""
    builder = ImageBuilder(1)
    found = [(name, builder.inode(REGULAR, b"evil")) for name in entries]
    return images.open_bytes(repository, builder.finish(builder.directory(found)))


@pytest.mark.parametrize(
    "name", [b"../evil", b"/evil", b"a/../../evil", b"a/b", b"evil\0", b"/", b"directory/../../outside/evil"]
)
def test_hostile_names(repository, target, outside, name):
    """A name that is a path is refused by the reader, and by itself here, too."""
    with open_hostile(repository, b"good", name) as image:
        with pytest.raises(FormatError, match="no file can have"):
            extract(image, target)
        image.reader.names = lambda _: {name: image.reader.lookup(image.root, b"good")}
        image.children = lambda _: [(name, image.root)]
        with pytest.raises(TreeError, match="no file can have"):
            extract(image, target)

    assert os.listdir(target.parent) == []


def test_dots(repository, target, outside):
    """Entries called `.` and `..` are not entered, wherever they lead."""
    builder = ImageBuilder(1)
    evil = builder.directory([(b"evil", builder.inode(REGULAR, b"evil"))])
    root = builder.directory([(b".", evil), (b"..", evil), (b"good", builder.inode(REGULAR, b"good"))], dots=False)
    with images.open_bytes(repository, builder.finish(root)) as image:
        extract(image, target)

    assert listing(target) == ["good"]


def test_links_that_lead_out(repository, target, outside):
    """Links may lead anywhere: they are made, and not followed, though files stand below names like theirs."""
    root = directory(
        {
            "a": symlink(str(outside)),
            "b": symlink("../../../../../../../../etc"),
            "c": directory({"up": symlink(".."), "file": inline(b"x", mode=0o4777)}),
        }
    )
    extract_tree(repository, root, target)

    assert (target / "a").readlink() == outside
    assert os.listdir(target / "c/up") == os.listdir(target)


def test_one_name_twice(repository, target, outside):
    """A link and a directory of one name cannot be had."""
    builder = ImageBuilder(1)
    link = builder.inode(LINK, str(outside).encode())
    below = builder.directory([(b"evil", builder.inode(REGULAR, b"evil"))])
    root = builder.directory([(b"directory", link), (b"directory", below)], links=3)
    with images.open_bytes(repository, builder.finish(root)) as image, pytest.raises(FormatError, match="twice"):
        extract(image, target)


def test_loops(repository, target):
    """A directory that is in itself is entered once."""
    builder = ImageBuilder(1)
    nid = builder.next_nid()
    builder.directory([(b"again", nid)])
    with (
        images.open_bytes(repository, builder.finish(nid)) as image,
        pytest.raises(FormatError, match="is a directory with two names"),
    ):
        extract(image, target)
    assert os.listdir(target.parent) == []


def test_zero_in_a_target(repository, target):
    """No link can have a zero byte in its target."""
    with pytest.raises(TreeError, match="/l: is a link to a name that no file can have"):
        extract_tree(repository, directory({"l": Leaf(LINK_STAT, Symlink(b"a\0b"))}), target)


@pytest.mark.parametrize("nonempty", [False, True])
def test_directory_becomes_a_link(repository, target, outside, monkeypatch, nonempty):
    """Who can write to the target and puts a link in place of a new directory does not get our files elsewhere."""
    real = os.mkdir

    def mkdir(name, *arguments, dir_fd=None, **options):
        real(name, *arguments, dir_fd=dir_fd, **options)
        if name in (b"etc", b"bin"):
            os.rmdir(name, dir_fd=dir_fd)
            os.symlink(outside / "directory", name, dir_fd=dir_fd)

    if nonempty:
        target.mkdir()
    monkeypatch.setattr(os, "mkdir", mkdir)

    with pytest.raises(OSError, match="Not a directory|Too many levels") as caught:
        extract_tree(repository, sample(repository), target, nonempty=nonempty)

    assert caught.value.filename in (str(target / "etc"), str(target / "usr/bin"))


@pytest.mark.parametrize("moment", ["link", "utime"])
def test_directory_becomes_a_link_later(repository, target, outside, monkeypatch, moment):
    """Nor are links made or metadata set elsewhere."""
    real = getattr(os, moment)
    swapped = []

    def swap(*arguments, **options):
        (root,) = target.parent.iterdir()
        if not swapped and (root / "usr/large").exists() == (moment == "utime") and (root / "etc").exists():
            swapped.append(root / "etc")
            (root / "etc").rename(root / "moved")
            (root / "etc").symlink_to(outside / "directory")
        return real(*arguments, **options)

    monkeypatch.setattr(os, moment, swap)

    with pytest.raises(OSError, match="Not a directory|Too many levels") as caught:
        extract_tree(repository, sample(repository), target)

    assert swapped
    assert caught.value.filename == str(target / "etc")


@pytest.mark.parametrize(("name", "call"), [(b"bin", "symlink"), (b"pipe", "mknod")])
def test_file_becomes_another(repository, target, outside, monkeypatch, name, call):
    """Who puts a file of his own, or a link to another's, in place of a new link or fifo, does not get it changed."""
    real = getattr(os, call)

    def swap(*arguments, dir_fd=None):
        real(*arguments, dir_fd=dir_fd)
        if name in arguments:
            os.unlink(name, dir_fd=dir_fd)
            if call == "symlink":
                os.link(outside / "file", name, dst_dir_fd=dir_fd)
            else:
                os.symlink(outside / "file", name, dir_fd=dir_fd)

    monkeypatch.setattr(os, call, swap)

    with pytest.raises(FileExistsError, match="Somebody put another file in its place") as caught:
        extract_tree(repository, sample(repository), target)

    assert caught.value.filename == str(target / os.fsdecode(name))


# What cannot be restored


def test_unprivileged(target):
    """Who is not root gets all that needs no root, keeps no set-id bits of others, and is told what is missing."""
    require_root("becoming another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as text:
        place = Path(text)
        place.chmod(0o755)
        composefs.Repository.init(place / "repository", Algorithm.SHA256, require_verity=False)
        (place / "repository").chmod(0o755)
        (place / "mine").mkdir()
        os.chown(place / "mine", NOBODY, NOBODY)
        with composefs.Repository.open(place / "repository") as repository:
            null = device(1, 3)
            root = directory(
                {
                    "own": inline(b"own", uid=NOBODY, gid=NOBODY, mode=0o4755, xattrs={b"user.a": b"b"}),
                    "set": inline(b"set", mode=0o6755, xattrs={b"security.capability": CAPABILITY}),
                    "dir": directory({"in": external(repository, LARGE), "fifo": fifo()}, mode=0o555, mtime=5),
                    "link": symlink("dir"),
                    "null": null,
                    "null2": null,
                    "trusted": inline(xattrs={b"trusted.a": b"1"}),
                }
            )
            with images.open_tree(repository, root) as image:
                result = as_nobody(lambda: extract(image, place / "mine/target"))

        target = place / "mine/target"
        missing = {(item.what, item.reason): (item.count, item.examples) for item in result.shortfalls}
        assert missing.pop(("owner", errno.EPERM))[0] == 7
        assert missing == {
            ("device", errno.EPERM): (2, ["/null", "/null2"]),
            ("set-user-id or set-group-id", errno.EPERM): (1, ["/set"]),
            ("extended attribute security.*", errno.EPERM): (1, ["/set"]),
            ("extended attribute trusted.*", errno.EPERM): (1, ["/trusted"]),
        }
        assert result.lacks_only_privileges
        assert listing(target) == ["dir", "dir/fifo", "dir/in", "link", "own", "set", "trusted"]
        assert (target / "own").stat().st_mode == stat.S_IFREG | 0o4755
        assert (target / "set").stat().st_mode == stat.S_IFREG | 0o755
        assert os.getxattr(target / "own", "user.a") == b"b"
        assert (target / "dir").stat().st_mode == stat.S_IFDIR | 0o555
        assert (target / "dir").stat().st_mtime_ns == 5_000_000_005
        assert (target / "dir/in").read_bytes() == LARGE


def test_unprivileged_failure_leaves_nothing(repository, tmp_path):
    """Directories that lock out even their owner do not stay when something fails."""
    require_root("becoming another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as text:
        place = Path(text)
        os.chown(place, NOBODY, NOBODY)
        root = directory({"a": directory({"b": directory({"c": inline()}, mode=0)}, mode=0)}, mode=0)
        with images.open_tree(repository, root) as image:

            def fail(*_):
                raise OSError(errno.EIO, "broken")

            def work():
                _native.rename = fail
                with pytest.raises(OSError, match="broken") as caught:
                    extract(image, place / "target")
                return getattr(caught.value, "__notes__", None)

            assert as_nobody(work) is None
        assert os.listdir(place) == []


def as_nobody(work):
    """Return what *work* returns in a process of another user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # a child that ends like this
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            answer = work()
        except BaseException as error:  # all of it is raised in the parent
            answer = error
        with open(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = pickle.load(file)
    os.waitpid(pid, 0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def test_attributes_that_no_file_system_holds(repository, target):
    """An attribute that Linux does not know, or that is too large, is counted; it is not for want of privileges."""
    xattrs = {b"unknown": b"1", b"user.zero\0": b"2", b"user.big": bytes(65_535)}
    result = extract_tree(repository, directory({"f": inline(xattrs=xattrs), "g": inline(xattrs=xattrs)}), target)

    missing = {(item.what, item.count, tuple(item.examples)) for item in result.shortfalls}
    both = ("/f", "/g")
    assert ("extended attribute .*", 2, both) in missing
    assert ("extended attribute user.*", 2, both) in missing
    assert not result.lacks_only_privileges


def test_owner_that_means_none(repository, target):
    """The owner 4294967295 cannot be given: the system takes it for no change."""
    require_root("giving files away")
    result = extract_tree(repository, directory({"f": inline(uid=0xFFFFFFFF, mode=0o4755)}), target)

    assert [(item.what, item.reason) for item in result.shortfalls] == [
        ("owner", errno.EINVAL),
        ("set-user-id or set-group-id", errno.EPERM),
    ]
    assert (target / "f").stat().st_mode == stat.S_IFREG | 0o755


def test_shortfall_text():
    """A shortfall is one line, with as many examples as it keeps."""
    assert str(Shortfall("owner", errno.EPERM, 1, ["/a"])) == "owner: 1 (Operation not permitted), /a"
    many = Shortfall("device", errno.EPERM, 1234, ["/a", "/b", "/c"])
    assert str(many) == "device: 1,234 (Operation not permitted), /a, /b, /c, ..."


# Copies


def test_shared_blocks(repository, target, monkeypatch):
    """Where the file system can, a file shares the blocks of the object."""

    def reflink(source, file):
        os.pwrite(file, os.pread(source, 1 << 20, 0), 0)

    monkeypatch.setattr(_native, "reflink", reflink)

    result = extract_tree(repository, sample(repository), target)

    assert result.shared == len(LARGE)
    assert (target / "etc/large").read_bytes() == LARGE


def test_copy_by_hand(repository, target, monkeypatch):
    """Where the kernel cannot copy between the two file systems, we do; it is asked once."""
    asked = []

    def copy(*arguments):
        asked.append(arguments)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", copy)
    root = directory({"a": external(repository, LARGE), "b": external(repository, LARGE * 300)})

    extract_tree(repository, root, target)

    assert len(asked) == 1
    assert (target / "a").read_bytes() == LARGE
    assert (target / "b").read_bytes() == LARGE * 300


@pytest.mark.parametrize("by_hand", [False, True])
def test_holes(repository, target, monkeypatch, by_hand):
    """Holes of an object are holes of the file, at its end, too."""
    root = directory({"f": external(repository, bytes(1 << 20) + LARGE + bytes(1 << 20))})
    (path,) = Path(repository.path).glob("objects/*/*")
    with path.open("r+b") as file:
        file.truncate(0)
        file.seek(1 << 20)
        file.write(LARGE)
        file.truncate((2 << 20) + len(LARGE))
    if by_hand:
        monkeypatch.setattr(os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no")))

    extract_tree(repository, root, target)

    assert (target / "f").read_bytes() == bytes(1 << 20) + LARGE + bytes(1 << 20)
    assert (target / "f").stat().st_blocks * 512 < 1 << 20


def test_object_becomes_shorter(repository, target, monkeypatch):
    """An object that somebody cuts while it is copied is an error."""
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)

    with pytest.raises(OSError, match="became shorter") as caught:
        extract_tree(repository, sample(repository), target)

    assert caught.value.filename == str(target / "etc/large")


@pytest.mark.parametrize("call", ["copy_file_range", "mknod", "setxattr", "chown"])
def test_other_errors_end_the_work(repository, target, monkeypatch, call):
    """Whatever else goes wrong, such as a device that breaks, is no shortfall."""

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    root = directory({"a": inline(xattrs={b"user.a": b"1"}), "b": external(repository, LARGE), "c": device(1, 3)})

    with pytest.raises(OSError, match="Input/output error") as caught:
        extract_tree(repository, root, target)

    assert Path(caught.value.filename).parent == target
    assert os.listdir(target.parent) == []
