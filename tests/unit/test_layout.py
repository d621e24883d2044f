"""References and layouts: the right image is found, and nothing that a layout holds leads astray or keeps waiting."""

import json
import os

import pytest

from composefs import limits
from composefs.errors import FormatError, IntegrityError, NotFoundError, UsageError
from composefs.oci.layout import OciLayout, open_layout
from composefs.oci.manifest import Platform
from composefs.oci.platforms import host_platform
from tests import layouts
from tests.layouts import Layout, files_layer, for_platform, image_layout, tagged

AMD64 = Platform("linux", "amd64")
INDEX_LEVELS = 8


def some_layer(seed=0):
    return files_layer({"file": layouts.noise(100, seed)})


def chosen(layout, tag=None, platform=None):
    """Return the digest of the manifest that is found."""
    return open_layout(str(layout.path), tag).image(platform).descriptor.digest


def test_missing_directory(tmp_path):
    """A layout that is not there is named."""
    with pytest.raises(NotFoundError, match=f"^no directory {tmp_path}/none$"):
        open_layout(f"{tmp_path}/none")


def test_no_layout(tmp_path):
    """A directory without index.json is no layout; a file `oci-layout` is not asked for."""
    with pytest.raises(NotFoundError, match=f"^{tmp_path} is no OCI layout: it has no index.json$"):
        open_layout(str(tmp_path))

    layout = image_layout(tmp_path / "layout", [some_layer()])
    (layout.path / "oci-layout").unlink()
    chosen(layout)


def test_empty_index(tmp_path):
    """An index without images has none to give."""
    layout = Layout(tmp_path / "layout").write()

    with pytest.raises(NotFoundError, match=f"^{layout.path} holds no image$"):
        chosen(layout)


def test_image(tmp_path):
    """An image is read whole: descriptor, manifest, config, diff_ids."""
    layers = [some_layer(1), some_layer(2)]
    layout = image_layout(tmp_path / "layout", layers)

    image = open_layout(str(layout.path)).image()

    assert layouts.sha256(image.manifest_bytes) == image.descriptor.digest
    assert layouts.sha256(image.config_bytes) == image.manifest.config.digest
    assert image.diff_ids == tuple(layer.diff_id for layer in layers)


def test_tags(tmp_path):
    """A tag chooses among images; without one there must be only one."""
    layout = Layout(tmp_path / "layout")
    one, two = layout.image([some_layer(1)]), layout.image([some_layer(2)])
    layout.write(tagged(one, "one"), tagged(two, "two"))

    assert chosen(layout, "one") == one["digest"]
    assert chosen(layout, "two") == two["digest"]
    with pytest.raises(NotFoundError) as missing:
        chosen(layout, "three")
    with pytest.raises(UsageError) as several:
        chosen(layout)

    assert str(missing.value) == f"{layout.path} has no tag 'three'; it has one, two"
    wanted = f"{layout.path} holds 2 images for {host_platform()}; name one as oci:PATH:TAG: one, two"
    assert str(several.value) == wanted


def test_many_tags(tmp_path):
    """A message lists ten tags, and says how many more there are."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([some_layer()])
    layout.write(*(tagged(image, f"t{number:02}") for number in range(13)))

    with pytest.raises(NotFoundError) as caught:
        chosen(layout, "x")

    ten = ", ".join(f"t{number:02}" for number in range(10))
    assert str(caught.value) == f"{layout.path} has no tag 'x'; it has {ten} and 3 more"


def test_no_tags(tmp_path):
    """Where nothing has a tag the message says so."""
    layout = image_layout(tmp_path / "layout", [some_layer()])

    with pytest.raises(NotFoundError, match=f"^{layout.path} has no tag 'x'; it has none$"):
        chosen(layout, "x")


def test_one_image_of_two_tags(tmp_path):
    """An image that has two tags is still the only one."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([some_layer()])
    layout.write(tagged(image, "one"), tagged(image, "two"))

    assert chosen(layout) == image["digest"]


def test_several_platforms(tmp_path):
    """The platform chooses among images of one tag, and the message lists what there is."""
    layout = Layout(tmp_path / "layout")
    amd64 = layout.image([some_layer(1)], platform="linux/amd64")
    riscv64 = layout.image([some_layer(2)], platform="linux/riscv64")
    index = layout.nested_index([for_platform(amd64, "linux/amd64"), for_platform(riscv64, "linux/riscv64")])
    layout.write(tagged(index, "os"))

    assert chosen(layout, "os", AMD64) == amd64["digest"]
    assert chosen(layout, None, Platform("linux", "riscv64")) == riscv64["digest"]
    with pytest.raises(NotFoundError) as caught:
        chosen(layout, "os", Platform("linux", "s390x"))

    assert str(caught.value) == f"{layout.path} has no image for linux/s390x; it has linux/amd64, linux/riscv64"


def test_platform_of_the_config(tmp_path):
    """A descriptor that names no platform leaves it to the image's config."""
    layout = Layout(tmp_path / "layout")
    images = {name: layout.image([some_layer(7)], platform=f"linux/{name}") for name in ("amd64", "arm64", "s390x")}
    layout.write(*images.values())

    for name, image in images.items():
        assert chosen(layout, None, Platform("linux", name)) == image["digest"]


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", "linux/arm/v7"),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v6", "linux/arm/v6"),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm", "linux/arm/v7"),
        (["linux/arm/v6"], "linux/arm/v7", "linux/arm/v6"),
        (["linux/arm/v7"], "linux/arm/v6", None),
        (["linux/arm"], "linux/arm/v7", "linux/arm"),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v6"),
        (["linux/arm", "linux/arm/v7"], "linux/arm/v7", "linux/arm/v7"),
        (["linux/arm", "linux/arm/v5"], "linux/arm/v6", "linux/arm/v5"),
        (["linux/arm"], "linux/arm/v6", "linux/arm"),
        (["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v4", "linux/amd64/v3"),
        (["linux/amd64/v4", "linux/amd64/v3"], "linux/amd64/v2", "linux/amd64/v3"),
        (["linux/arm64/odd"], "linux/arm64", "linux/arm64/odd"),
        (["linux/arm64"], "linux/arm64/v8", "linux/arm64"),
        (["linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm64/v9", "linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v2", "linux/amd64/v2"),
        (["linux/amd64"], "linux/amd64/v3", "linux/amd64"),
        (["linux/arm/v7"], "linux/arm64", None),
        (["linux/amd64"], "windows/amd64", None),
        (["linux/amd64"], "linux/386", None),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", "linux/amd64"),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["as-listed", "reversed"])
def test_variants(tmp_path, there, wanted, found, order):
    """The variant that fits is found in any order: the same, else an older one; no ARM code for a later CPU."""
    layout = Layout(tmp_path / "layout")
    images = {text: layout.image([some_layer(seed)], platform="linux/amd64") for seed, text in enumerate(there)}
    images |= {text: layout.image([some_layer(9)], platform=text, created=text) for text in there}
    layout.write(*[tagged(for_platform(image, text), "os") for text, image in images.items()][::order])

    if found is None:
        with pytest.raises(NotFoundError, match=f"has no image for {wanted}; it has "):
            chosen(layout, "os", Platform.parse(wanted))
    else:
        assert chosen(layout, "os", Platform.parse(wanted)) == images[found]["digest"]


@pytest.mark.parametrize("tag", ["os", None])
@pytest.mark.parametrize("order", [1, -1], ids=["as-listed", "reversed"])
def test_compressions(tmp_path, tag, order):
    """Of one image in two compressions, as podman pushes it, zstd is taken, whether a tag is given or not."""
    layout = Layout(tmp_path / "layout")
    gzip, zstd = (layout.image([files_layer({"a": b"b"}, name)], platform=str(AMD64)) for name in ("gzip", "zstd"))
    zstd |= {"annotations": {"io.github.containers.compression.zstd": "true"}}
    both = [for_platform(each, "linux/amd64") for each in (gzip, zstd)][::order]
    layout.write(tagged(layout.nested_index(both), "os"))

    assert chosen(layout, tag, AMD64) == zstd["digest"]


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64/v8"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("ppc64le", "linux/ppc64le"),
        ("s390x", "linux/s390x"),
        ("riscv64", "linux/riscv64"),
        ("sparc64", "linux/sparc64"),
    ],
)
def test_host_platform(monkeypatch, machine, platform):
    """What the kernel calls this machine is translated to Go's words."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.12", "#1", machine)))

    assert str(host_platform()) == platform


def test_artifact(tmp_path):
    """An artifact is made for no platform, and found without one; its layers' digests stand for diff_ids."""
    layout = Layout(tmp_path / "layout")
    blob = files_layer({"a": b"b"}, media_type="text/plain")
    artifact = layout.artifact([blob])
    layout.write(artifact)

    image = open_layout(str(layout.path)).image(AMD64)

    assert image.descriptor.digest == artifact["digest"]
    assert not image.manifest.is_container
    assert image.diff_ids == (blob.digest,)


def test_artifact_beside_an_image(tmp_path):
    """A signature or software list beside an image does not hide it; it has its own tag."""
    layout = Layout(tmp_path / "layout")
    image, artifact = layout.image([some_layer()]), layout.artifact([some_layer()])
    layout.write(tagged(artifact, "software-list"), tagged(image, "os"), {**image, "mediaType": "text/spdx"})

    assert chosen(layout) == image["digest"]
    assert chosen(layout, "software-list") == artifact["digest"]


def test_docker_types(tmp_path):
    """Docker's manifest list, schema 2 manifest, config and layers are taken as OCI's; it is told what it was."""
    layout = Layout(tmp_path / "layout")
    layer = files_layer({"a": b"b"}, "gzip", media_type=layouts.DOCKER_TAR_GZIP)
    image = layout.image([layer], docker=True, platform="linux/arm64")
    index = layout.nested_index([for_platform(image, "linux/arm64/v8")], docker=True)
    layout.write(index)

    found = open_layout(str(layout.path)).image(Platform("linux", "arm64"))

    assert found.source_digest == image["digest"]
    assert found.descriptor.digest == layouts.sha256(found.manifest_bytes)
    assert found.manifest.is_container
    assert [each.media_type for each in found.manifest.layers] == [layouts.TAR_GZIP]


def test_nested_indexes(tmp_path):
    """Indexes may stand in indexes, to a limit."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([some_layer()])
    nested = image
    for _ in range(INDEX_LEVELS):
        nested = layout.nested_index([nested])
    layout.write(tagged(nested, "deep"))

    assert chosen(layout, "deep") == image["digest"]

    layout.write(layout.nested_index([nested]))
    with pytest.raises(FormatError) as caught:
        chosen(layout)
    assert str(caught.value).endswith(f", offset 0: more than {INDEX_LEVELS} indexes inside one another")
    assert str(caught.value).startswith("index sha256:")


def test_index_in_a_loop(tmp_path):
    """An index that says it holds itself lies about its digest."""
    layout = Layout(tmp_path / "layout")
    claimed = layouts.sha256(b"a loop")
    size = 300
    loop = {"mediaType": layouts.INDEX, "digest": claimed, "size": size}
    data = json.dumps({"schemaVersion": 2, "manifests": [loop]}).encode().ljust(size)
    layout.blob(data, layouts.INDEX, claimed)
    layout.write(loop)

    with pytest.raises(IntegrityError) as caught:
        chosen(layout)

    assert str(caught.value) == f"index {claimed}: wanted {claimed}, got {layouts.sha256(data)}"


def test_index_bomb(tmp_path, monkeypatch):
    """Indexes that each hold the next one many times are read once each."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([some_layer()])
    nested = image
    for _ in range(INDEX_LEVELS):
        nested = layout.nested_index([nested] * 10)
    layout.write(nested, nested)
    read = []
    original = OciLayout._read
    monkeypatch.setattr(OciLayout, "_read", lambda *arguments: read.append(0) or original(*arguments))

    assert chosen(layout) == image["digest"]
    assert len(read) < 50


def test_symlinked_blob(tmp_path):
    """A blob may be a link to a file elsewhere: its digest is what counts."""
    layout = image_layout(tmp_path / "layout", [some_layer()])
    descriptor = json.loads((layout.path / "index.json").read_text())["manifests"][0]
    path = layout.blob_path(descriptor["digest"])
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert chosen(layout) == descriptor["digest"]


@pytest.mark.parametrize("what", ["index", "manifest", "config"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "missing", "dangling"])
def test_no_regular_file(tmp_path, what, kind):
    """A fifo, a device or a directory in place of a file is refused, and never waited for."""
    layout = image_layout(tmp_path / "layout", [some_layer()])
    image = open_layout(str(layout.path)).image()
    digest = {"manifest": image.descriptor.digest, "config": image.manifest.config.digest}.get(what)
    path = layout.blob_path(digest) if digest else layout.path / "index.json"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")

    with pytest.raises((FormatError, NotFoundError)) as caught:
        chosen(layout)

    name = f"{what} {digest}" if digest else str(path)
    if kind in ("fifo", "directory", "device"):
        assert str(caught.value) == f"{name}, offset 0: {path} is no regular file"
    elif digest:
        assert str(caught.value) == f"{name} is missing: no file {path}"
    else:
        assert str(caught.value) == f"{layout.path} is no OCI layout: it has no index.json"


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_forged_json(tmp_path, what):
    """A manifest or config that has not the digest or the size it should have is refused with both."""
    layout = image_layout(tmp_path / "layout", [some_layer()])
    image = open_layout(str(layout.path)).image()
    digest = image.descriptor.digest if what == "manifest" else image.manifest.config.digest
    path = layout.blob_path(digest)
    data = path.read_bytes()

    path.write_bytes(data.replace(b"layers", b"layerz"))
    with pytest.raises(IntegrityError) as caught:
        chosen(layout)
    assert str(caught.value) == f"{what} {digest}: wanted {digest}, got {layouts.sha256(path.read_bytes())}"

    path.write_bytes(data + b" ")
    with pytest.raises(IntegrityError) as caught:
        chosen(layout)
    assert str(caught.value) == f"{what} {digest}: wanted {len(data)} bytes, got {len(data) + 1} bytes"


def test_huge_json(tmp_path, monkeypatch):
    """JSON beyond any sense is not read, be it an index or a blob."""
    monkeypatch.setattr(limits, "JSON_SIZE", 1000)
    layout = image_layout(tmp_path / "layout", [some_layer()], comment="x" * 1000)

    with pytest.raises(FormatError) as config:
        chosen(layout)
    (layout.path / "index.json").write_bytes(b" " * 1001)
    with pytest.raises(FormatError) as index:
        chosen(layout)

    assert str(config.value).startswith("config sha256:")
    assert str(config.value).endswith(" bytes of JSON, more than 1000")
    assert str(index.value) == f"{layout.path}/index.json, offset 0: more than 1000 bytes of JSON"


def test_endless_json(tmp_path):
    """An index of terabytes is given up at the limit."""
    layout = Layout(tmp_path / "layout").write()
    os.truncate(layout.path / "index.json", 1 << 40)

    with pytest.raises(FormatError, match=r"index.json, offset 0: more than 33554432 bytes of JSON$"):
        chosen(layout)


def test_number_of_diff_ids(tmp_path):
    """Manifest and config must agree on the number of layers."""
    layout = Layout(tmp_path / "layout")
    layer = some_layer()
    config = layout.json({"rootfs": {"diff_ids": [layer.diff_id]}}, layouts.CONFIG)
    image = layout.manifest(config, [layer, layer])
    layout.write(for_platform(image, "linux/amd64"))

    with pytest.raises(FormatError) as caught:
        chosen(layout, None, AMD64)

    assert str(caught.value) == f"manifest {image['digest']}, offset 0: 2 layers, but the config has 1 diff_ids"


@pytest.mark.parametrize(
    "digest", ["sha256:" + "../" * 3 + "x", "sha512:" + "0" * 128, "../../etc:passwd", "sha256:" + "0" * 63 + "/"]
)
def test_digest_as_a_path(tmp_path, digest):
    """A digest never leads out of the layout."""
    layout = Layout(tmp_path / "layout").write({"mediaType": layouts.MANIFEST, "digest": digest, "size": 1})

    with pytest.raises(FormatError) as caught:
        chosen(layout)

    wanted = f"digest {digest!r} is not sha256: and 64 hexadecimal digits"
    assert str(caught.value) == f"{layout.path}/index.json, manifest 1, offset 0: {wanted}"


def test_blobs_is_a_file(tmp_path):
    """A layout whose blobs are no directory gives the system's error, with the path."""
    layout = image_layout(tmp_path / "layout", [some_layer()])
    (layout.path / "blobs").rename(tmp_path / "blobs")
    (layout.path / "blobs").write_text("")

    with pytest.raises(NotADirectoryError) as caught:
        chosen(layout)

    assert str(caught.value.filename).startswith(f"{layout.path}/blobs/sha256/")
