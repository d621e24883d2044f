"""What is exported is taken by other programs: skopeo and podman check digests, umoci and cfsctl read layers."""

import base64
import errno
import json
import os
import subprocess
import tempfile

import pytest
import zstandard

import composefs
from composefs.cli import main
from composefs.image import Image, extract
from composefs.oci.export.exporter import export_image
from composefs.oci.manifest import Compression
from tests import debian, namespaces
from tests.golden import vectors
from tests.layouts import files_layer, image_layout, layer, noise, sha256
from tests.registries.docker_registry import docker_registry
from tests.registries.nginx import Front, nginx
from tests.registries.tls import make_authority
from tests.tools import require_root, require_tool
from tests.trees_on_disk import snapshot

pytestmark = pytest.mark.usefixtures("no_flush")

ALGORITHM = composefs.Algorithm.SHA256
COMPRESSIONS = [None, *Compression]
PLACES = ["oci:{}/out:tag", "oci-archive:{}/out.tar:tag", "dir:{}/out"]
VECTORS = ["four-layers", "hard-links", "whiteouts", "names-odd-bytes", "directory-3000", "layer-repeated"]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The path of a repository with an image of files of this machine, and that; no layer is compressed as another."""
    directory = tmp_path_factory.mktemp("stored")
    first, second, third = (
        debian.package_layer(packages) for packages in (["base-files"], ["dash"], ["hostname", "grep"])
    )
    stream = zstandard.ZstdCompressor().compressobj()  # as programs do that write it while they read
    layers = [layer(first), layer(second, "gzip"), layer(third, "zstd", blob=stream.compress(third) + stream.flush())]
    composefs.Repository.init(directory / "repository", ALGORITHM, require_verity=False)
    with composefs.Repository.open(directory / "repository") as repository:
        layout = image_layout(directory / "layout", layers)
        return directory / "repository", composefs.import_image(repository, str(layout), name="os")


@pytest.fixture
def export(stored):
    """Export the image, and return what became of it."""

    def export(place, compression=None, **options):
        with composefs.Repository.open(stored[0]) as repository:
            return export_image(repository, "os", place, compression=compression, **options)

    return export


@pytest.fixture
def skopeo():
    """Run skopeo, which checks the digest of every blob that it copies."""
    program = require_tool("skopeo")
    return lambda *arguments: run(program, "--insecure-policy", *arguments)


def check_copy(directory, result, stored):
    """Check that skopeo's copy is the image that was exported, and the one that was stored."""
    manifest = (directory / "manifest.json").read_bytes()
    assert sha256(manifest) == result.manifest
    assert json.loads(manifest)["config"]["digest"] == stored[1].config
    with composefs.Repository.open(stored[0]) as repository:
        again = composefs.import_image(repository, f"dir:{directory}", name="again")
    assert (again.manifest, again.image) == (result.manifest, stored[1].image)
    assert [layer.status for layer in again.layers] == ["present"] * 3


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("place", PLACES)
def test_skopeo(place, compression, stored, export, skopeo, tmp_path):
    """skopeo finds the manifest that we say, copies all blobs, and what it has copied is the same image."""
    place = place.format(tmp_path)

    result = export(place, compression)

    assert result.is_kept == (compression is None)
    assert sha256(skopeo("inspect", "--raw", place)) == result.manifest
    assert json.loads(skopeo("inspect", place))["Layers"] == [layer.digest for layer in result.layers]
    skopeo("copy", "--preserve-digests", "--quiet", place, f"dir:{tmp_path}/copy")
    check_copy(tmp_path / "copy", result, stored)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP])  # umoci 0.4 knows no zstd
def test_umoci(compression, stored, export, tmp_path):
    """umoci unpacks the files that we extract from the repository."""
    require_root("owners")
    umoci = require_tool("umoci")

    export(f"oci:{tmp_path}/out:tag", compression)

    run(umoci, "unpack", "--image", f"{tmp_path}/out:tag", tmp_path / "bundle")
    with composefs.Repository.open(stored[0]) as repository, Image.open(repository, "os") as opened:
        assert extract(opened, tmp_path / "files").shortfalls == []
    found, wanted = snapshot(tmp_path / "bundle/rootfs"), snapshot(tmp_path / "files")
    for tree in (found, wanted):
        del tree[b""]  # which has no entry in the layers
        del tree[b"/run"]  # which composefs empties
    assert found == wanted


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("limit", ["size", "nr_inodes"])
def test_full_disk(limit, place, repository, tmp_path):
    """Wherever the disk gets full, blocks or names, what was there stays, and nothing else is left."""
    require_root("mounts")
    layers = [files_layer({f"usr/{number}": noise(20_000, number)}) for number in range(3)]
    image = composefs.import_image(repository, str(image_layout(tmp_path / "layout", layers)), name="os", workers=1)
    target = tmp_path / "target"
    target.mkdir()
    found = []
    with namespaces.private_mounts():
        for number in range(1, 60):
            amount = f"{4 * number}k" if limit == "size" else number
            run("mount", "-t", "tmpfs", "-o", f"{limit}={amount}", "none", target)
            try:
                result = export_image(repository, "os", place.format(target), workers=1)
            except OSError as error:
                found.append((error.errno, os.listdir(target)))
            else:
                break
            finally:
                run("umount", target)
    assert result.manifest == image.manifest
    assert len(found) > (10 if limit == "size" else 0)
    assert all(failure == (errno.ENOSPC, []) for failure in found)


@pytest.fixture
def podman():
    """Run podman over a store of its own, in a place whose path is not too long for it."""
    require_root("podman without user namespaces")
    program = require_tool("podman")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="composefs-") as directory:
        places = "--root", f"{directory}/store", "--runroot", f"{directory}/run", "--storage-driver", "vfs"
        yield lambda *arguments: run(program, *places, *arguments).decode()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_podman_load(compression, stored, export, podman, tmp_path):
    """podman loads an archive, under its tag, and calls the image by the digest of its config."""
    export(f"oci-archive:{tmp_path}/out.tar:localhost/os:1", compression)

    assert podman("load", "--quiet", "--input", tmp_path / "out.tar").split()[-1] == "localhost/os:1"

    assert podman("images", "--no-trunc", "--quiet").strip() == stored[1].config


@pytest.fixture
def cfsctl(tmp_path):
    """Pull an image with composefs-rs into a repository of its own; return its config and the id of its image."""
    program = require_tool("cfsctl")
    path = tmp_path / "theirs"
    run(program, "init", "--insecure", "--algorithm", ALGORITHM.value, path)

    def pull(reference):
        run(program, "--repo", path, "oci", "pull", reference, "image")
        found = json.loads(run(program, "--repo", path, "oci", "inspect", "image"))
        return sha256(found["config"].encode()), found["composefs_erofs"]

    return pull


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("place", PLACES[:2])
def test_cfsctl(place, compression, stored, export, cfsctl, tmp_path):
    """composefs-rs makes the same image of what we export as we of what we imported."""
    place = place.format(tmp_path)

    export(place, compression)

    assert cfsctl(place) == (stored[1].config, stored[1].image.hex)


@pytest.mark.parametrize("name", VECTORS)
def test_cfsctl_vectors(name, repository, cfsctl, tmp_path):
    """So it does of images of all kinds."""
    layout = vectors.write_layout(name, tmp_path / "layout")
    image = composefs.import_image(repository, f"oci:{layout}", name="os", workers=1)
    place = f"oci-archive:{tmp_path}/out.tar"

    export_image(repository, "os", place, compression=Compression.ZSTD, workers=1)

    assert cfsctl(place) == (image.config, image.image.hex)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Debian's docker-registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def home(monkeypatch, tmp_path):
    """The empty home directory of a user who has configured nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def push(stored, home, capsys):
    """Push the image with the command; return its exit status and what it printed."""

    def push(place, *options, tls="--tls-verify=false"):
        arguments = ["oci", "push", "os", f"docker://{place}", tls, "--json", *options]
        status = main(["--repo", str(stored[0]), *arguments])
        return status, *capsys.readouterr()

    return push


@pytest.mark.parametrize("compression", ["auto", "none", "gzip", "zstd"])
def test_registry(compression, stored, registry, push, skopeo, tmp_path):
    """What we push skopeo copies back, bit for bit."""
    place = f"{registry.address}/some/{compression}:1"

    status, out, err = push(place, "--compression", compression)

    assert status == 0
    assert len([line for line in err.splitlines() if line.startswith("sending ")]) == 1
    result = json.loads(out)
    assert result["kept"] == (compression == "auto")
    skopeo("copy", "--src-tls-verify=false", "--preserve-digests", "--quiet", f"docker://{place}", f"dir:{tmp_path}/x")
    manifest = (tmp_path / "x/manifest.json").read_bytes()
    assert sha256(manifest) == result["manifest"]
    assert json.loads(manifest)["config"]["digest"] == stored[1].config


def test_registry_podman(stored, registry, push, podman):
    """podman pulls what we push."""
    place = f"{registry.address}/for/podman:1"

    assert push(place, "--compression", "zstd")[0] == 0

    assert podman("pull", "--quiet", "--tls-verify=false", place).strip() == stored[1].config.partition(":")[2]


def test_registry_cfsctl(stored, registry, push, cfsctl, home):
    """composefs-rs, through skopeo, makes the same image of what we push."""
    require_tool("skopeo")
    place = f"{registry.address}/for/cfsctl:1"
    settings = home / ".config/containers"
    settings.mkdir(parents=True)
    (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n')
    (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    assert push(place, "--compression", "gzip")[0] == 0

    assert cfsctl(f"docker://{place}") == (stored[1].config, stored[1].image.hex)


def test_registry_with_users(stored, push, home, skopeo, tmp_path):
    """Without the right password nothing gets a name, and no password is printed; with it, from wherever, it does."""
    with docker_registry(tmp_path / "registry", users={"me": "open sesame"}) as registry:
        place = f"{registry.address}/some/os"
        for options in ((), ("--creds", "me:wrong words")):
            status, out, err = push(f"{place}:no", *options)
            assert (status, out) == (1, "")
            assert len(err.splitlines()) == 1
            assert "wrong words" not in err
        assert push(f"{place}:1", "--creds", "me:open sesame")[0] == 0
        (home / ".docker").mkdir()
        secret = base64.b64encode(b"me:open sesame").decode()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.address: {"auth": secret}}}))
        assert push(f"{place}:2")[0] == 0

        tags = skopeo("list-tags", "--tls-verify=false", f"docker://{place}")

    assert sorted(json.loads(tags)["Tags"]) == ["1", "2"]


def test_registry_behind_nginx(stored, registry, push, skopeo, tmp_path):
    """With TLS by a CA of its own, and a password, what we push comes back."""
    authority = make_authority(tmp_path / "ca")
    front = Front(tls=authority.issue("server", "127.0.0.1"), users={"me": "open sesame"})
    with nginx(tmp_path / "nginx", registry.port, front) as running:
        place = f"{running.address}/behind/nginx:1"
        (tmp_path / "trusted").mkdir()
        (tmp_path / "trusted/ca.crt").symlink_to(authority.certificate)
        options = "--creds", "me:open sesame"
        assert push(place, *options, tls="--tls-verify")[0] == 1  # nobody knows that CA

        status, out, err = push(place, *options, "--cert-dir", str(tmp_path / "trusted"), tls="--tls-verify")
        again = push(place, *options, "--cert-dir", str(tmp_path / "trusted"), tls="--tls-verify")[1]

    assert status == 0, err
    assert "open sesame" not in out + err
    assert [layer["status"] for layer in json.loads(again)["layers"]] == ["present"] * 3
    place = f"docker://{registry.address}/behind/nginx:1"
    skopeo("copy", "--src-tls-verify=false", "--preserve-digests", "--quiet", place, f"dir:{tmp_path}/x")
    assert sha256((tmp_path / "x/manifest.json").read_bytes()) == json.loads(out)["manifest"] == stored[1].manifest
