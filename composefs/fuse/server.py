"""Serve an image until it is unmounted."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from importlib.util import find_spec

from composefs.errors import MountError
from composefs.fuse.operations import Operations
from composefs.image import Image

DEVICE = "/dev/fuse"
_HELPER = "fusermount3"  # mounts for those who may not
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_VERSION, _LIBRARY = 3, "fuse3"  # of libfuse
_CHOICE = "FUSE_LIBRARY_NAME"  # by which mfusepy is told
_SERVED = 7  # the least that fuse_main returns if it failed when the file system was mounted already


def is_available() -> str | None:
    """Return None if images can be served here, else why not and what to do, in a line."""
    if find_spec("mfusepy") is None:
        return "the Python package mfusepy is missing: pip install 'composefs[fuse]'"
    if find_library(_LIBRARY) is None:
        return "libfuse 3 is missing: install the package fuse3"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        is_absent = error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}
        remedy = "modprobe fuse" if is_absent else f"chmod 666 {DEVICE}, as udev does"
        return f"{DEVICE}: {os.strerror(error.errno or 0)}: {remedy}"
    if os.geteuid() != 0 and shutil.which(_HELPER) is None:
        return f"{_HELPER} is missing, without which only root can mount: install the package fuse3"
    return None


def check(mountpoint: str) -> None:
    """Refuse early what libfuse would refuse in words of its own.

    Raises:
        MountError: images cannot be served here.
        FileNotFoundError, NotADirectoryError: *mountpoint* is no directory.
    """
    reason = is_available()
    if reason is not None:
        raise MountError("FUSE", errno.EOPNOTSUPP, remedy=reason)
    if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), mountpoint)


def serve(
    image: Image,
    mountpoint: str | os.PathLike[str],
    *,
    source: str | None = None,
    ready: Callable[[], None] | None = None,
    allow_other: bool = False,
) -> None:
    """Mount *image* at *mountpoint*, and serve it until it is unmounted.

    Contents are proved before they are served; what is broken gives EIO to the reader, and a line in the log.  The
    image is copied into memory, and proved again.  SIGINT, SIGTERM and SIGHUP unmount it, if this runs in the main
    thread and they are not ignored.  In another thread libfuse takes SIGTERM and SIGHUP, too, unless the program has
    handlers of its own, but they end nothing before the next request.  Reading goes on in several threads.

    Args:
        image: stays the caller's, with the lock of its repository.
        mountpoint: a directory.
        source: what /proc/mounts is to call it; by default `composefs:` and the id.
        ready: called when it is mounted.
        allow_other: let in other users than the own; permissions are checked in any case.

    Raises:
        MountError: FUSE is missing here, or it could not be mounted.
        FileNotFoundError, NotADirectoryError: *mountpoint* is no directory.
        FormatError, IntegrityError: the image has been changed since it was opened.
    """
    where = os.fspath(mountpoint)
    check(where)
    with _library_chosen():
        from composefs.fuse.session import Session, caller, version  # noqa: PLC0415  # loads libfuse

    if version != _VERSION:
        remedy = f"mfusepy has loaded libfuse {version}: set {_CHOICE}={_LIBRARY} before it is imported"
        raise MountError("FUSE", errno.EOPNOTSUPP, remedy=remedy)

    name = source or f"composefs:{image.id.hex if image.id is not None else image.reader.source}"
    operations = Operations(image.in_memory(), name, caller)
    try:
        with _stopped_by_signals():
            Session(operations, where, ready=ready, allow_other=allow_other)
    except RuntimeError as error:  # what mfusepy makes of what fuse_main returns
        if not (error.args and isinstance(error.args[0], int)):
            raise
        if error.args[0] < _SERVED:
            raise MountError(f"FUSE at {where}", errno.EIO) from None
    finally:
        operations.close()


@contextmanager
def _library_chosen() -> Iterator[None]:
    """Let mfusepy load version 3, where there is 2, too; only the environment can tell it."""
    if _CHOICE in os.environ:
        yield
        return
    os.environ[_CHOICE] = _LIBRARY
    try:
        yield
    finally:
        del os.environ[_CHOICE]


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let libfuse end the session at a signal; it takes only those that nobody handles or ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in STOPS}
    # None: a handler that Python does not know, and could not bring back.
    handled = {number: handler for number, handler in former.items() if handler not in {None, signal.SIG_IGN}}
    try:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
