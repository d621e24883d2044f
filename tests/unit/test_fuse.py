"""Whether images can be served is said in a line, with what to do, before anything is tried."""

import errno
import logging
import os
import signal
import socket
import sys

import pytest

import composefs
from composefs import MountError, fuse
from composefs.fuse import ImageFile, RepositoryImage, background, server
from tests import images


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host on which all is there."""
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(server, "DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(server, "find_spec", lambda _: object())
    monkeypatch.setattr(server, "find_library", lambda name: f"lib{name}.so.3")
    monkeypatch.setattr(server.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(server.os, "geteuid", lambda: 1000)
    return tmp_path


def test_available(host):
    assert fuse.is_available() is None


def test_no_package(host, monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "mfusepy" else object())

    assert fuse.is_available() == "the Python package mfusepy is missing: pip install 'composefs[fuse]'"


def test_no_library(host, monkeypatch):
    monkeypatch.setattr(server, "find_library", lambda _: None)

    assert fuse.is_available() == "libfuse 3 is missing: install the package fuse3"


def test_no_device(host):
    (host / "fuse").unlink()

    assert fuse.is_available() == f"{host}/fuse: No such file or directory: modprobe fuse"


def test_forbidden_device(host, monkeypatch):
    def refuse(path, _):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(server.os, "open", refuse)

    assert fuse.is_available() == f"{host}/fuse: Permission denied: chmod 666 {host}/fuse, as udev does"


def test_no_helper(host, monkeypatch):
    """Users need a set-uid program, root does not."""
    monkeypatch.setattr(server.shutil, "which", lambda _: None)
    assert fuse.is_available() == "fusermount3 is missing, without which only root can mount: install the package fuse3"

    monkeypatch.setattr(server.os, "geteuid", lambda: 0)
    assert fuse.is_available() is None


@pytest.mark.parametrize("call", [lambda path: fuse.serve(None, path), lambda path: fuse.start(None, path)])
def test_refused_early(host, monkeypatch, call):
    """Neither serving nor starting goes further than that."""
    monkeypatch.setattr(server, "find_library", lambda _: None)

    with pytest.raises(MountError) as caught:
        call(host)

    assert str(caught.value) == "FUSE: Operation not supported; libfuse 3 is missing: install the package fuse3"
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("call", [lambda path: fuse.serve(None, path), lambda path: fuse.start(None, path)])
def test_mountpoint(host, call):
    """What is no directory is told as the system does."""
    with pytest.raises(FileNotFoundError):
        call(host / "nothing")
    with pytest.raises(NotADirectoryError) as caught:
        call(host / "fuse")
    assert caught.value.filename == str(host / "fuse")


def test_absolute(tmp_path, monkeypatch):
    """The server, which is in another directory, gets whole paths."""
    monkeypatch.chdir(tmp_path)

    assert RepositoryImage("r", "refs/a").absolute() == RepositoryImage(f"{tmp_path}/r", "refs/a")
    assert RepositoryImage("r", "a", insecure=True).absolute() == RepositoryImage(f"{tmp_path}/r", "a", insecure=True)
    assert ImageFile("i", "../o").absolute() == ImageFile(f"{tmp_path}/i", f"{tmp_path.parent}/o")


def test_nothing_is_loaded_early():
    """What asks whether there is FUSE does not load libfuse."""
    script = "import composefs.fuse, sys; composefs.fuse.is_available(); sys.exit('mfusepy' in sys.modules)"

    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0


def test_log_of_the_system(tmp_path, monkeypatch):
    """In the background the log is that of the system, a line each."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(background, "_SYSTEM_LOG", path)
    root = logging.getLogger()
    former = root.handlers[:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(path)
        root.handlers = []
        try:
            background._log_to_system()
            logging.getLogger("composefs.fuse.contents").error("%s: broken", "/file")
            for handler in root.handlers:
                handler.close()
        finally:
            root.handlers = former
        log.settimeout(10)
        assert log.recv(1000).rstrip(b"\0") == b"<11>composefs[%d]: /file: broken" % os.getpid()


def test_no_log(tmp_path, monkeypatch):
    """Where there is none, nothing is told."""
    monkeypatch.setattr(background, "_SYSTEM_LOG", str(tmp_path / "log"))
    former = logging.getLogger().handlers[:]

    background._log_to_system()

    assert logging.getLogger().handlers == former


class StandIn:
    """Stands in for the module that loads libfuse."""

    def __init__(self, version=3, failure=None, handlers=None):
        self.version, self.failure, self.handlers = version, failure, handlers or {}
        self.caller = lambda: 0

    def Session(self, operations, mountpoint, **options):  # noqa: N802  # a class there
        self.source = operations.source
        assert {number: signal.getsignal(number) for number in self.handlers} == self.handlers
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def serve(host, monkeypatch):
    """Serve an image with a stand-in."""
    repository = host / "repository"
    composefs.Repository.init(repository, require_verity=False)
    with composefs.Repository.open(repository) as opened, images.open_tree(opened, images.directory()) as image:

        def call(stand_in, **options):
            monkeypatch.setitem(sys.modules, "composefs.fuse.session", stand_in)
            fuse.serve(image, host, **options)
            return stand_in.source.replace(image.id.hex, "ID")

        yield call


def test_sources(serve):
    assert serve(StandIn()) == "composefs:ID"
    assert serve(StandIn(), source="other") == "other"


def test_other_libfuse(serve):
    """Somebody may have loaded the old one before."""
    with pytest.raises(MountError, match="has loaded libfuse 2: set FUSE_LIBRARY_NAME=fuse3"):
        serve(StandIn(version=2))


def test_results(serve, host):
    """What fuse_main returns is an error if nothing was mounted; a signal is none."""
    for number in range(1, 7):
        with pytest.raises(MountError, match=f"FUSE at {host}: Input/output error"):
            serve(StandIn(failure=RuntimeError(number)))
    for number in (7, 8):
        serve(StandIn(failure=RuntimeError(number)))
    with pytest.raises(RuntimeError, match="a defect"):
        serve(StandIn(failure=RuntimeError("a defect")))


def test_handlers_come_back(serve):
    """The program has its handlers of signals again, whatever happened."""

    def handler(*_):
        pass

    former = signal.signal(signal.SIGTERM, handler)
    try:
        serve(StandIn(handlers={signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}))
        with pytest.raises(MountError):
            serve(StandIn(failure=RuntimeError(4)))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)


def test_ignored_signals(serve):
    """What nohup(1) lets a program ignore stays ignored."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        serve(StandIn(handlers={signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_foreign_handlers(serve, monkeypatch):
    """A handler that Python does not know, of the program that it is a part of, stays."""
    monkeypatch.setattr(server.signal, "getsignal", lambda _: None)
    monkeypatch.setattr(server.signal, "signal", lambda *_: pytest.fail("takes it away"))

    serve(StandIn())


def test_environment(monkeypatch):
    """Only while mfusepy is loaded it is told which libfuse; what somebody has chosen is left."""
    monkeypatch.delenv("FUSE_LIBRARY_NAME", raising=False)
    before = dict(os.environ)
    with server._library_chosen():
        assert os.environ["FUSE_LIBRARY_NAME"] == "fuse3"
    assert dict(os.environ) == before

    monkeypatch.setenv("FUSE_LIBRARY_NAME", "other")
    with server._library_chosen():
        assert os.environ["FUSE_LIBRARY_NAME"] == "other"
    assert os.environ["FUSE_LIBRARY_NAME"] == "other"


def test_no_interpreter(host, monkeypatch):
    """A program that has no interpreter of its own cannot start a server, and is told so."""
    monkeypatch.setattr(background.sys, "executable", "")

    with pytest.raises(MountError, match="no interpreter to start: use serve"):
        fuse.start(RepositoryImage("repository", "image"), host)


def test_paths_of_modules(tmp_path, monkeypatch):
    """The server finds modules where the caller does; where that is a directory that is gone, there are none."""
    entries = ["", "relative", "/absolute"]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert background._absolute(entries) == [f"{gone}/", f"{gone}/relative", "/absolute"]

    gone.rmdir()
    assert background._absolute(entries) == ["/absolute"]
