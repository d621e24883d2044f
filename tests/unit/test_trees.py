"""The trees of images that are in the repository, and the entries of their layers: right, or an error that says why."""

import os
from pathlib import Path

import pytest

import composefs
from composefs import Algorithm, Digest, FormatError, IntegrityError, NotFoundError, UsageError
from composefs.oci import read
from composefs.oci.names import store_json
from composefs.oci.trees import layer_entries, layers_of_image, tree_of_image
from composefs.splitstream import ContentType
from composefs.tree import Inline, Object, Stat, Symlink
from tests import layouts
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layers import described
from tests.layouts import Layout, files_layer, image_layout, noise

from generator.tar import MTIME, Archive  # isort: skip

LAYERS = [
    files_layer({"usr/a": noise(100), "boot/": b"", "sysroot/": b"", "boot/x": b"x"}, "gzip"),
    files_layer({"usr/b": b"b", "usr/.wh.c": b""}),
]
TREE = {
    "/": "d",
    "/boot": "d",
    "/boot/x": "-x",
    "/sysroot": "d",
    "/usr": "d",
    "/usr/a": "-100 bytes",
    "/usr/b": "-b",
}


@pytest.fixture
def repository(tmp_path):
    """An open repository with an image called `os`."""
    composefs.Repository.init(tmp_path / "repository", Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(tmp_path / "repository") as repository:
        layout = image_layout(tmp_path / "layout", LAYERS)
        repository.result = composefs.import_image(repository, str(layout), name="os", workers=1)
        yield repository


@pytest.mark.parametrize("call", ["os", "{0.manifest}", "@{0.manifest}", "{0.config}", "@{0.config}"])
@pytest.mark.parametrize("pool_cost", [None, -1])
def test_tree(repository, monkeypatch, call, pool_cost):
    """An image is found by its tag or a digest; its layers are read in this process or in others."""
    if pool_cost is not None:
        monkeypatch.setattr(read, "_POOL_COST", pool_cost)

    root = tree_of_image(repository, call.format(repository.result), workers=2)

    assert described(root) == TREE
    assert root.stat == root.directory(b"usr").stat


def test_bootable(repository):
    """The tree of the image for booting has nothing in /boot."""
    found = described(tree_of_image(repository, "os", bootable=True))

    assert found == {path: what for path, what in TREE.items() if path != "/boot/x"}


def test_layers(repository):
    """The layers come lowest first, each as it can be gone through many times."""
    layers = layers_of_image(repository, "os")

    assert [layer.label for layer in layers] == [f"layer {layer.diff_id}" for layer in LAYERS]
    assert list(layers[0].batches) == list(layers[0].batches)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("nothing", NotFoundError),
        ("@" + layouts.sha256(b""), NotFoundError),
        ("@sha256:0", UsageError),
    ],
)
def test_no_image(repository, image, error):
    """What is no image is refused."""
    with pytest.raises(error):
        tree_of_image(repository, image)


def forge_layer(repository):
    """Put another archive in the place of the second layer, in its name and in the config."""
    result = repository.result
    other = composefs.import_image(
        repository, str(image_layout(Path(f"{repository.path}-other"), [files_layer({"usr/forged": b""})])), workers=1
    )
    forged = other.layers[0].stream
    repository.streams.link(f"oci-layer-{LAYERS[1].diff_id}", forged)
    with repository.streams.open(f"oci-config-{result.config}") as stream:
        refs, body = stream.reader.named_refs, stream.read_body()
    config = store_json(repository, ContentType.CONFIG, body, refs | {LAYERS[1].diff_id: forged})
    repository.streams.link(f"oci-config-{result.config}", config)
    return config, forged


@pytest.mark.parametrize("pool_cost", [1 << 30, -1])
def test_proof(repository, monkeypatch, pool_cost):
    """By the digest of a config every layer is proved by its diff_id; by tag, or if the stream is known, none is."""
    monkeypatch.setattr(read, "_POOL_COST", pool_cost)
    config, _ = forge_layer(repository)
    digest = repository.result.config

    with pytest.raises(IntegrityError) as caught:
        tree_of_image(repository, f"@{digest}", workers=2)

    wanted, got = LAYERS[1].diff_id, files_layer({"usr/forged": b""}).diff_id
    assert str(caught.value) == f"layer {wanted}, diff_id: wanted {wanted}, got {got}"
    forged = {path: what for path, what in TREE.items() if path != "/usr/b"} | {"/usr/forged": "-"}
    assert described(tree_of_image(repository, "os")) == forged
    assert described(tree_of_image(repository, f"@{digest}", config_verity=config)) == forged


def test_wrong_verity(repository):
    """A config whose stream is another one than is wanted is refused."""
    wanted = Digest(Algorithm.SHA256, bytes(32))
    stream = repository.streams.find(f"oci-config-{repository.result.config}")

    with pytest.raises(IntegrityError) as caught:
        tree_of_image(repository, "os", config_verity=wanted)

    what = f"stream of config {repository.result.config}"
    assert str(caught.value) == f"{what}: wanted {wanted.hex}, got {stream.hex}"


@pytest.mark.parametrize("kind", ["manifest", "config"])
def test_forged_json(repository, kind):
    """A config that has not its digest is refused, and so is a manifest that was asked for by digest."""
    digest = getattr(repository.result, kind)
    name = f"oci-{kind}-{digest}"
    with repository.streams.open(name) as stream:
        refs, body = stream.reader.named_refs, stream.read_body()
    content_type = ContentType.CONFIG if kind == "config" else ContentType.MANIFEST
    repository.streams.link(name, store_json(repository, content_type, body + b" ", refs))

    with pytest.raises(IntegrityError, match=f"^{kind} {digest}: wanted {digest}, got sha256:"):
        tree_of_image(repository, f"@{digest}")
    if kind == "config":
        with pytest.raises(IntegrityError):
            tree_of_image(repository, "os")
    else:
        assert described(tree_of_image(repository, "os")) == TREE


def test_missing_reference(repository):
    """A config that refers to no stream of a layer is refused."""
    name = f"oci-config-{repository.result.config}"
    with repository.streams.open(name) as stream:
        refs, body = stream.reader.named_refs, stream.read_body()
    del refs[LAYERS[0].diff_id]
    repository.streams.link(name, store_json(repository, ContentType.CONFIG, body, refs))

    with pytest.raises(FormatError, match=f"refers to no layer {LAYERS[0].diff_id}$"):
        tree_of_image(repository, "os")


@pytest.mark.parametrize("pool_cost", [1 << 30, -1])
def test_missing_stream(repository, monkeypatch, pool_cost):
    """A layer whose stream is lost is named."""
    monkeypatch.setattr(read, "_POOL_COST", pool_cost)
    stream = repository.result.layers[0].stream
    os.unlink(f"{repository.path}/objects/{stream.object_path}")

    with pytest.raises(NotFoundError, match=f"no object {stream}, the stream of layer {LAYERS[0].diff_id}$"):
        tree_of_image(repository, "os")


def test_artifact(repository, tmp_path):
    """An artifact has no file system."""
    layout = Layout(tmp_path / "artifact")
    layout.write(layout.artifact([layouts.layer(b"text", media_type="text/plain")]))
    composefs.import_image(repository, str(layout), name="list")

    with pytest.raises(FormatError):
        tree_of_image(repository, "list")


def test_pool_pays(monkeypatch):
    """Processes are started where they save more than they cost: for several large layers, and several workers."""

    def jobs(*sizes):
        digest = Digest(Algorithm.SHA256, bytes(32))
        return [read.IndexJob("/", digest, size, "sha256:0", "/", number) for number, size in enumerate(sizes)]

    much = 40 << 20
    monkeypatch.setattr(read, "available_cpus", lambda: 4)
    assert not read.pool_pays([], None)
    assert not read.pool_pays(jobs(much), None)
    assert not read.pool_pays(jobs(*[1000] * 100), None)
    assert not read.pool_pays(jobs(much, 1000, 1000), None)
    assert not read.pool_pays(jobs(much, much), 1)
    assert read.pool_pays(jobs(much, much), None)
    assert read.pool_pays(jobs(*[4 << 20] * 20), 2)


def entries(tmp_path, archive, algorithm=Algorithm.SHA256):
    composefs.Repository.init(tmp_path / "entries", algorithm, require_verity=False)
    layer = layouts.layer(archive)
    with composefs.Repository.open(tmp_path / "entries") as repository:
        layout = image_layout(tmp_path / "entries-layout", [layer])
        composefs.import_image(repository, str(layout), workers=1)
        return list(layer_entries(repository, layer.diff_id))


def test_entries(tmp_path):
    """The entries of a layer come as the archive has them: in order, spelled so, repeated, with all metadata."""
    archive = Archive().directory("./").directory("usr").file("usr//.wh.a").file("./usr/b", b"b" * 65, mode=0o4755)
    archive.hardlink("/c/", "usr/./b").symlink("usr/s", "/t/").extended({"SCHILY.xattr.user.x": "y"}).file("usr/b")
    plain = Stat(0o644, 0, 0, MTIME, 0)

    found = entries(tmp_path, archive.end())

    assert [entry.path for entry in found] == [b"/.", b"/usr", b"/usr//.wh.a", b"/./usr/b", b"/c", b"/usr/s", b"/usr/b"]
    assert [entry.target for entry in found] == [None, None, None, None, b"/usr/./b", None, None]
    assert [entry.content for entry in found[:3]] == [None, None, Inline(b"")]
    assert found[3].content.size == 65
    assert isinstance(found[3].content, Object)
    assert [entry.content for entry in found[4:]] == [None, Symlink(b"/t/"), Inline(b"")]
    assert found[2].stat == plain
    assert found[3].stat == plain._replace(mode=0o4755)
    assert found[6].stat == plain._replace(xattrs={b"user.x": b"y"})


def test_no_layer(repository):
    """A layer that is not there is named."""
    with pytest.raises(NotFoundError, match=f"^{repository.path}: no layer sha256:0$"):
        list(layer_entries(repository, "sha256:0"))


def test_entry_of_unsupported_type(tmp_path):
    """An entry that no tree can hold is named, though the layer is there."""
    layer = layouts.layer(Archive().directory("usr").entry("usr/x", b"Z").end())
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    with composefs.Repository.open(path) as repository:
        layout = Layout(tmp_path / "layout")
        layout.write(layout.artifact([layer]))
        composefs.import_image(repository, str(layout), workers=1)

        with pytest.raises(FormatError) as caught:
            list(layer_entries(repository, layer.digest))

    assert str(caught.value) == (f"layer {layer.digest}, entry usr/x, offset 512: is of an unsupported type, b'Z'")
