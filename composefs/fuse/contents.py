"""Contents of files, proved before the first byte of them is served.

The first reading of an object measures it, if it is sealed, or hashes all of it; one of several GB takes seconds, once.
It stays open for a while afterwards, so that a library which each program reads is not hashed each time.  Whoever reads
the same content meanwhile gets the same file: an object that has been put in its place since is not needed.

What is changed in place, while it is proved or later, is noticed by its size and times, which are compared after each
reading: whatever writes to the file changes them, and it is hashed again.  A file that was changed just now is not
trusted until the clock of the file system has gone on, since another change would look the same.  Changes by an old
mapping, below the file system, by root, who can set the clock, or on a server with another clock are not noticed.  Only
fs-verity notices all.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

from composefs import verity
from composefs.digest import Digest
from composefs.errors import ComposefsError, IntegrityError
from composefs.image.contents import digest_of
from composefs.text import printable
from composefs.tree import Backed, Inline, Object

_KEEP = 4096  # proved files that stay open when nobody reads them; a guess, as is that a quarter of the limit is free
_OTHERS = 32  # files that are open at most besides: those that are read, repository, image, log, and some
_PAUSE = 1.0  # seconds until what failed is tried again: one reader may cause many requests
_TICK = 20_000_000  # nanoseconds; the clock of a file system makes steps of 10 ms at most (CONFIG_HZ=100), in Linux

_Key: TypeAlias = tuple[bytes | None, bytes | None, int]  # digest, path, size
_State: TypeAlias = tuple[int, int, int]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _File:
    """An object; *users* and *failure* are guarded by the lock of all files, the rest by its own."""

    key: _Key
    digest: Digest | None  # None: nothing is promised, so nothing can be proved
    lock: threading.Lock = field(default_factory=threading.Lock)  # held by the one who opens or proves
    file: BinaryIO | None = None
    proved: _State | None = None  # as it was when its proof began
    users: int = 0
    failure: float | None = None  # when

    def read(self, opener: Callable[[], BinaryIO], size: int, offset: int) -> bytes:
        """Return *size* bytes from *offset* on, proved; the first time, the file comes from *opener*."""
        file = self.file or self._open(opener)
        while True:
            proved = self.proved  # before the bytes are read, since others may prove what has been written since
            data = os.pread(file.fileno(), size, offset)
            if self.digest is None or _state(file) == proved:
                return data
            self._prove(file, self.digest)

    def _open(self, opener: Callable[[], BinaryIO]) -> BinaryIO:
        with self.lock:
            if self.file is None:
                begun = time.time_ns()
                file = opener()
                state = _state(file)
                if not _is_fresh(state, begun):  # else it may have been changed while it was proved
                    self.proved = state
                self.file = file
            return self.file

    def _prove(self, file: BinaryIO, digest: Digest) -> None:
        """Prove what may have been changed, as soon as that can be told from the next change.

        Most likely it only got another name, or lost one.
        """
        with self.lock:
            state, begun = _state(file), time.time_ns()
            if state == self.proved:
                return
            if _is_fresh(state, begun):
                time.sleep(_TICK / 1e9)
                return
            got = verity.measure(file.fileno(), digest.algorithm)
            got = got or verity.compute_file_digest(file.fileno(), digest.algorithm)
            if got != digest:
                raise IntegrityError(f"object {digest} after a change", digest.hex, got.hex)
            self.proved = state

    def close(self) -> None:
        """Close the file, if it could be opened."""
        if self.file is not None:
            self.file.close()


class Contents:
    """The contents of an image's files; several threads may read them.

    Args:
        source: what to call the image in the log.
        opener: opens and proves a content that is not in the image, as `Image.open_content`.
        keep: how many files are remembered that nobody reads, open or broken; by default as many as the limit of open
            files allows.
    """

    def __init__(self, source: str, opener: Callable[[Object | Backed], BinaryIO], keep: int | None = None) -> None:
        self._source, self._opener = source, opener
        self._keep = _affordable() if keep is None else keep
        self._lock = threading.Lock()
        self._files: dict[_Key, _File] = {}
        self._idle: OrderedDict[_Key, _File] = OrderedDict()  # of them, those that nobody reads; oldest first

    def read(self, content: Inline | Object | Backed, size: int, offset: int, path: bytes) -> bytes:
        """Return *size* bytes from *offset* on of *content*, less only at its end.

        Raises:
            OSError: EIO, it is missing or broken, or could not be read; the log says what, and that *path* has it.
        """
        if isinstance(content, Inline):
            return content.data[offset : offset + size]
        place = content.path if isinstance(content, Backed) else None
        if place is None and content.digest is None:  # zeros, which are nowhere
            return bytes(max(0, min(size, content.size - offset)))
        file = self._take((content.digest, place, content.size), digest_of(content))
        try:
            return file.read(lambda: self._opener(content), size, offset)
        except (ComposefsError, OSError) as error:
            if self._has_failed(file):
                _log.error("%s: %s: %s", self._source, printable(path), error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        finally:
            self._release(file)

    def close(self) -> None:
        """Close the files; nobody reads them any more."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
            self._idle.clear()

    def _take(self, key: _Key, digest: Digest | None) -> _File:
        with self._lock:
            file = self._files.get(key)
            if file is not None and file.failure is not None:
                if time.monotonic() - file.failure < _PAUSE:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                file = None
            if file is None:
                file = self._files[key] = _File(key, digest)
            self._idle.pop(key, None)
            file.users += 1
            return file

    def _has_failed(self, file: _File) -> bool:
        """Note that *file* has failed, and return whether that is new."""
        with self._lock:
            is_new = file.failure is None
            file.failure = time.monotonic()
            return is_new

    def _release(self, file: _File) -> None:
        with self._lock:
            file.users -= 1
            if file.users:
                return
            if file.failure is not None:
                file.close()
                if self._files.get(file.key) is not file:  # it is tried again already
                    return
            self._idle[file.key] = file
            if len(self._idle) <= self._keep:
                return
            key, unused = self._idle.popitem(last=False)
            del self._files[key]
        unused.close()


def _state(file: BinaryIO) -> _State:
    """Return what changes when somebody writes to *file*."""
    info = os.fstat(file.fileno())
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _is_fresh(state: _State, begun: int) -> bool:
    """Tell whether a file of this *state* was changed after *begun*, or so near to it that the times may not tell."""
    return begun - _TICK <= state[2] <= time.time_ns() + _TICK


def _affordable() -> int:
    """Return how many files may stay open that nobody reads."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _KEEP if limit == resource.RLIM_INFINITY else min(_KEEP, max(0, limit - _OTHERS) // 4)
