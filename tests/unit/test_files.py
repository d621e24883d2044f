"""Files of the host become objects, which share with them what they are told to, and hold what was hashed."""

import errno
import os
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from composefs import _native, verity
from composefs.digest import Algorithm, Digest
from composefs.errors import IntegrityError
from composefs.repository import Repository
from composefs.repository.files import WHOLE_MAX, Sharing, hash_file, no_checkpoint, read_pieces
from composefs.repository.objects import ObjectStore
from tests.tools import require_root, require_tool

ALGORITHM = Algorithm.SHA256
SIZES = [0, 1, 4096, 4097, WHOLE_MAX - 1, WHOLE_MAX, WHOLE_MAX + 1, 3 * WHOLE_MAX]


@pytest.fixture
def path(tmp_path):
    Repository.init(tmp_path / "repository", ALGORITHM, require_verity=False)
    return tmp_path / "repository"


@pytest.fixture
def store(path):
    with Repository.open(path) as repository:
        yield repository.objects


def digest_of(data):
    return verity.compute_digest(data, ALGORITHM)


def place(path, data):
    return path / "objects" / digest_of(data).object_path


def files(path):
    """Return every file below objects/, transient ones included."""
    return [file for file in (path / "objects").rglob("*") if not file.is_dir()]


def ensure(store, source, sharing, **options):
    with open(source, "rb") as file:
        return store.ensure_file(file.fileno(), sharing, **options)


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("size", SIZES)
def test_every_way(store, path, tmp_path, size, sharing):
    """Whatever is shared, the object holds the file's content; the second time it is there."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)

    assert ensure(store, source, sharing) == (digest_of(data).raw, True)
    assert ensure(store, source, sharing) == (digest_of(data).raw, False)

    assert place(path, data).read_bytes() == data
    assert files(path) == [place(path, data)]
    is_same = place(path, data).stat().st_ino == source.stat().st_ino
    assert is_same == (sharing is Sharing.HARD_LINK)


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("size", [1000, WHOLE_MAX + 1])
def test_broken_object_is_replaced(store, path, tmp_path, size, sharing):
    """A file that is stored replaces what a crash left of its object."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    place(path, data).parent.mkdir(parents=True)
    place(path, data).write_bytes(bytes(size))

    assert ensure(store, source, sharing) == (digest_of(data).raw, True)

    assert place(path, data).read_bytes() == data
    assert files(path) == [place(path, data)]


@pytest.mark.parametrize("size", [WHOLE_MAX + 1, 1 << 20, (64 << 20) + 5])
def test_holes_stay(store, path, tmp_path, size):
    """Long runs of zeros take no room as an object either, at the end included."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"data")

    ensure(store, source, Sharing.COPY)

    stored = place(path, source.read_bytes())
    assert stored.stat().st_size == size
    assert stored.read_bytes() == source.read_bytes()
    if size > 2 * WHOLE_MAX:
        assert stored.stat().st_blocks * 512 <= 1 << 20


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID])
def test_programs_of_others_are_not_linked(store, path, tmp_path, bit):
    """An object does not keep alive a set-user-ID program that its owner replaces."""
    source = tmp_path / "source"
    source.write_bytes(b"program " * 100)
    source.chmod(0o755 | bit)

    ensure(store, source, Sharing.HARD_LINK)

    stored = place(path, source.read_bytes())
    assert stored.stat().st_ino != source.stat().st_ino
    assert stored.stat().st_mode & 0o7000 == 0


def test_link_to_what_is_linked(store, path, tmp_path):
    """A file that was broken and is right again may already have the object's name; no other one stays."""
    source = tmp_path / "source"
    source.write_bytes(b"before" * 100)
    ensure(store, source, Sharing.HARD_LINK)
    source.write_bytes(b"behind" * 100)
    with pytest.raises(IntegrityError):
        store.open(digest_of(b"before" * 100))
    source.write_bytes(b"before" * 100)

    assert ensure(store, source, Sharing.HARD_LINK)[1]

    assert files(path) == [place(path, b"before" * 100)]
    assert source.stat().st_nlink == 2
    assert not ensure(store, source, Sharing.HARD_LINK)[1]  # it is known to be whole


def test_no_link_to_another_file_system(store, path, monkeypatch):
    """Where a file cannot get another name it is copied, and not sealed before that is known."""
    touched = []
    monkeypatch.setattr(verity, "is_known", lambda fd: True)
    monkeypatch.setattr(verity, "seal", lambda fd, *_: bool(touched.append(os.fstat(fd).st_dev)))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        source = Path(directory, "source")
        source.write_bytes(b"elsewhere" * 100)
        if source.stat().st_dev == path.stat().st_dev:
            pytest.skip("/dev/shm is no other file system")

        assert ensure(store, source, Sharing.HARD_LINK)[1]

        assert place(path, source.read_bytes()).read_bytes() == source.read_bytes()
    assert touched == [path.stat().st_dev]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.ENOENT])
def test_link_that_fails(store, path, tmp_path, number, monkeypatch):
    """Nor where the kernel refuses."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    inode = source.stat().st_ino
    real = _native.link_fd

    def refuse(fd, *arguments):
        if os.fstat(fd).st_ino == inode:
            raise OSError(number, os.strerror(number))
        real(fd, *arguments)

    monkeypatch.setattr(_native, "link_fd", refuse)

    assert ensure(store, source, Sharing.HARD_LINK) == (digest_of(b"x" * 1000).raw, True)
    assert place(path, b"x" * 1000).stat().st_ino != inode


def test_link_on_a_full_disk(store, path, tmp_path, monkeypatch):
    """But what a copy would not mend is an error."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "source").write_bytes(b"x" * 1000)
    monkeypatch.setattr(_native, "link_fd", full)

    with pytest.raises(OSError, match="No space left") as caught:
        ensure(store, tmp_path / "source", Sharing.HARD_LINK)
    assert caught.value.filename == str(place(path, b"x" * 1000))


def test_changed_file_is_not_linked(store, path, tmp_path, monkeypatch):
    """A file that was written to after it was hashed is copied, so that the object is what was hashed then."""
    source = tmp_path / "source"
    source.write_bytes(b"old" * 500)
    os.utime(source, ns=(0, 1))
    real = _native.verity_digest
    changed = []

    def change(*arguments):
        digest = real(*arguments)
        if not changed:
            changed.append(True)
            source.write_bytes(b"new" * 500)
        return digest

    monkeypatch.setattr(_native, "verity_digest", change)

    digest, _ = ensure(store, source, Sharing.HARD_LINK)

    assert digest == digest_of(b"new" * 500).raw
    assert files(path) == [place(path, b"new" * 500)]
    assert files(path)[0].stat().st_ino != source.stat().st_ino


def test_linked_file_is_sealed(path, tmp_path, monkeypatch):
    """Where fs-verity is required the linked file itself is sealed; one of another algorithm is copied."""
    sealed = {}

    def seal(fd, digest, where, copy_to):
        if sealed.setdefault(os.fstat(fd).st_ino, digest.algorithm) is not digest.algorithm:
            raise IntegrityError(where, "sha256", "sha512")
        return True

    monkeypatch.setattr(verity, "seal", seal)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1" * 1000)
    second.write_bytes(b"2" * 1000)
    sealed[second.stat().st_ino] = Algorithm.SHA512
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    store = ObjectStore(fd, str(path), ALGORITHM, require_verity=True)
    try:
        for source in (first, second):
            ensure(store, source, Sharing.HARD_LINK)
    finally:
        store.close()
        os.close(fd)

    assert place(path, b"1" * 1000).stat().st_ino == first.stat().st_ino
    assert place(path, b"2" * 1000).stat().st_ino != second.stat().st_ino
    assert sealed[first.stat().st_ino] is sealed[place(path, b"2" * 1000).stat().st_ino] is ALGORITHM


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_shared_blocks(tmp_path, kind):
    """Where the file system can, a reflinked object takes no room of its own, and does not change with the file."""
    require_root("mounting a file system")
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([require_tool(f"mkfs.{kind}"), "-q", disk], check=True)
    mounted.mkdir()
    if subprocess.run(["mount", "-o", "loop", disk, mounted], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"no {kind} can be mounted here")
    try:
        data = os.urandom(60 << 20)
        source = mounted / "source"
        source.write_bytes(data)
        path = mounted / "repository"
        Repository.init(path, ALGORITHM, require_verity=False)
        os.sync()
        before = os.statvfs(mounted).f_bavail
        with Repository.open(path) as repository:
            stored = ensure(repository.objects, source, Sharing.REFLINK)
            assert ensure(repository.objects, source, Sharing.REFLINK) == (stored[0], False)
            repository.sync()
        used = (before - os.statvfs(mounted).f_bavail) * os.statvfs(mounted).f_frsize
        with source.open("r+b") as file:
            file.write(b"changed")

        assert stored == (digest_of(data).raw, True)
        assert place(path, data).read_bytes() == data
        assert used < 10 << 20
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_no_second_try_where_blocks_cannot_be_shared(store, path, tmp_path, monkeypatch):
    """A file system that cannot share blocks is asked once, and not for each of its files."""
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(_native, "reflink", refuse)
    for number in range(5):
        (tmp_path / "source").write_bytes(b"%d" % number * 100)
        assert ensure(store, tmp_path / "source", Sharing.REFLINK)[1]

    assert len(asked) == 1
    assert len(files(path)) == 5


def test_file_that_cannot_be_shared(store, path, tmp_path, monkeypatch):
    """One file of which that is said is copied, and the next is asked for."""
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(_native, "reflink", refuse)
    for number in range(5):
        (tmp_path / "source").write_bytes(b"%d" % number * 100)
        assert ensure(store, tmp_path / "source", Sharing.REFLINK)[1]

    assert len(asked) == 5


class StopError(Exception):
    pass


@pytest.mark.parametrize("sharing", Sharing)
def test_checkpoint(store, path, tmp_path, sharing):
    """A large file can be given up between two pieces; nothing is left behind."""
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * WHOLE_MAX))
    calls = []

    def stop():
        calls.append(True)
        if len(calls) == 3:
            raise StopError

    with pytest.raises(StopError):
        ensure(store, source, sharing, checkpoint=stop)

    assert not (path / "objects").exists() or files(path) == []


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("size", SIZES)
def test_hash_file(tmp_path, size, algorithm):
    """The digest is that of the content, whatever size was expected."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)

    with source.open("rb") as file:
        for about in (0, size, 2 * size + 10, 5 * WHOLE_MAX):
            got = hash_file(file.fileno(), about, algorithm.kernel_id, algorithm.digest_size, no_checkpoint)
            assert Digest(algorithm, got) == verity.compute_digest(data, algorithm)
        assert b"".join(read_pieces(file.fileno(), no_checkpoint)) == data


def test_many_threads(store, path, tmp_path):
    """One store serves several threads, which store the same files at the same time."""
    contents = [bytes([number]) * 500 for number in range(50)]
    for number, data in enumerate(contents):
        (tmp_path / f"source{number}").write_bytes(data)
    before = len(os.listdir("/proc/self/fd"))

    with ThreadPoolExecutor(8) as executor:
        stored = list(
            executor.map(lambda number: ensure(store, tmp_path / f"source{number % 50}", Sharing.COPY), range(400))
        )

    assert [digest for digest, _ in stored] == [digest_of(contents[number % 50]).raw for number in range(400)]
    assert sum(is_new for _, is_new in stored) == 50
    assert sorted(files(path)) == sorted(place(path, data) for data in contents)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the directory of objects


def take(store, source, sharing, look=None, **options):
    with open(source, "rb") as file:
        return store.take_file(file.fileno(), sharing, look if look is not None else lambda _: None, **options)


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("size", SIZES)
def test_take_every_way(store, path, tmp_path, size, sharing):
    """What is stored is what was looked at, once and in order; it shares what it is told to."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    seen = []

    assert take(store, source, sharing, seen.append) == (digest_of(data).raw, True)
    assert b"".join(seen) == data
    assert take(store, source, sharing) == (digest_of(data).raw, False)

    assert files(path) == [place(path, data)]
    is_same = place(path, data).stat().st_ino == source.stat().st_ino
    assert is_same == (sharing is Sharing.HARD_LINK)


@pytest.mark.parametrize(
    ("mode", "is_linked"),
    [(0o644, True), (0o755, True), (0o4755, False), (0o2755, False), (0o600, False), (0o640, False), (0o664, False)],
)
def test_what_is_taken_as_it_is(store, path, tmp_path, mode, is_linked):
    """What runs as another user, or not all may read, or others may write to, is copied, even if none is allowed."""
    source = tmp_path / "source"
    source.write_bytes(b"program " * 100)
    source.chmod(mode)

    take(store, source, Sharing.HARD_LINK, may_copy=False)

    stored = place(path, source.read_bytes()).stat()
    assert (stored.st_ino == source.stat().st_ino) == is_linked
    assert stored.st_mode & 0o7777 == (mode if is_linked else 0o644)


def test_who_may_write_does_not_matter_behind_a_seal(store, path, tmp_path, monkeypatch):
    """Where the kernel enforces digests, a file is linked though others may write to it: nobody can any more."""
    monkeypatch.setattr(verity, "is_known", lambda fd: True)
    monkeypatch.setattr(verity, "seal", lambda fd, *_: True)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    source.chmod(0o666)

    take(store, source, Sharing.HARD_LINK)

    assert place(path, b"x" * 1000).stat().st_ino == source.stat().st_ino


def test_take_without_copies(store, path, tmp_path, monkeypatch):
    """Where nothing can be shared, a copy is made or an error, as was asked for; the contents are looked at once."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    real, inode = _native.link_fd, source.stat().st_ino

    def refuse(fd, *arguments):
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(fd, *arguments)

    monkeypatch.setattr(_native, "link_fd", refuse)
    seen = []

    with pytest.raises(PermissionError, match="can be linked to no object"):
        take(store, source, Sharing.HARD_LINK, may_copy=False)
    assert take(store, source, Sharing.HARD_LINK, seen.append) == (digest_of(b"x" * 1000).raw, True)
    assert seen == [b"x" * 1000]

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        elsewhere = Path(directory, "source")
        elsewhere.write_bytes(b"y" * 1000)
        if elsewhere.stat().st_dev != path.stat().st_dev:
            with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
                take(store, elsewhere, Sharing.HARD_LINK, may_copy=False)
            assert take(store, elsewhere, Sharing.HARD_LINK)[1]


def test_take_what_is_being_written_to(store, path, tmp_path, monkeypatch):
    """A file that is another one when it is copied than when it was looked at is no object."""
    source = tmp_path / "source"
    source.write_bytes(b"old" * 500)
    monkeypatch.setattr(ObjectStore, "_linked", lambda *_: source.write_bytes(b"new" * 500) and None)

    with pytest.raises(IntegrityError, match="somebody writes to it"):
        take(store, source, Sharing.HARD_LINK)


def test_link_from_another_mount(path, tmp_path):
    """A file is linked though it is in another mount of the file system, as podman's are."""
    require_root("mounting")
    (tmp_path / "mounted").mkdir()
    source = tmp_path / "mounted/source"
    source.write_bytes(b"x" * 1000)
    subprocess.run(["mount", "--bind", tmp_path / "mounted", tmp_path / "mounted"], check=True)
    try:
        with Repository.open(path) as repository:
            assert take(repository.objects, source, Sharing.HARD_LINK, may_copy=False)[1]
            assert place(path, b"x" * 1000).stat().st_ino == source.stat().st_ino
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)


def test_reflink_from_another_mount(store, path, tmp_path, monkeypatch):
    """Where the kernel shares no blocks between mounts, the file is opened once more in ours."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    opened = []

    def reflink(source_fd, target_fd):
        if not opened:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        os.pwrite(target_fd, os.pread(source_fd, 5000, 0), 0)

    def reopen(fd, dir_fd):
        opened.append(os.dup(fd))
        return opened[-1]

    monkeypatch.setattr(_native, "reflink", reflink)
    monkeypatch.setattr(_native, "reopen_near", reopen)

    assert take(store, source, Sharing.REFLINK) == (digest_of(b"x" * 1000).raw, True)
    assert len(opened) == 1
