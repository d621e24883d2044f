"""Layouts in archives: the same image as in a directory, compressed or not; and what is wrong with one is said."""

import bz2
import gzip
import json
import lzma
import os
import tarfile

import pytest
import zstandard

import composefs
from composefs.errors import ComposefsError, FormatError, IntegrityError, NotFoundError, UsageError
from composefs.oci.layout import open_layout
from composefs.oci.sources.archive import open_archive
from composefs.oci.sources.docker_archive import DockerArchive
from composefs.reference import ArchiveReference, OciArchiveReference
from tests import archives, layouts
from tests.archives import layout_archive, pack, pack_directory
from tests.layouts import Layout, files_layer, image_layout, noise, sha256, tagged

LAYERS = [
    files_layer({"a": noise(5000, 1), "small": b"s"}, "gzip"),
    files_layer({"b": noise(70_000, 2)}, "zstd"),
    files_layer({"c": noise(100, 3)}),
]
COMPRESS = {"gzip": gzip.compress, "zstd": zstandard.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.fixture
def layout(tmp_path):
    return image_layout(tmp_path / "layout", LAYERS, tag="v1")


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return str(tmp_path / "spool")


def opened(path, spool, tag=None, index=None):
    return open_archive(OciArchiveReference(str(path), tag, index, f"oci-archive:{path}"), spool)


def told(source):
    """Return what *source* says of its image, and the bytes that it gives for the layers."""
    with source:
        image = source.image()
        blobs = [source.blob(image, index) for index in range(len(image.diff_ids))]
        read = []
        for blob in blobs:
            stream = blob.place.open("layer", lambda: 1)
            read.append(stream.read(1 << 20))
            assert stream.size == blob.size == len(read[-1])
            stream.close()
        return image, [(blob.digest, blob.size, blob.compression) for blob in blobs], read


@pytest.mark.parametrize("kind", [None, *COMPRESS])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_same_as_directory(layout, spool, tmp_path, kind, prefix):
    """An archive says what its directory says, however it is compressed and names its files."""
    data = pack_directory(layout.path, prefix)
    path = tmp_path / "archive"
    path.write_bytes(COMPRESS[kind](data) if kind else data)

    for tag in ("v1", None):
        assert told(opened(path, spool, tag)) == told(open_layout(str(layout.path), tag))


@pytest.mark.parametrize("kind", [None, *COMPRESS])
def test_import(repository, layout, spool, tmp_path, kind, no_flush):
    """Workers import from an archive what they import from its directory, also where it has no name."""
    data = pack_directory(layout.path)
    path = tmp_path / "archive"
    path.write_bytes(COMPRESS[kind](data) if kind else data)

    with opened(path, spool) as source:
        result = composefs.import_image(repository, source, name="archive", workers=2)
    again = composefs.import_image(repository, f"oci:{layout.path}:v1", name="directory")

    assert (result.manifest, result.config, result.image) == (again.manifest, again.config, again.image)
    assert {layer.status for layer in result.layers} == {"imported"}
    assert {layer.status for layer in again.layers} == {"present"}


def test_choice(spool, tmp_path):
    """Images are told apart by tag or number, as in a directory."""
    layout = Layout(tmp_path / "layout")
    descriptors = [tagged(layout.image([layer]), f"v{number}") for number, layer in enumerate(LAYERS)]
    path = layout_archive(layout.write(*descriptors), tmp_path / "archive.tar")

    for number, descriptor in enumerate(descriptors):
        for which in ({"tag": f"v{number}"}, {"index": number}):
            with opened(path, spool, **which) as source:
                assert source.image().descriptor.digest == descriptor["digest"]
    for which, error, message in [
        ({}, UsageError, f"{path} holds 3 images for .*; name one as oci-archive:PATH:TAG: v0, v1, v2"),
        ({"tag": "v9"}, NotFoundError, f"{path} has no tag 'v9'; it has v0, v1, v2"),
        ({"index": 3}, NotFoundError, f"{path} has no image number 3; it has 3"),
    ]:
        with opened(path, spool, **which) as source, pytest.raises(error, match=f"^{message}$"):
            source.image()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_linked_blobs(layout, spool, tmp_path, kind):
    """Blobs that are links are read where they lead."""
    members = []
    for path in sorted(path for path in layout.path.rglob("*") if path.is_file()):
        name = str(path.relative_to(layout.path))
        if path.parent.name == "sha256":
            target = f"store/{path.name}"
            members += [(name, (kind, target if kind == tarfile.LNKTYPE else f"../../{target}"))]
            members += [(target, path.read_bytes())]
        else:
            members.append((name, path.read_bytes()))
    path = tmp_path / "archive.tar"
    path.write_bytes(pack(members))

    assert told(opened(path, spool)) == told(open_layout(str(layout.path)))


def changed(layout, path, digest, data):
    """Write the archive of *layout* in which the blob *digest* is *data*."""
    layout.blob_path(digest).write_bytes(data)
    return layout_archive(layout, path)


@pytest.mark.parametrize("part", ["manifest", "config"])
@pytest.mark.parametrize("is_longer", [False, True])
def test_forged(spool, tmp_path, part, is_longer):
    """A manifest or config that is not what its digest says is refused."""
    layout = Layout(tmp_path / "layout")
    descriptor = layout.image(LAYERS)
    manifest = layout.blob_path(descriptor["digest"]).read_bytes()
    digest = descriptor["digest"] if part == "manifest" else json.loads(manifest)["config"]["digest"]
    data = layout.blob_path(digest).read_bytes()
    forged = data + b" " if is_longer else data.replace(b": ", b":\t", 1)
    path = changed(layout.write(descriptor), tmp_path / "archive.tar", digest, forged)

    with opened(path, spool) as source, pytest.raises(IntegrityError) as caught:
        source.image()
    assert caught.value.subject == f"{part} {digest}"
    assert caught.value.got == (f"{len(forged)} bytes" if is_longer else sha256(forged))


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_forged_layer(repository, layout, spool, tmp_path, number, no_flush):
    """A layer that is not what its digest says is refused, and leaves no name."""
    digest = LAYERS[number].digest
    blob = bytearray(layout.blob_path(digest).read_bytes())
    blob[-100 if number == 2 else len(blob) // 2] ^= 1
    path = changed(layout, tmp_path / "archive.tar", digest, bytes(blob))

    with opened(path, spool) as source, pytest.raises(IntegrityError, match=digest):
        composefs.import_image(repository, source, name="image", workers=1)
    assert not os.path.lexists(f"{repository.path}/streams/refs/oci/image")


@pytest.mark.parametrize("digest", [layer.digest for layer in LAYERS])
def test_missing_layer(repository, layout, spool, tmp_path, digest):
    """A layer that is not there is named."""
    layout.blob_path(digest).unlink()
    path = layout_archive(layout, tmp_path / "archive.tar")

    with opened(path, spool) as source, pytest.raises(NotFoundError, match=f"{path} has no blobs/sha256/{digest[7:]}"):
        composefs.import_image(repository, source, name="image", workers=1)


@pytest.mark.parametrize("kind", [None, "gzip", "zstd"])
@pytest.mark.parametrize("backwards", [False, True])
def test_cuts(repository, layout, spool, tmp_path, kind, backwards, no_flush):
    """An archive that is cut anywhere is an error of ours, and leaves no name, also where the index is first."""
    plain = pack_directory(layout.path, backwards=backwards)
    data = COMPRESS[kind](plain) if kind else plain
    path = tmp_path / "archive"
    end_of_contents = len(data.rstrip(b"\0"))
    for end in {*range(1, end_of_contents, len(data) // 40), *([512, 1024, 2048, 3072] if kind is None else [])}:
        path.write_bytes(data[:end])
        with pytest.raises(ComposefsError), opened(path, spool) as source:
            composefs.import_image(repository, source, name="image", workers=1)
        assert not os.path.lexists(f"{repository.path}/streams/refs/oci/image")


def test_no_layout(spool, tmp_path):
    """An archive of something else is told from one of a layout, and a file that is no archive from both."""
    path = tmp_path / "archive.tar"
    path.write_bytes(pack([("usr/bin/true", b"")]))
    with pytest.raises(NotFoundError, match=f"^{path} holds no OCI layout: it has no index.json$"):
        opened(path, spool)
    path.write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(FormatError, match=f"^{path}, offset 0: no tar archive: header checksum"):
        opened(path, spool)
    path.write_bytes(pack([("index.json/", b"")]))
    with opened(path, spool) as source, pytest.raises(FormatError, match="entry index.json, offset 0: no regular file"):
        source.image()


def bare(path, spool, version=None):
    return open_archive(ArchiveReference(str(path), version, str(path)), spool)


def test_kinds(layout, spool, tmp_path):
    """Without a transport, what is in an archive tells what it is; what is both is read by what is asked for."""
    config = archives.config_of(LAYERS)
    path = tmp_path / "archive"
    for name, dialect in archives.DIALECTS.items():
        path.write_bytes(pack(dialect(LAYERS, ["a:b"], config)))
        for version, is_dockers in [(None, name != "new-docker"), ("a:b", True)]:
            with bare(path, spool, version) as source:
                assert isinstance(source, DockerArchive) == is_dockers
                assert source.image().config_bytes == config
    layout_archive(layout, path)
    with bare(path, spool, "v1") as source:
        assert source.image().manifest.layers[0].digest == LAYERS[0].digest
    path.write_bytes(gzip.compress(path.read_bytes()))
    with bare(path, spool, "@0") as source:
        assert source.image().manifest.layers[0].digest == LAYERS[0].digest


def test_everything_is_closed(layout, spool, tmp_path):
    """Errors leave no file open."""
    before = set(os.listdir("/proc/self/fd"))
    path = layout_archive(layout, tmp_path / "archive.tar")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with opened(path, spool):
        assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    for data in (b"", b"x" * 1000, gzip.compress(b"x" * 1000), pack([("a", b"")])):
        path.write_bytes(data)
        with pytest.raises(ComposefsError):
            opened(path, spool)
    with pytest.raises(UsageError, match="wanted the number of an image after '@'"):
        bare(layout_archive(layout, path), spool, "@x")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_artifact(spool, tmp_path):
    """An artifact comes out of an archive as well."""
    layout = Layout(tmp_path / "layout")
    layout.write(layout.artifact([layouts.layer(b"text", media_type="text/plain")]))
    path = layout_archive(layout, tmp_path / "archive.tar")

    image, _, read = told(opened(path, spool))

    assert not image.manifest.is_container
    assert read == [b"text"]
