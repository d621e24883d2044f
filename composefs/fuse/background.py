"""Serve an image in a process of its own, which stays when this one ends.

That process is a new interpreter, not a fork: what threads, locks and descriptors the caller has does not matter.

    caller                          starter                        server
    start: an interpreter        ->
                                    a fork, and ends            -> opens repository and image, mounts
    reads its standard output,   <- - - - - - - - - - - - - - - -  its process id, or the exception; then serves
    until that ends

The server is in a session of its own, in the root directory, heeds signals, and has no descriptors but what it needs:
it holds the shared lock of the repository.  Its log goes to that of the system, once it serves.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from logging.handlers import SysLogHandler
from typing import NamedTuple, NoReturn

from composefs.errors import ComposefsError, MountError
from composefs.fuse.server import STOPS, check, serve
from composefs.image import Image
from composefs.repository import Repository

_SYSTEM_LOG = "/dev/log"
_MARK = b"composefs answers:"  # before it is what a sitecustomize module may have printed
_PROGRAM = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from composefs.fuse.background import run
run()
"""


@dataclass(frozen=True, slots=True)
class RepositoryImage:
    """The image *name* of the repository at *path*; *insecure*: do not require fs-verity, although it does."""

    path: str
    name: str
    insecure: bool = False

    def absolute(self) -> RepositoryImage:
        """Return the same for a process in another directory."""
        return replace(self, path=os.path.abspath(self.path))

    @contextmanager
    def open(self) -> Iterator[Image]:
        """Open it, proved; the repository stays locked as long."""
        with (
            Repository.open(self.path, upgrade=False, insecure=self.insecure) as repository,
            Image.open_image(repository, self.name) as image,
        ):
            yield image


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The image in the file *path*, whose contents are in the directory *objects*."""

    path: str
    objects: str

    def absolute(self) -> ImageFile:
        """Return the same for a process in another directory."""
        return ImageFile(os.path.abspath(self.path), os.path.abspath(self.objects))

    @contextmanager
    def open(self) -> Iterator[Image]:
        """Open it."""
        with Image.open_file(self.path, self.objects) as image:
            yield image


class _Request(NamedTuple):
    what: RepositoryImage | ImageFile
    mountpoint: str
    source: str | None
    allow_other: bool


def start(
    what: RepositoryImage | ImageFile,
    mountpoint: str | os.PathLike[str],
    *,
    source: str | None = None,
    allow_other: bool = False,
) -> int:
    """Serve an image at *mountpoint* until it is unmounted, or the server gets SIGTERM, and return when it is mounted.

    Args:
        what: the image; the server opens it itself.
        mountpoint: a directory.
        source: what /proc/mounts is to call it; by default `composefs:` and the id.
        allow_other: let in other users than the own; permissions are checked in any case.

    Returns:
        The process id of the server.

    Raises:
        MountError: FUSE is missing here, or it could not be mounted, or the server died.
        FileNotFoundError, NotADirectoryError: *mountpoint* is no directory.
        ComposefsError, OSError: the image could not be opened.
    """
    where = os.path.abspath(mountpoint)
    check(where)
    if not sys.executable:
        raise MountError(f"FUSE at {where}", errno.ENOENT, remedy="this program has no interpreter to start: use serve")
    request = _Request(what.absolute(), where, source, allow_other)
    with open(os.memfd_create("messages"), "rb") as errors:
        starter = subprocess.run(  # noqa: S603  # ourselves
            [sys.executable, "-P", "-c", _PROGRAM],
            input=pickle.dumps(_absolute(sys.path)) + pickle.dumps(request),
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            check=False,
        )
        errors.seek(0)
        messages = tuple(errors.read().decode("utf-8", "backslashreplace").splitlines())
    answer = starter.stdout.partition(_MARK)[2]
    if not answer:
        raise MountError(f"FUSE at {where}: the server died", errno.EIO, messages=messages[-1:])
    result: int | Exception = pickle.loads(answer)  # noqa: S301  # our own child wrote it
    if isinstance(result, int):
        return result
    if isinstance(result, MountError):
        result.messages += messages
    raise result


def _absolute(entries: Iterable[str]) -> list[str]:
    """Return *entries* of `sys.path` for a process in another directory."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been removed, so nothing is found there
        here = None
    return [os.path.join(here or "/", entry) for entry in entries if here is not None or os.path.isabs(entry)]


def run() -> NoReturn:
    """Be the starter, then the server."""
    request: _Request = pickle.load(sys.stdin.buffer)  # noqa: S301  # our parent wrote it
    if os.fork():
        os._exit(0)  # nobody waits for the server
    _serve(request)
    sys.exit()


def _serve(request: _Request) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, sys.stdin.fileno())
    answer_fd = os.dup(sys.stdout.fileno())
    os.dup2(null, sys.stdout.fileno())
    os.chdir("/")
    _heed_signals()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each open object takes one
    with open(answer_fd, "wb") as answer:
        answer.write(_MARK)

        def ready() -> None:
            os.dup2(null, sys.stderr.fileno())
            os.close(null)
            _log_to_system()
            pickle.dump(os.getpid(), answer)
            answer.close()  # a caller that has gone makes this fail, and ends the session

        try:
            with request.what.open() as image:
                serve(image, request.mountpoint, source=request.source, ready=ready, allow_other=request.allow_other)
        except (ComposefsError, OSError) as error:
            if answer.closed:
                logging.getLogger(__name__).error("%s: %s", request.mountpoint, error)
            else:
                pickle.dump(error, answer)


def _heed_signals() -> None:
    """Undo what the caller does with signals: it may have blocked them, or ignore them."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)


def _log_to_system() -> None:
    with suppress(OSError):  # there need not be any
        handler = SysLogHandler(_SYSTEM_LOG)
        handler.ident = f"composefs[{os.getpid()}]: "
        logging.basicConfig(handlers=[handler], format="%(message)s", level=logging.WARNING)
