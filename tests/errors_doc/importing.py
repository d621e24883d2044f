"""Images that are refused."""

import errno
import json
import os
import signal
from unittest import mock

from composefs import Repository, _native, limits
from composefs.oci import pool
from composefs.oci.layout import open_layout
from composefs.repository.objects import ObjectStore
from tests import layouts
from tests.errors_doc.cases import case
from tests.errors_doc.scene import FILES, Scene, corrupt, failing, plain_layer
from tests.golden import vectors  # noqa: F401  # makes the generator's builder importable
from tests.layouts import Layout, files_layer, for_platform, noise, tagged

from generator.tar import Archive  # isort: skip

WRONG = layouts.sha256(b"wrong")

# Changed, or broken on the way


@case
def blob_changed(scene: Scene) -> str:
    layer = files_layer(FILES, "zstd")
    layout = scene.layout(layer)
    corrupt(layout.blob_path(layer.digest))
    return scene.refuses(layout)


@case
def blob_of_another_size(scene: Scene) -> str:
    layer = files_layer(FILES)
    layout = scene.layout(layer)
    os.truncate(layout.blob_path(layer.digest), layer.size - 512)
    return scene.refuses(layout)


@case
def diff_id(scene: Scene) -> str:
    return scene.refuses(scene.layout(files_layer(FILES, diff_id=WRONG)))


@case
def manifest_changed(scene: Scene) -> str:
    layout = scene.layout()
    manifest = open_layout(str(layout.path)).image().descriptor.digest
    corrupt(layout.blob_path(manifest))
    return scene.refuses(layout)


@case
def blob_missing(scene: Scene) -> str:
    layer = files_layer(FILES)
    layout = scene.layout(layer)
    layout.blob_path(layer.digest).unlink()
    return scene.refuses(layout)


@case
def blob_no_file(scene: Scene) -> str:
    layer = files_layer(FILES)
    layout = scene.layout(layer)
    layout.blob_path(layer.digest).unlink()
    os.mkfifo(layout.blob_path(layer.digest))
    return scene.refuses(layout)


# Wrong, although its digests are right


@case
def blob_cut(scene: Scene) -> str:
    whole = plain_layer(FILES, "zstd")
    return scene.refuses(scene.layout(layouts.layer(layouts.tar(FILES), "zstd", blob=whole.blob[:-9])))


@case
def blob_with_more_behind(scene: Scene) -> str:
    whole = plain_layer(FILES, "zstd")
    return scene.refuses(scene.layout(layouts.layer(layouts.tar(FILES), "zstd", blob=whole.blob + b"more")))


@case
def blob_not_compressed(scene: Scene) -> str:
    return scene.refuses(scene.layout(plain_layer(FILES, media_type=layouts.TAR_GZIP)))


@case
def archive_cut(scene: Scene) -> str:
    return scene.refuses(scene.layout(layouts.layer(layouts.tar(FILES)[:5000])))


@case
def archive_header(scene: Scene) -> str:
    archive = bytearray(layouts.tar(FILES))
    archive[1024 + 100] += 1
    return scene.refuses(scene.layout(layouts.layer(bytes(archive))))


@case
def archive_sparse(scene: Scene) -> str:
    return scene.refuses(scene.layout(layouts.layer(Archive().entry("usr/disk", b"S").end())))


@case
def index_no_json(scene: Scene) -> str:
    layout = scene.layout()
    (layout.path / "index.json").write_text('{"manifests": [}')
    return scene.refuses(layout)


@case
def manifest_shape(scene: Scene) -> str:
    layout = Layout(scene.path / "layout")
    layout.write(for_platform(layout.json({"schemaVersion": 1}, layouts.MANIFEST), "linux/amd64"))
    return scene.refuses(layout, "--platform", "linux/amd64")


# Of a kind that is not imported


@case
def layer_of_an_unknown_type(scene: Scene) -> str:
    return scene.refuses(scene.layout(plain_layer(FILES, media_type=f"{layouts.TAR}+xz")))


@case
def no_layout(scene: Scene) -> str:
    (scene.path / "layout").mkdir()
    return scene.refuses(f"oci:{scene.path}/layout")


@case
def no_such_tag(scene: Scene) -> str:
    layout = Layout(scene.path / "layout")
    layer = files_layer(FILES)
    layout.write(tagged(layout.image([layer]), "41"), tagged(layout.image([layer], created="x"), "42"))
    return scene.refuses(f"{layout}:43")


@case
def several_images(scene: Scene) -> str:
    layout = Layout(scene.path / "layout")
    images = [for_platform(layout.image([files_layer(FILES)], created=tag), "linux/amd64") for tag in ("41", "42")]
    layout.write(*(tagged(image, tag) for image, tag in zip(images, ("41", "42"), strict=True)))
    return scene.refuses(layout, "--platform", "linux/amd64")


@case
def no_such_platform(scene: Scene) -> str:
    layout = Layout(scene.path / "layout")
    platforms = ["linux/amd64", "linux/arm64/v8"]
    images = [for_platform(layout.image([files_layer(FILES)], platform=each), each) for each in platforms]
    layout.write(layout.nested_index(images))
    return scene.refuses(layout, "--platform", "linux/s390x")


@case
def two_readings(scene: Scene) -> str:
    return scene.refuses("example/app:1")


# That makes no file system


@case
def no_parent(scene: Scene) -> str:
    return scene.refuses(scene.layout(plain_layer({"usr/": b"", "etc/large": noise(20_000, 5)})))


@case
def no_usr(scene: Scene) -> str:
    return scene.refuses(scene.layout(plain_layer({"etc/": b""})))


@case
def hard_link_to_nothing(scene: Scene) -> str:
    archive = Archive().directory("usr").hardlink("usr/link", "usr/gone").end()
    return scene.refuses(scene.layout(layouts.layer(archive)))


@case
def path_that_goes_up(scene: Scene) -> str:
    return scene.refuses(scene.layout(layouts.layer(Archive().directory("usr").file("usr/../../etc/passwd").end())))


@case
def long_name(scene: Scene) -> str:
    name = "n" * 256
    return scene.refuses(scene.layout(plain_layer({"usr/": b"", name: b""}))).replace(name, "nnn…")


# Larger than is taken


@case
def inflates(scene: Scene) -> str:
    layer = plain_layer({"usr/": b"", "usr/zeros": bytes(100 << 20)}, "zstd")
    with mock.patch.object(limits, "ARCHIVE_SIZE_AT_ANY_RATIO", 64 << 20):
        text = scene.refuses(scene.layout(layer))
    return text.replace(str(64 << 20), str(limits.ARCHIVE_SIZE_AT_ANY_RATIO))


@case
def entries(scene: Scene) -> str:
    layer = plain_layer({"usr/": b"", **{f"usr/{number}": b"" for number in range(20)}})
    with mock.patch.object(limits, "ENTRIES", 10):
        text = scene.refuses(scene.layout(layer))
    return text.replace("more than 10 ", f"more than {limits.ENTRIES} ")


@case
def zstd_window(scene: Scene) -> str:
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([21 << 3]) + b"\x01\0\0"
    return scene.refuses(scene.layout(layouts.layer(layouts.tar(FILES), "zstd", blob=frame)))


@case
def large_manifest(scene: Scene) -> str:
    layout = scene.layout()
    index = json.loads((layout.path / "index.json").read_text())
    index["manifests"][0]["size"] = 40_000_000
    (layout.path / "index.json").write_text(json.dumps(index))
    return scene.refuses(layout)


# The machine


@case
def disk_full(scene: Scene) -> str:
    full = failing(errno.ENOSPC, f"{scene.repository}/objects")
    with mock.patch.object(ObjectStore, "ensure_spans", full):
        return scene.refuses(scene.layout())


@case
def quota(scene: Scene) -> str:
    with mock.patch.object(ObjectStore, "ensure_spans", failing(errno.EDQUOT, f"{scene.repository}/objects")):
        return scene.refuses(scene.layout())


@case
def read_only(scene: Scene) -> str:
    layout = scene.layout()
    with mock.patch.object(_native, "make_directory", failing(errno.EROFS, scene.repository)):
        return scene.run(layout, program="composefs-import")


@case
def io_error(scene: Scene) -> str:
    layout = scene.layout()
    with mock.patch.object(ObjectStore, "ensure_spans", failing(errno.EIO, f"{scene.repository}/objects")):
        return scene.refuses(layout)


@case
def no_permission(scene: Scene) -> str:
    with mock.patch.object(Repository, "open", failing(errno.EACCES, scene.repository)):
        return scene.refuses(scene.layout())


@case
def too_many_files(scene: Scene) -> str:
    with mock.patch.object(ObjectStore, "ensure_spans", failing(errno.EMFILE, f"{scene.repository}/objects")):
        return scene.refuses(scene.layout())


@case
def worker_died(scene: Scene) -> str:
    def submit(pool_: object, work: object, job: object) -> object:
        raise pool._worker_died(job)

    with mock.patch.object(pool, "_submit", submit):
        return scene.refuses(scene.layout())


@case
def interrupted(scene: Scene) -> str:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt(signal.SIGINT)

    with mock.patch.object(ObjectStore, "ensure_spans", interrupt):
        return scene.refuses(scene.layout())
