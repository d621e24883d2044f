"""Images that skopeo and podman put into container storage are the same as from a layout, and share what they can."""

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

import pytest

import composefs
from composefs import Algorithm
from composefs.oci.sources.access import Access
from composefs.oci.sources.storage.locking import locked
from tests.layouts import image_layout, layer, noise, sha256
from tests.tools import require_root, require_tool

ALGORITHM = Algorithm.SHA256
_FIEMAP, _EXTENT = Struct("=QQIIII"), Struct("=QQQQQIIII")  # struct fiemap and struct fiemap_extent
_FS_IOC_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap)
_EXTENT_MAX = 64
_SHARED = 0x2000  # FIEMAP_EXTENT_SHARED


def _archive(*members):
    """Return a tar archive of what an image has: *members* are names, with contents or changes of the header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="latin-1") as archive:
        for name, data, changes in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime, info.size = 0o644, 1_700_000_000.5, len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LARGE = noise(3_000_000)
DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}
FIRST = _archive(
    ("usr/", b"", DIRECTORY),
    ("usr/bin/", b"", DIRECTORY),
    ("usr/bin/large", LARGE, {"mode": 0o755}),
    ("usr/bin/again", b"", {"type": tarfile.LNKTYPE, "linkname": "usr/bin/large", "mode": 0o755}),
    ("usr/bin/link", b"", {"type": tarfile.SYMTYPE, "linkname": "large"}),
    ("usr/bin/sudo", noise(70_000, 1), {"mode": 0o4755}),
    ("usr/secret", noise(5000, 2), {"mode": 0o600, "uid": 7, "gid": 8}),
    ("usr/fifo", b"", {"type": tarfile.FIFOTYPE}),
    ("usr/empty", b"", {}),
    ("usr/inline", b"x" * 64, {"pax_headers": {"SCHILY.xattr.user.a": "b"}}),
    ("usr/object", b"y" * 65, {}),
    ("usr/" + "long" * 50, noise(100, 3), {}),
    ("usr/gone", noise(300, 4), {}),
    ("usr/\u00e4 <&>", noise(400, 5), {}),
)
SECOND = _archive(
    ("usr/", b"", DIRECTORY),
    ("usr/.wh.gone", b"", {}),
    ("usr/object", noise(2000, 6), {}),
    ("usr/new/", b"", DIRECTORY),
    ("usr/new/large", LARGE, {}),
)


@contextmanager
def unmounted(root):
    """Undo what the driver leaves: a mount of its directory in its place."""
    try:
        yield
    finally:
        if _is_mounted(root / "overlay"):
            subprocess.run(["umount", f"{root}/overlay"], check=True)


def _is_mounted(path):
    """Tell whether something is mounted at *path*, which `os.path.ismount` does not see if it is *path* itself."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def layout(tmp_path):
    """The layout of the image."""
    return image_layout(tmp_path / "layout", [layer(FIRST, "gzip"), layer(SECOND, "zstd")], "t")


@pytest.fixture
def store(tmp_path):
    """Copy an image into a store, and return how to call it."""
    require_root("container storage of overlay")
    skopeo = require_tool("skopeo")
    root = tmp_path / "storage"

    def copy(source, name="localhost/x:t", driver="overlay", place=root):
        where = f"containers-storage:[{driver}@{place}+{tmp_path}/run]{name}"
        subprocess.run([skopeo, "--insecure-policy", "copy", "-q", source, where], check=True)
        return where

    with unmounted(root):
        yield copy


def take(path, reference, local_fetch="disabled", **options):
    composefs.Repository.init(path, ALGORITHM, require_verity=False)
    with composefs.Repository.open(path) as repository:
        access = Access(local_fetch=local_fetch, environ={})
        return composefs.import_image(repository, reference, name="x", access=access, **options)


def contents(path):
    """Return all that a repository is."""
    return {
        str(file.relative_to(path)): file.readlink() if file.is_symlink() else file.read_bytes()
        for file in Path(path).rglob("*")
        if (file.is_symlink() or file.is_file()) and file.name != "meta.json"
    }


@pytest.mark.parametrize("local_fetch", ["disabled", "auto", "zerocopy"])
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_the_same_repository(tmp_path, layout, store, driver, local_fetch):
    """It is the same byte for byte as from the layout."""
    wanted = take(tmp_path / "wanted", f"{layout}:t")

    got = take(tmp_path / "got", store(f"{layout}:t", driver=driver), local_fetch)

    assert (got.manifest, got.config, got.images, got.stats) == (
        wanted.manifest,
        wanted.config,
        wanted.images,
        wanted.stats,
    )
    assert [each.diff_id for each in got.layers] == [sha256(FIRST), sha256(SECOND)]
    assert contents(tmp_path / "got") == contents(tmp_path / "wanted")


def test_hard_links(tmp_path, layout, store):
    """Without reflinks, the files themselves become objects, though podman mounts its directory once more."""
    where = store(f"{layout}:t")
    if _has_reflinks(tmp_path):
        pytest.skip("this file system shares blocks")

    take(tmp_path / "repository", where, "zerocopy")
    overlay = tmp_path / "storage/overlay"
    first, second = (next(overlay.glob(f"*/diff/usr/{name}")) for name in ("bin", "new"))
    objects = [file.stat() for file in (tmp_path / "repository/objects").glob("??/*")]
    linked = {file.st_ino for file in objects}

    assert _is_mounted(overlay)
    assert any((each / "large").stat().st_ino in linked for each in (first, second))
    assert (first / "../object").stat().st_ino in linked
    for path in (first / "sudo", first / "../secret"):  # runs as another user, and not all may read it
        assert path.stat().st_ino not in linked
    assert {file.st_mode & 0o7777 for file in objects} <= {0o644, 0o755}
    assert [path.stat().st_mode & 0o7777 for path in (first / "sudo", first / "../secret")] == [0o4755, 0o600]


def test_nothing_is_linked_without_a_demand(tmp_path, layout, store):
    """Where the kernel enforces no digests, whoever writes to the store would change the objects."""
    where = store(f"{layout}:t")

    take(tmp_path / "repository", where, "auto")

    assert {file.stat().st_nlink for file in (tmp_path / "repository/objects").glob("??/*")} == {1}


def test_another_file_system(tmp_path, layout, store):
    """Nothing can be shared with it: then a copy is made, or an error, as was asked for."""
    where = store(f"{layout}:t")
    there = Path("/dev/shm", f"composefs-{os.getpid()}")
    if os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    try:
        with pytest.raises(OSError, match="cross-device") as caught:
            take(there / "first", where, "zerocopy")
        assert any("on the file system of the store" in note for note in caught.value.__notes__)
        take(there / "second", where, "auto")
    finally:
        subprocess.run(["rm", "-rf", there], check=True)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
@pytest.mark.parametrize("local_fetch", ["auto", "zerocopy"])
def test_reflinks(tmp_path, layout, store, kind, local_fetch):
    """Where the file system can, the objects share their blocks with the files of the store, and no more."""
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([require_tool(f"mkfs.{kind}"), "-q", disk], check=True)
    mounted.mkdir()
    if subprocess.run(["mount", "-o", "loop", disk, mounted], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"no {kind} can be mounted here")
    try:
        with unmounted(mounted / "storage"):
            where = store(f"{layout}:t", place=mounted / "storage")
            wanted = take(tmp_path / "wanted", f"{layout}:t")
            got = take(mounted / "repository", where, local_fetch)
            os.sync()
            large = [
                file for file in (mounted / "repository/objects").glob("??/*") if file.stat().st_size == len(LARGE)
            ]

            assert (got.manifest, got.images, got.stats) == (wanted.manifest, wanted.images, wanted.stats)
            assert contents(mounted / "repository") == contents(tmp_path / "wanted")
            assert len(large) == 1
            assert all(flags & _SHARED for flags in _extents(large[0]))
            assert {file.stat().st_nlink for file in (mounted / "repository/objects").glob("??/*")} == {1}
    finally:
        subprocess.run(["umount", mounted], check=True)


def _extents(path):
    """Return the flags of the extents of a file."""
    request = bytearray(_FIEMAP.pack(0, (1 << 64) - 1, 0, 0, _EXTENT_MAX, 0)) + bytearray(_EXTENT.size * _EXTENT_MAX)
    with open(path, "rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
    count = _FIEMAP.unpack_from(request)[3]
    assert 0 < count < _EXTENT_MAX
    return [_EXTENT.unpack_from(request, _FIEMAP.size + number * _EXTENT.size)[5] for number in range(count)]


def _has_reflinks(path):
    (path / "source").write_bytes(b"x" * 5000)
    return (
        subprocess.run(
            ["cp", "--reflink=always", path / "source", path / "target"], check=False, capture_output=True
        ).returncode
        == 0
    )


def test_images_that_podman_builds(tmp_path, store):
    """They are those that skopeo takes out of the store again."""
    podman = require_tool("podman")
    context = tmp_path / "context"
    context.mkdir()
    (context / "large").write_bytes(LARGE)
    (context / "Containerfile").write_text("FROM scratch\nCOPY large /usr/large\nCOPY large /usr/other\n")
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    root = tmp_path / "storage"
    with tempfile.TemporaryDirectory() as run:  # whose path podman wants to have 50 characters at most
        command = [podman, "--root", root, "--runroot", run, "--storage-driver", "overlay", "build", "-q"]
        options = ["--isolation", "chroot", "--signature-policy", tmp_path / "policy.json", "-t", "localhost/built:1"]
        done = subprocess.run([*command, *options, context], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    where = f"containers-storage:[overlay@{root}+{tmp_path}/run]localhost/built:1"
    copy = [require_tool("skopeo"), "--insecure-policy", "copy", "-q", where, f"oci:{tmp_path}/out:t"]
    subprocess.run(copy, check=True)

    got, wanted = take(tmp_path / "got", where, "zerocopy"), take(tmp_path / "wanted", f"oci:{tmp_path}/out:t")

    assert (got.config, got.images) == (wanted.config, wanted.images)
    assert [each.diff_id for each in got.layers] == [each.diff_id for each in wanted.layers]
    assert len(got.layers) == 2


def test_docker_manifests(tmp_path, layout, store):
    """Their config stays what it is, as from anywhere else."""
    copy = [require_tool("skopeo"), "--insecure-policy", "copy", "-q", "--format", "v2s2"]
    plain = image_layout(tmp_path / "plain", [layer(FIRST, "gzip"), layer(SECOND, "gzip")], "t")
    subprocess.run([*copy, f"{plain}:t", f"dir:{tmp_path}/dir"], check=True)
    wanted = take(tmp_path / "wanted", f"dir:{tmp_path}/dir")

    got = take(tmp_path / "got", store(f"dir:{tmp_path}/dir"))

    assert (got.manifest, got.config, got.images) == (wanted.manifest, wanted.config, wanted.images)
    assert got.config == take(tmp_path / "plain-repository", f"{plain}:t").config


def test_layers_of_an_added_store(tmp_path, layout, store):
    """An image may be in a store that another one adds."""
    store(f"{layout}:t", place=tmp_path / "added", driver="vfs")
    (tmp_path / "storage/vfs-images").mkdir(parents=True)
    (tmp_path / "storage/vfs-layers").mkdir()

    where = f"containers-storage:[vfs@{tmp_path}/storage+{tmp_path}/run:vfs.imagestore={tmp_path}/added]x:t"

    assert take(tmp_path / "repository", where).config == take(tmp_path / "wanted", f"{layout}:t").config


def test_writers_and_readers_wait_for_each_other(tmp_path, layout, store):
    """A layer is not read while skopeo stores one, nor stored while we read one."""
    store(f"{layout}:t")
    other = image_layout(
        tmp_path / "other", [layer(_archive(("usr/", b"", DIRECTORY), ("usr/z", noise(1000, 9), {})))], "t"
    )
    where = f"containers-storage:[overlay@{tmp_path}/storage+{tmp_path}/run]localhost/other:t"
    copy = [require_tool("skopeo"), "--insecure-policy", "copy", "-q", f"{other}:t", where]

    with locked(f"{tmp_path}/storage/overlay-layers/layers.lock", lambda: None):
        writer = subprocess.Popen(copy)
        time.sleep(1)
        assert writer.poll() is None
    assert writer.wait(60) == 0
    with open(tmp_path / "storage/overlay-layers/layers.lock", "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Record locks of one process do not keep it out, so another one reads.
        script = "import composefs, sys; sys.argv = ['t']\nfrom tests.interop.test_storage import take\n"
        script += f"print(take({str(tmp_path / 'repository')!r}, {where!r}, workers=1).config)"
        reader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        time.sleep(1.5)
        assert reader.poll() is None
        fcntl.lockf(lock, fcntl.LOCK_UN)
    printed, _ = reader.communicate(timeout=60)

    assert reader.returncode == 0
    assert printed.startswith(b"sha256:")


@pytest.mark.parametrize("local_fetch", ["disabled", "auto"])
def test_as_cfsctl_has_it(tmp_path, layout, store, local_fetch):
    """The image is the one that composefs-rs makes of the store, which finds it by a variable."""
    cfsctl = require_tool("cfsctl")
    where = store(f"{layout}:t")
    got = take(tmp_path / "here", where)
    there = tmp_path / "there"
    subprocess.run([cfsctl, "init", "--insecure", "--algorithm", ALGORITHM.value, there], check=True)
    pull = [cfsctl, "--repo", there, "oci", "pull", "--local-fetch", "auto", "containers-storage:localhost/x:t", "x"]
    environ = {**os.environ, "CONTAINERS_STORAGE_ROOT": str(tmp_path / "storage")}
    done = subprocess.run(pull, env=environ, check=True, capture_output=True, text=True)

    assert got.config in done.stdout
    with composefs.Repository.open(there) as repository:
        reference = "containers-storage:localhost/x:t"
        access = Access(local_fetch=local_fetch, environ={"CONTAINERS_STORAGE_ROOT": f"{tmp_path}/storage"})
        result = composefs.import_image(repository, reference, name="y", access=access)
    assert (result.images, result.stats.objects_new) == (got.images, 0)
