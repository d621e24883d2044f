"""The connections of a process, over urllib3: kept for later, with TLS and proxies, and none that hangs in a handshake.

Rule 1: urllib3 is imported by this package only, and makes connections in this module only.
Rule 2: connections are kept for a whole process, and by nothing else; a child of `fork` opens its own.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from composefs.errors import UsageError
from composefs.registry.endpoint import Tls
from composefs.registry.tls import tls_context
from composefs.registry.urls import url_host, url_origin
from composefs.registry.watchdog import WATCHDOG

HANDSHAKE_TIME = 60.0  # seconds for TCP, TLS and what a proxy wants, together
_KEPT = 1024  # idle connections to one host; urllib3 warns of each beyond that

_Result = TypeVar("_Result")


class TooSlowError(Exception):
    """A handshake, or the headers of an answer, came in drops."""


class _Timed(HTTPConnection):
    """A connection whose handshake, and whose wait for the headers of an answer, end in time as a whole."""

    _twin: socket.socket | None = None  # the same socket; it can be shut down while TLS has the other one

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        self._twin = sock.dup()
        return sock

    def connect(self) -> None:
        self._in_time(HANDSHAKE_TIME, super().connect)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        patience = self.timeout if isinstance(self.timeout, float) else HANDSHAKE_TIME
        twin = self._twin.dup() if self._twin is not None else None  # ours is closed when the answer says so
        try:
            response = self._in_time(patience, super().getresponse)
        except BaseException:
            _close(twin)
            raise
        response.composefs_twin = twin  # type: ignore[attr-defined]
        return response

    def close(self) -> None:
        super().close()
        _close(self._twin)
        self._twin = None

    def _in_time(self, seconds: float, call: Callable[[], _Result]) -> _Result:
        with WATCHDOG.limit(seconds, self._stop) as limit:
            try:
                result = call()
            except (HTTPError, HTTPException, OSError):
                if limit.expired:
                    raise TooSlowError from None
                raise
        if limit.expired:  # http.client takes headers that are cut for all
            self.close()
            raise TooSlowError
        return result

    def _stop(self) -> None:
        shut_down(self._twin)


class _Secure(_Timed, HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.is_verified = True  # else urllib3 warns of what Tls.verify asks for


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Timed


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


_managers: dict[tuple[Tls, str | None], urllib3.PoolManager] = {}
_managers_lock = threading.Lock()


def pool_manager(tls: Tls, proxy: str | None) -> urllib3.PoolManager:
    """Return what keeps the connections that are made so, in this process."""
    with _managers_lock:
        manager = _managers.get((tls, proxy))
        if manager is None:
            manager = _managers[tls, proxy] = _make_manager(tls, proxy)
        return manager


def _make_manager(tls: Tls, proxy: str | None) -> urllib3.PoolManager:
    context = tls_context(tls)
    manager = (
        urllib3.PoolManager(maxsize=_KEPT, ssl_context=context)
        if proxy is None
        else _make_proxy_manager(proxy_url(proxy), context)
    )
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager


def proxy_url(proxy: str) -> str:
    """Return the URL that is meant by *proxy*, which may be a host alone, as for Go."""
    return proxy if "://" in proxy else f"http://{proxy}"


def _make_proxy_manager(url: str, context: ssl.SSLContext) -> urllib3.ProxyManager:
    try:
        parts = urlsplit(url)
        if parts.scheme and parts.scheme not in ("http", "https"):
            raise UsageError(f"the proxy {url_host(url)} is not one of HTTP: {parts.scheme} is not supported")
        url_origin(url)
        user = b":".join(unquote_to_bytes(part or "") for part in (parts.username, parts.password))
        headers = {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode()}"}
        return urllib3.ProxyManager(
            f"{parts.scheme}://{url_host(url)}",
            proxy_headers=headers if parts.username is not None else None,
            proxy_ssl_context=tls_context(Tls()) if parts.scheme == "https" else None,
            maxsize=_KEPT,
            ssl_context=context,
        )
    except ValueError:  # also urllib3's own; the URL is not shown: nobody knows where in it a password would be
        raise UsageError("the proxy that is configured is no URL of one, such as http://HOST:PORT") from None


def close_connections() -> None:
    """Close all connections of this process that are kept for later."""
    with _managers_lock:
        for manager in _managers.values():
            manager.clear()
        _managers.clear()


def twin_socket(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """Return the socket that *response* comes from, to shut it down; it is the caller's to close."""
    found = getattr(response, "composefs_twin", None)
    return found if isinstance(found, socket.socket) else None


def shut_down(sock: socket.socket | None) -> None:
    """End the connection of *sock*, whoever is waiting for it."""
    try:
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has just ended
        pass


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()


def _forget() -> None:
    global _managers_lock  # noqa: PLW0603  # another thread of the parent may have held it
    _managers_lock = threading.Lock()
    _managers.clear()


os.register_at_fork(after_in_child=_forget)


class _WithoutQueries(logging.Filter):
    """urllib3 logs each URL at level DEBUG; a query may sign it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutQueries())
# It warns of headers that are cut, with the URL, where others see that no answer came.
logging.getLogger("urllib3.connection").addFilter(lambda _: False)
