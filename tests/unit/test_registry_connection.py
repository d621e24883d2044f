"""Connections: whom to believe, proxies, time limits, and what is said when they fail."""

import base64
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from composefs.errors import ConnectionLostError, FormatError, IntegrityError, RegistryError, UsageError
from composefs.registry import connection, pool, urls, watchdog
from composefs.registry.connection import Request, send
from composefs.registry.endpoint import Proxies, Tls
from composefs.registry.pool import close_connections, pool_manager
from composefs.registry.tls import tls_context
from tests.layouts import sha256
from tests.registries import answers
from tests.registries.scripted import ScriptedServer
from tests.registries.tls import _openssl, make_authority
from tests.registries.wire import read_request

DATA = bytes(range(256)) * 1000
DIGEST = sha256(DATA)
PATH = f"/v2/x/blobs/{DIGEST}"


pytestmark = pytest.mark.usefixtures("no_connections")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue("server", "127.0.0.1", "localhost")


@pytest.fixture
def server(server):
    server.contents.blobs[DIGEST] = DATA
    return server


@pytest.fixture
def secure(certificate):
    with ScriptedServer(tls=certificate) as running:
        running.contents.blobs[DIGEST] = DATA
        yield running


@pytest.fixture
def believed(authority):
    return Tls(authorities=(str(authority.certificate),))


ANY, DIRECT = Tls(), Proxies()


def get(url, tls=ANY, proxies=DIRECT, *, size=1 << 16, **options):
    with send(Request("GET", url, "data", **options), tls, proxies) as answer:
        return b"".join(iter(lambda: answer.read(size), b""))


def get_into(got, answer, size):
    while data := answer.read(size):
        got += data


# Who imports what


def test_urllib3_is_imported_when_it_is_used():
    """Neither the command nor an import from a directory waits for it."""
    code = "import sys, composefs.cli, composefs.oci.importer, composefs.oci.sources.opening; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "composefs.oci.importer" in done.stdout
    assert not {"urllib3", "composefs.registry.pool", "http.client"} & set(done.stdout.split())


def test_urllib3_is_imported_here_only():
    """One package knows it."""
    package = Path(connection.__file__).parents[1]
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) urllib3", path.read_text(), re.MULTILINE)
    }
    assert found == {"registry/connection.py", "registry/pool.py"}


# TLS


def test_a_private_authority(secure, believed):
    """CA: added to those of the system; without it the server is not believed."""
    assert get(f"{secure.url}{PATH}", believed) == DATA
    with pytest.raises(RegistryError, match="data: the certificate is not believed: ") as caught:
        get(f"{secure.url}{PATH}")
    assert not isinstance(caught.value, ConnectionLostError), "it would be tried again"


def test_another_host(authority, believed):
    """A certificate is for its names only."""
    with (
        ScriptedServer(tls=authority.issue("other", "other.example")) as running,
        pytest.raises(RegistryError, match="the certificate is not believed: IP address mismatch"),
    ):
        get(f"{running.url}/", believed)


def test_no_verification(secure):
    """Any certificate will do, and nobody warns."""
    assert get(f"{secure.url}{PATH}", Tls(verify=False)) == DATA


def test_client_certificates(certificate, authority, believed):
    """A server that wants to see one gets it."""
    mine = authority.issue("me")
    with ScriptedServer(tls=certificate) as running:
        running._context.load_verify_locations(authority.certificate)
        running._context.verify_mode = ssl.CERT_REQUIRED
        running.contents.blobs[DIGEST] = DATA
        shown = Tls(authorities=believed.authorities, certificates=((str(mine.certificate), str(mine.key)),))

        assert get(f"{running.url}{PATH}", shown) == DATA
        with pytest.raises(RegistryError):
            get(f"{running.url}{PATH}", believed)


def test_one_context(believed):
    """A context costs 60 ms: one for each kind of settings in a process; so are the connections."""
    assert tls_context(Tls()) is tls_context(Tls())
    assert tls_context(believed) is not tls_context(Tls())
    assert pool_manager(Tls(), None) is pool_manager(Tls(), None)


def test_other_places_of_the_system_store(monkeypatch, authority, secure, tmp_path):
    """A Python that was not built for this distribution misses the store: known places are looked at."""
    nothing = type("Paths", (), {"cafile": None, "capath": None})
    empty = type("Paths", (), {"cafile": None, "capath": str(tmp_path)})
    for paths in (nothing, empty):
        tls_context.cache_clear()
        close_connections()
        monkeypatch.setattr("ssl.get_default_verify_paths", lambda paths=paths: paths)
        monkeypatch.setattr("composefs.registry.tls._SYSTEM_STORES", ("/nowhere", str(authority.certificate)))
        assert get(f"{secure.url}{PATH}") == DATA
    tls_context.cache_clear()


def test_broken_settings(tmp_path, certificate, authority):
    """Each names the file that it is about."""
    rubbish, encrypted = tmp_path / "rubbish", tmp_path / "encrypted"
    rubbish.write_text("nothing")
    encrypted.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        + re.sub(r"-----.*-----\n", "", certificate.key.read_text())
        + "-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    pair = (str(certificate.certificate), str(certificate.key))
    with pytest.raises(FormatError, match=f"{rubbish}.*no certificates"):
        tls_context(Tls(authorities=(str(rubbish),)))
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        tls_context(Tls(authorities=("/nowhere",)))
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        tls_context(Tls(certificates=((pair[0], "/nowhere"),)))
    with pytest.raises(FormatError, match=f"{rubbish}"):
        tls_context(Tls(certificates=((str(rubbish), pair[1]),)))
    with pytest.raises(FormatError, match=pair[0]):
        tls_context(Tls(certificates=((pair[0], str(authority.key)),)))


def test_encrypted_key(tmp_path, authority):
    """Nobody is asked for a passphrase at the terminal."""
    mine = authority.issue("encrypted")
    key = tmp_path / "encrypted.key"
    _openssl("pkcs8", "-topk8", "-in", mine.key, "-out", key, "-passout", "pass:x")

    with pytest.raises(UsageError, match=f"{key}: the key is encrypted"):
        tls_context(Tls(certificates=((str(mine.certificate), str(key)),)))


# Proxies


class Proxy:
    """A proxy of HTTP: forwards, and tunnels."""

    def __init__(self, status=200, user=None):
        self.status, self.user = status, user
        self.heads = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._open = []

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        for sock in self._open:
            with_suppressed(lambda sock=sock: sock.shutdown(socket.SHUT_RDWR))
        for thread in self._threads:
            thread.join()
        for sock in (self._listening, *self._open):
            sock.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(sock)
            self._threads.append(threading.Thread(target=with_suppressed, args=(lambda sock=sock: self._serve(sock),)))
            self._threads[-1].start()

    def _serve(self, sock):
        request = read_request(sock, bytearray())
        self.heads.append((f"{request.method} {request.target}", request.headers))
        if self.status != 200:
            sock.sendall(f"HTTP/1.1 {self.status} No way\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if request.method == "CONNECT":
            host, _, port = request.target.partition(":")
            target = socket.create_connection((host, int(port)))
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            address, _, path = request.target.removeprefix("http://").partition("/")
            host, _, port = address.partition(":")
            target = socket.create_connection((host, int(port)))
            target.sendall(f"{request.method} /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        self._open.append(target)
        back = threading.Thread(target=with_suppressed, args=(lambda: copy(target, sock),))
        back.start()
        with_suppressed(lambda: copy(sock, target))
        back.join()


def copy(source, target):
    while data := source.recv(1 << 16):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def with_suppressed(call):
    with suppress(OSError):
        call()


@contextmanager
def everything_proxied(monkeypatch):
    """Even this machine is reached by the proxy."""
    monkeypatch.setattr("composefs.registry.endpoint._is_this_machine", lambda _: False)
    yield


def test_a_proxy_forwards(server, monkeypatch):
    """HTTP: the proxy gets the whole URL, and its own password, which the server does not get."""
    with Proxy() as proxy, everything_proxied(monkeypatch):
        proxies = Proxies(http=f"http://me:hunter%2F22@{proxy.address}")
        assert get(f"{server.url}{PATH}", proxies=proxies) == DATA
        ((line, headers),) = proxy.heads
        close_connections()
    assert line == f"GET {server.url}{PATH}"
    assert headers["proxy-authorization"] == "Basic bWU6aHVudGVyLzIy"
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("typed", ["%D0%BF%C3%A9:%FF", "\u043f\xe9:%FF"])
def test_a_password_for_a_proxy_in_any_letters(server, monkeypatch, typed):
    """It gets the bytes that the URL has, or UTF-8 of it."""
    with Proxy() as proxy, everything_proxied(monkeypatch):
        get(f"{server.url}{PATH}", proxies=Proxies(http=f"http://{typed}@{proxy.address}"))
        ((_, headers),) = proxy.heads
        close_connections()
    assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")) == "\u043f\xe9:".encode() + b"\xff"


def test_a_proxy_tunnels(secure, believed, monkeypatch):
    """HTTPS: the proxy connects, and sees nothing; a URL without a scheme is one of HTTP, as Go takes it."""
    with Proxy() as proxy, everything_proxied(monkeypatch):
        assert get(f"{secure.url}{PATH}", believed, Proxies(https=proxy.address)) == DATA
        ((line, headers),) = proxy.heads
        close_connections()
    assert line == f"CONNECT {secure.address}"
    assert "proxy-authorization" not in headers


def test_no_proxy_for_this_machine(server):
    """Loopback is never proxied."""
    assert get(f"{server.url}{PATH}", proxies=Proxies(http="http://127.0.0.1:9", https="http://127.0.0.1:9")) == DATA


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_refuses(secure, believed, monkeypatch, status):
    """It is named, without its password."""
    with Proxy(status) as proxy, everything_proxied(monkeypatch):
        with pytest.raises(RegistryError, match=f"proxy.*{status}") as caught:
            get(f"{secure.url}{PATH}", believed, Proxies(https=f"http://me:hunter22@{proxy.address}"))
        close_connections()
    assert "hunter22" not in str(caught.value)
    assert not isinstance(caught.value, ConnectionLostError)


def test_no_proxy_there(server, monkeypatch):
    """One that is down is named."""
    with (
        everything_proxied(monkeypatch),
        pytest.raises(RegistryError, match="through the proxy 127.0.0.1:9: connection refused"),
    ):
        get(f"{server.url}{PATH}", proxies=Proxies(http="http://me:hunter22@127.0.0.1:9"))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ["http://u:secret@h:x", "http://[::1", "http://", "://x", "a b:1", "http://h:99999"])
def test_what_is_no_proxy(proxy, scheme):
    """It is the proxy that is wrong, and not what is asked for."""
    with pytest.raises(UsageError, match="^the proxy that is configured is no URL of one") as caught:
        send(Request("GET", f"{scheme}://registry.example/", "data"), ANY, Proxies(https=proxy, http=proxy))
    assert "secret" not in str(caught.value)


def test_a_proxy_without_a_scheme():
    """It is one of HTTP, as for Go."""
    with pytest.raises(RegistryError, match="through the proxy proxy.invalid:3128: the name of the host cannot"):
        send(Request("GET", "https://registry.example/", "data"), ANY, Proxies(https="proxy.invalid:3128"))


def test_a_proxy_of_another_kind(server, monkeypatch):
    """What we cannot do is refused."""
    with everything_proxied(monkeypatch), pytest.raises(UsageError, match="socks5 is not supported") as caught:
        get(f"{server.url}{PATH}", proxies=Proxies(http="socks5://me:hunter22@127.0.0.1:9"))
    assert "hunter22" not in str(caught.value)


# Time limits


@pytest.fixture
def impatient(monkeypatch):
    """Limits of 0.3 s, and 1 kB in that time."""
    monkeypatch.setattr(watchdog, "_PERIOD", 0.02)
    monkeypatch.setattr(connection, "READ_TIME", 0.3)
    monkeypatch.setattr(connection, "SLOWEST", 1_000_000)
    monkeypatch.setattr(pool, "HANDSHAKE_TIME", 0.3)


def deaf_tls():
    """A server that begins a handshake and goes on with a byte now and then."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        sock, _ = listening.accept()
        with sock:
            sock.recv(1 << 16)
            with_suppressed(
                lambda: [
                    (sock.sendall(byte), time.sleep(0.05))
                    for byte in [b"\x16", b"\x03", b"\x03", b"\x40", *[b"\0"] * 200]
                ]
            )

    return listening, threading.Thread(target=serve)


def test_slow_handshake(impatient):
    """1 byte after the other in the handshake: it ends as a whole."""
    listening, thread = deaf_tls()
    thread.start()
    began = time.monotonic()

    with pytest.raises(ConnectionLostError, match="no answer in time"):
        get(f"https://127.0.0.1:{listening.getsockname()[1]}/")

    assert time.monotonic() - began < 3
    listening.close()
    thread.join()


def test_slow_headers(server, impatient):
    """1 byte after the other in the headers."""
    server.always("GET .*/blobs/", answers.slow_head(40))
    began = time.monotonic()

    with pytest.raises(ConnectionLostError, match="no answer in time"):
        get(f"{server.url}{PATH}", patience=0.3)

    assert time.monotonic() - began < 3


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("size", [100, 1 << 16, 1 << 22])
def test_slow_bodies(server, secure, believed, impatient, tls, size):
    """A body that stalls: less than the least rate for the time, however it is read."""
    running = secure if tls else server
    running.script("GET .*/blobs/", answers.slow(2000))
    began = time.monotonic()

    with pytest.raises(ConnectionLostError, match="less than 1000000 bytes a second"):
        get(f"{running.url}{PATH}", believed if tls else ANY, size=size)

    assert 0.25 < time.monotonic() - began < 3


def test_slow_readers(server, impatient):
    """It is the server that has to be fast: what reads may take its time."""
    with send(Request("GET", f"{server.url}{PATH}", "data"), ANY, DIRECT) as answer:
        got = b""
        while data := answer.read(100_000):
            got += data
            time.sleep(0.2)
    assert got == DATA


def test_silence_in_a_body(server, impatient):
    """Nothing at all."""
    server.script("GET .*/blobs/", answers.stall(1000))
    with pytest.raises(ConnectionLostError):
        get(f"{server.url}{PATH}", patience=0.2)


def test_abort(server):
    """Another thread can end a reading."""
    server.script("GET .*/blobs/", answers.stall(1000))
    with send(Request("GET", f"{server.url}{PATH}", "data"), ANY, DIRECT) as answer:
        threading.Timer(0.1, answer.abort).start()
        began = time.monotonic()
        with pytest.raises(ConnectionLostError):
            get_into(bytearray(), answer, 1 << 16)
        assert time.monotonic() - began < 5
    answer.abort()


# Answers


@pytest.mark.parametrize("size", [0, 1, 99_999, len(DATA) - 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_short_bodies(server, size, chunked):
    """What came is given, all of it; then it is said that it was not all, each time it is asked."""
    server.script("GET .*/blobs/", answers.cut(size, chunked=chunked))
    got = bytearray()
    with send(Request("GET", f"{server.url}{PATH}", "data"), ANY, DIRECT) as answer:
        with pytest.raises(ConnectionLostError, match="the connection ended before the answer did"):
            get_into(got, answer, 70_000)
        with pytest.raises(ConnectionLostError):
            answer.read(1)
    assert got == DATA[:size]


def test_endless_headers(server):
    """They end, for us."""
    server.always("GET /endless", answers.endless_headers)
    with pytest.raises(RegistryError):
        get(f"{server.url}/endless")


@pytest.mark.parametrize("size", [0, 5, 12, 15, 17, 20, 34, 36, 40, 52, 54, 60])
def test_headers_that_are_cut(server, size, caplog):
    """Wherever the connection ends: it is lost, not an answer without a body; and nobody logs the URL."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\n"

    def cut(exchange, _):
        exchange.raw(head[:size])
        exchange.hang_up()

    server.script("GET .*/blobs/", cut)
    with pytest.raises(ConnectionLostError):
        get(f"{server.url}{PATH}?signature=secret")
    assert "secret" not in caplog.text


def test_bodies_without_a_length(server):
    """They end with the connection."""

    def answer(exchange, _):
        exchange.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        exchange.body(DATA)
        exchange.hang_up()

    server.script("GET .*/blobs/", answer)
    assert get(f"{server.url}{PATH}") == DATA


def test_no_http(server):
    """An answer that is none."""
    server.always("GET /odd", lambda exchange, _: exchange.raw(b"SSH-2.0-x\r\n\r\n") or exchange.hang_up())
    with pytest.raises(ConnectionLostError):
        get(f"{server.url}/odd")


def test_bodies_are_not_decoded(server):
    """Bytes are given as they come."""
    server.script("GET .*/blobs/", answers.encoded)
    assert get(f"{server.url}{PATH}")[:2] == b"\x1f\x8b"


def test_load_stops(server):
    """A document is read up to its limit, and not much more."""
    server.always("GET /endless", answers.endless_body)
    with send(Request("GET", f"{server.url}/endless", "x"), ANY, DIRECT) as answer:
        answer.load(100_000)
    assert len(answer.body) == 100_001
    close_connections()
    assert server.requests[-1].sent < 10_000_000


def test_connections_are_kept(server):
    """One is enough, one after the other: also behind HEAD, errors, redirects and documents."""
    server.always("GET /missing", answers.say(404, {}, b"x" * 1000))
    for number in range(3):
        assert get(f"{server.url}{PATH}") == DATA
        send(Request("GET", f"{server.url}/missing", "x"), ANY, DIRECT).discard()
        send(Request("HEAD", f"{server.url}{PATH}", "x"), ANY, DIRECT).close()
        with send(Request("GET", f"{server.url}/missing", "x"), ANY, DIRECT) as answer:
            answer.load(5000)
        assert answer.body == b"x" * 1000, number
    assert {request.connection for request in server.requests} == {0}


def test_unread_connections_are_not_kept(server):
    """Who does not read to the end leaves no bytes for the next."""
    for _ in range(2):
        with send(Request("GET", f"{server.url}{PATH}", "x"), ANY, DIRECT) as answer:
            answer.read(10)
    send(Request("GET", f"{server.url}{PATH}", "x"), ANY, DIRECT).discard()
    assert len({request.connection for request in server.requests}) == 3


def test_a_child_opens_its_own(server):
    """No connection is used across a fork."""
    assert get(f"{server.url}{PATH}") == DATA
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # in the child
        os._exit(0 if get(f"{server.url}{PATH}") == DATA else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert get(f"{server.url}{PATH}") == DATA

    assert [request.connection for request in server.requests] == [0, 1, 0]


# Requests


def test_bodies_are_sent(server):
    """In pieces, with their length, which has to be right."""
    server.always("PUT /x", answers.say(201))
    with send(
        Request("PUT", f"{server.url}/x", "x", body=[DATA, b"", b"end"], body_size=len(DATA) + 3), Tls(), Proxies()
    ):
        pass
    send(Request("POST", f"{server.url}/x", "x"), ANY, DIRECT).close()

    assert server.requests[0].body == DATA + b"end"
    assert server.requests[0].headers["content-length"] == str(len(DATA) + 3)
    assert server.requests[1].headers["content-length"] == "0"
    for size, got in ((len(DATA) + 1, f"{len(DATA)} bytes"), (len(DATA) - 1, "more")):
        with pytest.raises(IntegrityError, match=f"wanted {size} bytes, got {got}"):
            send(Request("PUT", f"{server.url}/x", "x", body=[DATA], body_size=size), ANY, DIRECT)


def test_what_a_body_raises(server):
    """A failure of who makes the body is not one of the connection."""

    def broken():
        yield b"x"
        raise FileNotFoundError(2, "No such file", "/layer")

    with pytest.raises(FileNotFoundError, match="/layer"):
        send(Request("PUT", f"{server.url}/x", "x", body=broken(), body_size=5), ANY, DIRECT)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://" + "a" * 300 + "/", "http://exa mple/"])
def test_urls_that_lead_nowhere(url):
    """Typed, in one line."""
    with pytest.raises((RegistryError, ValueError)):
        get(url)


def test_a_name_that_is_not_known():
    """Names that never exist."""
    with pytest.raises(RegistryError, match="the name of the host cannot be resolved") as caught:
        get("http://registry.invalid/?signature=abc")
    assert "signature" not in str(caught.value)


def test_header_that_cannot_be_sent(server):
    """It is not shown: it may be a password."""
    with pytest.raises(RegistryError, match="cannot be sent") as caught:
        get(f"{server.url}/", headers={"Authorization": "Bearer a\nb-secret"})
    assert "secret" not in str(caught.value)


def test_what_signs_a_url():
    """The query is taken for a secret as a whole, and in its parts, in both ways that a server may write them."""
    found = urls.url_secrets("https://storage.example/x?Credential=AKIA%2F2026&sig=abcdef&flag")

    assert {"Credential=AKIA%2F2026&sig=abcdef&flag", "AKIA%2F2026", "AKIA/2026", "abcdef"} <= set(found)
    assert urls.url_secrets("https://storage.example/x") == ()
    assert "sig" not in repr(connection.Request("GET", "https://storage.example/x?sig=abcdef", "x"))
