"""Whether images can be mounted: by the kernel, which is tried where this process may, or by FUSE."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from composefs import _native, fuse, kernel
from composefs.digest import Algorithm, Digest
from composefs.doctor.finding import Finding, Job, Status
from composefs.doctor.trial import reopen
from composefs.erofs.writer import write_image
from composefs.errors import MountError
from composefs.kernel.descriptors import closing
from composefs.privileges import may_serve
from composefs.repository.objects import DIRECTORY as OBJECTS
from composefs.text import describe_failure
from composefs.tree import Directory, Leaf, Object, Stat

_SOURCE = "composefs:doctor"
_FILE = "object"
_READ_SIZE = 4096  # bytes


class What(Enum):
    """What was mounted."""

    NEW = "a new image"
    OWN = "an image of the repository"


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a mount in a repository went, or in the directory where one would be.

    Attributes:
        what: was mounted; None: nothing could be tried.
        has_object: an object was read through it.
        problem: what failed, or why nothing could be tried; empty if nothing did.
        remedy: what the kernel's interface has to say about that.
    """

    what: What | None
    has_object: bool = False
    problem: str = ""
    remedy: str | None = None


def try_mount(
    directory: str, sample: str | None, algorithm: Algorithm, version: int, *, require_verity: bool
) -> Attempt:
    """Mount an image whose only file is the object *sample* in *directory*, where nobody sees it, and read the file.

    Where no image can be written, one of the repository's is mounted instead.

    Args:
        directory: the repository, or where one would be.
        sample: path of an object, below it; None: there is none.
        algorithm: of the repository.
        version: of the EROFS format of its images.
        require_verity: whether the kernel must enforce digests.
    """
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not kernel.probe().data_only_layers and not os.path.isdir(os.path.join(directory, OBJECTS)):
            return Attempt(None, problem="with this kernel it takes a directory of objects")
        with _image(dir_fd, sample, algorithm, version) as (what, image_fd):
            if what is None:
                return Attempt(None, problem="nothing can be written here, and there is no image")
            has_object = what is What.NEW and sample is not None
            try:
                _mount(dir_fd, image_fd, has_object=has_object, require_verity=require_verity)
            except MountError as error:
                return Attempt(what, has_object, _problem(error), error.remedy)
            except OSError as error:
                return Attempt(what, has_object, describe_failure(error))
            return Attempt(what, has_object)
    finally:
        os.close(dir_fd)


def find_fuse_obstacle() -> str | None:
    """Return why images cannot be served by FUSE, and behind the last colon what to do; None: they can."""
    obstacle = fuse.is_available()
    if obstacle is None and not may_serve():
        return "neither this process nor a helper gets the right to mount: run it outside of the container or sandbox"
    return obstacle


def judge_mount(attempt: Attempt | None, *, may_mount: bool) -> Finding:
    """Return what *attempt* means; None: it was not made."""
    needed_for = (Job.MOUNT,) if may_mount else ()
    remedy: str | None = None
    if not may_mount:
        status, found = Status.UNKNOWN, "this process has no right to mount"
        remedy = "run it as root; or composefs mount --fuse"
    elif attempt is None:
        status, found = Status.UNKNOWN, "not tried: the directory cannot be looked at"
    elif attempt.what is None:
        status, found = Status.UNKNOWN, f"not tried: {attempt.problem}"
    elif attempt.problem:
        status, found = Status.MISSING, f"{attempt.what.value} cannot be mounted here: {attempt.problem}"
        remedy = attempt.remedy or "look at the kernel's log (dmesg); until then composefs mount --fuse"
    else:
        status, found = Status.OK, f"{attempt.what.value} was mounted where nobody sees it"
        if attempt.has_object:
            found = f"{found}, and an object read through it"
    return Finding("mount.kernel", "by the kernel", status, found, remedy, needed_for)


def judge_fuse(obstacle: str | None, *, may_mount: bool) -> Finding:
    """Return what *obstacle* to FUSE means, None if there is none, for those who may mount otherwise, or may not."""
    needed_for = () if may_mount else (Job.MOUNT,)
    if obstacle is None:
        return Finding("mount.fuse", "by FUSE", Status.OK, "composefs mount --fuse can be used", None, needed_for)
    found, _, remedy = obstacle.rpartition(": ")
    return Finding("mount.fuse", "by FUSE", Status.MISSING, found, remedy, needed_for)


def _problem(error: MountError) -> str:
    """Return what is wrong, without the remedy."""
    if error.feature is not None:
        return f"{error.step}: this kernel lacks {error.feature}"
    return f"{error.step}: {'; '.join([error.strerror or '', *error.messages])}"


def _mount(dir_fd: int, image_fd: int, *, has_object: bool, require_verity: bool) -> None:
    verity = kernel.Verity.REQUIRED if require_verity else kernel.Verity.DISABLED
    with (
        _objects(dir_fd) as objects_fd,
        kernel.mount_image(image_fd, [objects_fd], kernel.MountOptions(_SOURCE, verity)) as mount,
    ):
        if not has_object:
            return
        with closing(os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=mount.fd)) as fd:
            os.read(fd, _READ_SIZE)


@contextmanager
def _image(dir_fd: int, sample: str | None, algorithm: Algorithm, version: int) -> Iterator[tuple[What | None, int]]:
    """Yield what can be mounted, and a descriptor of it, open for reading."""
    what, fd = What.NEW, _new_image(dir_fd, sample, algorithm, version)
    if fd is None:
        what, fd = What.OWN, _own_image(dir_fd)
    if fd is None:
        yield None, -1
        return
    with closing(fd):
        yield what, fd


def _new_image(dir_fd: int, sample: str | None, algorithm: Algorithm, version: int) -> int | None:
    """Return an unnamed file that is an image, in the file system of *dir_fd*; None if it cannot be written."""
    root = Directory(Stat(0o755, 0, 0, 0, 0))
    if sample is not None:
        _, directory, rest = sample.split("/")
        digest = Digest.from_hex(algorithm, directory + rest)
        size = os.stat(sample, dir_fd=dir_fd).st_size
        root.entries[_FILE.encode()] = Leaf(Stat(0o644, 0, 0, 0, 0), Object(size, digest.raw))
    try:
        writable = _native.store_file(dir_fd, write_image(root, version))
    except OSError:
        return None
    with closing(writable):
        return reopen(writable)


def _own_image(dir_fd: int) -> int | None:
    """Return an image of the repository *dir_fd*; None if there is none."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        images_fd = os.open("images", flags | os.O_DIRECTORY, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        for name in sorted(os.listdir(images_fd)):
            if name != "refs":
                return os.open(name, flags | os.O_NONBLOCK, dir_fd=images_fd)
    except OSError:  # fsck tells
        return None
    finally:
        os.close(images_fd)
    return None


@contextmanager
def _objects(dir_fd: int) -> Iterator[int]:
    """Yield the directory of objects; where there is none yet, another one does as well."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(OBJECTS, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        fd = os.open(".", flags, dir_fd=dir_fd)
    with closing(fd):
        yield fd
