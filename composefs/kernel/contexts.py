"""Contexts in which the kernel makes file systems, and what it says when it does not.

Source: fsopen(2), fsconfig(2), fsmount(2).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeVar

from composefs._native import mounts
from composefs.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

_Result = TypeVar("_Result")

_MESSAGE_SIZE = 8192  # bytes; a message is read whole or not at all
# Overlays in user namespaces take user.* xattrs only, and EROFS mounts there not at all.
PRIVILEGES = "be root outside of user namespaces (CAP_SYS_ADMIN)"
_REMEDIES = {errno.EPERM: PRIVILEGES, errno.EACCES: PRIVILEGES, errno.EINVAL: "the kernel's log may say more (dmesg)"}
_VERSIONS = {"erofs": "5.15", "overlay": "5.15"}  # of the kernels that have what composefs needs of them


class Context:
    """A file system that is being made; a context manager.

    Args:
        kind: its type, as in /proc/filesystems.

    Raises:
        MountError: there is no such type, or no right to make one.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        try:
            self._fd = mounts.fsopen(kind)
        except OSError as error:
            raise _not_opened(kind, error) from error

    def set_flag(self, key: str) -> None:
        """Set the option *key*, which has no value."""
        self._do(f"fsconfig {self._kind} {key}", mounts.fsconfig_flag, key)

    def set_string(self, key: str, value: str) -> None:
        """Set the option *key* to a text."""
        self._do(f"fsconfig {self._kind} {key}={value}", mounts.fsconfig_string, key, value)

    def set_fd(self, key: str, value: int) -> None:
        """Set the option *key* to what the descriptor *value* leads to."""
        self._do(f"fsconfig {self._kind} {key}={value}", mounts.fsconfig_fd, key, value)

    def create(self) -> None:
        """Make the file system of the options."""
        self._do(f"fsconfig {self._kind} create", mounts.fsconfig_create)

    def mount(self, *, read_only: bool = False, attributes: int = 0) -> int:
        """Return a descriptor of a detached mount of the file system made."""
        attributes |= mounts.MOUNT_ATTR_RDONLY if read_only else 0
        return self._do(f"fsmount {self._kind}", mounts.fsmount, attributes)

    def _do(self, step: str, call: Callable[..., _Result], *arguments: str | int) -> _Result:
        try:
            return call(self._fd, *arguments)
        except OSError as error:
            raise failure(step, error, self._messages()) from error

    def _messages(self) -> tuple[str, ...]:
        found = []
        try:
            while message := os.read(self._fd, _MESSAGE_SIZE):
                found.append(message.decode(errors="backslashreplace").strip())
        except OSError:  # ENODATA: that was all
            pass
        return tuple(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)


def failure(
    step: str, error: OSError, messages: tuple[str, ...] = (), remedies: Mapping[int, str] = _REMEDIES
) -> MountError:
    """Return what to raise for the *error* of a *step*.

    Args:
        step: what failed.
        error: what the kernel said.
        messages: what else it said.
        remedies: what to do about an error without messages, by its number.
    """
    number = error.errno or 0
    if number == errno.ENOSYS:
        sandbox = "a sandbox may forbid the call: run it outside, or use a newer kernel"
        return MountError(step, number, feature="the system calls of mounts (Linux 5.2)", remedy=sandbox)
    return MountError(step, number, messages=messages, remedy=None if messages else remedies.get(number))


def lacking(step: str, feature: str, remedy: str) -> MountError:
    """Return what to raise where the kernel lacks a *feature* of that version, and was not asked for it."""
    return MountError(step, errno.EOPNOTSUPP, feature=feature, remedy=remedy)


def _not_opened(kind: str, error: OSError) -> MountError:
    step = f"fsopen {kind}"
    if error.errno != errno.ENODEV:
        return failure(step, error)
    feature = f"the file system {kind} (Linux {_VERSIONS.get(kind, '?')})"
    return MountError(step, errno.ENODEV, feature=feature, remedy=f"load its module: modprobe {kind}")
