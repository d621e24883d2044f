"""A registry that does wrong as told, on a raw socket of the loopback interface.

It is honest but for the requests that a script is for:

    with ScriptedServer() as server:
        server.contents.put_layout(layout.path, "x", "tag")
        server.script("GET .*/blobs/", answers.cut(1000), answers.cut(0, reset=True))
        import_image(repository, f"docker://{server.address}/x:tag", ...)
        assert [request.range for request in server.blob_requests] == [None, "bytes=1000-", "bytes=1000-"]
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from tests.registries.honest import Contents, Tokens
from tests.registries.serving import HOST
from tests.registries.tls import Certificate
from tests.registries.wire import Exchange, HungUpError, Reply, Request, read_request, refuse_tls

# How to answer: the exchange, and what an honest registry would say.
Answer = Callable[[Exchange, Reply], None]

_SEND_BUFFER = 1 << 16  # bytes: what the system takes for a client that does not read counts as sent


class _Script:
    """Answers for the requests that match *pattern*: each once, or the only one always."""

    def __init__(self, pattern: str, answers: tuple[Answer, ...], *, repeats: bool) -> None:
        self.pattern = re.compile(pattern)
        self._answers, self._repeats = deque(answers), repeats

    def take(self) -> Answer | None:
        """Return the next answer; None: all have been given."""
        if not self._answers:
            return None
        return self._answers[0] if self._repeats else self._answers.popleft()


class ScriptedServer:
    """The server, which runs while the context lasts.

    Args:
        tls: serve HTTPS with this certificate.
        tokens: ask for them, and give them out at /token.
        is_deaf: take connections, but never read or say anything.

    Attributes:
        contents: what it has.
        requests: all of them, in the order they came.
    """

    def __init__(self, *, tls: Certificate | None = None, tokens: Tokens | None = None, is_deaf: bool = False) -> None:
        self.contents = Contents()
        self.tokens = tokens
        self.requests: list[Request] = []
        self._is_deaf = is_deaf
        self._context = _server_context(tls) if tls else None
        self._scripts: list[_Script] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server((HOST, 0), backlog=64)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # connections inherit it
        self.port = int(self._listening.getsockname()[1])

    @property
    def address(self) -> str:
        """The host and port, as references have them."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The scheme, host and port."""
        return f"{'https' if self._context else 'http'}://{self.address}"

    def script(self, pattern: str, *answers: Answer) -> None:
        """Give the next requests whose "METHOD target" has *pattern* these *answers*, each once; then be honest."""
        with self._lock:
            self._scripts.append(_Script(pattern, answers, repeats=False))

    def always(self, pattern: str, answer: Answer) -> None:
        """Give each request whose "METHOD target" has *pattern* this *answer*, behind the scripts that are there."""
        with self._lock:
            self._scripts.append(_Script(pattern, (answer,), repeats=True))

    def cut_all(self) -> None:
        """End all connections that are open now."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def clear(self) -> None:
        """Forget the scripts, and the requests so far."""
        with self._lock:
            self._scripts.clear()
            self.requests.clear()

    @property
    def lines(self) -> list[str]:
        """The requests so far: method and target of each."""
        with self._lock:
            return [f"{request.method} {request.target}" for request in self.requests]

    @property
    def blob_requests(self) -> list[Request]:
        """The requests that get blobs."""
        with self._lock:
            return [request for request in self.requests if request.method == "GET" and "/blobs/" in request.path]

    @property
    def blob_bytes(self) -> int:
        """Bytes of blobs that were sent."""
        return sum(request.sent for request in self.blob_requests)

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self.cut_all()
        while self._threads:
            self._threads.pop().join()
        self._listening.close()

    def _begin(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)  # whoever joins those that are here joins the one that adds them, too

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(sock)
            if self._stopping.is_set():
                sock.close()
                return
            self._begin(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        speaking = sock
        try:
            if self._is_deaf:
                Exchange(sock, Request("", "", {}), self._stopping).wait_for_end()
            if self._context is not None:
                speaking = self._context.wrap_socket(sock, server_side=True)
                self._open.add(speaking)
            elif refuse_tls(sock):
                return
            self._answer_all(speaking, number)
        except (HungUpError, OSError):
            pass
        finally:
            with self._lock:
                self._open -= {sock, speaking}
            speaking.close()

    def _answer_all(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffered = bytearray()
        while (request := read_request(sock, buffered)) is not None:
            request.connection = number
            exchange = Exchange(sock, request, self._stopping)
            answer = self._choose(request)
            answer(exchange, self._honestly(request))
            if not exchange.is_open:
                return

    def _choose(self, request: Request) -> Answer:
        line = f"{request.method} {request.target}"
        with self._lock:
            self.requests.append(request)
            for script in self._scripts:
                if script.pattern.search(line) and (answer := script.take()) is not None:
                    return answer
        return Exchange.reply

    def _honestly(self, request: Request) -> Reply:
        if self.tokens is not None:
            if request.path == "/token":
                return self.tokens.give(request)
            if (refused := self.tokens.check(request)) is not None:
                return refused
        return self.contents.answer(request)


def _server_context(tls: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    return context
