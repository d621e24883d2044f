"""Archives as others write them: what is imported is what a directory gives, and what composefs-rs makes of it."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import time
from contextlib import ExitStack

import pytest
import zstandard

from composefs import Algorithm, Repository, import_image
from composefs.errors import IntegrityError
from composefs.oci.schema2 import SOURCE_DIGEST
from composefs.oci.sources.access import Access
from tests import commands
from tests.archives import layout_archive, pack_directory
from tests.layouts import Layout, files_layer, image_layout, noise, sha256
from tests.registries.docker_registry import skopeo_copy
from tests.tools import require_root, require_tool

LAYERS = [
    files_layer({"usr/bin/tool": noise(300_000, 1), "usr/lib/small": b"x" * 64}, "gzip"),
    files_layer({"usr/bin/.wh.tool": b"", "usr/bin/other": noise(5000, 2)}, "gzip"),
    files_layer({"usr/lib/small": b"x" * 64, "usr/share/text": b"words " * 50_000}, "gzip"),
    files_layer({"usr/bin/.wh.tool": b"", "usr/bin/other": noise(5000, 2)}, "gzip"),
]
COMPRESS = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}
START = 20  # seconds within which podman's service must listen


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An image with more in its config than an import reads."""
    path = tmp_path_factory.mktemp("original") / "layout"
    config = {"Env": ["PATH=/usr/bin"], "Cmd": ["sh"], "Labels": {"a": "b"}}
    history = [{"created": "2026-01-02T03:04:05Z", "created_by": f"step {number}"} for number in range(4)]
    return image_layout(path, LAYERS, "os", config=config, history=history, created="2026-01-02T03:04:05Z")


class Importer:
    """Imports each reference into a repository of its own below *directory*."""

    def __init__(self, directory, stack):
        self._directory, self._stack, self._count = directory, stack, 0

    def __call__(self, reference, **options):
        self._count += 1
        self.path = self._directory / f"repository-{self._count}"
        Repository.init(self.path, Algorithm.SHA256, require_verity=False)
        repository = self._stack.enter_context(Repository.open(self.path))
        return import_image(repository, reference, name="os", workers=1, **options)


@pytest.fixture
def imported(tmp_path, no_flush):
    with ExitStack() as stack:
        yield Importer(tmp_path, stack)


@pytest.fixture
def cfsctl():
    """Run `cfsctl` with arguments, and return what it printed."""
    program = require_tool("cfsctl")

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


def contents(result):
    """Return what must be the same, whatever the way."""
    return [layer.diff_id for layer in result.layers], result.image


def names(path):
    """Return the layers, configs and images in a repository, and their objects."""
    links = [*(path / "streams").glob("oci-layer-*"), *(path / "streams").glob("oci-config-*")]
    return {link.name: link.readlink() for link in links}, {link.name for link in (path / "images").iterdir()}


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive", None])
def test_compressed(original, imported, tmp_path, transport, kind):
    """Archives of skopeo may be compressed afterwards, with or without saying which kind of archive it is."""
    path = tmp_path / "archive.tar"
    skopeo_copy(f"{original}:os", f"{transport or 'docker-archive'}:{path}:example.org/os:1")
    path.write_bytes(COMPRESS[kind](path.read_bytes()))

    found = imported(f"{transport}:{path}" if transport is not None else str(path))

    assert contents(found) == contents(imported(f"{original}:os"))


@pytest.mark.parametrize("tag", ["os", None])
def test_same_as_cfsctl(original, imported, cfsctl, tmp_path, tag):
    """composefs-rs makes the same streams and image of an archive."""
    path = layout_archive(original, tmp_path / "archive.tar")
    reference = f"oci-archive:{path}" + (f":{tag}" if tag is not None else "")
    there = tmp_path / "there"
    cfsctl("init", "--insecure", "--algorithm", Algorithm.SHA256.value, there)
    cfsctl("--repo", there, "oci", "pull", reference, "os")

    found = imported(reference)

    assert names(imported.path) == names(there)
    inspected = json.loads(cfsctl("--repo", there, "oci", "inspect", "os"))
    assert inspected["manifest"].encode() == original.blob_path(found.manifest).read_bytes()
    assert inspected["composefs_erofs"] == found.image.hex
    again = import_image(Repository.open(there), reference, name="os")
    assert {layer.status for layer in again.layers} == {"present"}


@pytest.mark.parametrize("part", ["manifest", "config", "layer", "diff_id"])
def test_forged(imported, cfsctl, tmp_path, part):
    """Forgeries of the same size, which composefs-rs takes from an archive, are refused."""
    layout = Layout(tmp_path / "layout")
    forged_id = {"diff_id": sha256(b"another archive")} if part == "diff_id" else {}
    layer = files_layer({"usr/file": noise(500)}, **forged_id)
    descriptor = layout.image([layer], created="2026-01-02T03:04:05Z")
    manifest = layout.blob_path(descriptor["digest"]).read_bytes()
    digests = {
        "manifest": descriptor["digest"],
        "config": json.loads(manifest)["config"]["digest"],
        "layer": layer.digest,
    }
    if part in digests:
        blob = layout.blob_path(digests[part])
        old, new = (noise(500)[:9], b"forgeries") if part == "layer" else (b": ", b":\t")
        blob.write_bytes(blob.read_bytes().replace(old, new, 1))
    path = layout_archive(layout.write(descriptor), tmp_path / "archive.tar")
    cfsctl("init", "--insecure", tmp_path / "there")
    cfsctl("--repo", tmp_path / "there", "oci", "pull", f"oci-archive:{path}", "os")

    with pytest.raises(IntegrityError):
        imported(f"oci-archive:{path}")
    assert not list((imported.path / "streams/refs").rglob("os"))


@pytest.mark.parametrize("media_types", ["oci", "v2s2"])
def test_dir(original, imported, cfsctl, tmp_path, media_types):
    """Directories of skopeo, whose manifests are OCI's or Docker's; for composefs-rs both are images, and right."""
    skopeo_copy(f"{original}:os", f"dir:{tmp_path}/dir", "--format", media_types)
    source = (tmp_path / "dir/manifest.json").read_bytes()

    found = imported(f"dir:{tmp_path}/dir")

    path = imported.path
    assert found.source_manifest == sha256(source)
    assert found.config == json.loads(source)["config"]["digest"]
    assert contents(found) == contents(imported(f"{original}:os"))
    (image,) = json.loads(cfsctl("--repo", path, "oci", "images", "--json"))["images"]
    assert (image["name"], image["manifest_digest"], image["layer_count"]) == ("os", found.manifest, 4)
    assert image["is_container"]
    for name in ("os", f"@{found.manifest}"):
        inspected = json.loads(cfsctl("--repo", path, "oci", "inspect", name))
        assert inspected["composefs_erofs"] == found.image.hex
        manifest = json.loads(inspected["manifest"])
        annotations = {SOURCE_DIGEST: sha256(source)} if media_types == "v2s2" else None
        assert manifest.get("annotations") == annotations
        assert (media_types == "v2s2") == (found.manifest != found.source_manifest)
    assert cfsctl("--repo", path, "oci", "compute-id", "os").decode().strip() == found.image.hex
    for command in (["fsck"], ["oci", "fsck"]):
        assert json.loads(cfsctl("--repo", path, *command, "--json"))["ok"]


# The config of an image that Docker 20.10 built: all that its type has and OCI's has not.
DOCKER_CONFIG = {
    "config": {
        "Hostname": "",
        "AttachStdin": False,
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["PATH=/usr/bin"],
        "Cmd": ["sh"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000},
        "ArgsEscaped": True,
        "Image": f"sha256:{64 * '1'}",
        "Volumes": None,
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
        "Shell": ["/bin/sh"],
    },
    "container": 64 * "2",
    "container_config": {"Hostname": "x", "Cmd": ["/bin/sh", "-c", "#(nop) "], "Entrypoint": None, "Labels": {}},
    "created": "2023-01-02T03:04:05.123456789Z",
    "docker_version": "20.10.17",
    "history": [{"created": "2023-01-02T03:04:05.1Z", "created_by": "x", "empty_layer": True}],
    "variant": "v1",
}


def test_docker_config(imported, cfsctl, tmp_path):
    """composefs-rs reads a config of Docker's, which stays as it is, and finds nothing wrong."""
    layout = Layout(tmp_path / "layout")
    layer = files_layer(
        {"usr/file": b"x" * 100}, "gzip", media_type="application/vnd.docker.image.rootfs.diff.tar.gzip"
    )
    descriptor = layout.image([layer], docker=True, **DOCKER_CONFIG)
    config = layout.blob_path(json.loads(layout.blob_path(descriptor["digest"]).read_bytes())["config"]["digest"])

    found = imported(str(layout.write(descriptor)))

    assert found.source_manifest == descriptor["digest"] != found.manifest
    inspected = json.loads(cfsctl("--repo", imported.path, "oci", "inspect", "os"))
    assert inspected["config"].encode() == config.read_bytes()
    (image,) = json.loads(cfsctl("--repo", imported.path, "oci", "images", "--json"))["images"]
    assert image["is_container"]
    assert cfsctl("--repo", imported.path, "oci", "dump", "os").splitlines()[-1].startswith(b"/usr/file 100 ")
    assert json.loads(cfsctl("--repo", imported.path, "oci", "fsck", "--json"))["ok"]


def test_umoci(imported, tmp_path):
    """A layout that umoci made, as directory and as archive."""
    umoci, image, bundle = require_tool("umoci"), f"{tmp_path}/layout:os", tmp_path / "bundle"

    def run(*arguments):
        subprocess.run([umoci, *arguments], check=True, capture_output=True)

    run("init", "--layout", tmp_path / "layout")
    run("new", "--image", image)
    for number in range(2):
        run("unpack", "--rootless", "--image", image, bundle)
        (bundle / "rootfs/usr/lib").mkdir(parents=True, exist_ok=True)
        (bundle / f"rootfs/usr/lib/file{number}").write_bytes(noise(10_000, number))
        run("repack", "--image", image, bundle)
        shutil.rmtree(bundle)
    (tmp_path / "archive.tar").write_bytes(pack_directory(tmp_path / "layout", "./"))

    found = [imported(reference) for reference in (f"oci:{image}", f"oci-archive:{tmp_path}/archive.tar:os")]

    assert len({(each.manifest, each.config, each.image) for each in found}) == 1
    assert len(found[0].layers) == 2


@pytest.fixture(scope="module")
def podman(original, tmp_path_factory):
    """Run podman over a store of its own, which has the image."""
    program = require_tool("podman")
    require_root("a store with all owners")
    directory = tmp_path_factory.mktemp("podman")
    command = [program, f"--root={directory}/root", f"--runroot={directory}/run", "--storage-driver=vfs"]

    def run(*arguments, start=subprocess.run, **options):
        return start([*command, *map(str, arguments)], **options)

    def check(*arguments):
        return run(*arguments, check=True, capture_output=True).stdout.decode().strip()

    image = check("pull", "--quiet", f"{original}:os")
    check("tag", image, "localhost/os:1")
    run.image = image.removeprefix("sha256:")
    return run


@pytest.mark.parametrize(
    ("form", "reference"),
    [
        ("oci-archive", "oci-archive:{}"),
        ("oci-archive", "{}"),
        ("docker-archive", "docker-archive:{}"),
        ("docker-archive", "docker-archive:{}:localhost/os:1"),
        ("docker-archive", "{}"),
        ("oci-dir", "oci:{}"),
        ("oci-dir", "{}"),
        ("docker-dir", "dir:{}"),
        ("docker-dir", "{}"),
    ],
)
def test_podman_save(original, imported, podman, tmp_path, form, reference):
    """What podman saves, in all its formats, also if the format is not said."""
    podman("save", "--quiet", "--format", form, "-o", tmp_path / "saved", "localhost/os:1", check=True)

    found = imported(reference.format(tmp_path / "saved"))

    assert contents(found) == contents(imported(f"{original}:os"))


@pytest.fixture(scope="module")
def docker_socket(podman, tmp_path_factory):
    """The socket on which podman speaks Docker's API."""
    path = tmp_path_factory.mktemp("service") / "docker.sock"
    service = podman("system", "service", "--time=0", f"unix://{path}", start=subprocess.Popen)
    try:
        deadline = time.monotonic() + START
        while not path.exists():
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield path
    finally:
        service.terminate()
        service.wait()


@pytest.mark.parametrize("by", ["name", "id"])
def test_docker_daemon(original, imported, podman, docker_socket, by):
    """An image out of the daemon's store, by name or id."""
    which = "localhost/os:1" if by == "name" else f"sha256:{podman.image}"
    access = Access(environ={"DOCKER_HOST": f"unix://{docker_socket}"})

    found = imported(f"docker-daemon:{which}", access=access)

    assert contents(found) == contents(imported(f"{original}:os"))


@pytest.mark.parametrize("name", ["oci-archive:/dev/stdin", "oci-archive:-", "-"])
@pytest.mark.parametrize("is_file", [True, False])
def test_standard_input(original, imported, tmp_path, name, is_file):
    """Standard input may be a file or a pipe, whatever it is called."""
    path = layout_archive(original, tmp_path / "archive.tar")
    options = ["--repo", tmp_path / "piped", "--name", "os", "--quiet", "--algorithm", Algorithm.SHA256.value]
    with ExitStack() as stack:
        if is_file:
            stdin = stack.enter_context(path.open("rb"))
        else:
            cat = stack.enter_context(subprocess.Popen(["cat", path], stdout=subprocess.PIPE))
            stdin = cat.stdout
        done = commands.run(tmp_path, "composefs-import", name, *options, stdin=stdin)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wanted = imported(f"{original}:os")
    with Repository.open(tmp_path / "piped") as repository:
        assert repository.images.find(wanted.image)
    assert not [name for name in os.listdir(tmp_path / "piped/objects") if len(name) != 2]
