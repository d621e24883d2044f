"""System calls through the C extension, on a temporary directory."""

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from composefs import _native
from tests.tools import require_root


@pytest.fixture
def dir_fd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_003])
def test_store_file_writes_everything_and_link_fd_names_it(tmp_path, dir_fd, size):
    data = os.urandom(size)

    fd = _native.store_file(dir_fd, data)
    try:
        assert list(tmp_path.iterdir()) == []
        assert not os.get_inheritable(fd)
        _native.link_fd(fd, dir_fd, "name")
        assert os.pread(fd, size + 1, 0) == data
    finally:
        os.close(fd)

    assert (tmp_path / "name").read_bytes() == data


def test_store_file_gives_mode_0644_whatever_the_umask(dir_fd):
    former = os.umask(0o077)
    try:
        private = _native.store_file(dir_fd, b"")
        os.umask(0)
        public = _native.store_file(dir_fd, b"")
    finally:
        os.umask(former)
    try:
        assert (os.fstat(private).st_mode & 0o7777, os.fstat(public).st_mode & 0o7777) == (0o644, 0o644)
    finally:
        os.close(private)
        os.close(public)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_store_file_leaves_nothing_open_when_writing_fails(dir_fd):
    """A limit on the size of files first cuts a write short, then fails the next."""
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            _native.store_file(dir_fd, bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)

    assert caught.value.errno == errno.EFBIG
    assert open_descriptors() == before


def test_store_file_fails_where_unnamed_files_are_unknown():
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=r"not (permitted|supported)"):
            _native.store_file(fd, b"data")
    finally:
        os.close(fd)


def test_link_fd_does_not_replace_and_names_the_path(tmp_path, dir_fd):
    (tmp_path / "taken").write_bytes(b"old")
    fd = _native.store_file(dir_fd, b"new")
    try:
        with pytest.raises(FileExistsError) as caught:
            _native.link_fd(fd, dir_fd, "taken")
    finally:
        os.close(fd)

    assert caught.value.filename == "taken"
    assert (tmp_path / "taken").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["caf\udce9", "großes ß"])
def test_names_are_encoded_as_python_does(tmp_path, dir_fd, name):
    fd = _native.store_file(dir_fd, b"")
    try:
        _native.link_fd(fd, dir_fd, name)
    finally:
        os.close(fd)
    _native.rename(dir_fd, name, dir_fd, name + "2")

    assert os.listdir(tmp_path) == [name + "2"]


def test_a_zero_byte_does_not_end_a_name(tmp_path, dir_fd):
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="null byte"):
        _native.link_fd(0, dir_fd, "a\0b")
    with pytest.raises(ValueError, match="null byte"):
        _native.rename(dir_fd, "a\0", dir_fd, "b")
    with pytest.raises(ValueError, match="null byte"):
        _native.rename(dir_fd, "a", dir_fd, "b\0")


def test_rename_replaces(tmp_path, dir_fd):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")

    _native.rename(dir_fd, "a", dir_fd, "b")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"a"}


def test_rename_between_directories(tmp_path, dir_fd):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "sub").mkdir()
    sub = os.open(tmp_path / "sub", os.O_RDONLY)
    try:
        _native.rename(dir_fd, "a", sub, "b")
    finally:
        os.close(sub)

    assert (tmp_path / "sub/b").read_bytes() == b"a"


def needs_flags(tmp_path: Path, dir_fd: int) -> None:
    """Skip where the file system has no renameat2 flags."""
    (tmp_path / "probe").touch()
    try:
        _native.rename(dir_fd, "probe", dir_fd, "probed", _native.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            pytest.skip("no renameat2 flags here")
        raise
    (tmp_path / "probed").unlink()


def test_rename_noreplace_keeps_what_is_there(tmp_path, dir_fd):
    needs_flags(tmp_path, dir_fd)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")

    with pytest.raises(FileExistsError) as caught:
        _native.rename(dir_fd, "a", dir_fd, "b", _native.RENAME_NOREPLACE)

    assert caught.value.filename == "b"
    assert (tmp_path / "b").read_bytes() == b"b"


def test_rename_exchange_swaps(tmp_path, dir_fd):
    needs_flags(tmp_path, dir_fd)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")

    _native.rename(dir_fd, "a", dir_fd, "b", _native.RENAME_EXCHANGE)

    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"b", b"a")


def test_rename_of_nothing_fails(dir_fd):
    with pytest.raises(FileNotFoundError):
        _native.rename(dir_fd, "a", dir_fd, "b")


def test_reflink_shares_or_says_that_it_cannot(tmp_path, dir_fd):
    source, target = _native.store_file(dir_fd, b"x" * 8192), _native.store_file(dir_fd, b"")
    try:
        _native.reflink(source, target)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV)  # noqa: PT017  either is right
    else:
        assert os.pread(target, 8193, 0) == b"x" * 8192
    finally:
        os.close(source)
        os.close(target)


def test_reopen_near(tmp_path, dir_fd):
    """The file is opened once more, for reading, in the mount of the directory; elsewhere it cannot be found."""
    require_root("opening by handle")
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted/file").write_bytes(b"content")
    subprocess.run(["mount", "--bind", tmp_path / "mounted", tmp_path / "mounted"], check=True)
    try:
        with open(tmp_path / "mounted/file", "rb") as file:
            with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
                _native.link_fd(file.fileno(), dir_fd, "linked")
            with open(_native.reopen_near(file.fileno(), dir_fd), "rb") as near:
                _native.link_fd(near.fileno(), dir_fd, "linked")
                assert near.read() == b"content"
                with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                    os.write(near.fileno(), b"x")
        assert (tmp_path / "linked").samefile(tmp_path / "mounted/file")
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        _native.reopen_near(-1, dir_fd)


def test_syncfs(dir_fd):
    _native.syncfs(dir_fd)


@pytest.mark.parametrize(
    "call",
    [
        lambda fd: _native.store_file(fd, b""),
        lambda fd: _native.rename(fd, "a", fd, "b"),
        lambda fd: _native.rename(fd, "a", fd, "b", _native.RENAME_NOREPLACE),
        lambda fd: _native.reflink(fd, fd),
        _native.syncfs,
        lambda fd: _native.enable_verity(fd, _native.SHA256),
        _native.measure_verity,
        lambda fd: _native.verity_digest_fd(_native.SHA256, fd, 32),
    ],
)
def test_a_closed_descriptor_is_an_error(call):
    with pytest.raises(OSError, match="Bad file descriptor"):
        call(1 << 20)


def test_link_fd_of_a_closed_descriptor_finds_nothing(dir_fd):
    with pytest.raises(FileNotFoundError):
        _native.link_fd(1 << 20, dir_fd, "name")


def test_a_lack_of_memory_is_a_memory_error():
    with pytest.raises(MemoryError):
        _native.core.check(-errno.ENOMEM)


@pytest.mark.parametrize("digest_size", [32, 64])
@pytest.mark.parametrize("count", [1, 31, 32, 300])
def test_missing_objects(tmp_path, dir_fd, digest_size, count):
    """Objects are found by their names, however many, and also if one is asked for again and again."""
    rests = [n.to_bytes(2, "big") * (digest_size // 2 - 1) + b"!" for n in range(count)]
    names = [first + rest for rest in rests for first in (b"a", b"b")]
    assert {len(name) for name in names} == {digest_size}
    for name in names[::3]:
        (tmp_path / name[:1].hex()).mkdir(exist_ok=True)
        (tmp_path / name[:1].hex() / name[1:].hex()).touch()
    wanted = [index for index in range(2 * len(names)) if index % len(names) % 3]

    assert _native.missing_objects(dir_fd, b"".join(names * 2), digest_size) == wanted


def test_no_objects_are_missing(dir_fd):
    assert _native.missing_objects(dir_fd, b"", 32) == []


@pytest.mark.parametrize("count", [1, 100])
def test_missing_objects_in_a_file(tmp_path, dir_fd, count):
    (tmp_path / "00").touch()

    with pytest.raises(NotADirectoryError):
        _native.missing_objects(dir_fd, bytes(32 * count), 32)


def store(dir_fd, contents, alg=0):
    """Store *contents*, by numbers for their names."""
    data, spans = b"", b""
    for content in contents:
        spans += struct.pack("=QQ", len(data), len(content))
        data += content
    names = b"".join(bytes([number]) * 32 for number in range(len(contents)))
    return _native.store_objects(dir_fd, alg, data, spans, names)


def stored(path):
    """Return what is below *path*, by path."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def path_of(number):
    return f"{number:02x}/" + f"{number:02x}" * 31


CONTENTS = [b"", b"x", b"y" * 4097, b"y" * 4097]


def test_store_objects(tmp_path, dir_fd):
    """What is not there is stored in directories that are made; what is there is found."""
    before = open_descriptors()

    assert store(dir_fd, CONTENTS) == [_native.OBJECT_NEW] * 4
    (tmp_path / path_of(2)).unlink()
    assert store(dir_fd, CONTENTS) == [0, 0, _native.OBJECT_NEW, 0]

    assert stored(tmp_path) == {path_of(number): content for number, content in enumerate(CONTENTS)}
    assert open_descriptors() == before
    assert _native.store_objects(dir_fd, 0, b"", b"", b"") == []


def test_store_objects_where_there_is_no_verity(tmp_path, dir_fd):
    """What cannot be sealed gets no name, and no directory."""
    ioctl_fails = (errno.EOPNOTSUPP, errno.ENOTTY)

    results = store(dir_fd, CONTENTS, _native.SHA256)

    if all(-result in ioctl_fails for result in results):
        assert list(tmp_path.iterdir()) == []
    else:  # this file system has fs-verity, and the names are wrong
        assert results == [-errno.EBADMSG] * 4


def test_store_objects_in_a_directory_that_cannot_be_written(tmp_path):
    """Each says why."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        results = store(fd, CONTENTS)
    finally:
        os.close(fd)

    assert len(results) == 4
    assert all(result < 0 for result in results)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    require_root("mounting a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["mount", "-o", "remount,rw", tmp_path], check=True)
    subprocess.run(["umount", tmp_path], check=True)


def test_store_objects_on_a_full_disk(small_disk):
    """What finds no room leaves none of itself, so that smaller ones behind it still do."""
    fd = os.open(small_disk, os.O_RDONLY | os.O_DIRECTORY)
    contents = [b"a" * 100_000, b"b" * 300_000, b"c" * 100_000, b"d" * 100_000, b"e" * 4096]
    try:
        results = store(fd, contents)
        assert results == [1, -errno.ENOSPC, 1, -errno.ENOSPC, 1]
        assert stored(small_disk) == {path_of(number): contents[number] for number in (0, 2, 4)}

        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert store(fd, contents) == [0, -errno.EROFS, 0, -errno.EROFS, 0]
    finally:
        os.close(fd)


CRASH = """import gc, os, resource, signal, sys
from composefs import _native

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
dir_fd = os.open(sys.argv[1], os.O_RDONLY)

def store(data):
    _native.store_file(dir_fd, memoryview(data)[10:3000])

def fail():
    try:
        store(bytes(5000))
    except OSError as error:
        saved = error  # a cycle: the error keeps this frame

fail()
gc.collect()
print("alive")
"""


def test_kept_errors(tmp_path):
    """An error that is kept and then collected takes no buffer with it that is still exported: CPython 3.11 crashed."""
    done = subprocess.run([sys.executable, "-c", CRASH, tmp_path], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
