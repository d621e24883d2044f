"""HTTP/1.1 on a socket, for a server that does wrong on purpose: requests read, answers sent as told, bytes counted."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_HEAD_MAX = 1 << 16  # bytes of a request's head
_PIECE = 1 << 16  # bytes that are sent at a time
_REASONS = {200: "OK", 206: "Partial Content", 307: "Temporary Redirect", 401: "Unauthorized", 404: "Not Found"}
_TLS_HANDSHAKE = b"\x16"  # type of the first record, RFC 8446, 5.1
_RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds: close() sends RST and drops what is not sent


class HungUpError(Exception):
    """The client has gone, or the server ends."""


@dataclass
class Request:
    """One request, and what it was answered.

    Attributes:
        target: as in the request line: path and query.
        headers: by lower-case name; of several with one name the values are joined by commas.
        status: of the answer; 0: none yet.
        sent: bytes of the answer's body that the system was given for the client.
        connection: number of the connection, from 0.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    status: int = 0
    sent: int = 0
    connection: int = 0

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What is behind the question mark."""
        return self.target.partition("?")[2]

    @property
    def range(self) -> str | None:
        """The header Range."""
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        """The header Authorization."""
        return self.headers.get("authorization")


@dataclass(frozen=True)
class Reply:
    """An answer: what an honest registry would say, or a script.

    Attributes:
        whole: what *body* is a range of; None: it is no range.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bytes | None = None


class Exchange:
    """One request that is to be answered on a connection."""

    def __init__(self, sock: socket.socket, request: Request, stopping: threading.Event) -> None:
        self._sock, self.request, self._stopping = sock, request, stopping
        self.is_open = True  # the connection is, for another request

    @property
    def has_body(self) -> bool:
        """Tell whether an answer has one; to HEAD it has not."""
        return self.request.method != "HEAD"

    def reply(self, reply: Reply) -> None:
        """Send all of *reply*, with its length."""
        self.head(reply.status, {"Content-Length": str(len(reply.body)), **reply.headers})
        self.body(reply.body)

    def head(self, status: int, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Send the status line and *headers* as they are."""
        self.request.status = status
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Whatever')}",
            *(f"{name}: {value}" for name, value in pairs),
        ]
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def body(self, data: bytes, rate: float | None = None) -> None:
        """Send *data* of the body, at most *rate* bytes per second; to HEAD nothing is sent."""
        if self.has_body:
            self._send(data, rate, counts=True)

    def chunk(self, data: bytes) -> None:
        """Send *data* as a chunk; an empty one is the end."""
        self.raw(f"{len(data):x}\r\n".encode())
        self.body(data)
        self.raw(b"\r\n")

    def raw(self, data: bytes, rate: float | None = None) -> None:
        """Send *data*, which is not of the body."""
        self._send(data, rate, counts=False)

    def _send(self, data: bytes, rate: float | None, *, counts: bool) -> None:
        piece = _PIECE if rate is None else max(1, min(_PIECE, int(rate / 50)))
        view, start, done = memoryview(data), time.monotonic(), 0
        while done < len(view):
            if rate is not None:
                self.sleep(start + done / rate - time.monotonic())
            part = view[done : done + piece]
            self.request.sent += len(part) if counts else 0  # before the client can have it
            try:
                self._sock.sendall(part)
            except OSError as error:
                raise HungUpError from error
            done += len(part)

    def sleep(self, seconds: float) -> None:
        """Wait, unless the server ends."""
        if seconds > 0 and self._stopping.wait(seconds):
            raise HungUpError

    def wait_for_end(self) -> None:
        """Say nothing until the client has gone."""
        self._sock.settimeout(0.05)
        while not self._stopping.is_set():
            try:
                if not self._sock.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        raise HungUpError

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection: with FIN, behind what was sent, or with RST, which drops what was not yet taken."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
        else:
            _quietly_shut(self._sock)
        self._sock.close()
        self.is_open = False


def refuse_tls(sock: socket.socket) -> bool:
    """Refuse who begins with TLS, as servers of plain HTTP do; tell whether that was so."""
    if sock.recv(1, socket.MSG_PEEK) != _TLS_HANDSHAKE:
        return False
    sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
    return True


def read_request(sock: socket.socket, buffered: bytearray) -> Request | None:
    """Return the next request of the connection; None: there is none any more.  *buffered* keeps what is behind it."""
    head = _read_until(sock, buffered, b"\r\n\r\n")
    if head is None:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key, value = name.strip().lower(), value.strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    body = _read_body(sock, buffered, headers)
    return None if body is None else Request(method, target, headers, body)


def _read_body(sock: socket.socket, buffered: bytearray, headers: Mapping[str, str]) -> bytes | None:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return _read_exactly(sock, buffered, int(headers.get("content-length", "0")))
    body = bytearray()
    while True:
        size = _read_until(sock, buffered, b"\r\n")
        chunk = None if size is None else _read_exactly(sock, buffered, int(size, 16) + 2)
        if chunk is None:
            return None
        if chunk == b"\r\n":
            return bytes(body)
        body += chunk[:-2]


def _read_until(sock: socket.socket, buffered: bytearray, end: bytes) -> bytes | None:
    """Return what comes before *end*; None: the connection is over."""
    while (found := buffered.find(end)) < 0:
        if len(buffered) > _HEAD_MAX or not _receive(sock, buffered):
            return None
    taken = bytes(buffered[:found])
    del buffered[: found + len(end)]
    return taken


def _read_exactly(sock: socket.socket, buffered: bytearray, size: int) -> bytes | None:
    while len(buffered) < size:
        if not _receive(sock, buffered):
            return None
    taken = bytes(buffered[:size])
    del buffered[:size]
    return taken


def _receive(sock: socket.socket, buffered: bytearray) -> bool:
    try:
        data = sock.recv(_PIECE)
    except OSError:
        return False
    buffered += data
    return bool(data)


def _quietly_shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
