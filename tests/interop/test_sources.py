"""One image from every transport: skopeo puts it there, and what is imported is the same each time."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from composefs import Algorithm, Repository, import_image
from composefs.hostconfig.config import HostConfig
from composefs.hostconfig.options import AccessOptions
from composefs.oci.sources.access import Access
from tests.layouts import files_layer, image_layout, noise
from tests.registries.docker_registry import docker_registry, skopeo_copy
from tests.tools import require_root, require_tool

FILES = {"usr/bin/tool": noise(300_000, 1), "usr/lib/small": b"x" * 64, "usr/share/text": b"words " * 5000}
UPPER = {"usr/bin/.wh.tool": b"", "usr/bin/other": noise(5000, 2)}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An image whose layers skopeo copies as they are: it compresses plain ones."""
    path = tmp_path_factory.mktemp("original") / "layout"
    layers = [files_layer(FILES, "gzip"), files_layer(UPPER, "gzip"), files_layer({"etc/issue": b"hello"}, "gzip")]
    return image_layout(path, layers, "os", config={"Env": ["A=b"]}, history=[{"created_by": "x"}] * 3)


@pytest.fixture
def imported(tmp_path):
    """Import a reference into a repository of its own, and say what it is."""
    with ExitStack() as stack:

        def run(reference, **options):
            path = tmp_path / f"repository-{len(list(tmp_path.iterdir()))}"
            Repository.init(path, Algorithm.SHA256, require_verity=False)
            repository = stack.enter_context(Repository.open(path))
            return import_image(repository, reference, name="os", workers=1, **options)

        yield run


def contents(result):
    """Return what must be the same, whatever the way."""
    return result.config, [layer.diff_id for layer in result.layers], result.image


@pytest.mark.parametrize(
    "destination",
    ["oci:{}/copy:tag", "oci-archive:{}/copy.tar:tag", "docker-archive:{}/copy.tar:example.org/os:tag", "dir:{}/copy"],
)
def test_files(original, imported, tmp_path, destination):
    """Directories and archives that skopeo writes."""
    reference = destination.format(tmp_path)
    skopeo_copy(f"{original}:os", reference)
    wanted = imported(f"{original}:os")

    found = imported(reference)

    assert contents(found)[1:] == contents(wanted)[1:]
    if not destination.startswith("docker-archive"):  # for which skopeo writes the config anew
        assert found.config == wanted.config
        assert found.manifest == wanted.manifest


@pytest.mark.parametrize("media_types", ["oci", "v2s2"])
def test_registry(original, imported, tmp_path, media_types):
    """A registry has OCI's media types, or Docker's, under which the image has an id of its own, which stays."""
    with docker_registry(tmp_path / "registry") as registry:
        skopeo_copy(f"{original}:os", f"docker://{registry.address}/os:1", "--format", media_types)
        skopeo_copy(f"docker://{registry.address}/os:1", f"dir:{tmp_path}/copy")
        found = imported(f"docker://{registry.address}/os:1", access=plain_http())
    copied = imported(f"dir:{tmp_path}/copy")

    wanted = imported(f"{original}:os")
    assert contents(found)[1:] == contents(wanted)[1:]
    assert contents(found) == contents(copied)
    assert (found.manifest, found.source_manifest) == (copied.manifest, copied.source_manifest)
    assert (found.manifest == found.source_manifest) == (media_types == "oci")


def test_containers_storage(original, imported, tmp_path):
    """The store of podman."""
    require_root("a store with all owners")
    store = f"containers-storage:[overlay@{tmp_path}/storage+{tmp_path}/run]example.org/os:1"
    skopeo_copy(f"{original}:os", store)
    try:
        found = imported(store)
    finally:
        subprocess.run(["umount", tmp_path / "storage/overlay"], check=False, stderr=subprocess.DEVNULL)

    assert contents(found) == contents(imported(f"{original}:os"))


@pytest.mark.parametrize("compressor", [None, "gzip", "zstd", "xz"])
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_standard_input(original, imported, tmp_path, transport, compressor):
    """An archive may come from a pipe, compressed or not."""
    archive = tmp_path / "copy.tar"
    skopeo_copy(f"{original}:os", f"{transport}:{archive}:example.org/os:1")
    data = archive.read_bytes()
    if compressor is not None:
        data = subprocess.run([require_tool(compressor), "-c"], input=data, check=True, stdout=subprocess.PIPE).stdout
    command = [sys.executable, "-c", "import composefs.cli, sys; sys.exit(composefs.cli.main_import())"]
    options = ["--repo", f"{tmp_path}/piped", "--name", "os", "--quiet", "--algorithm", "fsverity-sha256-12"]

    done = subprocess.run([*command, *options, f"{transport}:/dev/stdin"], input=data, check=False, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with Repository.open(tmp_path / "piped") as repository:
        assert repository.images.find(imported(f"{original}:os").image)


def plain_http():
    """Return the access of a host that trusts its local registry without TLS."""
    return Access(host=HostConfig({}, uid=0, home=None, options=AccessOptions(tls_verify=False)))
