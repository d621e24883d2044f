"""Images in directories as skopeo's dir: has them."""

import json
import os

import pytest

import composefs
from composefs import limits
from composefs.errors import FormatError, IntegrityError, LimitError, NotFoundError
from composefs.oci.manifest import Compression, Platform
from composefs.oci.schema2 import SOURCE_DIGEST
from composefs.oci.sources.dir import DirImage
from tests import layouts
from tests.archives import config_of, described, oci_manifest
from tests.layouts import INDEX, MANIFEST, files_layer, for_platform, noise, sha256

LAYERS = [files_layer({"a": noise(5000, 1)}, "gzip"), files_layer({"b": noise(70_000, 2)}, "zstd")]
CONFIG = config_of(LAYERS)
IMAGE = oci_manifest(LAYERS, CONFIG)


@pytest.fixture
def directory(tmp_path):
    """Write an image, and return its directory."""
    path = tmp_path / "image"
    path.mkdir()
    (path / "version").write_bytes(b"Directory Transport Version: 1.1\n")
    (path / "manifest.json").write_bytes(IMAGE)
    for data in (CONFIG, *(layer.blob for layer in LAYERS)):
        (path / sha256(data)[7:]).write_bytes(data)
    return path


def opened(path):
    return DirImage(str(path), f"dir:{path}")


def test_image(repository, directory, no_flush):
    """Manifest, config and layers are those in the directory."""
    with opened(directory) as source:
        image = source.image()
        assert (image.manifest_bytes, image.config_bytes, image.source_digest) == (IMAGE, CONFIG, None)
        assert image.descriptor.digest == sha256(IMAGE)
        result = composefs.import_image(repository, source, name="image", workers=1)
    assert [layer.digest for layer in result.layers] == [layer.digest for layer in LAYERS]
    assert source.name == f"dir:{directory}"


def test_relative_path(repository, directory, monkeypatch, no_flush):
    """Workers find the layers of a relative path, wherever they run."""
    monkeypatch.chdir(directory.parent)
    with opened("image") as source:
        assert os.path.isabs(source.blob(source.image(), 0).place.path)
        composefs.import_image(repository, source, name="image", workers=2)


def test_schema2(directory):
    """Docker's manifest becomes one of OCI's over the same config and layers."""
    value = json.loads(IMAGE)
    value["mediaType"], value["config"]["mediaType"] = layouts.DOCKER_MANIFEST, layouts.DOCKER_CONFIG
    value["layers"][0]["mediaType"] = layouts.DOCKER_TAR_GZIP
    data = json.dumps(value).encode()
    (directory / "manifest.json").write_bytes(data)

    with opened(directory) as source:
        image = source.image()

    assert (image.config_bytes, image.source_digest) == (CONFIG, sha256(data))
    assert json.loads(image.manifest_bytes)["annotations"] == {SOURCE_DIGEST: sha256(data)}
    assert image.descriptor.digest == sha256(image.manifest_bytes)


def test_plain_layers_called_gzip(repository, directory, no_flush):
    """A layer whose digest is its diff_id is no compressed one, whatever podman says of it."""
    layers = [files_layer({"a": noise(5000, 1)}, media_type=layouts.DOCKER_TAR_GZIP)]
    config = config_of(layers)
    (directory / "manifest.json").write_bytes(oci_manifest(layers, config))
    for data in (config, layers[0].blob):
        (directory / sha256(data)[7:]).write_bytes(data)

    with opened(directory) as source:
        assert source.blob(source.image(), 0).compression is Compression.NONE
        composefs.import_image(repository, source, name="image", workers=1)


def test_no_media_type(directory):
    """A manifest that does not say what it is is taken for OCI's."""
    value = json.loads(IMAGE)
    del value["mediaType"]
    (directory / "manifest.json").write_text(json.dumps(value))
    with opened(directory) as source:
        assert source.image().config_bytes == CONFIG


@pytest.mark.parametrize("says_type", [True, False])
def test_index(directory, says_type):
    """Of an index the image for the platform is taken; the other ones need not be there."""
    arm = config_of(LAYERS, architecture="arm64")
    manifest = oci_manifest(LAYERS, arm)
    descriptors = [
        for_platform(described(MANIFEST, b"not here"), "linux/s390x"),
        for_platform(described(MANIFEST, manifest), "linux/arm64"),
    ]
    index = {"schemaVersion": 2, **({"mediaType": INDEX} if says_type else {}), "manifests": descriptors}
    (directory / "manifest.json").write_text(json.dumps(index))
    (directory / f"{sha256(manifest)[7:]}.manifest.json").write_bytes(manifest)
    (directory / sha256(arm)[7:]).write_bytes(arm)

    with opened(directory) as source:
        assert source.image(Platform("linux", "arm64")).config_bytes == arm
        with pytest.raises(NotFoundError, match="has no image for linux/386; it has linux/s390x, linux/arm64"):
            source.image(Platform("linux", "386"))
        with pytest.raises(NotFoundError, match=f"manifest {sha256(b'not here')} is missing: no file "):
            source.image(Platform("linux", "s390x"))


def test_platform(directory):
    """An image for another machine is not given out for one of this."""
    with opened(directory) as source, pytest.raises(NotFoundError, match="has no image for linux/s390x"):
        source.image(Platform("linux", "s390x"))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (b"Directory Transport Version: 1.0\n", None),
        (b"Directory Transport Version: 1.2\n", None),
        (None, None),
        (b"Directory Transport Version: 1.3\n", "version 1.3, known are those up to 1.2"),
        (b"Directory Transport Version: 2.0\n", "version 2.0, known are those up to 1.2"),
        (b"Directory Transport Version: 1.1", "is no version of a dir: directory"),
        (b"\xff\n", r"b'\\xff\\n' is no version of a dir: directory"),
    ],
)
def test_version(directory, version, message):
    """Versions up to the last one known are read, and what came before there were any."""
    (directory / "version").unlink()
    if version is not None:
        (directory / "version").write_bytes(version)
    if message is None:
        with opened(directory) as source:
            assert source.image().config_bytes == CONFIG
    else:
        with pytest.raises(FormatError, match=f"^{directory}/version, offset 0: .*{message}$"):
            opened(directory)


def test_schema1(directory):
    """The oldest manifests are refused by their name."""
    (directory / "manifest.json").write_text(json.dumps({"schemaVersion": 1, "fsLayers": [], "history": []}))
    with opened(directory) as source, pytest.raises(FormatError, match="a Docker manifest of schema 1, which is not"):
        source.image()


def test_missing(directory, tmp_path):
    """What is not there is named."""
    with pytest.raises(NotFoundError, match=f"^no directory {tmp_path}/none$"):
        opened(tmp_path / "none")
    (directory / sha256(CONFIG)[7:]).unlink()
    with (
        opened(directory) as source,
        pytest.raises(NotFoundError, match=f"config {sha256(CONFIG)} is missing: no file"),
    ):
        source.image()
    (directory / "manifest.json").unlink()
    with pytest.raises(NotFoundError, match=f"^{directory} holds no image: it has no manifest.json$"):
        opened(directory)


def test_forged(repository, directory, no_flush):
    """Config and layers are proved by their digests."""
    path = directory / sha256(LAYERS[1].blob)[7:]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with opened(directory) as source, pytest.raises(IntegrityError):
        composefs.import_image(repository, source, name="image", workers=1)
    (directory / sha256(CONFIG)[7:]).write_bytes(CONFIG.replace(b": ", b":\t"))
    with opened(directory) as source, pytest.raises(IntegrityError, match=f"^config {sha256(CONFIG)}: wanted"):
        source.image()


def test_no_regular_files(directory):
    """Nobody waits for a pipe in the place of a file."""
    for path, error in [(directory / sha256(CONFIG)[7:], FormatError), (directory / "manifest.json", FormatError)]:
        path.unlink()
        os.mkfifo(path)
        with opened(directory) as source, pytest.raises(error, match="is no regular file"):
            source.image()


def test_limit(directory, monkeypatch):
    """A large manifest is refused."""
    monkeypatch.setattr(limits, "JSON_SIZE", len(IMAGE) - 1)
    with opened(directory) as source, pytest.raises(LimitError, match="manifest.json, offset 0: more than"):
        source.image()
