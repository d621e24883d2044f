"""The object store: what exists is proved, what is broken is replaced, and nothing half-done stays."""

import errno
import os
import struct
import subprocess

import pytest

from composefs import _native, verity
from composefs.digest import Algorithm
from composefs.errors import IntegrityError, NotFoundError
from composefs.repository import Repository
from composefs.repository.durable import DurableObjects
from composefs.repository.objects import ObjectStore
from composefs.splitstream import ContentType

DATA = b"some contents " * 400


@pytest.fixture
def path(tmp_path):
    Repository.init(tmp_path / "repository", Algorithm.SHA256)
    return tmp_path / "repository"


@pytest.fixture
def store(path):
    with Repository.open(path) as repository:
        yield repository.objects


def digest_of(data):
    return verity.compute_digest(data, Algorithm.SHA256)


def place(path, data):
    """Return the file of the object *data*."""
    return path / "objects" / digest_of(data).object_path


def files(path):
    """Return every file below objects/, transient ones included."""
    return sorted(
        str(file.relative_to(path / "objects")) for file in (path / "objects").rglob("*") if not file.is_dir()
    )


@pytest.mark.parametrize("size", [0, 1, 65, 4096, 4097, 3_000_000])
def test_ensure(store, path, size):
    """An object is stored under its digest, and found the next time, however it is given."""
    data = os.urandom(size)
    source = path.parent / "source"
    source.write_bytes(data)

    with source.open("rb") as file:
        stored = [
            store.ensure(data),
            store.ensure(memoryview(data)),
            store.ensure_pieces(data[start : start + 1000] for start in range(0, size, 1000)),
            store.ensure_file(file.fileno()),
            store.ensure_path(source),
        ]

    assert stored == [(digest_of(data).raw, True)] + [(digest_of(data).raw, False)] * 4
    assert place(path, data).read_bytes() == data
    assert files(path) == [digest_of(data).object_path]


@pytest.mark.parametrize("way", ["ensure_pieces", "ensure_path"])
def test_ensure_new(store, path, way):
    """The other ways store what is not there yet just as well."""
    source = path.parent / "source"
    source.write_bytes(DATA)

    digest, is_new = store.ensure_pieces([DATA]) if way == "ensure_pieces" else store.ensure_path(source)

    assert (digest, is_new) == (digest_of(DATA).raw, True)
    assert place(path, DATA).read_bytes() == DATA


def test_modes(store, path):
    """Directories and objects have the modes that composefs-rs gives them."""
    old = os.umask(0o022)
    try:
        store.ensure(DATA)
    finally:
        os.umask(old)

    assert place(path, DATA).stat().st_mode & 0o7777 == 0o644
    assert place(path, DATA).parent.stat().st_mode & 0o7777 == 0o755
    assert (path / "objects").stat().st_mode & 0o7777 == 0o755


def test_directories_are_made_on_demand(store, path, monkeypatch):
    """A directory is made once, when a link fails for want of it."""
    made = []
    real = _native.make_directory
    monkeypatch.setattr(_native, "make_directory", lambda fd, name, mode: (made.append(name), real(fd, name, mode)))

    store.ensure(DATA)
    store.ensure(DATA + b"x")
    store.ensure(DATA)

    assert made == ["objects", digest_of(DATA).hex[:2], digest_of(DATA + b"x").hex[:2]]


def test_nothing_is_made_for_reading(store, path):
    """A look at a repository without objects does not make the directory."""
    with pytest.raises(NotFoundError):
        store.open(digest_of(DATA))

    assert not store.exists(digest_of(DATA))
    assert store.missing({digest_of(DATA).raw}) == {digest_of(DATA).raw}
    assert not (path / "objects").exists()


@pytest.mark.parametrize("count", [1, 31, 32, 500])
def test_missing(count, store, path):
    """Those that are missing are found among those that are there, whether few or many of a directory are asked for."""
    there = {bytes([first]) + number.to_bytes(31, "big") for first in (0, 7) for number in range(count)}
    absent = {raw[:1] + b"\x01" + raw[2:] for raw in there} | {b"\xfe" + bytes(31)}
    for raw in there:
        (path / "objects" / raw[:1].hex()).mkdir(parents=True, exist_ok=True)
        (path / "objects" / raw[:1].hex() / raw[1:].hex()).touch()

    assert store.missing(there) == set()
    assert store.missing(there | absent) == absent


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA[:-1] + b"!", bytes(len(DATA)), DATA + b"more"])
def test_broken_object_is_replaced(store, path, wrong):
    """What a crash left of an object is not taken for it, even if its size is right."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(wrong)

    assert store.ensure(DATA) == (digest_of(DATA).raw, True)
    assert place(path, DATA).read_bytes() == DATA
    assert files(path) == [digest_of(DATA).object_path]


@pytest.mark.parametrize("way", ["pieces", "path"])
def test_broken_object_is_replaced_by_large_ones(store, path, way):
    """So it is when the object comes in pieces, or from a file."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(bytes(len(DATA)))
    source = path.parent / "source"
    source.write_bytes(DATA)

    assert (store.ensure_pieces([DATA]) if way == "pieces" else store.ensure_path(source))[1]
    assert place(path, DATA).read_bytes() == DATA


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/etc/passwd")], ids=["fifo", "symlink"])
def test_other_file_is_replaced(store, path, make):
    """What is no regular file is no object, and is not waited for or followed."""
    place(path, DATA).parent.mkdir(parents=True)
    make(place(path, DATA))

    assert store.ensure(DATA) == (digest_of(DATA).raw, True)
    assert place(path, DATA).read_bytes() == DATA
    assert not place(path, DATA).is_symlink()


def test_vouched_object_is_not_read(path, monkeypatch):
    """What a named stream refers to was flushed before the name: its contents are not read again."""
    with Repository.open(path) as repository:
        writer = repository.streams.writer(ContentType.BLOB)
        writer.external(repository.objects.ensure(DATA)[0], len(DATA))
        repository.objects.ensure(b"not vouched for" * 10)
        repository.streams.link("oci-blob-x", repository.streams.store(writer))
    read = []
    real = verity.compute_file_digest
    with Repository.open(path) as repository:
        durable = repository.streams.load_durable()
        repository.objects.load_durable = lambda: durable
        monkeypatch.setattr(verity, "compute_file_digest", lambda fd, alg: (read.append(fd), real(fd, alg))[1])

        assert not repository.objects.ensure(DATA)[1]
        assert read == []
        assert not repository.objects.ensure(b"not vouched for" * 10)[1]
        assert len(read) == 1


def test_vouched_object_of_wrong_size(path):
    """A vouched object is still looked at: one of another size is replaced, a missing one written."""
    with Repository.open(path) as repository:
        repository.objects.load_durable = lambda: DurableObjects([digest_of(DATA).raw], 32)
        place(path, DATA).parent.mkdir(parents=True)
        place(path, DATA).write_bytes(b"short")

        assert repository.objects.ensure(DATA)[1]
        place(path, DATA).unlink()
        assert repository.objects.ensure(DATA)[1]


def test_open_proves(store, path):
    """An object is read only if its contents are right."""
    store.ensure(DATA)
    with store.open(digest_of(DATA)) as file:
        assert file.read() == DATA
    place(path, DATA).write_bytes(DATA[:-1] + b"!")

    with pytest.raises(IntegrityError) as caught:
        store.open(digest_of(DATA))

    assert caught.value.wanted == digest_of(DATA).hex
    assert caught.value.got == digest_of(DATA[:-1] + b"!").hex


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_open_something_else(store, path, make):
    """What is no regular file is no object, whatever could be read from it."""
    place(path, DATA).parent.mkdir(parents=True)
    make(place(path, DATA))

    with pytest.raises(IntegrityError) as caught:
        store.open(digest_of(DATA))

    assert str(caught.value) == f"{place(path, DATA)}: wanted {digest_of(DATA).hex}, got no regular file"


@pytest.fixture
def no_unnamed_files(monkeypatch):
    """A file system without O_TMPFILE, such as fuse-overlayfs."""

    def refuse(dir_fd, data):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(_native, "store_file", refuse)


@pytest.mark.usefixtures("no_unnamed_files")
def test_named_files(store, path):
    """Without O_TMPFILE the same objects come about, and no temporary name stays."""
    store.ensure(DATA)
    store.ensure(DATA)
    store.ensure_pieces([DATA, b"x"])
    place(path, DATA).write_bytes(bytes(len(DATA)))
    assert store.ensure(DATA)[1]
    with store.spill() as file:
        file.write(b"spilled")

    assert files(path) == sorted([digest_of(DATA).object_path, digest_of(DATA + b"x").object_path])


@pytest.mark.usefixtures("no_unnamed_files")
def test_named_files_after_an_error(store, path, monkeypatch):
    """Nor does one stay when writing fails."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        store.ensure(DATA)

    assert caught.value.filename == str(path / "objects")
    assert files(path) == []


def test_writer_gives_up(store, path):
    """A writer that is closed early leaves nothing."""
    writer = store.writer()
    writer.write(DATA)
    writer.close()

    assert files(path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_full_disk(tmp_path):
    """On a full disk an error names the place, and only whole objects are there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        path = tmp_path / "repository"
        Repository.init(path, Algorithm.SHA256)
        with Repository.open(path) as repository:
            store = repository.objects
            contents = (bytes([number % 251]) * 40_000 + bytes([number // 251]) for number in range(1000))
            with pytest.raises(OSError, match="No space left") as caught:
                list(map(store.ensure, contents))
        assert str(path) in caught.value.filename
        for file in (path / "objects").rglob("*/*"):
            assert verity.compute_digest(file.read_bytes(), Algorithm.SHA256).object_path.endswith(file.name)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


class Kernel:
    """A file system with fs-verity, as far as the store can tell: files by inode, sealed or not."""

    def __init__(self, monkeypatch):
        self.sealed, self.asked = set(), []
        monkeypatch.setattr(verity, "seal", self.seal)
        monkeypatch.setattr(verity, "measure", self.measure)
        monkeypatch.setattr(verity, "is_known", lambda fd: True)

    def seal(self, fd, digest, where, copy_to=None):
        self.asked.append((os.path.basename(where), copy_to is not None))
        self.sealed.add(os.fstat(fd).st_ino)
        got = verity.compute_file_digest(fd, digest.algorithm)
        if got != digest:
            raise IntegrityError(where, digest.hex, got.hex)
        return True

    def measure(self, fd, algorithm):
        return verity.compute_file_digest(fd, algorithm) if os.fstat(fd).st_ino in self.sealed else None


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


@pytest.fixture
def strict(path):
    """A store that requires fs-verity."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    store = ObjectStore(fd, str(path), Algorithm.SHA256, require_verity=True)
    yield store
    store.close()
    os.close(fd)


def test_sealed(strict, kernel, path):
    """Where fs-verity is required each new object is sealed before it gets its name."""
    strict.ensure(DATA)
    strict.ensure_pieces([DATA, b"x"])

    assert {place(path, data).stat().st_ino for data in (DATA, DATA + b"x")} == kernel.sealed
    assert not strict.ensure(DATA)[1]


def test_unsealed_object_is_sealed(strict, kernel, path):
    """There an object without fs-verity gets it, in its place, if that proves it to be right."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(DATA)
    inode = place(path, DATA).stat().st_ino

    assert strict.ensure(DATA) == (digest_of(DATA).raw, False)
    assert place(path, DATA).stat().st_ino == inode
    assert kernel.sealed == {inode}
    assert kernel.asked == [(place(path, DATA).name, False)]  # never a copy of what has a name


@pytest.mark.parametrize("sealed", [False, True])
def test_wrong_object_is_replaced(strict, kernel, path, sealed):
    """One with other contents is replaced, whoever vouches for it, and sealed or not."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(bytes(len(DATA)))
    if sealed:
        kernel.sealed.add(place(path, DATA).stat().st_ino)
    strict.load_durable = lambda: DurableObjects([digest_of(DATA).raw], 32)

    assert strict.ensure(DATA) == (digest_of(DATA).raw, True)
    assert place(path, DATA).read_bytes() == DATA
    assert place(path, DATA).stat().st_ino in kernel.sealed


@pytest.mark.parametrize("error", [errno.ETXTBSY, errno.EPERM, errno.EACCES, errno.EIO])
def test_object_that_cannot_be_sealed_is_replaced(strict, kernel, path, monkeypatch, error):
    """One that somebody writes to, that is somebody else's, or that cannot be read, is replaced."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(DATA)
    inode = place(path, DATA).stat().st_ino

    def seal(fd, *arguments):
        if os.fstat(fd).st_ino == inode:
            raise OSError(error, os.strerror(error))
        return kernel.seal(fd, *arguments)

    monkeypatch.setattr(verity, "seal", seal)

    assert strict.ensure(DATA) == (digest_of(DATA).raw, True)
    assert place(path, DATA).stat().st_ino in kernel.sealed


def test_other_errors_of_sealing(strict, kernel, path, monkeypatch):
    """Any other error is none of the object."""
    strict.ensure(DATA)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(verity, "seal", full)

    with pytest.raises(OSError, match="No space left"):
        strict.ensure(DATA)


def test_sealed_though_nobody_must(store, kernel, path):
    """Where fs-verity is not required, but known, all objects get it, old ones too, vouched for or not."""
    for data in (DATA, DATA + b"x"):
        place(path, data).parent.mkdir(parents=True, exist_ok=True)
        place(path, data).write_bytes(data)
    store.load_durable = lambda: DurableObjects([digest_of(DATA).raw], 32)

    assert store.seals
    assert not store.ensure(DATA)[1]
    assert not store.ensure(DATA + b"x")[1]
    assert store.ensure(DATA + b"y")[1]
    assert kernel.sealed == {place(path, data).stat().st_ino for data in (DATA, DATA + b"x", DATA + b"y")}


@pytest.mark.parametrize("error", [errno.ETXTBSY, errno.EACCES])
@pytest.mark.parametrize("vouched", [True, False])
def test_not_sealed_and_nobody_must(store, kernel, path, monkeypatch, error, vouched):
    """There what cannot be sealed is proved as everywhere else."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(DATA)
    store.load_durable = lambda: DurableObjects([digest_of(DATA).raw] if vouched else [], 32)

    def busy(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(verity, "seal", busy)

    assert not store.ensure(DATA)[1]


def test_unsealed_object_is_not_read(strict, kernel, path):
    """Nor is it read."""
    place(path, DATA).parent.mkdir(parents=True)
    place(path, DATA).write_bytes(DATA)

    with pytest.raises(IntegrityError, match="no fs-verity"):
        strict.open(digest_of(DATA))


def test_kernel_disagrees(strict, kernel, path, monkeypatch):
    """An object that the kernel measures as another gets no name."""

    def disagree(fd, digest, where, copy_to):
        raise IntegrityError(where, digest.hex, bytes(32).hex())

    monkeypatch.setattr(verity, "seal", disagree)

    with pytest.raises(IntegrityError) as caught:
        strict.ensure(DATA)

    assert (caught.value.wanted, caught.value.got) == (digest_of(DATA).hex, bytes(32).hex())
    assert files(path) == []


def test_verity_is_missing(strict, path, monkeypatch):
    """Where it is required and the file system has none, nothing is stored."""
    monkeypatch.setattr(verity, "seal", lambda *_: False)

    with pytest.raises(OSError, match="no fs-verity") as caught:
        strict.ensure(DATA)

    assert caught.value.errno == errno.EOPNOTSUPP
    assert files(path) == []


def test_verity_is_tried_once(store, monkeypatch):
    """Where it is not required, a file system that knows it and cannot enable it is asked once."""
    asked = []
    monkeypatch.setattr(verity, "is_known", lambda fd: True)
    monkeypatch.setattr(verity, "seal", lambda *_: bool(asked.append(_)))

    for number in range(3):
        assert store.ensure(DATA + bytes([number]))[1]

    assert len(asked) == 1
    assert not store.seals


SEVERAL = [b"first" * 100, b"second" * 1000, b"first" * 100, b"third" * 2000]


def ensure_spans(store, contents=SEVERAL):
    """Store *contents*, which lie in one buffer."""
    data, spans = b"before", b""
    for content in contents:
        spans += struct.pack("=QQ", len(data), len(content))
        data += content
    return store.ensure_spans(data + b"after", spans, b"".join(digest_of(content).raw for content in contents))


def stored_as(*are_new):
    return [(digest_of(content).raw, is_new) for content, is_new in zip(SEVERAL, are_new, strict=True)]


def test_spans(store, path):
    """Objects that lie in one buffer are stored in one call, and found the next time, also the same one twice."""
    assert list(ensure_spans(store)) == stored_as(True, True, False, True)
    assert list(ensure_spans(store)) == stored_as(False, False, False, False)

    assert {name: (path / "objects" / name).read_bytes() for name in files(path)} == {
        digest_of(content).object_path: content for content in SEVERAL
    }


@pytest.mark.parametrize("wrong", [b"", bytes(500), b"longer" * 1000])
def test_broken_spans_are_replaced(store, path, wrong):
    """What is there under their names is proved before it is relied on."""
    list(ensure_spans(store))
    place(path, SEVERAL[0]).write_bytes(wrong)
    place(path, SEVERAL[3]).unlink()

    assert list(ensure_spans(store)) == stored_as(True, False, False, True)
    assert place(path, SEVERAL[0]).read_bytes() == SEVERAL[0]


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/etc/passwd")], ids=["fifo", "symlink"])
def test_other_file_in_the_place_of_a_span(store, path, make):
    """What is no regular file is replaced."""
    place(path, SEVERAL[1]).parent.mkdir(parents=True)
    make(place(path, SEVERAL[1]))

    assert list(ensure_spans(store)) == stored_as(True, True, False, True)
    assert place(path, SEVERAL[1]).read_bytes() == SEVERAL[1]
    assert not place(path, SEVERAL[1]).is_symlink()


def test_directory_in_the_place_of_a_span(store, path):
    """What cannot be replaced is an error, behind those that were stored."""
    place(path, SEVERAL[1]).mkdir(parents=True)
    found = ensure_spans(store)

    assert next(found) == (digest_of(SEVERAL[0]).raw, True)
    with pytest.raises(IsADirectoryError):
        next(found)


def test_vouched_spans_are_not_read(store, path, monkeypatch):
    """Those that a named stream refers to are not read, the others are."""
    list(ensure_spans(store))
    durable = DurableObjects([digest_of(content).raw for content in SEVERAL[:2]], 32)
    store.load_durable = lambda: durable
    store._durable = None
    read = []
    real = verity.compute_file_digest
    monkeypatch.setattr(verity, "compute_file_digest", lambda fd, alg: (read.append(fd), real(fd, alg))[1])

    assert list(ensure_spans(store)) == stored_as(False, False, False, False)
    assert len(read) == 1


def test_spans_seen_to_be_broken(store, path):
    """Who vouches for an object does not help once it was seen to be broken."""
    list(ensure_spans(store))
    store.load_durable = lambda: DurableObjects([digest_of(content).raw for content in SEVERAL], 32)
    store._durable = None
    place(path, SEVERAL[1]).write_bytes(bytes(len(SEVERAL[1])))
    with pytest.raises(IntegrityError):
        store.open(digest_of(SEVERAL[1]))

    assert list(ensure_spans(store)) == stored_as(False, True, False, False)
    assert place(path, SEVERAL[1]).read_bytes() == SEVERAL[1]


def test_spans_without_unnamed_files(store, path, monkeypatch):
    """Where there is no O_TMPFILE they are stored one by one, and nobody tries again."""
    tried = []

    def refuse(dir_fd, alg, data, spans, digests):
        tried.append(len(spans))
        return [-errno.EOPNOTSUPP] * (len(spans) // 16)

    def no_file(dir_fd, data):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(_native, "store_objects", refuse)
    monkeypatch.setattr(_native, "store_file", no_file)

    assert list(ensure_spans(store)) == stored_as(True, True, False, True)
    assert list(ensure_spans(store)) == stored_as(False, False, False, False)
    assert len(tried) == 1
    assert files(path) == sorted({digest_of(content).object_path for content in SEVERAL})


def test_spans_that_others_sealed(strict, kernel, monkeypatch):
    """Those of which the kernel says in bulk that it enforces their digests are done with."""
    monkeypatch.setattr(_native, "store_objects", lambda *_: [_native.OBJECT_NEW, *[_native.OBJECT_SEALED] * 3])

    assert list(ensure_spans(strict)) == stored_as(True, False, False, False)
    assert kernel.asked == []


def test_spans_that_nobody_sealed(strict, kernel, path, monkeypatch):
    """The others are sealed one by one, or replaced."""
    for content, wrong in zip(SEVERAL, (SEVERAL[0], bytes(len(SEVERAL[1])), SEVERAL[2]), strict=False):
        place(path, content).parent.mkdir(parents=True, exist_ok=True)
        place(path, content).write_bytes(wrong)
    strict.load_durable = lambda: DurableObjects([digest_of(content).raw for content in SEVERAL], 32)
    monkeypatch.setattr(_native, "store_objects", lambda *_: [-errno.EEXIST] * 3 + [-errno.ETXTBSY])

    assert list(ensure_spans(strict)) == stored_as(False, True, False, True)
    assert {place(path, content).stat().st_ino for content in SEVERAL} <= kernel.sealed


def test_spans_without_verity(strict, path, monkeypatch):
    """Where it is required and the file system has none, nothing is stored."""
    monkeypatch.setattr(_native, "store_objects", lambda *call: [-errno.ENOTTY] * len(SEVERAL))
    monkeypatch.setattr(verity, "seal", lambda *_: False)

    with pytest.raises(OSError, match="no fs-verity"):
        list(ensure_spans(strict))

    assert files(path) == []


@pytest.mark.parametrize(
    ("said", "sealed"), [(errno.ENOTTY, False), (errno.EOPNOTSUPP, False), (errno.ENODATA, True), (None, True)]
)
def test_spans_ask_for_verity_once(store, monkeypatch, said, sealed):
    """The first objects of a store tell by the directory whether there is fs-verity, not by being written in vain."""
    asked, stored = [], []

    def measure(fd):
        asked.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if said is not None:
            raise OSError(said, os.strerror(said))

    def store_objects(dir_fd, alg, data, spans, digests):
        stored.append(alg)
        return [_native.OBJECT_NEW]

    monkeypatch.setattr(_native, "measure_verity", measure)
    monkeypatch.setattr(_native, "store_objects", store_objects)
    for _ in range(2):
        assert list(store.ensure_spans(DATA, struct.pack("=QQ", 0, 100), bytes(32))) == [(bytes(32), True)]

    assert asked == ["objects"]
    assert stored == [_native.SHA256 if sealed else 0] * 2
