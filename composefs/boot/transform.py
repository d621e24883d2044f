"""Make a file system tree bootable, as composefs-rs 0.9.4 does: /boot and /sysroot are emptied, everything is labelled.

A tree of a repository is also asked what it has to boot, since what is wrong with that stops the reference.
"""

from __future__ import annotations

import os
import stat

from composefs import limits, selinux
from composefs.boot.entries import ReadContent, check_entries, check_size, contents, regular
from composefs.errors import NotFoundError, TreeError
from composefs.transform import empty, required_directory
from composefs.tree import Backed, Directory


def transform_for_boot(root: Directory, read_content: ReadContent) -> None:
    """Make a tree of a repository that of a boot image, in place.

    Args:
        root: a tree to which the OCI transform was applied.
        read_content: gives the contents of a regular file that are not inline.

    Raises:
        NotFoundError: /boot, /sysroot or /usr does not exist.
        TreeError: one of these is no directory, or something to boot or the SELinux policy cannot be had.
        FormatError: the contents of something to boot or of the policy are wrong.
    """
    check_entries(root, read_content)
    _transform(root, selinux.Policy.load(lambda path: _policy_file(root, path, read_content)))


def transform_for_boot_from_directory(root: Directory, directory: str | os.PathLike[str]) -> None:
    """Make a tree that was read from *directory* that of a boot image, in place.

    As in the reference nothing is asked about boot entries, and symbolic links on the way to the policy are followed.

    Args:
        root: the tree.
        directory: where its policy is.

    Raises:
        NotFoundError: /boot, /sysroot or /usr does not exist.
        TreeError: one of these is no directory, or the SELinux policy cannot be had.
        FormatError: the policy is wrong.
        OSError: the policy cannot be read.
    """
    _transform(root, selinux.Policy.load(lambda path: _policy_file_on_disk(os.fspath(directory), path)))


def _transform(root: Directory, policy: selinux.Policy | None) -> None:
    usr = required_directory(root, b"/usr").stat
    for directory in [required_directory(root, path) for path in (b"/boot", b"/sysroot")]:
        empty(directory, usr)
    if policy is None:
        selinux.strip(root)
    else:
        selinux.relabel(root, policy)


def _policy_file(root: Directory, path: bytes, read_content: ReadContent) -> bytes | None:
    try:
        leaf = regular(root.node(path), path)
    except NotFoundError:
        return None
    content = leaf.content
    if isinstance(content, Backed) and content.path is None and content.digest is None:
        return None  # sparse: as if it were missing
    return contents(leaf, path, read_content, limits.POLICY_FILE_SIZE)


def _policy_file_on_disk(directory: str, path: bytes) -> bytes | None:
    place = os.fsencode(directory) + path
    try:
        # Not blocking: a fifo may lie there, on which nobody writes.
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise TreeError(place, "is not a regular file")
        check_size(place, status.st_size, limits.POLICY_FILE_SIZE)
        return file.read()
