"""Images that skopeo fetches: proved as any other, through as many processes as there are workers."""

import base64
import json
import os
import pickle

import pytest

from composefs import Repository, import_image
from composefs.digest import Algorithm
from composefs.errors import IntegrityError, NotFoundError, PolicyError, RegistryError, UsageError
from composefs.hostconfig import AccessOptions, HostConfig
from composefs.oci.manifest import Compression, Platform
from composefs.oci.sources import skopeo
from composefs.oci.sources.access import Access
from composefs.oci.sources.skopeo import SkopeoSource, open_by_skopeo
from composefs.oci.sources.skopeo_process import SkopeoOptions
from composefs.reference import parse_reference
from composefs.registry.endpoint import Credentials
from tests.layouts import Layout, image_layout, layer, noise, rooted, sha256, tar
from tests.skopeos import Script

FIRST = layer(tar(rooted({"usr/a": noise(70_000)})), "gzip")
SECOND = layer(tar({"usr/b": noise(5000, 2)}), "zstd")
REFERENCE = "docker://registry.test/org/app:v1"
TOKEN = "hunter2"

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def script(tmp_path, monkeypatch):
    """What goes for skopeo; no process and no descriptor stays."""
    (tmp_path / "bin").mkdir()
    script = Script(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield script
    assert not any(skopeo._idle.values())
    assert not [fd for fd in os.listdir("/proc/self/fd") if "composefs-skopeo" in _target(fd)]


def _target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # it was that of the list
        return ""


def read(stream):
    try:
        return b"".join(iter(lambda: stream.read(1000), b""))
    finally:
        stream.close()


@pytest.fixture
def layout(tmp_path, script):
    """The layout that the image comes from in truth, and the image put into the script."""
    layout = image_layout(tmp_path / "layout", [FIRST, SECOND])
    serve(script, layout)
    return layout


def serve(script, layout, **settings):
    """Have *script* give the image of *layout*; return its manifest."""
    blobs = {f"sha256:{path.name}": path.read_bytes() for path in (layout.path / "blobs/sha256").iterdir()}
    digest = json.loads((layout.path / "index.json").read_text())["manifests"][0]["digest"]
    manifest = blobs[digest].decode()
    encoded = {digest: base64.b64encode(data).decode() for digest, data in blobs.items()}
    script.set(**{"manifest": manifest, "digest": digest, "blobs": encoded} | settings)
    return manifest


def opened(text=REFERENCE, **access):
    return open_by_skopeo(parse_reference(text), Access(via_skopeo=True, **access))


def host(tmp_path, **options):
    return HostConfig({}, uid=1000, home=None, options=AccessOptions(**options), root=str(tmp_path / "host"))


@pytest.mark.parametrize("version", ["0.2.3", "0.2.8"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_repository(tmp_path, repository, layout, script, version, workers):
    """It is that of the layout, whatever skopeo speaks and however many of them there are."""
    script.set(version=version)
    Repository.init(tmp_path / "other", Algorithm.SHA256, require_verity=False)

    result = import_image(repository, REFERENCE, name="x", workers=workers, access=Access(via_skopeo=True))
    with Repository.open(tmp_path / "other") as other:
        wanted = import_image(other, str(layout), name="x", workers=1)

    assert (result.manifest, result.config, result.images) == (wanted.manifest, wanted.config, wanted.images)
    assert result.stats == wanted.stats
    assert 1 <= len(script.calls()) <= 1 + workers
    assert {arguments[0] for arguments in script.calls()} == {"experimental-image-proxy"}


def test_docker_manifests(tmp_path, repository, script):
    """The config stays the original one, though skopeo gives another: the manifest is asked for as it is."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.image([FIRST], docker=True))
    manifest = serve(script, layout)
    digest = sha256(manifest.encode())
    script.set(manifest='{"converted": true}', raw={f"docker://registry.test/org/app@{digest}": manifest})

    result = import_image(repository, REFERENCE, name="x", workers=1, access=Access(via_skopeo=True))

    assert result.config == json.loads(manifest)["config"]["digest"]
    with opened() as source:
        assert source.image().source_digest == digest


def test_a_list_of_manifests(tmp_path, layout, script):
    """If skopeo gives the digest of a list, the list is asked for, and then the manifest."""
    manifest = serve(script, layout)
    platform = {"os": "linux", "architecture": "s390x"}
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(manifest.encode())}
    entry |= {"size": len(manifest), "platform": platform}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]})
    raw = {f"docker://registry.test/org/app@{sha256(text.encode())}": text for text in (index, manifest)}
    script.set(manifest="{}", digest=sha256(index.encode()), raw=raw)

    with opened() as source:
        assert source.image(Platform("linux", "s390x")).diff_ids == (FIRST.diff_id, SECOND.diff_id)

    assert script.calls()[0][:4] == ["--override-os", "linux", "--override-arch", "s390x"]


def test_an_image_of_another_platform(layout, script):
    """What is no list has one image; it is not taken for another platform than was asked for."""
    with opened() as source, pytest.raises(NotFoundError, match="has no image for linux/s390x"):
        source.image(Platform("linux", "s390x"))


def test_a_manifest_that_is_not_the_one(layout, script):
    """What skopeo prints is proved by the digest that it gave."""
    script.set(manifest="{}", raw={f"docker://registry.test/org/app@{json_digest(layout)}": "{}"})

    with opened() as source, pytest.raises(IntegrityError, match="manifest of docker://registry.test/org/app:v1"):
        source.image()


def json_digest(layout):
    return json.loads((layout.path / "index.json").read_text())["manifests"][0]["digest"]


@pytest.mark.parametrize("version", ["0.2.3", "0.2.8"])
def test_a_forged_layer(repository, layout, script, version):
    """A layer is proved by its digest, also by us: old versions of skopeo do it, new ones leave it to us."""
    settings = json.loads((script.path / "skopeo.json").read_text())
    settings["blobs"][FIRST.digest] = base64.b64encode(FIRST.blob[:-1] + b"!").decode()
    script.set(version=version, blobs=settings["blobs"])

    with pytest.raises(IntegrityError):
        import_image(repository, REFERENCE, name="x", workers=1, access=Access(via_skopeo=True))

    assert FIRST.diff_id not in str(list(repository.streams.names()))


def test_a_forged_config(layout, script):
    """So is the config."""
    settings = json.loads((script.path / "skopeo.json").read_text())
    digest = json.loads(settings["manifest"])["config"]["digest"]
    config = base64.b64decode(settings["blobs"][digest])
    settings["blobs"][digest] = base64.b64encode(config.replace(b"linux", b"plan9")).decode()
    script.set(blobs=settings["blobs"])

    with opened() as source, pytest.raises(IntegrityError, match="config sha256:"):
        source.image()


@pytest.mark.parametrize("version", ["0.2.3", "0.2.7", "0.2.8"])
def test_container_storage(tmp_path, repository, layout, script, version):
    """It has no compressed layers: they are asked for by their diff_ids, or by what skopeo calls them."""
    archives = [tar(rooted({"usr/a": noise(70_000)})), tar({"usr/b": noise(5000, 2)})]
    settings = json.loads((script.path / "skopeo.json").read_text())
    blobs = settings["blobs"] | {sha256(each): base64.b64encode(each).decode() for each in archives}
    for each in (FIRST, SECOND):
        del blobs[each.digest]
    media_type = "application/vnd.oci.image.layer.v1.tar"
    layers = [{"digest": sha256(each), "size": -1, "media_type": media_type} for each in archives]
    script.set(version=version, blobs=blobs, layers=layers)

    with opened("containers-storage:[btrfs@/storage]x") as source:
        image = source.image()
        for index, archive in enumerate(archives):
            blob = source.blob(image, index)
            assert (blob.digest, blob.size, blob.compression) == (sha256(archive), len(archive), Compression.NONE)
    access = Access(via_skopeo=True)
    result = import_image(repository, "containers-storage:[btrfs@/storage]x", name="x", workers=1, access=access)

    assert [each.diff_id for each in result.layers] == [FIRST.diff_id, SECOND.diff_id]


def test_layers_of_container_storage_that_are_compressed(layout, script):
    """Skopeo may have them so; it says how."""
    layers = [
        {"digest": FIRST.digest, "size": FIRST.size, "media_type": FIRST.media_type},
        {"digest": SECOND.digest, "size": SECOND.size, "media_type": SECOND.media_type},
    ]
    script.set(version="0.2.7", layers=layers)

    with opened("containers-storage:[btrfs@/storage]x") as source:
        image = source.image()
        blobs = [source.blob(image, index) for index in range(2)]

    assert [blob.compression for blob in blobs] == [Compression.GZIP, Compression.ZSTD]
    assert [blob.size for blob in blobs] == [FIRST.size, SECOND.size]


def test_layers_of_unknown_size(layout, script):
    """The size must be known before a layer is read, or an old skopeo says that the layer is wrong."""
    settings = json.loads((script.path / "skopeo.json").read_text())
    blobs = settings["blobs"] | {FIRST.diff_id: "", SECOND.diff_id: ""}
    script.set(blobs=blobs, sizes=False)

    with opened("containers-storage:[btrfs@/storage]x") as source, pytest.raises(RegistryError, match="the size of"):
        source.blob(source.image(), 0)


def test_a_layer_that_cannot_be_opened(layout, script):
    """The error is that of skopeo, and the process is not used again."""
    with opened() as source:
        image = source.image()
        place = source.blob(image, 0).place
        script.set(fail={"GetBlob": "something is wrong"})
        source.close()
        with pytest.raises(RegistryError, match="registry.test: something is wrong"):
            place.open("layer L", lambda: 1)


def test_layers_that_are_called_compressed(tmp_path, script):
    """What has the diff_id for its digest is the archive, whatever skopeo calls it."""
    archive = tar(rooted({"usr/a": b"1"}))
    layout = image_layout(tmp_path / "layout", [layer(archive, "none", media_type=FIRST.media_type)])
    serve(script, layout)

    with opened() as source:
        assert source.blob(source.image(), 0).compression is Compression.NONE


def test_options(tmp_path, script):
    """They are handed over; credentials only in a file that has no name."""
    serve(script, image_layout(tmp_path / "arm", [FIRST], platform="linux/arm/v7"))
    chosen = host(tmp_path, cert_dir="certs", tls_verify=False, policy="none", credentials=Credentials("user", TOKEN))
    here = os.getcwd()

    with opened(host=chosen) as source:
        source.image(Platform("linux", "arm", "v7"))
        place = source.blob(source.image(), 0).place

    (first, _) = script.calls()
    platform = ["--override-os", "linux", "--override-arch", "arm", "--override-variant", "v7"]
    assert first[:8] == ["--insecure-policy", *platform, "experimental-image-proxy"]
    assert first[8:] == ["--tls-verify=false", "--authfile", first[10], "--cert-dir", f"{here}/certs"]
    assert first[10].startswith("/proc/self/fd/")
    auth = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    assert script.credentials() == [json.dumps({"auths": {"registry.test": {"auth": auth}}})] * 2
    assert TOKEN not in str(script.calls()) + repr(place) + repr(source)
    assert pickle.loads(pickle.dumps(place)) == place


def test_identity_tokens(tmp_path, layout, script):
    """They are handed over, too."""
    with opened(host=host(tmp_path, policy="none", credentials=Credentials(identity_token=TOKEN))) as source:
        source.image()

    (text,) = script.credentials()
    assert json.loads(text) == {"auths": {"registry.test": {"auth": "", "identitytoken": TOKEN}}}


def test_credentials_of_ostree(tmp_path, layout, script):
    """Root's file of a host that boots its images is handed over, since skopeo does not look there."""
    path = tmp_path / "host/etc/ostree/auth.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"auths": {"registry.test": {"auth": base64.b64encode(b"user:" + TOKEN.encode()).decode()}}})
    )
    options = AccessOptions(policy="none")
    root = HostConfig({}, uid=0, home=None, options=options, root=str(tmp_path / "host"))

    with opened(host=root) as source:
        source.image()
    with opened("docker://elsewhere.test/app:v1", host=root) as source:
        source.image()

    assert [str(path) in arguments for arguments in script.calls()] == [True, False]
    assert TOKEN not in str(script.calls())


def test_files_of_options(tmp_path):
    """Those of credentials and policy are named as they are from here, wherever a worker is."""
    options = SkopeoOptions(auth_file="auth.json", policy="/etc/policy.json", directory="/here")

    assert options.command(["inspect", "--raw"], options.auth_file) == [
        *("skopeo", "--policy", "/etc/policy.json", "inspect", "--authfile", "/here/auth.json", "--raw")
    ]


def test_stores_of_others_are_read_in_a_user_namespace(monkeypatch):
    """As a user, skopeo reads the user's store by podman's help."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    source = SkopeoSource(parse_reference("containers-storage:x"), Access())

    command = source._key.options.command(["experimental-image-proxy"], None)
    assert [os.path.basename(each) for each in command[:3]] == ["podman", "unshare", "skopeo"]


@pytest.mark.parametrize(
    ("text", "image", "streams"),
    [
        (REFERENCE, REFERENCE, 6),
        ("registry:registry.test/org/app", "docker://registry.test/org/app", 6),
        (f"docker://registry.test/a:t@{FIRST.digest}", f"docker://registry.test/a@{FIRST.digest}", 6),
        ("dir:/image", "dir:/image", None),
        ("sif:/image", "sif:/image", None),
        ("ostree:x@/repo", "ostree:x@/repo", None),
    ],
)
def test_references(text, image, streams):
    """They are spelled as skopeo wants them."""
    source = SkopeoSource(parse_reference(text), Access())

    assert (source._key.image.removesuffix(":latest"), source.streams, source.name) == (image, streams, text)


def test_a_path_without_transport(tmp_path):
    """Skopeo cannot tell kinds of archives apart."""
    (tmp_path / "archive").write_bytes(b"x")

    with pytest.raises(UsageError, match="name the transport for skopeo"):
        SkopeoSource(parse_reference(str(tmp_path / "archive")), Access())


def test_policies(tmp_path, layout, script):
    """What wants a signature is left to a skopeo that checks them, and to no other; what is rejected, is."""
    policy = tmp_path / "policy.json"
    key = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/key"}
    policy.write_text(json.dumps({"default": [key]}))

    with opened(host=host(tmp_path, policy=str(policy))) as source:
        with pytest.raises(PolicyError, match="from 1.13 on, and the one here is older"):
            source.image()
        script.set(version="0.2.6")
        source.image()
    policy.write_text(json.dumps({"default": [{"type": "reject"}]}))
    before = len(script.calls())
    with opened(host=host(tmp_path, policy=str(policy))) as source, pytest.raises(PolicyError):
        source.image()
    assert len(script.calls()) == before


def test_one_process_for_many_layers(layout, script):
    """A process that is done with a layer gives the next one; one that failed is not asked again."""
    with opened() as source:
        image = source.image()
        for _ in range(3):
            assert read(source.blob(image, 0).place.open("layer L", lambda: 1)) == FIRST.blob
        assert len(script.calls()) == 1
        stream = source.blob(image, 0).place.open("layer L", lambda: 1)
        stream.read(10)
        stream.close()
        stream = source.blob(image, 1).place.open("layer L", lambda: 1)
        assert stream.read(1)
        stream.close()
        assert len(script.calls()) == 2
        assert source.blob(image, 1).place.again() is None
