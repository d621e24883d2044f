"""Images out of Docker's daemon: what it is asked, and what is made of each of its answers."""

import contextlib
import json
import os
import socket
import threading

import pytest

import composefs
from composefs.errors import ComposefsError, FormatError, NotFoundError, RegistryError, UsageError
from composefs.oci.sources import docker_daemon
from composefs.oci.sources.docker_daemon import open_daemon
from composefs.reference import DaemonReference, parse_name
from tests import archives
from tests.archives import config_of, pack
from tests.layouts import files_layer, noise

LAYERS = [files_layer({"a": noise(5000, 1)}), files_layer({"b": noise(70_000, 2)})]
CONFIG = config_of(LAYERS)
ARCHIVE = pack(archives.old_docker(LAYERS, ["docker.io/library/os:1"], CONFIG))
NAMED = DaemonReference(parse_name("os:1"), None, "docker-daemon:os:1")
BY_ID = DaemonReference(None, "a" * 64, f"docker-daemon:sha256:{'a' * 64}")


def answer(body, status="200 OK", *headers):
    lines = [f"HTTP/1.1 {status}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def with_length(body, status="200 OK"):
    return answer(body, status, f"Content-Length: {len(body)}")


def chunked(body, size=10_000):
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return answer(data + b"0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked")


@pytest.fixture
def daemon(tmp_path):
    """Return a function that says what to answer to one request; the requests are in its list."""
    path = tmp_path / "docker.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()

        def serve(data):
            def run():
                connection, _ = listener.accept()
                with connection:
                    serve.requests.append(connection.recv(65536).decode())
                    with contextlib.suppress(OSError):
                        connection.sendall(data)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join)
            return {"DOCKER_HOST": f"unix://{path}"}

        serve.requests = []
        yield serve


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return str(tmp_path / "spool")


@pytest.mark.parametrize("form", [with_length, chunked])
@pytest.mark.parametrize(
    ("reference", "asked"),
    [(NAMED, "docker.io%2Flibrary%2Fos%3A1"), (BY_ID, f"sha256%3A{'a' * 64}")],
)
def test_image(repository, daemon, spool, form, reference, asked, no_flush):
    """The archive that the daemon sends is imported, by workers too."""
    environ = daemon(form(ARCHIVE))

    with open_daemon(reference, environ, spool) as source:
        assert source.name == reference.text
        assert source.image().config_bytes == CONFIG
        result = composefs.import_image(repository, source, name="image", workers=2)

    assert [layer.diff_id for layer in result.layers] == [layer.diff_id for layer in LAYERS]
    assert daemon.requests[0].startswith(f"GET /images/get?names={asked} HTTP/1.1\r\n")
    assert os.listdir(spool) == []


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            with_length(json.dumps({"message": "no such image"}).encode(), "404 Not Found"),
            NotFoundError,
            "^the Docker daemon has no image docker.io/library/os:1: no such image$",
        ),
        (
            with_length(b"<b>broken</b>", "500 Internal Server Error"),
            RegistryError,
            "docker.sock: the Docker daemon does not give docker.io/library/os:1: <b>broken</b>$",
        ),
        (with_length(b"[" * 60_000, "500 Internal Server Error"), RegistryError, r"does not give .*: \[{200}$"),
        (with_length(b"[]", "403 Forbidden"), RegistryError, r"does not give docker.io/library/os:1: \[\]$"),
        (b"", RegistryError, "the Docker daemon does not answer: Remote end closed connection"),
        (b"SSH-2.0-OpenSSH\r\n", RegistryError, "the Docker daemon does not answer: SSH-2.0"),
        (with_length(ARCHIVE)[:20_000], RegistryError, "Docker's archive of docker.io/library/os:1 is cut: "),
        (chunked(ARCHIVE)[:20_000], RegistryError, "Docker's archive of docker.io/library/os:1 is cut: "),
        (
            with_length(b"no archive" * 100),
            FormatError,
            "^Docker's archive of docker.io/library/os:1, offset 0: no tar",
        ),
        (with_length(b""), FormatError, "^Docker's archive of docker.io/library/os:1, offset 0: archive is empty"),
    ],
)
def test_errors(daemon, spool, data, error, message):
    """What goes wrong is said in a line, and leaves nothing."""
    environ = daemon(data)
    with pytest.raises(error, match=message):
        open_daemon(NAMED, environ, spool)
    assert os.listdir(spool) == []


@pytest.mark.parametrize("form", [with_length, chunked])
def test_cuts(daemon, spool, form):
    """A connection that ends early is an error wherever it does."""
    data = form(ARCHIVE)
    for end in range(0, len(data), len(data) // 20):
        with pytest.raises(ComposefsError):
            open_daemon(NAMED, daemon(data[:end]), spool)


def test_silence(spool, monkeypatch):
    """A daemon that says nothing more is given up."""
    monkeypatch.setattr(docker_daemon, "_READ_TIMEOUT", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(socket.socket, "connect", lambda sock, _: os.dup2(theirs.fileno(), sock.fileno()))
        ours.sendall(with_length(ARCHIVE)[:1000])
        with pytest.raises(RegistryError, match="Docker's archive of docker.io/library/os:1 is cut: timed out"):
            open_daemon(NAMED, {"DOCKER_HOST": "unix:///x"}, spool)


def test_nobody_listens(tmp_path, spool):
    """Without a daemon the socket is named."""
    path = tmp_path / "none.sock"
    with pytest.raises(RegistryError, match=f"^{path}: the Docker daemon does not answer: .*No such file or directory"):
        open_daemon(NAMED, {"DOCKER_HOST": f"unix://{path}"}, spool)


@pytest.mark.parametrize(
    "host", ["tcp://127.0.0.1:2375", "ssh://me@host", "fd://", "unix://", "/var/run/docker.sock", "tcp://::1]"]
)
def test_other_hosts(spool, host):
    """What is no socket of this host is refused with what to do."""
    with pytest.raises(UsageError, match=f"^DOCKER_HOST is '{host}', which is no unix:///PATH; .* docker save$"):
        open_daemon(NAMED, {"DOCKER_HOST": host}, spool)
