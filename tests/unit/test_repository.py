"""Repositories: made, opened, recognised, refused; their metadata and their lock."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import threading
from contextlib import nullcontext

import pytest

from composefs import _native, verity
from composefs.digest import Algorithm
from composefs.errors import FormatError, NotFoundError, RepositoryError
from composefs.repository import Repository, meta, user_path
from composefs.repository.meta import Meta
from tests.namespaces import private_mounts
from tests.tools import require_root

SHA256, SHA512 = Algorithm.SHA256, Algorithm.SHA512


@pytest.mark.parametrize(
    ("made", "size", "digest"),
    [
        (Meta.new(SHA256, 0), 197, "040ff7691639402e079824c4da7efaa71f6544d95e89c5aba7528493627b445e"),
        (Meta.new(SHA256, 1), 219, "ce490cd54dea426ea1f0bf50bd761abc89a6377adf85b6966472041836fcfe50"),
        (Meta.new(SHA256, 2), 197, "848e8cb17d08757475d959a2084730fd45506d0879a61c3b9106002495e6f1db"),
        (Meta(SHA256, 1, (2,)), 249, "163a19f1954bc5d95cabf526767625a14e59ee5e3c2d05173449573410750def"),
        (Meta.new(SHA512, 0), 197, "fb12a486c3e9b4ef884c85dc4a5cdc951539ac4cc34511c4a54b9fad14dd0402"),
        (Meta.new(SHA512, 1), 219, "412fb0551a52276280623a1775f3108a6fe434caaa9bd0bc0d80e69cf7a173c1"),
        (Meta.new(SHA512, 2), 197, "e4af7edd1005b202a219c3fe9d0810ea8e61712e45d60f7e5ef7d758831c37ce"),
        (Meta(SHA512, 1, (2,)), 249, "0707445d1e5e819ad374ac01c7cdecb8bb4a4b6f5ce0aac2eee042ba5138a46d"),
    ],
)
def test_meta_bytes(made, size, digest):
    """`meta.json` has the bytes that composefs-rs writes, and is read back."""
    data = made.pack()

    assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)
    assert Meta.parse(data) == made


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": "1"}, "version"),
        ({"version": True}, "version"),
        ({"version": -1}, "version"),
        ({"algorithm": None}, "algorithm"),
        ({"algorithm": "sha256"}, "does not begin with"),
        ({"algorithm": "fsverity-sha256"}, "names no block size"),
        ({"algorithm": "fsverity-sha256-16"}, "block size 16"),
        ({"algorithm": "fsverity-md5-12"}, "unknown hash 'md5'"),
        ({"features": []}, "features"),
        ({"features": {"incompatible": "x"}}, "features.incompatible"),
        ({"erofs_formats": {}}, "EROFS format None"),
        ({"erofs_formats": {"default": 3}}, "EROFS format 3"),
        ({"erofs_formats": {"default": True}}, "EROFS format True"),
        ({"erofs_formats": {"default": 1, "extra": 2}}, "extra"),
    ],
)
def test_meta_broken(change, what):
    """Wrong values are refused, by name."""
    value = json.loads(Meta.new(SHA256).pack()) | change

    with pytest.raises(FormatError, match=what):
        Meta.parse(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 1}', b"\xff", b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_meta_no_json(data):
    """What is no JSON object is refused."""
    with pytest.raises(FormatError, match=r"^meta.json, offset \d+: "):
        Meta.parse(data)


@pytest.mark.parametrize(
    ("features", "formats", "wanted"),
    [
        ([], None, (2,)),
        (["v1_erofs"], None, (1,)),
        (["v1_erofs"], {"default": 2}, (1,)),
        ([], {"default": 2}, (2,)),
        ([], {"default": 0}, (0,)),
        ([], {"default": 1, "extra": [2, 0, 1, 2]}, (1, 0, 2)),
    ],
)
def test_meta_formats(features, formats, wanted):
    """Which images to make is told as by composefs-rs, also of repositories that do not say."""
    value = {"version": 1, "algorithm": SHA256.value, "features": {"read-only-compatible": features}, "later": None}

    found = Meta.parse(json.dumps(value | ({"erofs_formats": formats} if formats else {})).encode())

    assert found.erofs_versions == wanted


def write_meta(path, **change):
    path.mkdir(exist_ok=True)
    value = json.loads(Meta.new(SHA256).pack()) | change
    (path / "meta.json").write_text(json.dumps(value))


def test_init(tmp_path):
    """A repository is made with the directories above it, once."""
    path = tmp_path / "a" / "b"

    assert not Repository.exists(path)
    assert Repository.init(path)
    assert Repository.exists(path)
    assert not Repository.init(path)
    assert path.stat().st_mode & 0o7777 == 0o700
    assert os.listdir(path) == ["meta.json"]
    with Repository.open(path) as repository:
        assert repository.algorithm is SHA512
        assert not repository.verity


def test_init_differs(tmp_path):
    """It cannot be made again as another one."""
    Repository.init(tmp_path, SHA256)

    with pytest.raises(RepositoryError, match="exists with algorithm fsverity-sha256-12, EROFS V1"):
        Repository.init(tmp_path, SHA512)
    with pytest.raises(RepositoryError, match="EROFS V2"):
        Repository.init(tmp_path, SHA256, erofs_version=2)


def test_init_on_a_full_disk(tmp_path, monkeypatch):
    """What could not be written is told with its path, and not left."""

    def fail(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)

    with pytest.raises(OSError, match="No space left on device") as caught:
        Repository.init(tmp_path)
    assert caught.value.filename == f"{tmp_path}/meta.json"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("has_verity", [True, False])
@pytest.mark.parametrize("require", [True, False, None])
def test_init_verity(tmp_path, monkeypatch, has_verity, require):
    """fs-verity is required, done without, or taken where it is."""
    asked = []
    monkeypatch.setattr(verity, "seal", lambda *call: (asked.append(call), has_verity)[1])

    if require and not has_verity:
        with pytest.raises(RepositoryError, match="no fs-verity"):
            Repository.init(tmp_path, require_verity=require)
        assert os.listdir(tmp_path) == []
    else:
        assert Repository.init(tmp_path, require_verity=require)
        assert os.listdir(tmp_path) == ["meta.json"]
    assert [digest for _, digest, *_ in asked] == (
        [] if require is False else [verity.compute_digest(Meta.new(Algorithm.SHA512).pack(), Algorithm.SHA512)]
    )


def test_init_without_unnamed_files(tmp_path, monkeypatch):
    """Without O_TMPFILE `meta.json` comes about by rename."""
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)

    assert Repository.init(tmp_path, SHA256)
    assert os.listdir(tmp_path) == ["meta.json"]


def test_require_verity(tmp_path):
    """A caller may insist on fs-verity."""
    Repository.init(tmp_path, require_verity=False)

    with pytest.raises(RepositoryError, match="was made without fs-verity"):
        Repository.open(tmp_path, require_verity=True)


@pytest.mark.parametrize(("make", "what"), [(False, "no repository at"), (True, "is no composefs repository")])
def test_no_repository(tmp_path, make, what):
    """What is no repository is not taken for one, and stays as it is."""
    path = tmp_path / "x"
    if make:
        path.mkdir()

    with pytest.raises(NotFoundError, match=what):
        Repository.open(path)

    assert list(tmp_path.rglob("*")) == ([path] if make else [])


def test_not_a_directory(tmp_path):
    """The system's own errors stay, with the path."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(NotADirectoryError) as caught:
        Repository.open(tmp_path / "file")

    assert caught.value.filename == str(tmp_path / "file")


def test_newer(tmp_path):
    """A repository of a later version, or with features unknown here, is not opened."""
    write_meta(tmp_path, version=2)
    with pytest.raises(RepositoryError, match="version 2 is newer"):
        Repository.open(tmp_path)

    write_meta(tmp_path, features={"incompatible": ["sharding", "colour"]})
    with pytest.raises(RepositoryError, match="unknown features: sharding, colour"):
        Repository.open(tmp_path)


def test_read_only_features(tmp_path):
    """One with unknown read-only-compatible features is read, not written."""
    write_meta(tmp_path, features={"read-only-compatible": ["v1_erofs", "colour"], "compatible": ["anything"]})

    with Repository.open(tmp_path) as repository, pytest.raises(RepositoryError, match="unknown features colour"):
        repository.check_writable()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_old_repository(tmp_path, algorithm):
    """A repository from before `meta.json` is recognised by its objects, and gets one."""
    digest = verity.compute_digest(b"x" * 100, algorithm)
    file = tmp_path / "objects" / digest.object_path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)

    with pytest.raises(NotFoundError, match=r"has no meta\.json"):
        Repository.open(tmp_path, upgrade=False)
    with Repository.open(tmp_path) as repository:
        assert repository.algorithm is algorithm
    assert Meta.parse((tmp_path / "meta.json").read_bytes()) == Meta.new(algorithm)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_old_repository_to_read(tmp_path, monkeypatch, code):
    """One that cannot be written is read all the same."""
    digest = verity.compute_digest(b"x" * 100, SHA256)
    file = tmp_path / "objects" / digest.object_path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(meta, "write", refuse)

    with Repository.open(tmp_path) as repository, repository.objects.open(digest) as opened:
        assert opened.read() == b"x" * 100
    assert not (tmp_path / "meta.json").exists()


def test_old_repository_of_another_algorithm(tmp_path):
    """`init` does not give it metadata that contradict its objects."""
    digest = verity.compute_digest(b"x" * 100, SHA256)
    file = tmp_path / "objects" / digest.object_path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)

    with pytest.raises(RepositoryError, match="has objects of fsverity-sha256-12"):
        Repository.init(tmp_path, SHA512)
    assert Repository.init(tmp_path, SHA256)


def test_no_objects(tmp_path):
    """Without any object there is nothing to recognise it by."""
    (tmp_path / "objects" / "ab").mkdir(parents=True)

    with pytest.raises(NotFoundError, match="no objects that would tell"):
        Repository.open(tmp_path)


def test_lock(tmp_path, caplog):
    """Open repositories share the lock; who wants it for himself waits, and is waited for, aloud."""
    Repository.init(tmp_path)
    with Repository.open(tmp_path), Repository.open(tmp_path), (tmp_path / "meta.json").open():
        fd = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX)
    opened = threading.Event()

    def wait():
        with Repository.open(tmp_path):
            opened.set()

    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not opened.wait(0.1)
        os.close(fd)
        assert opened.wait(10)
        thread.join()
    assert "waiting for the lock" in caplog.text


def test_exclusive(tmp_path):
    """The exclusive lock is held inside, and the shared one again afterwards."""
    Repository.init(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    with Repository.open(tmp_path) as repository:
        with repository.exclusive(), pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(fd)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_sync(tmp_path, monkeypatch, elsewhere):
    """What is flushed is the file system that has the objects, which may be another one."""
    if elsewhere:
        require_root("mounts")
    flushed = []
    monkeypatch.setattr(_native, "syncfs", lambda fd: flushed.append(os.fstat(fd).st_dev))
    Repository.init(tmp_path, SHA256)
    with private_mounts() if elsewhere else nullcontext():
        if elsewhere:
            (tmp_path / "objects").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "objects"], check=True)
        with Repository.open(tmp_path) as repository:
            repository.sync()

        assert flushed == [os.stat(tmp_path / "objects").st_dev]
        assert (flushed == [os.stat(tmp_path).st_dev]) is not elsewhere


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_read_only_file_system(tmp_path):
    """A read-only file system is seen before any work."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        Repository.init(tmp_path / "r", SHA256)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with Repository.open(tmp_path / "r") as repository, pytest.raises(RepositoryError, match="mounted read-only"):
            repository.check_writable()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_somebody_elses(tmp_path, monkeypatch):
    """A repository that belongs to somebody else is named so."""
    Repository.init(tmp_path, SHA256)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    with (
        Repository.open(tmp_path) as repository,
        pytest.raises(RepositoryError, match=r"it belongs to uid \d+, this is"),
    ):
        repository.check_writable()


def test_user_path():
    """The default of a user is where composefs-rs has it."""
    assert user_path("/home/me") == "/home/me/.var/lib/composefs"


def test_meta_is_written_once(tmp_path):
    """A second writer of `meta.json` does not replace the first one's."""
    fd = os.open(tmp_path, os.O_RDONLY)
    assert meta.write(fd, Meta.new(SHA256), seal=False)
    with pytest.raises(FileExistsError):
        meta.write(fd, Meta.new(SHA512), seal=False)
    os.close(fd)
    assert os.listdir(tmp_path) == ["meta.json"]
