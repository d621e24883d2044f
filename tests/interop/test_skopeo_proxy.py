"""Images through the real skopeo are the same as without it, and no process of it stays behind."""

import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import closing

import pytest

import composefs
from composefs import Algorithm
from composefs.errors import NotFoundError, RegistryError
from composefs.hostconfig import AccessOptions, HostConfig
from composefs.oci.sources import skopeo
from composefs.oci.sources.access import Access
from composefs.oci.sources.skopeo import SkopeoSource
from composefs.reference import parse_reference
from tests.layouts import files_layer, image_layout, noise, sha256
from tests.registries.docker_registry import docker_registry
from tests.tools import require_root, require_tool

LAYERS = [
    files_layer({"usr/large": noise(2_000_000), "usr/small": b"x"}, "gzip"),
    files_layer({"usr/other": noise(70_000, 1)}, "gzip"),
]
_HANG = """
import os, sys
from composefs.oci.sources.access import Access
from composefs.oci.sources.skopeo import SkopeoSource
from composefs.reference import parse_reference
with SkopeoSource(parse_reference(sys.argv[1]), Access()) as source:
    image = source.image()
    stream = source.blob(image, 0).place.open("layer", lambda: 1)
    stream.read(1000)
    print(stream._proxy._process.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The layout of the image."""
    return image_layout(tmp_path_factory.mktemp("skopeo") / "layout", LAYERS, "t")


@pytest.fixture(scope="module")
def copy():
    """Copy an image with skopeo."""
    program = require_tool("skopeo")

    def run(source, target, *options):
        command = [program, "--insecure-policy", "copy", "-q", *options, f"{source}:t", target]
        subprocess.run(command, check=True)
        return target

    return run


@pytest.fixture(autouse=True)
def no_process_stays():
    """Whatever happens, none does."""
    yield
    assert not any(skopeo._idle.values())


def take(path, reference, **options):
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(path) as repository:
        return composefs.import_image(repository, reference, name="x", **options)


def via_skopeo(path, reference, **options):
    return take(path, reference, access=Access(via_skopeo=True), **options)


@pytest.mark.parametrize(
    ("transport", "form", "workers"),
    [("dir", "oci", 1), ("dir", "v2s2", 2), ("docker-archive", "v2s2", 1), ("oci-archive", "oci", 2)],
)
def test_the_same_image(tmp_path, layout, copy, transport, form, workers):
    """The ids are those that the image has without skopeo."""
    options = ("--format", form) if transport == "dir" else ()
    where = copy(layout, f"{transport}:{tmp_path}/image" + (":x:t" if transport == "docker-archive" else ""), *options)
    wanted = take(tmp_path / "wanted", where)

    got = via_skopeo(tmp_path / "got", where, workers=workers)

    assert (got.config, got.images, got.stats) == (wanted.config, wanted.images, wanted.stats)
    assert got.config == take(tmp_path / "layout", f"{layout}:t").config
    if transport != "docker-archive":  # has no manifest of its own
        assert got.manifest == wanted.manifest


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_container_storage(tmp_path, layout, copy, driver):
    """Layers that are not compressed are found, also by a skopeo that does not tell of them."""
    require_root("container storage")
    options = ":overlay.skip_mount_home=true" if driver == "overlay" else ""
    where = copy(layout, f"containers-storage:[{driver}@{tmp_path}/root+{tmp_path}/run{options}]localhost/x:t")

    got, wanted = via_skopeo(tmp_path / "got", where), take(tmp_path / "wanted", f"{layout}:t")

    assert (got.manifest, got.config, got.images) == (wanted.manifest, wanted.config, wanted.images)


def test_a_transport_that_only_skopeo_has(tmp_path):
    """An image is made of an archive, as skopeo does."""
    require_tool("skopeo")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/file").write_bytes(noise(5000))
    with tarfile.open(tmp_path / "rootfs.tar", "w") as archive:
        archive.add(tmp_path / "usr", "usr")

    result = take(tmp_path / "repository", f"tarball:{tmp_path}/rootfs.tar")

    assert [each.diff_id for each in result.layers] == [sha256((tmp_path / "rootfs.tar").read_bytes())]


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_registry(tmp_path, layout, copy, form):
    """Also an image that skopeo converts keeps its config, through processes at the same time."""
    with docker_registry(tmp_path / "registry") as registry:
        where = f"docker://{registry.address}/a/x:t"
        copy(layout, where, "--dest-tls-verify=false", "--format", form)
        host = HostConfig({}, uid=1000, home=None, options=AccessOptions(tls_verify=False, policy="none"))
        access = Access(host=host, via_skopeo=True)
        got = take(tmp_path / "got", where, access=access, workers=2)

    wanted = take(tmp_path / "wanted", f"{layout}:t")
    assert (got.config, got.images) == (wanted.config, wanted.images)
    assert (got.manifest == wanted.manifest) == (form == "oci")


def test_errors(tmp_path, layout, copy):
    """What skopeo says is an error of ours, on one line."""
    where = copy(layout, f"dir:{tmp_path}/image")
    with pytest.raises(NotFoundError, match="no such file or directory"):
        via_skopeo(tmp_path / "1", f"dir:{tmp_path}/missing")
    with pytest.raises(RegistryError, match="connection refused") as caught:
        via_skopeo(tmp_path / "2", "docker://127.0.0.1:1/x:t")
    assert caught.value.host == "127.0.0.1:1"
    blob = tmp_path / "image" / LAYERS[0].digest.removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(composefs.IntegrityError, match=f"{LAYERS[0].diff_id}.*corrupted blob"):
        via_skopeo(tmp_path / "3", where)


def test_skopeo_ends_with_us(tmp_path, layout, copy):
    """Also if we are killed in the middle of a layer."""
    where = copy(layout, f"dir:{tmp_path}/image")
    command = [sys.executable, "-c", _HANG, where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        assert os.path.exists(f"/proc/{child}")

        process.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and _is_running(child):
        assert time.monotonic() < deadline, "skopeo goes on"
        time.sleep(0.05)


def _is_running(pid):
    """Tell whether a process has not ended; nobody may have asked yet how."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_many_threads(tmp_path, layout, copy):
    """Each that reads at the same time has a process of its own, and they are used again."""
    where = copy(layout, f"dir:{tmp_path}/image")
    found = []
    with SkopeoSource(parse_reference(where), Access()) as source:
        image = source.image()

        def read(index):
            with closing(source.blob(image, index).place.open("layer", lambda: 1)) as stream:
                found.append((index, b"".join(iter(lambda: stream.read(1 << 20), b""))))

        def read_some():
            for index in (0, 1, 0):
                read(index)

        threads = [threading.Thread(target=read_some) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 9
        assert all(sha256(data) == LAYERS[index].digest for index, data in found)
        assert len(skopeo._idle[source._key]) <= 3
