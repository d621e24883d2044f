"""A directory on disk becomes a tree: every kind of node, and nothing that is not of one moment."""

import errno
import gc
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from composefs import _native
from composefs.digest import Algorithm
from composefs.errors import TreeError
from composefs.repository import Repository
from composefs.repository.objects import ObjectStore
from composefs.scan import INLINE_MAX, Sharing, Xattrs, contents, scan_directory, walk
from composefs.tree import NO_XATTRS, Inline, Object, Special, Symlink
from composefs.verity import compute_digest
from tests.tools import require_root

SIZES = [
    0,
    1,
    63,
    64,
    65,
    4095,
    4096,
    4097,
    128 * 4096,
    128 * 4096 + 1,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    3_000_000,
]


@pytest.fixture
def root(tmp_path):
    """An empty directory, whose file system has extended attributes of users."""
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def tmpfs():
    """An empty directory on a tmpfs, where root can set extended attributes of all kinds on all kinds."""
    require_root("extended attributes of links and devices")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="composefs-") as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def no_open_files():
    """Whatever happens, no file stays open and no thread stays behind."""
    gc.collect()  # pools of other tests keep their pipes until then
    before, threads = os.listdir("/proc/self/fd"), threading.active_count()
    yield
    assert os.listdir("/proc/self/fd") == before
    assert threading.active_count() == threads


@pytest.fixture
def at(monkeypatch):
    """Have something happen just before the first call of a function for which a condition holds."""

    def install(function, condition, action, module=os):
        real = getattr(module, function)
        done = []

        def call(*arguments, **options):
            if not done and condition(*arguments):
                done.append(True)
                action()
            return real(*arguments, **options)

        monkeypatch.setattr(module, function, call)
        return done

    return install


def scan(path, algorithm=Algorithm.SHA256, **options):
    return scan_directory(path, algorithm, **options)


def data_of(size):
    return bytes(number % 251 for number in range(size % 1000)) + bytes([size % 256]) * (size - size % 1000)


def many(root, count=200):
    """Make *count* files, too many for one batch; return the content of each by name."""
    made = {b"file%d" % number: b"content %d " % number * (number % 40 + 10) for number in range(count)}
    for name, data in made.items():
        (root / name.decode()).write_bytes(data)
    return made


def digest_of(data, algorithm=Algorithm.SHA256):
    return compute_digest(data, algorithm).raw


@pytest.mark.parametrize("algorithm", Algorithm)
def test_contents(root, algorithm):
    """Contents up to 64 bytes are inline, larger ones are objects named by their digest."""
    for size in SIZES:
        (root / str(size)).write_bytes(data_of(size))

    entries = scan(root, algorithm).entries

    assert INLINE_MAX == 64
    for size in SIZES:
        data = data_of(size)
        wanted = Inline(data) if size <= 64 else Object(size, digest_of(data, algorithm))
        assert entries[str(size).encode()].content == wanted


def test_metadata(root):
    """Mode, owner and mtime are those of the node itself, with nanoseconds also before 1970."""
    (root / "file").touch()
    (root / "directory").mkdir()
    (root / "link").symlink_to("/etc/passwd")
    times = {"file": -1_500_000_000, "directory": 1_700_000_000_123_456_789, "link": (1 << 33) * 10**9 + 7}
    for name, nanoseconds in times.items():
        os.utime(root / name, ns=(0, nanoseconds), follow_symlinks=False)
    (root / "file").chmod(0o4711)
    (root / "directory").chmod(0o3070 | 0o700)
    os.utime(root, ns=(0, 42))

    tree = scan(root)

    assert tree.stat == (0o755, os.getuid(), os.getgid(), 0, 42, NO_XATTRS)
    assert tree.entries[b"file"].stat[:5] == (0o4711, os.getuid(), os.getgid(), -2, 500_000_000)
    assert tree.entries[b"directory"].stat[:5] == (0o3770, os.getuid(), os.getgid(), 1_700_000_000, 123_456_789)
    assert tree.entries[b"link"].stat[:5] == (0o777, os.getuid(), os.getgid(), 1 << 33, 7)


def test_kinds(root):
    """Links, fifos and sockets are what they are; nothing is followed or waited for."""
    (root / "link").symlink_to(b"\xff/../nowhere".decode("utf-8", "surrogateescape"))
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(root / "socket"))

    entries = scan(root).entries

    assert entries[b"link"].content == Symlink(b"\xff/../nowhere")
    assert entries[b"fifo"].content == Special(stat.S_IFIFO)
    assert entries[b"socket"].content == Special(stat.S_IFSOCK)


def test_devices(tmpfs):
    """Devices keep their numbers, whiteouts included; they can be passed over, and nothing else is then."""
    numbers = {b"null": os.makedev(1, 3), b"whiteout": 0, b"large": os.makedev(4095, 0xFFFFF)}
    for name, number in numbers.items():
        os.mknod(tmpfs / name.decode(), stat.S_IFCHR | 0o600, number)
    os.mknod(tmpfs / "block", stat.S_IFBLK | 0o600, os.makedev(8, 1))
    os.mkfifo(tmpfs / "fifo")

    entries = scan(tmpfs).entries

    for name, number in numbers.items():
        assert entries[name].content == Special(stat.S_IFCHR, number)
    assert entries[b"block"].content == Special(stat.S_IFBLK, os.makedev(8, 1))
    assert scan(tmpfs, devices=False).entries.keys() == {b"fifo"}


def test_names(root):
    """Names are bytes, whatever they are in text."""
    names = [b"\xff\xfe", b" ", b"new\nline", "é".encode(), b"-rf", b"...", b"n" * 255, b"\\", b"="]
    for name in names:
        (root / os.fsdecode(name)).touch()

    assert scan(os.fsencode(root)).entries.keys() == set(names)


def test_hard_links(root):
    """What is one file on disk is one leaf, wherever it stands; without hard links each name has its own."""
    (root / "small").write_bytes(b"small")
    (root / "large").write_bytes(b"large" * 100)
    (root / "link").symlink_to("target")
    (root / "directory").mkdir()
    for name in ("small", "large", "link"):
        os.link(root / name, root / "directory" / name, follow_symlinks=False)

    joined, apart = scan(root), scan(root, hard_links=False)

    for name in (b"small", b"large", b"link"):
        assert joined.entries[name] is joined.entries[b"directory"].entries[name]
        first, second = apart.entries[name], apart.entries[b"directory"].entries[name]
        assert first is not second
        assert (first.stat, first.content) == (second.stat, second.content)


def test_user_xattrs(root):
    """Extended attributes of files and directories, the root included, are read, or left out as told."""
    (root / "file").touch()
    (root / "directory").mkdir()
    for path, xattrs in [(root, {"user.a": b""}), (root / "file", {"user.b": b"\0\xff", "user.a": b"1" * 2000})]:
        for name, value in xattrs.items():
            os.setxattr(path, name, value)

    tree = scan(root)

    assert tree.stat.xattrs == {b"user.a": b""}
    assert list(tree.entries[b"file"].stat.xattrs.items()) == [(b"user.a", b"1" * 2000), (b"user.b", b"\0\xff")]
    assert tree.entries[b"directory"].stat.xattrs == {}
    assert scan(root, xattrs=Xattrs.NONE).entries[b"file"].stat.xattrs == {}


def test_all_xattrs(tmpfs):
    """So are those of links and devices, which only root can set."""
    (tmpfs / "link").symlink_to("file")
    (tmpfs / "file").touch()
    os.mknod(tmpfs / "device", stat.S_IFCHR | 0o600, 0)
    for name in ("link", "device", "file"):
        os.setxattr(tmpfs / name, "trusted.of", name.encode(), follow_symlinks=False)
    os.setxattr(tmpfs / "file", "user.a", b"1")

    entries, limited = scan(tmpfs).entries, scan(tmpfs, xattrs=Xattrs.USER).entries

    assert entries[b"link"].stat.xattrs == {b"trusted.of": b"link"}
    assert entries[b"device"].stat.xattrs == {b"trusted.of": b"device"}
    assert entries[b"file"].stat.xattrs == {b"trusted.of": b"file", b"user.a": b"1"}
    assert limited[b"file"].stat.xattrs == {b"user.a": b"1"}
    assert limited[b"link"].stat.xattrs == {}


def test_equal_xattrs_are_shared(root):
    """Labels, which are the same for thousands of files, are kept once."""
    for name in "ab":
        (root / name).touch()
        os.setxattr(root / name, "user.label", b"x")

    entries = scan(root).entries

    assert entries[b"a"].stat.xattrs is entries[b"b"].stat.xattrs


def test_no_xattrs_at_all(root, monkeypatch):
    """A file system without extended attributes has none, which is no error."""

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    (root / "file").touch()
    monkeypatch.setattr(os, "listxattr", refuse)

    assert scan(root).entries[b"file"].stat.xattrs == {}


def test_sparse(root):
    """A sparse file has the digest of its zeros."""
    with (root / "sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(3_000_000)
        file.write(b"data")

    content = scan(root).entries[b"sparse"].content

    assert content == Object(5_000_000, digest_of(bytes(3_000_000) + b"data" + bytes(1_999_996)))


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
def test_workers(root, workers):
    """Any number of threads gives the same tree."""
    made = many(root)

    entries = scan(root, workers=workers).entries

    assert {name: leaf.content for name, leaf in entries.items()} == {
        name: Object(len(data), digest_of(data)) for name, data in made.items()
    }


def test_executor(root):
    """Threads of the caller are used, and stay."""
    made = many(root)
    with ThreadPoolExecutor(2, thread_name_prefix="ours") as executor:
        names = []
        real = _native.verity_digest_fds

        def spy(*arguments):
            names.append(threading.current_thread().name)
            return real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_native, "verity_digest_fds", spy)
            tree = scan(root, executor=executor)
        assert executor.submit(len, "abc").result() == 3

    assert len(tree.entries) == len(made)
    assert names
    assert all(name.startswith("ours") for name in names)


def test_no_threads_for_little(root, monkeypatch):
    """A handful of files is hashed without a thread."""
    many(root, 20)
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))

    assert len(scan(root, workers=8).entries) == 20


@pytest.mark.parametrize("depth", [walk._OPEN_MAX - 1, walk._OPEN_MAX, walk._OPEN_MAX + 1, 1500])
def test_deep(depth):
    """Depth is limited neither by descriptors nor by recursion, and what stands beside the deep directory is found."""
    root = tempfile.mkdtemp(dir="/dev/shm", prefix="composefs-")
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        for name in ("a", "d", "z"):
            os.mkdir(name, dir_fd=fd)
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + walk._OPEN_MAX + 5, hard))
    try:
        node = tree = scan(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        subprocess.run(["rm", "-rf", root], check=True)  # shutil recurses

    for _ in range(depth):
        assert node.entries.keys() == {b"a", b"d", b"z"}
        node = node.entries[b"d"]
    assert node.entries == {}
    assert tree.entries[b"z"].entries == {}


def test_open_files_are_bounded(root, monkeypatch):
    """However slow hashing is, no more files wait for it than may be open."""
    many(root, 1000)
    largest = 0
    real = _native.verity_digest_fds

    def slow(*arguments):
        nonlocal largest
        time.sleep(0.05)
        largest = max(largest, len(os.listdir("/proc/self/fd")))
        return real(*arguments)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(_native, "verity_digest_fds", slow)
    scan(root, workers=32)

    assert contents._OPEN_MAX // 2 < largest <= before + contents._OPEN_MAX + 40  # and the looks at them


# What cannot be had


def test_missing(tmp_path):
    """The error for a missing directory names it."""
    with pytest.raises(FileNotFoundError) as caught:
        scan(tmp_path / "missing")

    assert os.fsdecode(caught.value.filename) == str(tmp_path / "missing")


def test_file_as_root(root):
    """So does that for a file."""
    (root / "file").touch()

    with pytest.raises(NotADirectoryError) as caught:
        scan(root / "file")

    assert os.fsdecode(caught.value.filename) == str(root / "file")


def test_link_as_root(root, tmp_path):
    """A symbolic link is not followed, unless a slash says so."""
    (root / "file").touch()
    (tmp_path / "link").symlink_to("root")

    with pytest.raises(TreeError, match="link: is a symbolic link"):
        scan(tmp_path / "link")
    assert scan(f"{tmp_path}/link/").entries.keys() == {b"file"}


@pytest.mark.parametrize("name", ["file", "directory"])
def test_unreadable(root, name, monkeypatch):
    """What must not be read is named with its whole path."""
    (root / "above/directory").mkdir(parents=True)
    (root / "above/file").touch()
    real = os.open

    def refuse(path, *arguments, **options):
        if path == name.encode():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(PermissionError) as caught:
        scan(root)

    assert caught.value.filename == f"{root}/above/{name}"


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_unreadable_contents(root, size, monkeypatch):
    """So is a file whose contents the disk does not give."""
    many(root, 100)
    (root / "broken").write_bytes(bytes(size))
    inode = (root / "broken").stat().st_ino
    real_pread, real_digests = os.pread, _native.verity_digest_fds

    def pread(fd, *arguments):
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_pread(fd, *arguments)

    def digests(alg, fds, digest_size):
        found = real_digests(alg, fds, digest_size)
        return [
            (digest, -errno.EIO, 0) if os.fstat(fd).st_ino == inode else (digest, *rest)
            for fd, (digest, *rest) in zip(fds, found, strict=True)
        ]

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(_native, "verity_digest_fds", digests)

    with pytest.raises(OSError, match="Input/output error") as caught:
        scan(root)

    assert caught.value.filename == f"{root}/broken"


def test_unreadable_xattr(root, monkeypatch):
    """So is one whose extended attributes cannot be read, although its descriptor is all that is asked."""
    os.mkfifo(root / "fifo")

    def refuse(target):
        if isinstance(target, str):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), target)
        return []

    monkeypatch.setattr(os, "listxattr", refuse)

    with pytest.raises(PermissionError) as caught:
        scan(root)

    assert caught.value.filename == f"{root}/fifo"


@pytest.mark.parametrize(
    ("path", "size"), [("/proc/sys/kernel", 0), ("/sys/kernel/mm/transparent_hugepage", 4096), ("/sys/kernel/mm", 4096)]
)
def test_sizes_that_lie(path, size):
    """Files of /proc and /sys, whose sizes say nothing, are refused: no image of them could be read."""
    require_root("reading all of /sys")
    if not Path(path).is_dir():
        pytest.skip(f"{path} is missing")

    with pytest.raises(TreeError, match=f"has a size of {size} bytes, but|changed while it was read") as caught:
        scan(path)

    assert caught.value.path.startswith(path)


# What changes while it is read


def opens(name):
    return lambda path, *_: path == name


def test_file_vanishes(root, at):
    """Between the listing of its directory and its opening."""
    (root / "file").touch()
    at("open", opens(b"file"), (root / "file").unlink)

    with pytest.raises(TreeError, match="file: vanished while the tree was read"):
        scan(root)


def test_directory_vanishes(root, at):
    (root / "above/directory").mkdir(parents=True)
    at("open", opens(b"directory"), (root / "above/directory").rmdir)

    with pytest.raises(TreeError, match="above/directory: vanished while the tree was read"):
        scan(root)


@pytest.mark.parametrize("before", ["file", "directory", "link"])
@pytest.mark.parametrize("after", ["file", "directory", "link", "fifo", "socket"])
def test_type_changes(root, before, after, at):
    """What becomes something else before it is opened; nothing is followed, or waited for."""
    secret = root.parent / "secret"
    secret.mkdir()
    path = root / "node"
    made = {
        "file": path.touch,
        "directory": path.mkdir,
        "link": lambda: path.symlink_to(secret),
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: os.mknod(path, stat.S_IFSOCK | 0o600),
    }
    made[before]()

    def swap():
        if before == "directory":
            path.rmdir()
        else:
            path.unlink()
        made[after]()

    swapped = at("open", opens(b"node"), swap)

    with pytest.raises(TreeError, match="node: changed its type|root: changed while it was read"):
        scan(root)
    assert swapped


@pytest.mark.parametrize("size", [10, 1000, 3_000_000])
@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten", "gets another mode"])
def test_file_changes(root, size, change, at):
    """Between the look at it and the end of reading, in whatever way; the message names what."""
    path = root / "file"
    path.write_bytes(data_of(size))
    os.utime(path, ns=(0, 1))

    def alter():
        match change:
            case "grows":
                with path.open("ab") as file:
                    file.write(b"more")
            case "shrinks":
                os.truncate(path, size - 1)
            case "is rewritten":
                path.write_bytes(b"!" * size)
            case "gets another mode":
                path.chmod(0o600)

    changed = (
        at("verity_digest_fds", lambda *_: True, alter, _native)
        if size == 1000
        else at("pread", lambda *_: True, alter)
    )

    field = {"grows": "size", "shrinks": "size", "is rewritten": "mtime", "gets another mode": "ctime"}[change]
    with pytest.raises(TreeError, match=f"root/file: changed while it was read: {field}.* was .*, now it is"):
        scan(root)
    assert changed


def test_entry_appears(root, at):
    """A file that appears in a directory while what is below it is read."""
    (root / "a/b").mkdir(parents=True)
    os.utime(root / "a", ns=(0, 1))
    at("open", opens(b"b"), (root / "a/new").touch)

    with pytest.raises(TreeError, match="root/a: changed while it was read: mtime"):
        scan(root)


def test_directory_is_moved(root, at):
    """A directory on the way that is moved elsewhere, while its parents are closed."""
    depth = walk._OPEN_MAX + 10
    path = root.joinpath(*["d"] * depth)
    path.mkdir(parents=True)
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    moved = root.joinpath(*["d"] * 5)
    at("open", lambda path, *_: path == b"..", lambda: moved.rename(elsewhere / "d"))

    with pytest.raises(TreeError, match="was moved while the tree was read|changed while it was read"):
        scan(root)


def test_xattr_vanishes(root, at):
    (root / "file").touch()
    os.setxattr(root / "file", "user.a", b"1")
    at("getxattr", lambda *_: True, lambda: os.removexattr(root / "file", "user.a"))

    with pytest.raises(TreeError, match="root/file: lost its extended attribute 'user.a'"):
        scan(root)


# How it stops


@pytest.fixture
def unreadable(monkeypatch):
    """No file can be read; the value is a list of tries."""
    tries = []

    def fail(*_):
        tries.append(True)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_native, "verity_digest_fds", fail)
    return tries


def test_first_failure_stops(root, unreadable):
    """The first failure ends the walk, and what waits is not read."""
    many(root, 3000)

    with pytest.raises(OSError, match="Input/output error"):
        scan(root, workers=2)
    assert len(unreadable) < 20


def test_failure_is_noticed_without_more_files(root, unreadable, monkeypatch):
    """Also where only directories come after it."""
    many(root, 100)
    (root / "d").mkdir()
    for number in range(200):
        (root / f"d/{number}").mkdir()
    visited = []
    real = os.scandir

    def count(fd):
        visited.append(fd)
        if len(visited) == 2:
            time.sleep(0.2)  # by now the files have failed
        return real(fd)

    monkeypatch.setattr(os, "scandir", count)

    with pytest.raises(OSError, match="Input/output error"):
        scan(root, workers=2)
    assert len(visited) < 10


def test_interrupt_stops_a_large_file(root, monkeypatch):
    """Ctrl-C while a file is hashed that takes long does not wait for its end."""
    with (root / "large").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(40):
        (root / f"{number}").write_bytes(bytes(100))
    started = threading.Event()
    real_update = _native.VerityState.update

    def update(self, data):
        started.set()
        real_update(self, data)

    real_wait = contents.wait

    def interrupt(*arguments, **options):
        if options:  # the wait for results
            assert started.wait(10)
            raise KeyboardInterrupt
        return real_wait(*arguments, **options)

    monkeypatch.setattr(_native.VerityState, "update", update)
    monkeypatch.setattr(contents, "wait", interrupt)
    begun = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        scan(root, workers=2)
    assert time.monotonic() - begun < 5


# Storing


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("workers", [1, 4, None])
@pytest.mark.parametrize("seals", [False, True])  # as far as the scan can tell
def test_store(root, tmp_path, repository, sharing, workers, seals, monkeypatch):
    """Contents beyond 64 bytes are objects afterwards, once each, and the tree is that without storing."""
    monkeypatch.setattr(ObjectStore, "seals", seals)
    made = many(root)
    (root / "small").write_bytes(b"x" * 64)
    (root / "twice").write_bytes(made[b"file7"])

    tree = scan(root, store=repository.objects, sharing=sharing, workers=workers)

    objects = {
        file.parent.name + file.name: file.read_bytes() for file in (tmp_path / "repository/objects").rglob("*/*")
    }
    assert objects == {digest_of(data).hex(): data for data in made.values()}
    plain = scan(root)
    assert {name: leaf.content for name, leaf in tree.entries.items()} == {
        name: leaf.content for name, leaf in plain.entries.items()
    }


@pytest.mark.parametrize("sharing", Sharing)
def test_store_again(root, repository, sharing):
    """A second time nothing is new, and a source that is an object already is no change."""
    many(root, 50)
    first = scan(root, store=repository.objects, sharing=sharing)

    again = scan(root, store=repository.objects, sharing=sharing)

    assert {name: leaf.content for name, leaf in first.entries.items()} == {
        name: leaf.content for name, leaf in again.entries.items()
    }


@pytest.mark.parametrize("sharing", Sharing)
def test_store_changes(root, repository, sharing, at):
    """A file that changes while it is stored is an error in every way of storing."""
    path = root / "file"
    path.write_bytes(bytes(1000))
    os.utime(path, ns=(0, 1))
    inode = path.stat().st_ino
    at("pread", lambda fd, *_: os.fstat(fd).st_ino == inode, lambda: path.write_bytes(b"!" * 1000))

    with pytest.raises(TreeError, match="root/file: changed while it was read: mtime"):
        scan(root, store=repository.objects, sharing=sharing)


def test_full_disk(tmp_path, root):
    """On a full disk the error names the repository, not the file that was read."""
    require_root("mounting a tmpfs")
    for number in range(40):
        (root / str(number)).write_bytes(bytes([number]) * 100_000)
    target = tmp_path / "mounted"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], check=True)
    try:
        Repository.init(target / "repository", Algorithm.SHA256, require_verity=False)
        with (
            Repository.open(target / "repository") as opened,
            pytest.raises(OSError, match="No space left") as caught,
        ):
            scan(root, store=opened.objects)
        assert str(caught.value.filename).startswith(str(target / "repository"))
        shutil.rmtree(target / "repository")
    finally:
        subprocess.run(["umount", target], check=True)
