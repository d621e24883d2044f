"""Archives of Docker in every form: the same image out of each, the right one of several, and lies found out."""

import bz2
import gzip
import json
import lzma
import os
import tarfile

import pytest
import zstandard

import composefs
from composefs import limits
from composefs.errors import ComposefsError, FormatError, IntegrityError, LimitError, NotFoundError, UsageError
from composefs.oci.manifest import Compression, Platform
from composefs.oci.schema2 import SOURCE_DIGEST
from composefs.oci.sources.archive import open_archive
from composefs.reference import DockerArchiveReference, parse_name
from tests import archives, layouts
from tests.archives import DIALECTS, config_of, described, entry, manifest_json, oci_manifest, pack
from tests.layouts import CONFIG, INDEX, MANIFEST, TAR, files_layer, noise, sha256

LAYERS = [files_layer({"a": noise(5000, 1)}), files_layer({"b": noise(70_000, 2)}), files_layer({"a": noise(5000, 1)})]
ZIPPED = [layouts.layer(layer.blob, "gzip") for layer in LAYERS]
CONFIG_BYTES = config_of(LAYERS)
CONFIG_PATH = f"{sha256(CONFIG_BYTES)[7:]}.json"
NAME = "example.org/a/b:v1"


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "spool").mkdir()

    def open_it(members, name=None, index=None):
        path = tmp_path / "archive.tar"
        path.write_bytes(members if isinstance(members, bytes) else pack(members))
        found = parse_name(name).versioned() if name is not None else None
        reference = DockerArchiveReference(str(path), found, index, f"docker-archive:{path}")
        return open_archive(reference, str(tmp_path / "spool"))

    return open_it


def blobs(source, image):
    return [source.blob(image, index) for index in range(len(image.diff_ids))]


def contents(blob):
    stream = blob.place.open("layer", lambda: 1)
    try:
        return stream.read(1 << 20)
    finally:
        stream.close()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("layers", [LAYERS, ZIPPED], ids=["plain", "gzip"])
def test_dialects(opened, dialect, layers):
    """Every form gives config and layers, byte for byte."""
    with opened(DIALECTS[dialect](layers, [NAME], CONFIG_BYTES), NAME) as source:
        image = source.image()
        found = blobs(source, image)

        assert image.config_bytes == CONFIG_BYTES
        assert image.diff_ids == tuple(layer.diff_id for layer in layers)
        assert [(blob.digest, blob.size) for blob in found] == [(layer.digest, layer.size) for layer in layers]
        assert {blob.compression for blob in found} == {Compression.NONE if layers is LAYERS else Compression.GZIP}
        assert [contents(blob) for blob in found] == [layer.blob for layer in layers]


@pytest.mark.parametrize("dialect", ["skopeo", "old-docker"])
def test_made_manifest(opened, dialect):
    """A manifest that is made here is the same for all archives of the same files."""
    with opened(DIALECTS[dialect](LAYERS, [NAME], CONFIG_BYTES)) as source:
        image = source.image()

    assert json.loads(image.manifest_bytes) == {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, CONFIG_BYTES),
        "layers": [{"mediaType": TAR, "digest": layer.diff_id, "size": len(layer.blob)} for layer in LAYERS],
    }
    assert image.descriptor.digest == sha256(image.manifest_bytes)
    assert image.manifest_bytes == json.dumps(json.loads(image.manifest_bytes), separators=(",", ":")).encode()


def test_manifest_inside(opened):
    """Where there is a layout, the manifest is the one there, not one of ours."""
    with opened(DIALECTS["new-docker"](ZIPPED, [NAME], CONFIG_BYTES)) as source:
        assert source.image().manifest_bytes == oci_manifest(ZIPPED, CONFIG_BYTES)


def layout_inside(index_entries, *blobs_inside, layers=ZIPPED):
    """Return what Docker writes, with another index and more blobs."""
    index = json.dumps({"schemaVersion": 2, "manifests": index_entries}).encode()
    members = [each for each in archives.new_docker(layers, [NAME], CONFIG_BYTES) if each[0] != "index.json"]
    return [*members, *((f"blobs/sha256/{sha256(blob)[7:]}", blob) for blob in blobs_inside), ("index.json", index)]


def test_index_inside(opened):
    """The manifest is found through an index, whose other images need not be there, as Docker saves one platform."""
    manifest = described(MANIFEST, oci_manifest(ZIPPED, CONFIG_BYTES))
    other = {**described(MANIFEST, b"not here"), "platform": {"os": "linux", "architecture": "s390x"}}
    proof = {**described(MANIFEST, b"nor here"), "platform": {"os": "unknown", "architecture": "unknown"}}
    index = json.dumps({"schemaVersion": 2, "manifests": [other, proof, manifest]}).encode()

    with opened(layout_inside([described(INDEX, index)], index)) as source:
        assert source.image().descriptor.digest == manifest["digest"]


def test_docker_manifest_inside(opened):
    """A manifest of schema 2 in the layout becomes one of OCI's, which names it."""
    value = json.loads(oci_manifest(ZIPPED, CONFIG_BYTES))
    value["mediaType"], value["config"]["mediaType"] = layouts.DOCKER_MANIFEST, layouts.DOCKER_CONFIG
    for layer in value["layers"]:
        layer["mediaType"] = layouts.DOCKER_TAR_GZIP
    manifest = json.dumps(value).encode()

    with opened(layout_inside([described(layouts.DOCKER_MANIFEST, manifest)], manifest)) as source:
        image = source.image()
        assert image.source_digest == sha256(manifest)
        assert json.loads(image.manifest_bytes)["annotations"] == {SOURCE_DIGEST: sha256(manifest)}
        assert [contents(blob) for blob in blobs(source, image)] == [layer.blob for layer in ZIPPED]


def test_other_layout_inside(opened):
    """A layout that does not have the image does not matter."""
    other = config_of([])
    manifest = oci_manifest([], other)
    with opened(layout_inside([described(MANIFEST, manifest)], manifest, other)) as source:
        image = source.image()
        assert image.config_bytes == CONFIG_BYTES
        assert [contents(blob) for blob in blobs(source, image)] == [layer.blob for layer in ZIPPED]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_layers(repository, opened, tmp_path, kind, no_flush):
    """Layers are found to be compressed by their first bytes, whatever their names; the image is the same."""
    compress = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}[kind]
    layers = [layouts.layer(layer.blob, blob=compress(layer.blob)) for layer in LAYERS]
    with opened(archives.skopeo(layers, [NAME], CONFIG_BYTES)) as source:
        image = source.image()
        is_kept = kind in ("gzip", "zstd")
        wanted = {Compression(kind)} if is_kept else {Compression.NONE}
        assert {blob.compression for blob in blobs(source, image)} == wanted
        assert [blob.digest for blob in blobs(source, image)] == [
            sha256(layer.blob) if is_kept else layer.diff_id for layer in layers
        ]
        result = composefs.import_image(repository, source, name="packed")
        assert os.listdir(tmp_path / "spool") == []
    with opened(archives.skopeo(LAYERS, [NAME], CONFIG_BYTES)) as source:
        again = composefs.import_image(repository, source, name="plain")

    assert (result.config, result.image) == (again.config, again.image)
    assert {layer.status for layer in again.layers} == {"present"}


FIRST, SECOND, THIRD = (config_of([layer], number=number) for number, layer in enumerate(LAYERS))
SEVERAL = [
    *((f"{number}.tar", layer.blob) for number, layer in enumerate(LAYERS)),
    *((f"{sha256(config)[7:]}.json", config) for config in (FIRST, SECOND, THIRD)),
    manifest_json(
        entry(FIRST, ["0.tar"], ["busybox:latest", "localhost/x:1"]),
        entry(SECOND, ["1.tar"], ["docker.io/library/busybox:1", "example.org:5000/a/b:c"]),
        entry(THIRD, ["2.tar"], None),
    ),
]


@pytest.mark.parametrize(
    ("name", "index", "config"),
    [
        ("busybox", None, FIRST),
        ("busybox:latest", None, FIRST),
        ("docker.io/library/busybox", None, FIRST),
        ("localhost/x:1", None, FIRST),
        ("busybox:1", None, SECOND),
        ("docker.io/busybox:1", None, SECOND),
        ("example.org:5000/a/b:c", None, SECOND),
        (None, 0, FIRST),
        (None, 2, THIRD),
    ],
)
def test_choice(opened, name, index, config):
    """An image is chosen by any of its names, however it is spelled there and here, or by its number."""
    with opened(SEVERAL, name, index) as source:
        assert source.image().config_bytes == config


@pytest.mark.parametrize(
    ("name", "index", "error", "message"),
    [
        (None, None, UsageError, "holds 3 images; name one as docker-archive:PATH:NAME: busybox:latest, localhost/x:1"),
        (
            "busybox:2",
            None,
            NotFoundError,
            "has no docker.io/library/busybox:2; it has busybox:latest, localhost/x:1, ",
        ),
        ("x:1", None, NotFoundError, "has no docker.io/library/x:1; it has"),
        (None, 3, NotFoundError, "has no image number 3; it has 3"),
    ],
)
def test_no_choice(opened, name, index, error, message):
    """What cannot be chosen is said with what there is."""
    with opened(SEVERAL, name, index) as source, pytest.raises(error, match=f"archive.tar {message}"):
        source.image()


def test_names_in_turn(opened):
    """Of two images of one name the last one has it, as when they are loaded; names that are none do no harm."""
    members = SEVERAL[:-1]
    said = manifest_json(entry(FIRST, ["0.tar"], ["A:B:C", "x:1"]), entry(SECOND, ["1.tar"], ["x:1"]))
    with opened([*members, said], "x:1") as source:
        assert source.image().config_bytes == SECOND


def test_empty(opened):
    """An archive without images, and an image without layers."""
    with (
        opened([manifest_json()]) as source,
        pytest.raises(NotFoundError, match="archive.tar has no image; it has none"),
    ):
        source.image()
    config = config_of([])
    said = {"Config": "config.json", "RepoTags": None, "Layers": None}
    with opened([("config.json", config), manifest_json(said)]) as source:
        assert source.image().diff_ids == ()


def test_platform(opened):
    """The config says for what platform the image is; another one is not given out for it."""
    config = config_of(LAYERS, architecture="arm64", variant="v8")
    members = archives.skopeo(LAYERS, [NAME], config)
    with (
        opened(members) as source,
        pytest.raises(NotFoundError, match="has no image for linux/s390x; it has linux/arm64"),
    ):
        source.image(Platform("linux", "s390x"))
    with opened(members) as source:
        assert source.image(Platform("linux", "arm64")).config_bytes == config


@pytest.mark.parametrize("path", ["./{}", "x/../{}", "/{}"])
def test_paths(opened, path):
    """Paths in manifest.json are cleaned as those in the archive; none leads through `..`."""
    said = entry(CONFIG_BYTES, [path.format(f"{number}.tar") for number in range(3)], None, path.format(CONFIG_PATH))
    members = [
        *((f"./{number}.tar", layer.blob) for number, layer in enumerate(LAYERS)),
        (f"./{CONFIG_PATH}", CONFIG_BYTES),
        ("./manifest.json", manifest_json(said)[1]),
    ]
    with opened(members) as source:
        if ".." in path:
            with pytest.raises(NotFoundError, match="config is missing"):
                source.image()
        else:
            assert source.image().config_bytes == CONFIG_BYTES


@pytest.mark.parametrize("name", ["{}.json", "{}", "sha256:{}", "blobs/sha256/{}"])
def test_forged_config(opened, name):
    """A config that is not what it is called by is refused, in all forms of the name."""
    path = name.format(64 * "0")
    members = [("0.tar", LAYERS[0].blob), (path, FIRST), manifest_json(entry(FIRST, ["0.tar"], None, path))]
    with opened(members) as source, pytest.raises(IntegrityError, match=f"{path}: wanted sha256:0000.*, got sha256:"):
        source.image()
    members = [("0.tar", LAYERS[0].blob), ("c.json", FIRST), manifest_json(entry(FIRST, ["0.tar"], None, "c.json"))]
    with opened(members) as source:
        assert source.image().config_bytes == FIRST


def test_forged_manifest(opened):
    """A manifest in the layout that is not what its digest says is refused."""
    path = f"blobs/sha256/{sha256(oci_manifest(ZIPPED, CONFIG_BYTES))[7:]}"
    members = [
        (name, data.replace(b": ", b":\t") if name == path else data)
        for name, data in archives.new_docker(ZIPPED, [NAME], CONFIG_BYTES)
    ]
    with opened(members) as source, pytest.raises(IntegrityError, match="^manifest sha256:"):
        source.image()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("layers", [LAYERS, ZIPPED], ids=["plain", "gzip"])
@pytest.mark.parametrize("is_equal_size", [True, False])
def test_forged_layer(repository, opened, dialect, layers, is_equal_size, no_flush):
    """A layer that has not the diff_id is refused, also in a right archive, and leaves no name."""
    forged = files_layer({"b": noise(70_000 if is_equal_size else 60_000, 3)}, "none" if layers is LAYERS else "gzip")
    members = [
        (name, forged.blob if data == layers[1].blob else data)
        for name, data in DIALECTS[dialect](layers, [NAME], CONFIG_BYTES)
    ]
    with opened(members) as source, pytest.raises(IntegrityError, match="^layer sha256:"):
        composefs.import_image(repository, source, name="image", workers=1)
    assert not os.path.lexists(f"{repository.path}/streams/refs/oci/image")


def test_swapped_layers(repository, opened, no_flush):
    """Layers in another order than the config has are not taken."""
    said = entry(CONFIG_BYTES, ["1.tar", "0.tar", "1.tar"], None)
    members = [(f"{number}.tar", layer.blob) for number, layer in enumerate(LAYERS)]
    members += [(CONFIG_PATH, CONFIG_BYTES), manifest_json(said)]
    with opened(members) as source, pytest.raises(IntegrityError):
        composefs.import_image(repository, source, name="image", workers=1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_cuts(repository, opened, dialect, no_flush):
    """An archive that is cut anywhere is an error of ours, and leaves no name."""
    data = pack(DIALECTS[dialect](ZIPPED, [NAME], CONFIG_BYTES))
    end_of_contents = data.rindex(b"manifest.json")
    for end in [*range(0, end_of_contents, len(data) // 30), *range(0, end_of_contents, 10 * 512)]:
        with pytest.raises(ComposefsError), opened(data[:end]) as source:
            composefs.import_image(repository, source, name="image", workers=1)
        assert not os.path.lexists(f"{repository.path}/streams/refs/oci/image")


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([("repositories", b"{}")], FormatError, "no manifest.json: it is of Docker before 1.10"),
        ([("a", b"")], NotFoundError, "is not what `docker save` writes: it has no manifest.json"),
        ([("manifest.json", b"{}")], FormatError, "manifest.json, offset 0: no list of images"),
        ([("manifest.json", b"[")], FormatError, "manifest.json, offset 1: broken JSON"),
        ([("manifest.json", b"[7]")], FormatError, "manifest.json, image 0, offset 0: not a JSON object"),
        ([("manifest.json", b"[{}]")], FormatError, "manifest.json, image 0, offset 0: Config None is no path"),
        ([("manifest.json", b'[{"Config":"c","Layers":[1]}]')], FormatError, "Layers is no list of texts"),
        ([("manifest.json", b'[{"Config":"c","RepoTags":{}}]')], FormatError, "RepoTags is no list of texts"),
        ([("manifest.json", b'[{"Config":"c"}]')], NotFoundError, "config is missing: .*archive.tar has no c"),
        ([("manifest.json", (tarfile.SYMTYPE, "../../etc/passwd"))], NotFoundError, "whose target is not there"),
    ],
)
def test_broken(opened, members, error, message):
    """What is missing in an archive, or no JSON of Docker's, is named."""
    with opened(members) as source, pytest.raises(error, match=message):
        source.image()


@pytest.mark.parametrize(
    ("config", "paths", "error", "message"),
    [
        (
            config_of(LAYERS[:2]),
            ["a"],
            FormatError,
            "manifest.json, offset 0: 1 layers, but the config has 2 diff_ids$",
        ),
        (
            config_of(LAYERS[:2]),
            ["a", "b"],
            NotFoundError,
            f"^layer {LAYERS[0].diff_id} is missing: .*archive.tar has no a$",
        ),
        (b"{}", [], FormatError, "^config sha256:.*, offset 0: rootfs.diff_ids is no list$"),
    ],
)
def test_broken_images(opened, config, paths, error, message):
    """A config and layers that do not belong together are named."""
    members = [("c", config), manifest_json(entry(config, paths, None, "c"))]
    with opened(members) as source, pytest.raises(error, match=message):
        source.image()


@pytest.mark.parametrize("path", ["manifest.json", CONFIG_PATH])
def test_limits(opened, monkeypatch, path):
    """Large JSON is refused before it is read."""
    members = [
        (name, data + b" " * 10_000 if name == path else data)
        for name, data in archives.skopeo(LAYERS, None, CONFIG_BYTES)
    ]
    monkeypatch.setattr(limits, "JSON_SIZE", 9000)
    with opened(members) as source, pytest.raises(LimitError, match=f"{path}, offset 0: more than 9000 bytes of JSON"):
        source.image()
    monkeypatch.setattr(limits, "LAYERS", 2)
    with opened(archives.skopeo(LAYERS, None, CONFIG_BYTES)) as source, pytest.raises(LimitError, match="3 layers"):
        source.image()
