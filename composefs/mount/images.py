"""Mount an image of a repository.

What the kernel demands of the objects depends on the image:

    the repository requires fs-verity        the image must be sealed, and every object; else nothing is mounted
    it does not, but the image is sealed     every object must be, too, if this kernel can demand it
    neither                                  nothing: objects can be read whatever is in them

In each case the image itself is proved, measured or hashed, also where a reference or a tag leads to it.
"""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Self

from composefs import verity
from composefs.digest import Digest
from composefs.erofs.superblock import read_superblock
from composefs.errors import FormatError
from composefs.image.names import resolve
from composefs.kernel import Features, Mount, MountOptions, Verity
from composefs.kernel import mount_image as mount_by_kernel
from composefs.repository import Repository

SOURCE_PREFIX = "composefs:"  # of the name that a mount has in /proc/mounts

_SOURCE_MAX = 255  # bytes of a string that fsconfig(2) takes
_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_IDMAP_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image, its contents proved; a context manager that closes it.

    Attributes:
        digest: its id.
        file: the image, open for reading.
        verity: what the kernel must demand of its objects.
    """

    digest: Digest
    file: BinaryIO
    verity: Verity

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def open_image(repository: Repository, name: str) -> OpenImage:
    """Open the image that *name* stands for, to mount it.

    Args:
        repository: where it is.
        name: an id, a reference or a tag, as `composefs.image.resolve` takes it.

    Raises:
        NotFoundError: there is none.
        IntegrityError: it is broken, or not sealed where the repository requires that.
        FormatError: it is no composefs image.
        RepositoryError: what the name leads to is broken.
    """
    digest = resolve(repository, name)
    file = repository.objects.open(digest)
    try:
        check_image(file.fileno(), f"image {name}")
        is_sealed = verity.measure(file.fileno(), digest.algorithm) is not None
    except BaseException:
        file.close()
        raise
    if repository.verity:
        return OpenImage(digest, file, Verity.REQUIRED)
    return OpenImage(digest, file, Verity.TRY if is_sealed else Verity.DISABLED)


def check_image(fd: int, name: str) -> None:
    """Check that the file *fd*, called *name* in messages, begins as an image: the kernel would only say "invalid".

    What a block device begins with is left to the kernel.

    Raises:
        FormatError: it does not.
    """
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(name, 0, "neither a file nor a block device")
    if info.st_size == 0:  # which cannot be mapped
        read_superblock(b"", name)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        read_superblock(data, name)


def mount_image(
    repository: Repository,
    name: str,
    *,
    upper: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    read_write: bool = False,
    idmap: str | os.PathLike[str] | None = None,
    features: Features | None = None,
) -> Mount:
    """Mount an image of *repository*, detached: no path leads to it before `attach` of the result is called.

    That takes CAP_SYS_ADMIN in the initial user namespace.

    Args:
        repository: where the image is; may be closed afterwards.
        name: of the image: an id, a reference or a tag, as `composefs.image.resolve` takes it.
        upper: directory that takes what is written to the mount.
        work: empty directory beside *upper*, for the kernel's own use; with one there must be the other.
        read_write: let the mount be written to, which takes *upper*.
        idmap: file of a user namespace, such as `/proc/PID/ns/user`, by whose mapping of ids the image appears.
        features: use no more than these of the kernel; None: all that it has.

    Returns:
        The mount; close it when it is attached, or to be given up.

    Raises:
        UsageError: options that do not go together.
        NotFoundError: there is no such image.
        IntegrityError: the image is broken, or not sealed where the repository requires that.
        MountError: the kernel cannot do it, which is said before anything is mounted, or refuses to.
        OSError: a directory cannot be opened.
    """
    with open_image(repository, name) as image, ExitStack() as stack:

        def opened(path: str | os.PathLike[str], flags: int = _DIRECTORY_FLAGS) -> int:
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        options = MountOptions(
            source=source_of(name, image.digest),
            verity=image.verity,
            read_only=not read_write,
            upper_fd=None if upper is None else opened(upper),
            work_fd=None if work is None else opened(work),
            idmap_fd=None if idmap is None else opened(idmap, _IDMAP_FLAGS),
        )
        objects = repository.open_objects()
        stack.callback(os.close, objects)
        return mount_by_kernel(image.file.fileno(), [objects], options, features)


def source_of(name: str, digest: Digest) -> str:
    """Return what the mount is called, as `cfsctl` calls it; a name that is too long for the kernel gives way."""
    source = SOURCE_PREFIX + name
    return source if len(os.fsencode(source)) <= _SOURCE_MAX else SOURCE_PREFIX + digest.hex
