"""One HTTP request and its answer, with time limits, and with failures that say what they mean for another try.

Rule 1: nothing is followed and nothing repeated here, neither by urllib3, which would do so three times, and wait up to
        six hours if it is told to.
Rule 2: no text of urllib3's own leaves this module: it may have a URL with its query, or a header.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import IncompleteRead
from typing import Self

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from composefs.errors import ConnectionLostError, IntegrityError, RegistryError
from composefs.registry.endpoint import Proxies, Tls
from composefs.registry.pool import TooSlowError, pool_manager, proxy_url, shut_down, twin_socket
from composefs.registry.urls import Origin, url_host, url_origin, url_secrets
from composefs.registry.watchdog import WATCHDOG
from composefs.text import printable

CONNECT_TIME = 30.0  # seconds for TCP, and for each step of TLS
READ_TIME = 60.0  # seconds without a byte; also for all headers of an answer
SLOWEST = 1000  # bytes a second that an answer has to come with, in each READ_TIME of reading
_PIECE = 7 << 13  # bytes that are waited for at a time: fewer than have to come in READ_TIME; whole buffers, of 8 KiB
_SEND_SIZE = 1 << 16  # bytes sent at a time: each has CONNECT_TIME, so 2 kB/s are enough
_DISCARDED = 1 << 16  # bytes of an unwanted answer that are read, to use its connection again


@dataclass(frozen=True)
class Request:
    """What to ask, and what for.

    Attributes:
        what: for messages: what is asked for.
        body: gone through again for each try.
        body_size: bytes of the body.
        patience: seconds to wait for the answer.
        wait: waits for some seconds, before another try; raises if there shall be none.
        is_led: whether a server sent us there, by a URL that may be signed.
    """

    method: str
    url: str = field(repr=False)
    what: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Iterable[bytes] | None = field(default=None, repr=False)
    body_size: int = 0
    patience: float = READ_TIME
    wait: Callable[[float], object] = field(default=time.sleep, repr=False)
    is_led: bool = False

    @property
    def origin(self) -> Origin:
        """Scheme, host and port: what passwords are for."""
        return url_origin(self.url)


class Answer:
    """The answer to a request, whose body is still to be read.  It has to be closed.

    Attributes:
        status: of HTTP.
        url: that answered; may be signed, so it is not for messages.
        host: host[:port] that answered.
        what: for messages: what was asked for.
        body: what `load` read.
        secrets: parts of the URL that no message may have.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, request: Request) -> None:
        self.status, self.url, self.host = response.status, request.url, url_host(request.url)
        self.what, self.body = request.what, b""
        self.secrets = url_secrets(request.url) if request.is_led else ()
        self._response = response
        if request.method == "HEAD":
            response.read()  # nothing, whatever the length says: its connection is free
        self._twin: socket.socket | None = twin_socket(response)
        self._failure: RegistryError | None = None
        self._is_late = False
        # An answer that is empty says so: http.client takes headers that are cut for all there are.
        self._is_due = "Transfer-Encoding" not in response.headers and response.length_remaining is None
        self._spent, self._got = 0.0, 0  # seconds and bytes of reading, since the last time that it was fast enough

    def header(self, name: str) -> str | None:
        """Return the header *name*; if there are several, all of them with commas between."""
        return self._response.headers.get(name)

    def all_headers(self, name: str) -> list[str]:
        """Return each header called *name*."""
        return list(self._response.headers.getlist(name))

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes of the body; none only at its end, which is where its length said.

        Raises:
            ConnectionLostError: the connection ended before the body did, or is slower than 1 kB/s.
        """
        if self._failure is not None:
            raise self._failure
        pieces, left = list[bytes](), size
        with WATCHDOG.limit(READ_TIME - self._spent, self.abort) as limit:
            while left and self._failure is None:
                began = time.monotonic()
                try:
                    piece = self._response.read(min(left, _PIECE))
                except (HTTPError, OSError) as error:
                    self._failure = self._lost(error, expired=self._is_late or limit.expired)
                    piece = _partial(error)
                if not piece:
                    break
                pieces.append(piece)
                left -= len(piece)
                self._spent += time.monotonic() - began
                self._got += len(piece)
                if self._got >= READ_TIME * SLOWEST:  # it was fast enough: the time begins anew
                    self._spent, self._got = 0.0, 0
                    limit.deadline = time.monotonic() + READ_TIME
        data = b"".join(pieces)
        self._is_late |= limit.expired
        if self._is_late and not data:  # the end of a body without a length, perhaps
            self._failure = self._lost(None, expired=True)
        if self._is_due and not data:
            self._failure = self._lost(None, expired=False)
        self._is_due = False
        if self._failure is not None and not data:
            raise self._failure
        return data

    def abort(self) -> None:
        """End the connection, also for another thread that is reading; does not wait."""
        shut_down(self._twin)

    def load(self, max_size: int) -> None:
        """Read the body, but not much more than *max_size* bytes of it, and close."""
        pieces, size = [], 0
        with self:
            while size <= max_size and (piece := self.read(min(1 << 16, max_size + 1 - size))):
                pieces.append(piece)
                size += len(piece)
        self.body = b"".join(pieces)

    def discard(self) -> None:
        """Close; if little is left of the body, so that the connection can be used again."""
        length = self.header("Content-Length") or ""
        if length.isascii() and length.isdigit() and int(length[:9]) <= _DISCARDED:
            try:
                self.load(_DISCARDED)
            except RegistryError:
                self.close()
        else:
            self.close()

    def close(self) -> None:
        """Give the connection back if all was read, else end it."""
        self._response.close()
        self._response.release_conn()
        if self._twin is not None:
            self._twin.close()
            self._twin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lost(self, error: Exception | None, *, expired: bool) -> ConnectionLostError:
        if expired:
            reason = f"the answer came with less than {SLOWEST} bytes a second"
        elif isinstance(error, ReadTimeoutError):
            reason = f"nothing came for {READ_TIME:.0f} s"
        else:
            reason = "the connection ended before the answer did"
        return ConnectionLostError(f"{self.what}: {reason}", self.host)


def _partial(error: Exception) -> bytes:
    """Return what came before *error*, of a body that comes in chunks: it is good, and would be lost."""
    cause = error.__cause__ or error.__context__
    return cause.partial if isinstance(cause, IncompleteRead) and isinstance(cause.partial, bytes) else b""


def send(request: Request, tls: Tls, proxies: Proxies) -> Answer:
    """Send *request* and return the answer, whatever its status.

    Raises:
        ConnectionLostError: there was none; another try may do better.
        RegistryError: there is no way to the server, or it is not believed.
        UsageError, FormatError, OSError: *tls* or *proxies* cannot be used.
    """
    scheme, hostname, port = request.origin
    proxy = proxies.for_host(hostname, port, scheme)
    headers = dict(request.headers)
    body: _Body | None = None
    if request.body is not None:
        headers["Content-Length"] = str(request.body_size)
        body = _Body(request)
    elif request.method in ("POST", "PUT", "PATCH"):
        headers["Content-Length"] = "0"
    try:
        response = pool_manager(tls, proxy).urlopen(
            request.method,
            request.url,
            body=iter(body) if body is not None else None,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIME, read=request.patience),
        )
    except (HTTPError, OSError, TooSlowError) as error:
        if body is not None and body.error is not None:
            raise body.error from None
        raise _describe(error, request, proxy) from None  # urllib3's own text may have the URL with its query
    except ValueError:  # a header or URL that http.client does not send; its text may have a secret
        raise RegistryError(f"{request.what}: the request cannot be sent as it is", url_host(request.url)) from None
    return Answer(response, request)


class _Body:
    """The body of a request, in small pieces, and of the size that was said.

    Attributes:
        error: what ended it early; urllib3 takes failures of the system for its own.
    """

    def __init__(self, request: Request) -> None:
        self._pieces, self._size, self._what = request.body or (), request.body_size, request.what
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        try:
            for piece in self._pieces:
                sent += len(piece)
                if sent > self._size:
                    break
                for offset in range(0, len(piece), _SEND_SIZE):
                    yield piece[offset : offset + _SEND_SIZE]
            if sent != self._size:
                got = f"{sent} bytes" if sent < self._size else "more"
                raise IntegrityError(self._what, f"{self._size} bytes", got)
        except Exception as error:
            self.error = error
            raise


def _describe(error: Exception, request: Request, proxy: str | None) -> RegistryError:
    what = request.what
    if isinstance(error, ProxyError):
        error, what = error.original_error, f"{what}, through the proxy {url_host(proxy_url(proxy or ''))}"
    causes = list(_causes(error))
    for kinds, failure, reason in _FAILURES:
        for cause in causes:
            if isinstance(cause, kinds) and (text := reason(cause)):
                return failure(f"{what}: {text}", url_host(request.url))
    return ConnectionLostError(f"{what}: the connection ended before an answer", url_host(request.url))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and what is behind it, also in the ways of urllib3."""
    while error is not None:
        yield error
        error = next((arg for arg in error.args if isinstance(arg, Exception)), error.__cause__ or error.__context__)


def _tunnel_refusal(error: BaseException) -> str:
    start, _, status = str(error).partition("Tunnel connection failed: ")  # in the words of http.client
    return f"the proxy refuses: {printable(status.encode())}" if status and not start else ""


def _tls_reason(error: BaseException) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return "the server does not speak TLS"
    return f"TLS fails: {(reason or str(error)).replace('_', ' ').lower()}"


def _verdict(error: BaseException) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""


def _system_reason(error: BaseException) -> str:
    texts = (cause.strerror for cause in _causes(error) if isinstance(cause, OSError))
    return next((text.lower() for text in texts if text), "")


# What may be behind a failure, what it means for another try, and how to say it; the first that fits counts.
_FAILURES: tuple[tuple[tuple[type[BaseException], ...], type[RegistryError], Callable[[BaseException], str]], ...] = (
    ((NameResolutionError,), RegistryError, lambda _: "the name of the host cannot be resolved"),
    ((ConnectionRefusedError,), RegistryError, lambda _: "connection refused"),
    ((NewConnectionError,), RegistryError, lambda error: _system_reason(error) or "no connection"),
    ((ConnectTimeoutError,), ConnectionLostError, lambda _: f"no connection within {CONNECT_TIME:.0f} s"),
    ((TooSlowError, ReadTimeoutError, TimeoutError), ConnectionLostError, lambda _: "no answer in time"),
    (
        (ssl.SSLCertVerificationError,),
        RegistryError,
        lambda error: f"the certificate is not believed: {_verdict(error)}",
    ),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), ConnectionLostError, lambda _: "the connection ended within TLS"),
    ((ssl.SSLError,), RegistryError, _tls_reason),
    ((LocationValueError,), RegistryError, lambda _: "this is no URL that can be used"),
    ((OSError,), RegistryError, _tunnel_refusal),
    ((OSError,), ConnectionLostError, _system_reason),
)
