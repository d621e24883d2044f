"""Images from real registries: docker-registry alone, and behind nginx that does what large registries do."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from composefs import Repository, import_image
from composefs.digest import Algorithm
from composefs.errors import AuthenticationError, RegistryError
from composefs.oci.images import open_image
from composefs.registry.endpoint import Credentials
from tests.layouts import DOCKER_MANIFEST, Layout, files_layer, image_layout, noise
from tests.registries.docker_registry import DockerRegistry, docker_registry, skopeo_copy
from tests.registries.nginx import SIGNATURE, Front, nginx
from tests.registries.reaching import reaching
from tests.registries.tls import Authority, make_authority
from tests.tools import require_tool
from tests.torture import interruptions

LARGE = files_layer({"large": noise(25_000_000)}, "zstd")
PLAIN = files_layer({"usr/share/z": noise(100_000, 2)})
LAYERS = [
    files_layer({"usr/bin/x": noise(300_000, 1), "etc/x.conf": b"x" * 64}, "gzip"),
    files_layer({"usr/share/y": b"y" * 500_000}, "zstd"),
    PLAIN,
]
USER, PASSWORD = "reader", "pass:word"
CREDENTIALS = Credentials(USER, PASSWORD)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return image_layout(tmp_path_factory.mktemp("image") / "layout", LAYERS, "tag")


@pytest.fixture(scope="module")
def registry(tmp_path_factory, layout) -> Iterator[DockerRegistry]:
    """docker-registry with the images x:tag, docker:tag, which has docker's media types, and large:tag."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        skopeo_copy(f"{layout}:tag", f"docker://{running.address}/x:tag", "--preserve-digests")
        for_docker = image_layout(tmp_path_factory.mktemp("docker") / "layout", [LAYERS[0], PLAIN], "tag")
        skopeo_copy(f"{for_docker}:tag", f"docker://{running.address}/docker:tag", "--format", "v2s2")
        large = image_layout(tmp_path_factory.mktemp("large") / "layout", [LARGE, LAYERS[0]], "tag")
        skopeo_copy(f"{large}:tag", f"docker://{running.address}/large:tag", "--preserve-digests")
        yield running


@pytest.fixture
def pull(repository, no_flush):
    """Import an image, by reference, with options of `reaching`, in processes of its own as by default."""

    def pulling(address: str, image: str = "x:tag", **options):
        reference = f"docker://{address}/{image}"
        return import_image(repository, reference, access=reaching(**options), name="image")

    return pulling


@pytest.fixture
def right(layout, tmp_path):
    """The image as it comes from its layout."""
    Repository.init(tmp_path / "right", Algorithm.SHA256, require_verity=False)
    with Repository.open(tmp_path / "right") as opened:
        return import_image(opened, f"{layout}:tag", name="image")


def ids(result):
    return result.manifest, result.config, result.verity, [image.digest for image in result.images]


def test_an_image_is_as_from_its_layout(pull, right, registry):
    """All its ids are the same."""
    assert ids(pull(registry.address)) == ids(right)


def test_an_image_by_digest_and_with_a_tag_that_is_only_a_label(pull, right, registry):
    """The digest decides."""
    assert ids(pull(registry.address, f"x:other@{right.manifest}")) == ids(right)


def test_an_image_of_docker_types_has_its_config(pull, registry, repository, tmp_path):
    """The config stays as it is, so the image has the same id everywhere; the manifest is ours."""
    there = json.loads(skopeo("inspect", "--raw", f"docker://{registry.address}/docker:tag"))
    assert there["mediaType"] == DOCKER_MANIFEST

    result = pull(registry.address, "docker:tag")

    assert result.config == there["config"]["digest"]
    assert result.manifest != registry_digest(registry, "docker")
    same = import_image(repository, str(image_layout(tmp_path / "oci", [LAYERS[0], PLAIN])), name="oci")
    assert [image.digest for image in result.images] == [image.digest for image in same.images]


def registry_digest(registry: DockerRegistry, name: str) -> str:
    found = json.loads(skopeo("inspect", f"docker://{registry.address}/{name}:tag"))
    return str(found["Digest"])


def skopeo(*arguments: str) -> bytes:
    command = [require_tool("skopeo"), arguments[0], "--tls-verify=false", *arguments[1:]]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_podman_and_skopeo_have_the_same_image(pull, registry, tmp_path):
    """The id of an image is the digest of its config."""
    reference = f"{registry.address}/x:tag"
    with tempfile.TemporaryDirectory(prefix="run-") as run:  # podman takes at most 50 characters
        podman = [require_tool("podman"), "--root", str(tmp_path / "root"), "--runroot", run, "--storage-driver", "vfs"]
        command = [*podman, "--events-backend", "none", "pull", "-q", "--tls-verify=false", reference]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    result = pull(registry.address)

    assert result.config == f"sha256:{done.stdout.strip()}"
    raw = skopeo("inspect", "--raw", f"docker://{reference}")
    assert json.loads(raw)["config"]["digest"] == result.config


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda algorithm: algorithm.hash_name)
def test_cfsctl_pulls_the_same_repository(registry, tmp_path, algorithm):
    """Every name is the same, and leads to the same object, but for manifest and config: cfsctl writes what they refer
    to in any order.
    """
    program = require_tool("cfsctl")
    require_tool("skopeo")  # which cfsctl has fetch the image, by HTTPS only
    authority = make_authority(tmp_path / "ca")
    there, here = tmp_path / "there", tmp_path / "here"

    def cfsctl(*arguments: object) -> None:
        environ = {**os.environ, "SSL_CERT_FILE": str(authority.certificate)}
        done = subprocess.run([program, *map(str, arguments)], check=False, capture_output=True, text=True, env=environ)
        assert done.returncode == 0, done.stderr

    with nginx(tmp_path / "nginx", registry.port, Front(tls=authority.issue("server", "127.0.0.1"))) as front:
        reference = f"docker://{front.address}/x:tag"
        cfsctl("init", "--insecure", "--algorithm", algorithm.value, there)
        cfsctl("--repo", there, "oci", "pull", reference, "image")
        Repository.init(here, algorithm, require_verity=False)
        with Repository.open(here) as opened:
            import_image(opened, reference, access=reaching(certificates=trusting(authority, tmp_path)), name="image")

    assert names(here) == names(there)
    with Repository.open(here) as ours, Repository.open(there) as theirs:
        one, other = open_image(ours, "image"), open_image(theirs, "image")
    assert (one.manifest, one.config, one.config_bytes) == (other.manifest, other.config, other.config_bytes)


def trusting(authority: Authority, directory: Path) -> Path:
    """Return a directory of certificates by which *authority* is believed."""
    certificates = directory / "certs.d"
    certificates.mkdir()
    (certificates / "ca.crt").symlink_to(authority.certificate)
    return certificates


def names(path: Path) -> dict[str, str | None]:
    """Return all names in the repository at *path*, and what they lead to, if that has one order."""
    links = [link for top in ("streams", "images") for link in (path / top).rglob("*") if link.is_symlink()]
    return {
        str(link.relative_to(path)): None
        if link.name.startswith(("oci-manifest-", "oci-config-"))
        else os.readlink(link)
        for link in links
    }


# With credentials


@pytest.fixture(params=["docker-registry", "nginx"])
def guarded(request, tmp_path, registry, layout) -> Iterator[str]:
    """The address of a registry that wants basic authentication."""
    if request.param == "nginx":
        with nginx(tmp_path / "nginx", registry.port, Front(users={USER: PASSWORD})) as front:
            yield front.address
    else:
        with docker_registry(tmp_path / "guarded", {USER: PASSWORD}) as running:
            creds = f"--dest-creds={USER}:{PASSWORD}"
            skopeo_copy(f"{layout}:tag", f"docker://{running.address}/x:tag", "--preserve-digests", creds)
            yield running.address


def test_credentials_are_shown_where_they_are_wanted(pull, right, guarded, repository):
    """And kept nowhere: nothing in the repository has the password."""
    assert ids(pull(guarded, credentials=CREDENTIALS)) == ids(right)

    for file in Path(repository.path).rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert PASSWORD.encode() not in data
            assert b"cmVhZGVyOnBhc3M6d29yZA" not in data  # as it is sent, in base64


@pytest.mark.parametrize("credentials", [None, Credentials(USER, "wrong-word"), Credentials("other", PASSWORD)])
def test_wrong_credentials_end_an_import(pull, guarded, credentials):
    """The error says so, and does not repeat them."""
    with pytest.raises(AuthenticationError) as caught:
        pull(guarded, credentials=credentials)

    assert guarded in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "wrong-word" not in str(caught.value)


# Behind nginx


def test_blobs_by_redirect(pull, right, registry, tmp_path):
    """The second server, which refuses Authorization, gets none."""
    with nginx(tmp_path / "nginx", registry.port, Front(users={USER: PASSWORD}, redirects_blobs=True)) as front:
        assert ids(pull(front.address, credentials=CREDENTIALS)) == ids(right)
        there = [request for request in front.requests if request["port"] == str(front.blob_port)]

    assert len(there) == len(LAYERS) + 1
    assert {(request["status"], request["authorization"]) for request in there} == {(200, "")}
    assert all(SIGNATURE in request["uri"] for request in there)


def test_a_limit_of_requests_is_kept(pull, right, registry, tmp_path):
    """What is answered by 429 is asked for again, later."""
    with nginx(tmp_path / "nginx", registry.port, Front(requests_per_second=6)) as front:
        assert ids(pull(front.address)) == ids(right)
        statuses = [request["status"] for request in front.requests]

    assert 429 in statuses
    assert statuses.count(429) < 30


def test_a_limited_connection_is_not_alone(pull, registry, tmp_path):
    """A large layer comes in ranges at a time; each byte once, but for those under way where the first stream ended."""
    with nginx(tmp_path / "nginx", registry.port, Front(limit_rate="5m")) as front:
        pull(front.address, "large:tag")
        sent = [request for request in front.requests if LARGE.digest in request["uri"]]

    assert len(sent) > 2
    assert {request["status"] for request in sent} == {200, 206}
    assert sum(request["sent"] for request in sent) < LARGE.size + 8_000_000


def test_without_ranges_one_connection_is_enough(pull, registry, tmp_path):
    """200 to a range says that there are none."""
    with nginx(tmp_path / "nginx", registry.port, Front(limit_rate="10m", strips_range=True)) as front:
        pull(front.address, "large:tag")
        sent = [request for request in front.requests if LARGE.digest in request["uri"]]

    assert {request["status"] for request in sent} == {200}
    assert len(sent) <= 1 + 5  # those that were asked for before the first one said so


@pytest.mark.parametrize("wants_client", [False, True], ids=["server", "both"])
def test_a_private_authority(pull, right, registry, tmp_path, wants_client):
    """Its certificates are believed, and shown to it, where a directory says so; otherwise the import ends."""
    authority = make_authority(tmp_path / "ca")
    certificates = trusting(authority, tmp_path)
    if wants_client:
        client = authority.issue("client")
        (certificates / "client.cert").symlink_to(client.certificate)
        (certificates / "client.key").symlink_to(client.key)
    front = Front(
        tls=authority.issue("server", "127.0.0.1"), client_authority=authority.certificate if wants_client else None
    )
    with nginx(tmp_path / "nginx", registry.port, front) as running:
        assert ids(pull(running.address, certificates=certificates)) == ids(right)
        (tmp_path / "none").mkdir()
        with pytest.raises(RegistryError, match="certificate"):
            pull(running.address, f"x@{right.config}", certificates=tmp_path / "none")


def test_plain_http_is_not_spoken_unless_asked_for(registry, repository):
    """By default there is TLS or nothing."""
    with pytest.raises(RegistryError) as caught:
        import_image(repository, f"docker://{registry.address}/x:tag")

    assert registry.address in str(caught.value)
    assert not list((Path(repository.path) / "streams").glob("*"))


def test_interruptions_cost_only_what_was_in_flight(tmp_path):
    """As `python -m tests.torture.interruptions` does it a hundred times: here ten, of a smaller image."""
    made, figures = interruptions.torture(10, seed=7, layers=24, directory=tmp_path)

    assert not figures.failures
    assert len(figures.runs) == 11
    assert figures.sent <= interruptions.FACTOR * figures.image + figures.in_flight(made.diff_ids)
    with Repository.open(made.repository) as opened:
        pulled = open_image(opened, "x")
        assert pulled.manifest == import_image(opened, made.layout, name="y").manifest
