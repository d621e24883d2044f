"""The session with the kernel: mfusepy, and what it leaves out.

mfusepy loads libfuse when it is imported, so nothing but `server` imports this, and late.  It binds the high-level
interface, which goes by paths.  Added are the metadata in listings (`find -ls` of 10,000 files: 0.13 s instead of
0.35 s), and that Python keeps what it has made for a thread (a look at one of 20,000 files: 35 us instead of 50).
The kernel could keep listings, too, but libfuse passes that wish on only since August 2023 (its pull request 822).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import mfusepy

from composefs.fuse.operations import Operations

_FOREVER = 1_000_000  # seconds that the kernel may keep what it was told: nothing ever changes
_THREADS = 10  # that wait for requests
_LIMIT_SINCE = (3, 12)  # libfuse has never more than that by default

# Of fuse_common.h, fuse.h.
_CAP_POSIX_ACL = 1 << 19
_CAP_CACHE_SYMLINKS = 1 << 23
_READDIR_PLUS = 1
_FILL_DIR_PLUS = 2

version: int = mfusepy.fuse_version_major
_LIBFUSE = (version, mfusepy.fuse_version_minor)


def caller() -> int:
    """Return the user who asks, from within a request."""
    return int(mfusepy.fuse_get_context()[0])


class Session(mfusepy.FUSE):  # type: ignore[misc]  # mfusepy has no types
    """A mounted file system; making one takes until it is unmounted.

    Args:
        operations: what is asked.
        mountpoint: a directory.
        ready: called when it is mounted.  An error ends the session, and is raised.
        allow_other: let other users in.
    """

    def __init__(
        self, operations: Operations, mountpoint: str, *, ready: Callable[[], None] | None, allow_other: bool
    ) -> None:
        self._ready = ready
        self._failure: BaseException | None = None
        self._known: set[int] = set()  # threads whose state is kept
        options: dict[str, Any] = {
            "foreground": True,  # libfuse would fork a process of several threads
            "ro": True,
            "default_permissions": True,
            "allow_other": allow_other,
            "fsname": _escaped(operations.source),
            "subtype": "composefs",
            "use_ino": True,
            "kernel_cache": True,
            "attr_timeout": _FOREVER,
            "entry_timeout": _FOREVER,
            "negative_timeout": _FOREVER,
            "max_idle_threads": _THREADS,  # the default of libfuse 3.14 is -1, of which it prints that this is too much
        }
        try:
            super().__init__(operations, mountpoint, **options)
        except RuntimeError:
            if self._failure is None:
                raise
        if self._failure is not None:
            raise self._failure

    def init_fuse_3(self, connection: Any, config: Any) -> None:
        """Say what is wanted from the kernel, and that it is mounted."""
        super().init_fuse_3(connection, config)
        info = connection.contents
        info.want |= info.capable & _CAP_CACHE_SYMLINKS
        if self.operations.may_have_acls:  # otherwise each user would ask for that of the root, at each path
            info.want |= info.capable & _CAP_POSIX_ACL
        try:
            if self._ready is not None:
                self._ready()
        except BaseException as error:  # libfuse would go on
            self._failure = error
            mfusepy.fuse_exit()

    def fgetattr(self, path: bytes, result: Any, file_info: Any) -> int:
        """Tell the metadata of a file."""
        self._keep_thread()
        return int(super().fgetattr(path, result, file_info))

    def read(self, path: bytes, buffer: Any, size: int, offset: int, file_info: Any) -> int:
        """Read from a file."""
        self._keep_thread()
        return int(super().read(path, buffer, size, offset, file_info))

    def readdir_fuse_3(self, _: bytes, buffer: Any, fill: Any, start: int, file_info: Any, flags: int) -> int:
        """List a directory, with the metadata if the kernel wants them."""
        whole = bool(flags & _READDIR_PLUS)
        result = mfusepy.c_stat()
        for name, found, following, is_whole in self.operations.readdir(file_info.contents.fh, start, whole=whole):
            mfusepy.set_st_attrs(result, found, use_ns=True)
            if fill(buffer, name, result, following, _FILL_DIR_PLUS if is_whole else 0):
                break
        return 0

    def _keep_thread(self) -> None:
        """Let Python keep the state of this thread, which it would make and drop for each request.

        It is kept until the process ends, so this is not for a libfuse that makes and drops threads.
        """
        thread = threading.get_ident()
        if thread not in self._known and _LIBFUSE >= _LIMIT_SINCE:
            self._known.add(thread)
            ctypes.pythonapi.PyGILState_Ensure()  # never released


def _escaped(text: str) -> str:
    """Return *text* as a value in a list of options."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
