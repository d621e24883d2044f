"""Objects where the file system has fs-verity: what is new is sealed, what is there is proved or replaced."""

import errno
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composefs import Algorithm, _native, verity
from composefs.digest import Digest
from composefs.errors import IntegrityError
from composefs.repository import Repository
from composefs.repository.objects import ObjectStore, Stored
from tests.kernel.images import has_verity
from tests.layouts import noise
from tests.threads import meanwhile

ALGORITHM = Algorithm.SHA512
DATA = noise(10_000)
DIGEST = verity.compute_digest(DATA, ALGORITHM)

Ensure = Callable[[ObjectStore], Stored]


def in_bulk(store: ObjectStore) -> Stored:
    """Store the object as those of a layer are."""
    (stored,) = store.ensure_spans(b"before" + DATA, struct.pack("=QQ", 6, len(DATA)), DIGEST.raw)
    return stored


def alone(store: ObjectStore) -> Stored:
    """Store the object as an image is."""
    return store.ensure(DATA)


def in_pieces(store: ObjectStore) -> Stored:
    """Store the object as a stream is."""
    return store.ensure_pieces([DATA[:5000], DATA[5000:]])


WAYS = pytest.mark.parametrize("ensure", [in_bulk, alone, in_pieces])


@pytest.fixture(params=[True, False], ids=["required", "insecure"])
def path(request: pytest.FixtureRequest, scratch: Path) -> Path:
    """A repository, on ext4 with fs-verity, that requires it, and one that does not."""
    Repository.init(scratch / "repository", ALGORITHM, require_verity=request.param)
    return scratch / "repository"


@pytest.fixture
def store(path: Path) -> Iterator[ObjectStore]:
    with Repository.open(path) as repository:
        yield repository.objects


@pytest.fixture
def name(path: Path) -> Path:
    """Where the object is, in a directory that exists."""
    name = path / "objects" / DIGEST.object_path
    name.parent.mkdir(parents=True)
    return name


def measured(path: Path, algorithm: Algorithm = ALGORITHM) -> Digest | None:
    with path.open("rb") as file:
        return verity.measure(file.fileno(), algorithm)


def put(name: Path, data: bytes, algorithm: Algorithm | None) -> int:
    """Write the file *name*, sealed by *algorithm* unless that is None; return its inode."""
    name.write_bytes(data)
    if algorithm is not None:
        with name.open("rb") as file:
            assert verity.enable(file.fileno(), algorithm)
    return name.stat().st_ino


@WAYS
def test_new(store: ObjectStore, name: Path, ensure: Ensure) -> None:
    """A new object is sealed, also where that need not be; nobody can write to it."""
    assert ensure(store) == (DIGEST.raw, True)

    assert measured(name) == DIGEST
    assert name.stat().st_mode & 0o7777 == 0o644
    with pytest.raises(PermissionError):
        name.open("r+b")
    inode = name.stat().st_ino
    assert ensure(store) == (DIGEST.raw, False)
    assert name.stat().st_ino == inode


@WAYS
def test_unsealed(store: ObjectStore, name: Path, ensure: Ensure) -> None:
    """One that is there without fs-verity gets it, if its content is right."""
    inode = put(name, DATA, None)

    assert ensure(store) == (DIGEST.raw, False)

    assert (name.stat().st_ino, measured(name)) == (inode, DIGEST)


@WAYS
@pytest.mark.parametrize(
    ("data", "algorithm"),
    [
        (DATA[::-1], None),
        (DATA[::-1], ALGORITHM),
        (DATA, Algorithm.SHA256),
        (DATA[:-1], ALGORITHM),
        (b"", None),
    ],
    ids=["other content", "other content, sealed", "other algorithm", "shorter, sealed", "empty"],
)
def test_wrong(store: ObjectStore, name: Path, ensure: Ensure, data: bytes, algorithm: Algorithm | None) -> None:
    """One that is another file is replaced, also if the kernel enforces that it stays so."""
    inode = put(name, data, algorithm)

    assert ensure(store) == (DIGEST.raw, True)

    assert name.stat().st_ino != inode
    assert measured(name) == DIGEST
    assert name.read_bytes() == DATA
    assert [file.name for file in name.parent.parent.iterdir()] == [name.parent.name]  # no temporary one is left


@WAYS
def test_open_for_writing(store: ObjectStore, path: Path, name: Path, ensure: Ensure) -> None:
    """One that somebody has open for writing cannot be sealed: replaced where it must be, else proved."""
    inode = put(name, DATA, None)
    with Repository.open(path) as repository:
        must = repository.verity

    with name.open("r+b"):
        assert ensure(store) == (DIGEST.raw, must)

    assert measured(name) == (DIGEST if must else None)
    assert (name.stat().st_ino == inode) != must
    assert ensure(store) == (DIGEST.raw, False)
    assert measured(name) == DIGEST


def test_open_proves(store: ObjectStore, path: Path, name: Path) -> None:
    """Reading demands the seal where it is required, and the right content everywhere."""
    with Repository.open(path) as repository:
        must = repository.verity
    put(name, DATA, None)
    if must:
        with pytest.raises(IntegrityError, match="no fs-verity"):
            store.open(DIGEST)
    else:
        store.open(DIGEST).close()
    for data, algorithm in ((DATA[::-1], None), (DATA[::-1], ALGORITHM), (DATA, Algorithm.SHA256)):
        name.unlink()
        put(name, data, algorithm)
        with pytest.raises(IntegrityError):
            store.open(DIGEST)


@contextmanager
def somebody_forks() -> Iterator[None]:
    """Have another thread fork all the time: its children have our descriptors for a moment."""

    def fork(ended: threading.Event) -> None:
        while not ended.is_set():
            child = os.fork()
            if child == 0:
                time.sleep(0.004)
                os._exit(0)
            os.waitpid(child, 0)

    with meanwhile(fork):
        yield


def test_forks(scratch: Path) -> None:
    """Children that hold descriptors for a while do not keep objects from being sealed."""
    path = scratch / "repository"
    Repository.init(path, ALGORITHM, require_verity=True)
    # In a process of its own, since a fork of this one would be large.
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from tests.kernel.test_verity_objects import store_while_forking;"
        "store_while_forking(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, path], check=True)

    objects = [file for file in (path / "objects").rglob("*") if file.is_file()]
    assert len(objects) == 15
    for file in objects:
        assert measured(file) == Digest(ALGORITHM, bytes.fromhex(file.parent.name + file.name))


def store_while_forking(path: str) -> None:
    """Store 15 objects, 5 each way."""
    contents = [noise(5000, number) for number in range(15)]
    with Repository.open(path) as repository, somebody_forks():
        store = repository.objects
        spans = b"".join(struct.pack("=QQ", 5000 * number, 5000) for number in range(5))
        digests = b"".join(verity.compute_digest(content, ALGORITHM).raw for content in contents[:5])
        assert all(new for _, new in store.ensure_spans(b"".join(contents[:5]), spans, digests))
        assert all(store.ensure(content)[1] for content in contents[5:10])
        assert all(store.ensure_pieces([content])[1] for content in contents[10:])


@pytest.mark.every_kernel
def test_copy(disk: Path) -> None:
    """A new file that stays open for writing elsewhere is replaced by a copy, which alone is sealed."""
    directory = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    fd = _native.store_file(directory, DATA)
    inode = os.fstat(fd).st_ino
    other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    try:
        if not has_verity(disk):
            assert not verity.seal(fd, DIGEST, "file", directory)
            assert os.fstat(fd).st_ino == inode
            return
        with pytest.raises(OSError, match="Text file busy"):
            verity.seal(fd, DIGEST, "file")
        assert os.fstat(fd).st_ino == inode

        assert verity.seal(fd, DIGEST, "file", directory)

        assert os.fstat(fd).st_ino != inode
        assert verity.measure(fd, ALGORITHM) == DIGEST
        assert os.pread(fd, len(DATA) + 1, 0) == DATA
        os.pwrite(other, b"x", 0)  # to the other file
        _native.link_fd(fd, directory, "name")
        assert (disk / "name").read_bytes() == DATA
    finally:
        for each in (fd, other, directory):
            os.close(each)


def test_measured_as_another(disk: Path) -> None:
    """What is sealed by one algorithm is no object of the other, whichever is the longer digest."""
    if not has_verity(disk):
        (disk / "file").write_bytes(DATA)
        assert measured(disk / "file") is None
        return
    for algorithm, other in ((Algorithm.SHA256, Algorithm.SHA512), (Algorithm.SHA512, Algorithm.SHA256)):
        file = disk / algorithm.hash_name
        put(file, DATA, algorithm)
        assert measured(file, algorithm) == verity.compute_digest(DATA, algorithm)
        with pytest.raises(IntegrityError, match=f"wanted {other.hash_name}"):
            measured(file, other)
        with file.open("rb") as opened, pytest.raises(OSError, match=os.strerror(errno.EOVERFLOW)):
            _native.measure_verity(opened.fileno(), algorithm.digest_size - 1)


def test_nothing_is_known_without_it(disk: Path) -> None:
    """A file system without fs-verity is known by its directory, before anything is written in vain."""
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert verity.is_known(fd) == has_verity(disk)
    finally:
        os.close(fd)
