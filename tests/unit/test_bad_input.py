"""What a user sees of bad input: one line that says where, what was wanted and what was found; nothing is named."""

import json
import os
import shutil
import subprocess

import pytest

import composefs
from composefs import Algorithm
from composefs.oci.layout import open_layout
from composefs.oci.platforms import host_platform
from tests import commands, layouts
from tests.layouts import Layout, files_layer, for_platform, image_layout, noise, tagged

DAMAGED = "; the image or the repository is damaged: fetch it again"
FULL = "; the disk is full: make room and run it again; what was stored is kept"
FILES = {"small": b"s" * 10, "dir/large": noise(20_000, 5)}
GOOD = files_layer({"good": noise(1000, 6)}, "gzip")
WRONG = layouts.sha256(b"wrong")


@pytest.fixture
def repository(tmp_path):
    """The path of a repository that holds an image called `before`."""
    path = tmp_path / "repository"
    composefs.Repository.init(path, Algorithm.SHA256, require_verity=False)
    fill(path, tmp_path / "before")
    return path


def plain_layer(files, compression="none", **forged):
    """Return a layer of *files* alone, which is refused before a file system is made of it."""
    return layouts.layer(layouts.tar(files), compression, **forged)


def fill(path, layout):
    with composefs.Repository.open(path) as repository:
        image = image_layout(layout, [files_layer({"before": noise(500, 7)})])
        composefs.import_image(repository, str(image), name="before", workers=1)


def names(path):
    found = {}
    for directory, _, files in os.walk(path / "streams"):
        found |= {f"{directory}/{name}": os.readlink(f"{directory}/{name}") for name in files}
    return found


def refused(tmp_path, repository, reference, *arguments, workers=1):
    """Import what must be refused, and return the one line that is printed; the repository is as sound as before."""
    before = names(repository)

    done = commands.run(
        tmp_path, "composefs-import", reference, "--repo", repository, "--progress", "none",
        "--workers", workers, *arguments,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("composefs-import: ")
    after = names(repository)
    new = {os.path.basename(name) for name in after.keys() - before.keys()}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("oci-layer-") for name in new)  # layers that were finished are kept
    check(repository)
    return done.stderr.removeprefix("composefs-import: ").removesuffix("\n")


def check(repository):
    """Have cfsctl, where it is, look at a repository, and prove every object besides."""
    with composefs.Repository.open(repository) as opened:
        for _, stream in opened.streams.names():
            with opened.streams.open_object(stream, "stream") as found:
                for _ in found.merged():
                    pass
    assert not [name for name in os.listdir(repository / "objects") if name.startswith(".")]
    if cfsctl := shutil.which("cfsctl"):
        done = subprocess.run([cfsctl, "--repo", repository, "fsck"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "status: ok" in done.stdout


def flipped(data):
    """Return *data* with a bit in the middle changed."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_flipped_bit(tmp_path, repository, compression, workers):
    """A blob in which one bit differs is named with both digests."""
    right = plain_layer(FILES, compression)
    changed = flipped(right.blob)
    layout = image_layout(tmp_path / "layout", [GOOD, right])
    layout.blob_path(right.digest).write_bytes(changed)

    said = refused(tmp_path, repository, layout, workers=workers)

    assert said == f"layer {right.diff_id}, blob: wanted {right.digest}, got {layouts.sha256(changed)}{DAMAGED}"


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_flipped_bit_of_an_honest_blob(tmp_path, repository, compression):
    """A compressed layer that was damaged before its digest was taken is found by its checksum or its diff_id."""
    archive = layouts.tar(FILES)
    changed = flipped(plain_layer(FILES, compression).blob)
    layer = layouts.layer(archive, compression, blob=changed)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    if compression == "none":
        assert said == f"layer {layer.diff_id}, diff_id: wanted {layer.diff_id}, got {layer.digest}{DAMAGED}"
    else:
        assert said.startswith(f"layer {layer.diff_id}, ")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_wrong_diff_id(tmp_path, repository, compression, workers):
    """A config that promises another archive is found out, though every blob is right."""
    layer = plain_layer(FILES, compression, diff_id=WRONG)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]), workers=workers)

    assert said == f"layer {WRONG}, diff_id: wanted {WRONG}, got {layouts.sha256(layouts.tar(FILES))}{DAMAGED}"


@pytest.mark.parametrize("difference", [-1, 1])
def test_wrong_size(tmp_path, repository, difference):
    """A blob of another size than the manifest says is named with both."""
    size = plain_layer(FILES, "gzip").size
    layer = plain_layer(FILES, "gzip", size=size + difference)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    wanted = f"wanted {size + difference} bytes, got {size} bytes"
    assert said == f"layer {layer.diff_id}, blob {layer.digest}: {wanted}{DAMAGED}"


@pytest.mark.parametrize(
    ("compression", "what"), [("gzip", "gzip data ends inside a member"), ("zstd", "zstd data ends inside a frame")]
)
def test_truncated_blob(tmp_path, repository, compression, what):
    """Compressed data that ends early is named with the place where it ends."""
    blob = plain_layer(FILES, compression).blob[:-9]
    layer = layouts.layer(layouts.tar(FILES), compression, blob=blob)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    assert said == f"layer {layer.diff_id}, offset {len(blob)}: {what}"


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("size", "what"),
    [
        (100, "offset 100: archive ends 100 bytes into a header block"),
        (515, "entry small, offset 515: archive ends 509 bytes before the contents and their padding do"),
        (1536 + 99, "entry dir/large, offset 1635: archive ends 19901 bytes before the contents do"),
        (
            1536 + 20_007,
            "entry dir/large, offset 21543: archive ends 473 bytes before the contents and their padding do",
        ),
        (1536 + 20_480 + 512, "entry dir/large, offset 22528: archive ends after a single zero block"),
    ],
)
def test_truncated_archive(tmp_path, repository, compression, size, what):
    """An archive that ends early, in a blob that is whole, is named with entry and offset."""
    layer = layouts.layer(layouts.tar(FILES)[:size], compression)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    assert said == f"layer {layer.diff_id}, {what}"


@pytest.mark.parametrize(
    ("compression", "behind", "what"),
    [
        ("gzip", b"junk", "bytes behind the last gzip member"),
        ("gzip", bytes(512), "zero padding behind the last gzip member"),
        ("zstd", b"junk", "bytes behind the last zstd frame are no frame"),
        ("zstd", bytes(512), "bytes behind the last zstd frame are no frame"),
    ],
)
def test_trailing_garbage(tmp_path, repository, compression, behind, what):
    """Bytes behind compressed data are named with their offset."""
    blob = plain_layer(FILES, compression).blob
    layer = layouts.layer(layouts.tar(FILES), compression, blob=blob + behind)

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    assert said == f"layer {layer.diff_id}, offset {len(blob)}: {what}"


def test_unknown_gzip_flags(tmp_path, repository):
    """A gzip member with flags that nobody knows the meaning of is refused, by whichever library inflates it."""
    blob = bytearray(plain_layer(FILES, "gzip").blob)
    blob[3] |= 0x40
    layer = layouts.layer(layouts.tar(FILES), "gzip", blob=bytes(blob))

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    assert said == f"layer {layer.diff_id}, offset 0: gzip member at 0 is broken: unknown flags 0x40"


def test_wrong_compression(tmp_path, repository):
    """A media type that names another compression than there is says what the blob is not."""
    for media_type, what in [(layouts.TAR_GZIP, "not gzip data"), (layouts.TAR_ZSTD, "not zstd data")]:
        layer = plain_layer(FILES, media_type=media_type)
        layout = image_layout(tmp_path / media_type[-4:], [GOOD, layer])

        assert refused(tmp_path, repository, layout) == f"layer {layer.diff_id}, offset 0: {what}"


def test_broken_header(tmp_path, repository):
    """A header whose checksum is wrong is named with entry, offset and both sums."""
    archive = bytearray(layouts.tar(FILES))
    wanted = int(archive[1024 + 148 : 1024 + 154], 8)
    archive[1024 + 100] += 1
    layer = layouts.layer(bytes(archive))

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    what = f"header checksum: wanted {wanted}, got {wanted + 1}"
    assert said == f"layer {layer.diff_id}, entry dir/large, offset 1024: {what}"


def test_unknown_media_type(tmp_path, repository):
    """A layer of a type that nothing is known of is refused before anything is stored."""
    layer = plain_layer(FILES, media_type="application/vnd.oci.image.layer.v1.tar+xz")

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]))

    assert said == f"layer {layer.digest}, offset 0: media type {layer.media_type!r} is not one of a layer"


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_parent(tmp_path, repository, workers):
    """An entry in a directory that no layer has is named with layer, entry and offset."""
    layer = layouts.layer(layouts.tar({"usr/": b"", "etc/large": noise(20_000, 5)}), "gzip")

    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [GOOD, layer]), workers=workers)

    assert said == f"layer {layer.diff_id}, entry etc/large, offset 512: etc does not exist"


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"etc/": b""}, "/usr does not exist, but such an image must have it"),
        ({"usr": b"file"}, "/usr: is not a directory"),
        ({"usr/": b"", "run": b"file"}, "/run: is not a directory"),
        ({"usr/": b"", "n" * 256: b""}, f"/{'n' * 256}: has a name of 256 bytes, more than 255"),
    ],
)
def test_no_file_system(tmp_path, repository, files, what):
    """Layers that make no file system that an image can hold are refused with what is wrong with that."""
    said = refused(tmp_path, repository, image_layout(tmp_path / "layout", [plain_layer(files)]))

    assert said == what


@pytest.mark.parametrize("kind", ["layer", "manifest", "config"])
def test_missing_blob(tmp_path, repository, kind):
    """A blob that is not there is named with its file."""
    layer = plain_layer(FILES)
    layout = Layout(tmp_path / "layout")
    manifest = layout.image([GOOD, layer])
    layout.write(manifest)
    config = open_layout(str(layout.path)).image().manifest.config.digest
    digest = {"layer": layer.digest, "manifest": manifest["digest"], "config": config}[kind]
    layout.blob_path(digest).unlink()

    said = refused(tmp_path, repository, layout)

    subject = f"layer {layer.diff_id}" if kind == "layer" else f"{kind} {digest}"
    assert said == f"{subject} is missing: no file {layout.blob_path(digest)}"


def test_blob_that_is_a_fifo(tmp_path, repository):
    """A fifo in place of a layer's blob is refused, and not waited for."""
    layer = plain_layer(FILES)
    layout = image_layout(tmp_path / "layout", [GOOD, layer])
    layout.blob_path(layer.digest).unlink()
    os.mkfifo(layout.blob_path(layer.digest))

    said = refused(tmp_path, repository, layout)

    assert said == f"layer {layer.diff_id}, offset 0: {layout.blob_path(layer.digest)} is no regular file"


def test_broken_index(tmp_path, repository):
    """An index.json that is no JSON is named with the place where it breaks."""
    layout = image_layout(tmp_path / "layout", [GOOD])
    index = layout.path / "index.json"
    for text, what in [
        ('{"manifests": [}', "offset 15: broken JSON: Expecting value"),
        ("", "offset 0: broken JSON: Expecting value"),
        ("[]", "offset 0: not a JSON object"),
        ("{}", "offset 0: manifests is no list"),
    ]:
        index.write_text(text)

        assert refused(tmp_path, repository, layout) == f"{index}, {what}"


def test_broken_manifest_and_config(tmp_path, repository):
    """A manifest or config that is no JSON, though its digest is right, is named with the place where it breaks."""
    layout = Layout(tmp_path / "layout")
    broken_manifest = layout.blob(b'{"schemaVersion": 2, ', layouts.MANIFEST)
    broken_config = layout.blob(b'{"rootfs": ', layouts.CONFIG)
    manifest = layout.manifest(broken_config, [GOOD])
    platform = str(host_platform())
    layout.write(
        tagged(for_platform(broken_manifest, platform), "manifest"), tagged(for_platform(manifest, platform), "config")
    )

    of_manifest = refused(tmp_path, repository, f"{layout}:manifest")
    of_config = refused(tmp_path, repository, f"{layout}:config")

    what = "offset 21: broken JSON: Expecting property name enclosed in double quotes"
    assert of_manifest == f"manifest {broken_manifest['digest']}, {what}"
    assert of_config == f"config {broken_config['digest']}, offset 11: broken JSON: Expecting value"


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        ({"layers": []}, "a key stands twice"),
        ({"os": float("nan")}, "NaN is no number"),
        ({"annotations": {"a": "\ud800"}}, "half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("kind", ["manifest", "config", "index"])
def test_json_that_others_read_otherwise(tmp_path, repository, kind, odd, what):
    """Keys that stand twice, and what is no JSON though Python takes it, are refused everywhere, as by cfsctl."""
    more = json.dumps(odd)[1:-1]
    more = f"{more}, {more}" if "twice" in what else more
    layout = Layout(tmp_path / "layout")

    def with_more(value, media_type):
        return layout.blob(f"{json.dumps(value)[:-1]}, {more}}}".encode(), media_type)

    store = {each: with_more if kind == each else layout.json for each in ("manifest", "config")}
    host = host_platform()
    about = {"os": "linux", "architecture": host.architecture, "rootfs": {"type": "layers", "diff_ids": [GOOD.diff_id]}}
    layout.blob_path(GOOD.digest).write_bytes(GOOD.blob)
    config = store["config"](about, layouts.CONFIG)
    document = {"schemaVersion": 2, "config": config, "layers": [GOOD.descriptor]}
    manifest = store["manifest"](document, layouts.MANIFEST)
    layout.write(for_platform(manifest, str(host)))
    index = layout.path / "index.json"
    if kind == "index":
        index.write_text(f"{index.read_text()[:-1]}, {more}}}")

    said = refused(tmp_path, repository, layout)

    subject = {"manifest": f"manifest {manifest['digest']}", "config": f"config {config['digest']}", "index": index}[
        kind
    ]
    assert said == f"{subject}, offset 0: broken JSON: {what}"


@pytest.mark.parametrize("kind", ["manifest", "config"])
def test_forged_json(tmp_path, repository, kind):
    """A manifest or config whose bytes are not those of its digest is named with both."""
    layout = Layout(tmp_path / "layout")
    manifest = layout.image([GOOD])
    layout.write(manifest)
    config = open_layout(str(layout.path)).image().manifest.config.digest
    path = layout.blob_path(manifest["digest"] if kind == "manifest" else config)
    digest = f"sha256:{path.name}"
    path.write_bytes(changed := flipped(path.read_bytes()))

    said = refused(tmp_path, repository, layout)

    assert said == f"{kind} {digest}: wanted {digest}, got {layouts.sha256(changed)}{DAMAGED}"


def test_no_such_tag(tmp_path, repository):
    """A tag that is not there is named, with those that are."""
    layout = Layout(tmp_path / "layout")
    layout.write(tagged(layout.image([GOOD]), "41"), tagged(layout.image([GOOD], created="x"), "42"))

    assert refused(tmp_path, repository, f"{layout}:43") == f"{layout.path} has no tag '43'; it has 41, 42"


def test_no_such_platform(tmp_path, repository):
    """A platform that is not there is named, with those that are."""
    layout = Layout(tmp_path / "layout")
    platforms = ["linux/amd64", "linux/arm64/v8"]
    images = [for_platform(layout.image([GOOD], platform=platform), platform) for platform in platforms]
    layout.write(layout.nested_index(images))

    said = refused(tmp_path, repository, layout, "--platform", "linux/s390x")

    assert said == f"{layout.path} has no image for linux/s390x; it has linux/amd64, linux/arm64/v8"


def test_no_layout(tmp_path, repository):
    """A directory that is no layout, and one that is not there, are named."""
    (tmp_path / "empty").mkdir()

    assert refused(tmp_path, repository, f"{tmp_path}/none") == f"no directory {tmp_path}/none"
    assert (
        refused(tmp_path, repository, f"{tmp_path}/empty") == f"{tmp_path}/empty is no OCI layout: it has no index.json"
    )


def test_wrong_algorithm(tmp_path, repository):
    """A repository of another algorithm than asked for is named with both."""
    layout = image_layout(tmp_path / "layout", [GOOD])

    said = refused(tmp_path, repository, layout, "--algorithm", "fsverity-sha512-12")

    assert said == f"{repository}: has the algorithm fsverity-sha256-12, not fsverity-sha512-12; choose another --repo"


def test_broken_repository(tmp_path):
    """A meta.json that cannot be understood is named with the place."""
    path = tmp_path / "repository"
    path.mkdir()
    (path / "meta.json").write_text('{"version": 1, "algorithm": "fsverity-md5-12"}')
    layout = image_layout(tmp_path / "layout", [GOOD])

    done = commands.run(tmp_path, "composefs-import", layout, "--repo", path)

    what = "offset 0: algorithm 'fsverity-md5-12' has unknown hash 'md5'"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"composefs-import: {path}/meta.json, {what}\n"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one mebibyte, and the way to mount it again with other options."""
    if os.geteuid() != 0:
        pytest.skip("mount needs root")
    path = tmp_path / "disk"
    path.mkdir()

    def mount(*arguments):
        return subprocess.run(["mount", *arguments, path], capture_output=True, text=True, check=False)

    done = mount("-t", "tmpfs", "-o", "size=1m", "none")
    if done.returncode != 0:
        pytest.skip(f"mount does not work here: {done.stderr.strip()}")
    yield path, lambda options: mount("-o", f"remount,{options}").check_returncode()
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_disk_full(tmp_path, small_disk, workers):
    """A full disk is named with path, entry and layer, and what to do; with more room the import goes on."""
    disk, remount = small_disk
    composefs.Repository.init(disk / "repository", Algorithm.SHA256, require_verity=False)
    fill(disk / "repository", tmp_path / "before")
    large = files_layer({"first": noise(1000, 1), "second": noise(2 << 20, 2)})
    layout = image_layout(tmp_path / "layout", [GOOD, large])

    said = refused(tmp_path, disk / "repository", layout, workers=workers)

    where = f"while storing second, offset 2048 of the archive; in layer {large.diff_id}"
    assert said == f"{disk}/repository/objects: No space left on device; {where}{FULL}"

    remount("size=8m")
    done = commands.run(tmp_path, "composefs-import", layout, "--repo", disk / "repository", "--progress", "none")
    assert done.returncode == 0
    check(disk / "repository")


def test_read_only_repository(tmp_path, small_disk):
    """A repository on a read-only file system is refused before any work, or cannot be made."""
    disk, remount = small_disk
    composefs.Repository.init(disk / "repository", Algorithm.SHA256, require_verity=False)
    fill(disk / "repository", tmp_path / "before")
    remount("ro")
    layout = image_layout(tmp_path / "layout", [GOOD])

    said = refused(tmp_path, disk / "repository", layout)
    new = commands.run(tmp_path, "composefs-import", layout, "--repo", disk / "new")

    assert said == f"{disk}/repository: is not writable: the file system is mounted read-only"
    remedy = "the file system is read-only: choose another place"
    assert (new.returncode, new.stdout) == (1, "")
    assert new.stderr == f"composefs-import: {disk}/new: Read-only file system; {remedy}\n"


def test_repository_of_somebody_else(tmp_path, repository):
    """A repository that belongs to another user is refused with both users."""
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    layout = image_layout(tmp_path / "layout", [GOOD])
    os.chmod(repository, 0o755)
    with composefs.Repository.open(repository) as opened:
        os.seteuid(65534)
        try:
            with pytest.raises(composefs.RepositoryError) as caught:
                composefs.import_image(opened, str(layout), workers=1)
        finally:
            os.seteuid(0)

    assert str(caught.value) == f"{repository}: is not writable: it belongs to uid 0, this is uid 65534"
