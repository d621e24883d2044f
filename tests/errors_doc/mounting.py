"""Mounts that are refused.  What the kernel says is made up, what is made of it is not."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from unittest import mock

from composefs import Algorithm, Digest, MountError, Repository, fuse, privileges, verity
from composefs.erofs.writer import write_image
from composefs.fuse import server
from composefs.kernel import Features, MountOptions, Verity, contexts, erofs, mounts, overlay
from composefs.mount import images, unmounting
from composefs.repository import meta
from tests.errors_doc.cases import case
from tests.errors_doc.scene import Scene
from tests.images import directory, inline, store

_NO_HELPER = f"{server._HELPER} is missing, without which only root can mount: install the package fuse3"


def _made(scene: Scene) -> str:
    """Make a repository with an image, and a directory to mount it at; return that."""
    with Repository.open(scene.made()) as repository:
        store(repository.images, write_image(directory({"usr": directory({"f": inline()})}), 1), "os")
    (scene.path / "mnt").mkdir()
    return str(scene.path / "mnt")


@contextlib.contextmanager
def _kernel(*, lets_mount: bool = True) -> Iterator[None]:
    with mock.patch.object(privileges, "may_mount", return_value=lets_mount):
        yield


def _mount(scene: Scene, refuse: Callable[[], object]) -> str:
    """Mount an image by a kernel that refuses."""
    target = _made(scene)
    with _kernel(), mock.patch.object(images, "mount_by_kernel", side_effect=lambda *_: refuse()):
        return scene.run("mount", "os", target)


def _raise(error: BaseException) -> object:
    raise error


def _says(step: str, number: int, *messages: str) -> MountError:
    return contexts.failure(step, OSError(number, os.strerror(number)), messages)


@case
def kernel_without_verity(scene: Scene) -> str:
    features = Features("6.1", overlay_verity=False)
    return _mount(scene, lambda: overlay.check_features(MountOptions("os", verity=Verity.REQUIRED), features))


@case
def kernel_without_data_layers(scene: Scene) -> str:
    def check() -> None:
        fd = os.open(scene.path, os.O_RDONLY)
        try:
            with mock.patch.object(overlay, "_hides", return_value=False):
                overlay._check_stubs(fd, [])
        finally:
            os.close(fd)

    return _mount(scene, check)


@case
def kernel_without_erofs(scene: Scene) -> str:
    error = contexts._not_opened("erofs", OSError(errno.ENODEV, ""))
    return _mount(scene, lambda: _raise(error))


@case
def kernel_without_overlayfs(scene: Scene) -> str:
    error = contexts._not_opened("overlay", OSError(errno.ENODEV, ""))
    return _mount(scene, lambda: _raise(error))


@case
def kernel_without_loop_devices(scene: Scene) -> str:
    features = Features("6.1", file_backed_erofs=False, loop_devices=False)
    return _mount(scene, lambda: erofs.mount_erofs(-1, features))


@case
def kernel_without_mount_calls(scene: Scene) -> str:
    return _mount(scene, lambda: _raise(_says("fsopen erofs", errno.ENOSYS)))


@case
def kernel_forbids(scene: Scene) -> str:
    return _mount(scene, lambda: _raise(_says("fsopen erofs", errno.EPERM)))


@case
def kernel_refuses(scene: Scene) -> str:
    return _mount(scene, lambda: _raise(_says("fsconfig erofs create", errno.EINVAL)))


@case
def kernel_explains(scene: Scene) -> str:
    error = _says("fsconfig overlay create", errno.EINVAL, "e overlay: upperdir is in-use as upperdir of another mount")
    return _mount(scene, lambda: _raise(error))


@case
def upper_layer_without_root(scene: Scene) -> str:
    target = _made(scene)
    with _kernel(lets_mount=False):
        return scene.run("mount", "os", target, "--upperdir", scene.path, "--workdir", scene.path)


@case
def no_fusermount(scene: Scene) -> str:
    target = _made(scene)
    with (
        _kernel(lets_mount=False),
        mock.patch.object(os, "geteuid", return_value=1000),
        mock.patch.object(server, "is_available", return_value=_NO_HELPER),
        mock.patch.object(fuse, "is_available", return_value=_NO_HELPER),
    ):
        return scene.run("mount", "os", target)


@case
def no_mountpoint(scene: Scene) -> str:
    _made(scene)
    return scene.run("mount", "os", scene.path / "gone")


@case
def image_changed(scene: Scene) -> str:
    target = _made(scene)
    with Repository.open(scene.repository) as repository:
        digest = repository.images.resolve("os")
    path = scene.repository / "objects" / digest.object_path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return scene.run("mount", "os", target)


@case
def nothing_selected(scene: Scene) -> str:
    scene.made()
    return scene.run("probe-image", "--cmdline", "root=/dev/vda ro")


@case
def selected_image_missing(scene: Scene) -> str:
    scene.made()
    return scene.run("probe-image", "--cmdline", f"composefs=?{'ab' * 32}")


@case
def selected_image_without_verity(scene: Scene) -> str:
    scene.made()
    return scene.run("probe-image", "--cmdline", f"composefs={'ab' * 32}")


@case
def nothing_mounted(scene: Scene) -> str:
    return scene.run("umount", _made(scene))


@case
def busy_mount(scene: Scene) -> str:
    error = contexts.failure("umount /mnt", OSError(errno.EBUSY, ""), remedies=mounts._UNMOUNT_REMEDIES)
    with mock.patch.object(unmounting, "unmount_image", side_effect=error):
        return scene.run("umount", "/mnt")


@case
def image_without_its_seal(scene: Scene) -> str:
    target = _made(scene)
    read = meta.read
    with mock.patch.object(meta, "read", lambda *arguments: (read(*arguments)[0], True)), _kernel():  # it is sealed
        return scene.run("mount", "os", target)


@case
def image_file_of_another_digest(scene: Scene) -> str:
    target = _made(scene)
    image = scene.path / "image.cfs"
    image.write_bytes(write_image(directory({"usr": directory()}), 1))
    options = f"basedir={scene.repository}/objects,digest={'ab' * 32}"
    other = Digest(Algorithm.SHA256, b"\xcd" * 32)
    with mock.patch.object(verity, "measure", return_value=other):
        return scene.run("mount.composefs", "-o", options, image, target)


@case
def image_file_without_its_seal(scene: Scene) -> str:
    target = _made(scene)
    image = scene.path / "image.cfs"
    image.write_bytes(write_image(directory({"usr": directory()}), 1))
    options = f"basedir={scene.repository}/objects,digest={'ab' * 32}"
    with mock.patch.object(verity, "measure", return_value=None):
        return scene.run("mount.composefs", "-o", options, image, target)
