"""File system contexts, mounts and loop devices; all need privileges.

Source: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2), loop(4).
"""

from __future__ import annotations

from composefs._native.core import check, encode_path, ffi, lib

MOUNT_ATTR_RDONLY = 1  # <linux/mount.h>
MNT_DETACH = 2  # <sys/mount.h>: take it away, and let it end when nothing uses it any more
UMOUNT_NOFOLLOW = 8  # do not follow a symbolic link

# enum fsconfig_command of <linux/mount.h>
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6


def fsopen(kind: str) -> int:
    """Return a context, in which a file system of type *kind* is made; reading it gives the kernel's messages.

    Raises:
        OSError: as fsopen(2): ENODEV for a type that the kernel does not have, and others.
    """
    return check(lib.cfs_fsopen(encode_path(kind)))


def fsconfig_flag(fd: int, key: str) -> None:
    """Set an option without a value.

    Raises:
        OSError: as fsconfig(2).
    """
    check(lib.cfs_fsconfig(fd, _SET_FLAG, encode_path(key), ffi.NULL, 0))


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set an option whose value is a text, at most 255 bytes long.

    Raises:
        OSError: as fsconfig(2).
    """
    check(lib.cfs_fsconfig(fd, _SET_STRING, encode_path(key), encode_path(value), 0))


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Set an option whose value is a descriptor.

    Raises:
        OSError: as fsconfig(2).
    """
    check(lib.cfs_fsconfig(fd, _SET_FD, encode_path(key), ffi.NULL, value))


def fsconfig_create(fd: int) -> None:
    """Make the file system, or find the one that is the same.

    Raises:
        OSError: as fsconfig(2), and whatever the file system says.
    """
    check(lib.cfs_fsconfig(fd, _CREATE, ffi.NULL, ffi.NULL, 0))


def fsmount(fd: int, attributes: int = 0) -> int:
    """Return a mount of what was made in the context *fd*: it is attached nowhere, and ends with its descriptor.

    Args:
        fd: the context.
        attributes: 0 or several of `MOUNT_ATTR_RDONLY` and its like.

    Raises:
        OSError: as fsmount(2).
    """
    return check(lib.cfs_fsmount(fd, attributes))


def move_mount(fd: int, path: str) -> None:
    """Attach the detached mount *fd* at *path*.

    Raises:
        OSError: as move_mount(2).
    """
    check(lib.cfs_move_mount(fd, encode_path(path)), path)


def clone_mount(fd: int) -> int:
    """Return a detached mount of the directory *fd*.

    Raises:
        OSError: as open_tree(2).
    """
    return check(lib.cfs_clone_mount(fd))


def idmap_mount(fd: int, user_namespace_fd: int) -> None:
    """Let the detached mount *fd*, in which nothing is open, show ids as the user namespace maps them.

    Raises:
        OSError: as mount_setattr(2): EINVAL for a file system that cannot, and others.
    """
    check(lib.cfs_idmap_mount(fd, user_namespace_fd))


def unmount(path: str, flags: int = 0) -> None:
    """End the topmost mount at *path*.

    Args:
        path: where it is attached.
        flags: 0, `MNT_DETACH`, `UMOUNT_NOFOLLOW`.

    Raises:
        OSError: as umount2(2).
    """
    check(lib.cfs_unmount(encode_path(path), flags), path)


def find_loop_device(control_fd: int) -> int:
    """Return the number of a loop device that is free, which lasts until somebody takes it.

    Args:
        control_fd: /dev/loop-control.

    Raises:
        OSError: as LOOP_CTL_GET_FREE.
    """
    return check(lib.cfs_loop_find(control_fd))


def configure_loop_device(loop_fd: int, file_fd: int) -> None:
    """Let a loop device show a file, for reading, until nobody has the device open any more.

    Args:
        loop_fd: the device.
        file_fd: open for reading; is not needed after the call.

    Raises:
        OSError: as LOOP_CONFIGURE: EBUSY if the device shows something already, and others.
    """
    check(lib.cfs_loop_configure(loop_fd, file_fd))
