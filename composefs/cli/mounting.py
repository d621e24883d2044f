"""What the commands share that mount an image: arguments, and the choice between the kernel and FUSE."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from typing import TYPE_CHECKING

from composefs.errors import MountError, UsageError

if TYPE_CHECKING:
    from composefs.repository import Repository

AUTO, YES, NO = "auto", "yes", "no"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to mount."""
    group = parser.add_argument_group("how it is mounted")
    group.add_argument("--upperdir", metavar="DIR", help="directory that takes changes, with --workdir")
    group.add_argument("--workdir", metavar="DIR", help="empty directory beside it, for the kernel's own use")
    group.add_argument("--read-write", action="store_true", help="let it be written to, which takes --upperdir")
    group.add_argument(
        "--idmap", metavar="FILE", help="show owners as a user namespace has them, such as /proc/PID/ns/user"
    )
    group.add_argument(
        "--fuse",
        nargs="?",
        const=YES,
        default=AUTO,
        choices=(AUTO, YES, NO),
        help="let a process serve it: yes, no, or auto, for those only whom the kernel does not let mount (default)",
    )
    group.add_argument("--foreground", action="store_true", help="with FUSE: serve until it is unmounted")


def check_options(arguments: argparse.Namespace) -> None:
    """Check the options that `add_options` has added.

    Raises:
        UsageError: some do not go together.
    """
    if (arguments.upperdir is None) != (arguments.workdir is None):
        raise UsageError("--upperdir and --workdir need each other")
    if arguments.read_write and arguments.upperdir is None:
        raise UsageError("--read-write needs --upperdir and --workdir")
    for option in ("upperdir", "workdir", "idmap"):
        if getattr(arguments, option) == "":
            raise UsageError(f"--{option} needs a path")
        if getattr(arguments, option) is not None and arguments.fuse == YES:
            raise UsageError(f"--{option} is for mounts by the kernel, which --fuse is not")
    if arguments.foreground and arguments.fuse == NO:
        raise UsageError("--foreground is for --fuse")


def find_mountpoint(path: str) -> str:
    """Return the directory *path* without links, before anything is mounted.

    Raises:
        OSError: it is none.
        UsageError: it is the root.
    """
    if not path:  # which realpath(3) takes for the current directory
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    try:
        target = os.path.realpath(path, strict=True)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            error.add_note("the server of an image died there: composefs umount cleans up")
        raise
    if not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if target == "/":
        raise UsageError("what is mounted at / is seen by nobody whose root is there already")
    return target


def mount(arguments: argparse.Namespace, repository: Repository, name: str, target: str) -> None:
    """Mount the image *name* at *target*, by the kernel or by FUSE as *arguments* say.

    Raises:
        MountError: that cannot be; nothing is mounted then.
    """
    if arguments.fuse == YES or (arguments.fuse == AUTO and not _may_mount(arguments)):
        _serve(arguments, repository, name, target)
        return
    from composefs.mount import mount_image

    try:
        with mount_image(
            repository,
            name,
            upper=arguments.upperdir,
            work=arguments.workdir,
            read_write=arguments.read_write,
            idmap=arguments.idmap,
        ) as mounted:
            mounted.attach(target)
    except MountError as error:
        is_lacking = error.feature is not None or error.errno == errno.EPERM
        if is_lacking and arguments.upperdir is None and arguments.idmap is None:
            error.add_note("or mount it with --fuse, which needs nothing of that")
        raise


def _may_mount(arguments: argparse.Namespace) -> bool:
    """Tell whether the kernel lets us mount.

    Raises:
        MountError: it does not, and there are options that only the kernel knows.
    """
    from composefs.privileges import may_mount

    if may_mount():
        return True
    for option in ("upperdir", "idmap"):
        if getattr(arguments, option) is not None:
            remedy = f"only the kernel can do --{option}, and only for root outside of user namespaces: run it as root"
            raise MountError("mount", errno.EPERM, remedy=remedy)
    return False


def _serve(arguments: argparse.Namespace, repository: Repository, name: str, target: str) -> None:
    """Mount with FUSE, and say so if it was not asked for."""
    from composefs import fuse
    from composefs.image import Image, resolve
    from composefs.mount import source_of

    def say() -> None:
        if arguments.fuse == AUTO:
            print(
                f"{target}: mounted with FUSE, since only root can have the kernel do it", file=sys.stderr, flush=True
            )

    digest = resolve(repository, name)
    source = source_of(name, digest)
    allow_other = os.geteuid() == 0  # as by the kernel: permissions are checked; others need leave in /etc/fuse.conf
    if arguments.foreground:
        with Image.open_image(repository, digest.hex) as image:
            fuse.serve(image, target, source=source, ready=say, allow_other=allow_other)
    else:
        image_of = fuse.RepositoryImage(repository.path, digest.hex, insecure=not repository.verity)
        fuse.start(image_of, target, source=source, allow_other=allow_other)
        say()
