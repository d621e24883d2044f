"""What can be wrong with archives, and with images that do not fit."""

import os
from unittest import mock

from tests.archives import config_of as config_of_layers
from tests.archives import entry, layout_archive, manifest_json, pack, skopeo
from tests.errors_doc.cases import case
from tests.errors_doc.scene import FILES, Scene
from tests.layouts import files_layer, noise

LAYERS = [files_layer(FILES)]


def archive(scene: Scene, data: bytes) -> str:
    """Write *data* to a file, and return its path."""
    path = scene.path / "os.tar"
    path.write_bytes(data)
    return str(path)


@case
def archive_of_nothing(scene: Scene) -> str:
    return scene.refuses(f"oci-archive:{archive(scene, b'no tar' * 1000)}")


@case
def archive_that_is_cut(scene: Scene) -> str:
    path = layout_archive(scene.layout(), scene.path / "os.tar")
    os.truncate(path, path.stat().st_size - 12_000)
    return scene.refuses(f"oci-archive:{path}")


@case
def archive_of_another_kind(scene: Scene) -> str:
    path = layout_archive(scene.layout(), scene.path / "os.tar")
    return scene.refuses(f"docker-archive:{path}")


@case
def archive_with_several_images(scene: Scene) -> str:
    config = config_of_layers(LAYERS)
    members = skopeo(LAYERS, ["example.org/app:1"], config)
    images = [entry(config, [members[0][0]], [f"example.org/app:{number}"]) for number in (1, 2)]
    return scene.refuses(f"docker-archive:{archive(scene, pack([*members[:-2], manifest_json(*images)]))}")


@case
def standard_input_closed(scene: Scene) -> str:
    real = os.dup

    def closed(fd: int) -> int:
        if fd == 0:
            raise OSError(9, "Bad file descriptor")
        return real(fd)

    with mock.patch("os.dup", closed):
        return scene.refuses("oci-archive:-")


@case
def docker_not_running(scene: Scene) -> str:
    with mock.patch.dict(os.environ, {"DOCKER_HOST": f"unix://{scene.path}/docker.sock"}):
        return scene.refuses("docker-daemon:app:1")


@case
def docker_elsewhere(scene: Scene) -> str:
    with mock.patch.dict(os.environ, {"DOCKER_HOST": "tcp://docker.example:2375"}):
        return scene.refuses("docker-daemon:app:1")


@case
def no_room(scene: Scene) -> str:
    layout = scene.layout(files_layer({"large": noise(1 << 20)}))
    few = os.statvfs_result((4096, 4096, 1000, 10, 10, 1000, 1000, 1000, 0, 255))
    with mock.patch("os.statvfs", return_value=few):
        return scene.refuses(layout)
