"""What can be wrong with container storage, and with images that skopeo fetches."""

import os
from pathlib import Path
from unittest import mock

from tests.errors_doc.cases import case
from tests.errors_doc.scene import FILES, Scene
from tests.layouts import files_layer, noise, rooted, tar
from tests.skopeos import Script
from tests.storages import Storage

ARCHIVE = tar(rooted(FILES))


def stored(scene: Scene, *names: str) -> Storage:
    """Make a store with images called *names*, or with one that has FILES."""
    storage = Storage(scene.path / "storage")
    if not names:
        storage.image([ARCHIVE], "localhost/app:1")
    for name in names:
        storage.image([tar(rooted({name: b"x"}))], name)
    return storage.write()


def fetched(scene: Scene, reference: str, *arguments: str, **settings: object) -> str:
    """Import an image that goes for one that skopeo fetches, which does what *settings* say."""
    directory = scene.path / "bin"
    directory.mkdir()
    Script(directory).set(**settings)
    with mock.patch.dict(os.environ, {"PATH": f"{directory}:{os.environ['PATH']}"}):
        return scene.refuses(reference, "--policy", "none", *arguments)


# Container storage


@case
def storage_without_image(scene: Scene) -> str:
    return scene.refuses(f"{stored(scene)}tool:2")


@case
def storage_with_several(scene: Scene) -> str:
    return scene.refuses(f"{stored(scene, 'localhost/a/app:1', 'localhost/b/app:1')}app:1")


@case
def storage_missing(scene: Scene) -> str:
    return scene.refuses(f"containers-storage:[{scene.path}/storage]app:1")


@case
def storage_of_others(scene: Scene) -> str:
    storage = stored(scene)
    real = os.open

    def refuse(path: object, *arguments: int, **options: int) -> int:
        if path == b"large":  # root may read all
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    with mock.patch.object(os, "open", refuse):
        return scene.refuses(f"{storage}app:1")


@case
def storage_file_missing(scene: Scene) -> str:
    storage = stored(scene)
    (_file(storage, "dir/large")).unlink()
    return scene.refuses(f"{storage}app:1")


@case
def storage_file_changed(scene: Scene) -> str:
    storage = stored(scene)
    _file(storage, "dir/large").write_bytes(noise(20_000, 6))
    return scene.refuses(f"{storage}app:1", "--local-fetch", "zerocopy")


@case
def storage_tar_split_broken(scene: Scene) -> str:
    storage = stored(scene)
    path = storage.tar_split(storage.records["layers"][0]["id"])
    path.write_bytes(path.read_bytes()[:-20])
    return scene.refuses(f"{storage}app:1")


@case
def storage_of_composefs(scene: Scene) -> str:
    storage = stored(scene)
    (storage.root / "overlay" / storage.records["layers"][0]["id"] / "composefs-data").mkdir()
    return scene.refuses(f"{storage}app:1")


@case
def storage_elsewhere(scene: Scene) -> str:
    storage = stored(scene)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    with mock.patch("composefs.repository.objects.ObjectStore.take_file", refuse):
        return scene.refuses(f"{storage}app:1", "--local-fetch", "zerocopy")


def _file(storage: Storage, name: str) -> Path:
    return storage.files(storage.records["layers"][0]["id"]) / name


# skopeo


@case
def no_skopeo(scene: Scene) -> str:
    with mock.patch.dict(os.environ, {"PATH": str(scene.path)}):
        return scene.refuses("sif:/srv/app.sif", "--policy", "none")


@case
def skopeo_refuses(scene: Scene) -> str:
    text = "pinging container registry registry.example: received unexpected HTTP status: 503 Service Unavailable"
    return fetched(scene, "docker://registry.example/app:1", "--via", "skopeo", fail={"OpenImage": text})


@case
def skopeo_has_no_image(scene: Scene) -> str:
    return fetched(scene, "sif:/srv/app.sif", fail={"OpenImage": "open /srv/app.sif: no such file or directory"})


@case
def skopeo_rejects(scene: Scene) -> str:
    text = "Source image rejected: A signature was required, but no signature exists"
    return fetched(scene, "docker://registry.example/app:1", "--via", "skopeo", fail={"OpenImage": text})


@case
def skopeo_dies(scene: Scene) -> str:
    return fetched(scene, "docker://registry.example/app:1", "--via", "skopeo", die=["GetManifest"])


@case
def skopeo_too_old(scene: Scene) -> str:
    return fetched(scene, "docker://registry.example/app:1", "--via", "skopeo", version="0.2.2")


@case
def archive_for_skopeo(scene: Scene) -> str:
    (scene.path / "app.tar").write_bytes(files_layer(FILES).blob)
    return scene.refuses(f"{scene.path}/app.tar", "--via", "skopeo")
