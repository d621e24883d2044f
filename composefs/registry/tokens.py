"""How a registry lets us in: what it asked for at first contact, and the tokens that it gave for that.

Source: "Token Authentication Specification" and "Token Authentication Implementation" of the distribution project,
RFC 7617 (Basic), RFC 6750 (Bearer), and what registries do.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from composefs import limits
from composefs.errors import AuthenticationError, RegistryError
from composefs.json_text import parse_json
from composefs.registry.challenge import Challenge
from composefs.registry.connection import Answer, Request
from composefs.registry.endpoint import Credentials, Endpoint
from composefs.registry.urls import url_host, url_origin

LEAST_LIFE = 60  # seconds that a token is good for, also where the server says less or nothing
_LONGEST_LIFE = 86400  # seconds; a server may say any number
_EARLY = 10  # seconds before its end that a token is renewed
_CLIENT = "composefs"
_TOKEN = re.compile(r"[!-~]+")  # what a header can hold
_AS_TYPED = "surrogateescape"  # a command line may have bytes that are no UTF-8

Ask = Callable[[Request], Answer]  # asks a server of tokens; the answer is read, its status 200 or, of POST, 404


@dataclass(frozen=True)
class Authorization:
    """What goes before a registry: the value of the header, and whether the registry took it before."""

    header: str | None = field(default=None, repr=False)
    is_proven: bool = False


@dataclass
class Token:
    """What a registry takes for a while."""

    value: str = field(repr=False)
    end: float  # by our clock, `time.time`, which other processes have too
    is_proven: bool = False


class Tokens:
    """What is known of how to get into one registry.  Threads may share it; it pickles, for workers.

    Attributes:
        scheme: `https` or `http`: what the registry answers to; None: it was not asked yet.
        said: what the user was told of the registry, and is not told again.
        lock: held while it is asked for that, or for a token, so that nobody asks for the same at the same time.
    """

    def __init__(self) -> None:
        self.scheme: str | None = None
        self.said: set[str] = set()
        self.lock = threading.RLock()
        self._challenges: tuple[Challenge, ...] = ()
        self._held: dict[tuple[str, str, tuple[str, ...]], Token] = {}

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            return {**vars(self), "lock": None, "_held": dict(self._held), "said": set(self.said)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    def learn(self, challenges: Sequence[Challenge]) -> None:
        """Do as *challenges* say from now on, if there are any: some registries say so only at first."""
        if challenges:
            self._challenges = tuple(challenges)

    def authorization(self, endpoint: Endpoint, scopes: tuple[str, ...], ask: Ask) -> Authorization:
        """Return what *endpoint* has to be shown for *scopes*; a token is got if none is held.

        Raises:
            AuthenticationError: no token is given for our credentials, or it would have to be asked for at a place that
                is not trusted with them.
            RegistryError: the server of tokens cannot be reached, or gives none.
        """
        with self.lock:
            for challenge in self._challenges:
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    return self._bearer(challenge, endpoint, scopes, ask)
            credentials = endpoint.credentials
            if credentials is not None and any(challenge.scheme == "basic" for challenge in self._challenges):
                return Authorization(f"Basic {_basic(credentials.username, credentials.password)}")
            return Authorization()

    def prove(self, authorization: Authorization) -> None:
        """Note that the registry took *authorization*: if it does not later on, a new token may do."""
        for token in self._held.copy().values():
            if authorization.header == f"Bearer {token.value}":
                token.is_proven = True

    def reject(self, authorization: Authorization) -> None:
        """Forget what the registry did not take, unless another thread has got better meanwhile."""
        with self.lock:
            for key, token in list(self._held.items()):
                if authorization.header == f"Bearer {token.value}":
                    del self._held[key]

    def secrets(self, credentials: Credentials | None) -> list[str]:
        """Return all that no message may have."""
        found = [token.value for token in self._held.copy().values()]
        if credentials is not None:
            for secret in (credentials.password, credentials.identity_token):
                if secret is not None:
                    found += [secret, _basic(credentials.username, secret)]
        return found

    def _bearer(self, challenge: Challenge, endpoint: Endpoint, scopes: tuple[str, ...], ask: Ask) -> Authorization:
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        key = (realm, service, scopes)
        token = self._held.get(key)
        if token is None or token.end <= time.time():
            check_realm(realm, endpoint, self.scheme or "https")
            token = self._held[key] = _fetch(realm, service, scopes, endpoint, ask)
        return Authorization(f"Bearer {token.value}", token.is_proven)


def check_realm(url: str, endpoint: Endpoint, scheme: str) -> None:
    """Check that *url*, which a registry names, may be asked for a token: with a password perhaps.

    It needs HTTPS, but for registries where HTTP will do, and must not be this machine, or in a private network, which
    the registry may not reach itself; unless that is where the registry is.

    Raises:
        AuthenticationError: it may not be.
    """
    what = "the place for tokens that it names"
    try:
        origin = url_origin(url)
    except ValueError:
        raise AuthenticationError(f"{what} is no URL of HTTP", endpoint.address) from None
    if origin[0] != "https" and not endpoint.plain_http:
        raise AuthenticationError(f"{what}, {url_host(url)}, is not one of HTTPS", endpoint.address)
    registry = url_origin(f"{scheme}://{endpoint.address}")
    if _is_private(origin[1]) and origin[1:] != registry[1:]:
        raise AuthenticationError(f"{what}, {url_host(url)}, is in a private network", endpoint.address)


def _is_private(host: str) -> bool:
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # the system takes 127.1, and 2130706433, too
        except (OSError, ValueError):
            return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_global


def _fetch(realm: str, service: str, scopes: tuple[str, ...], endpoint: Endpoint, ask: Ask) -> Token:
    """Get a token: by POST for an identity token, else by GET, as each is understood by most."""
    credentials = endpoint.credentials
    what = f"a token for {endpoint.host}"
    asked_at = time.time()
    answer = None
    if credentials is not None and credentials.identity_token is not None:
        answer = ask(_post(realm, service, scopes, credentials.identity_token, what))
    if answer is None or answer.status == 404:
        answer = ask(_get(realm, service, scopes, credentials, what))
    return parse_token(answer.body, asked_at, answer.host, what)


def _post(realm: str, service: str, scopes: tuple[str, ...], identity_token: str, what: str) -> Request:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": identity_token,
        "service": service,
        "scope": " ".join(scopes),
        "client_id": _CLIENT,
    }
    body = _form(list(form.items())).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return Request("POST", realm, what, headers, [body], len(body))


def _get(realm: str, service: str, scopes: tuple[str, ...], credentials: Credentials | None, what: str) -> Request:
    parts = urlsplit(realm)
    query = parse_qsl(parts.query, keep_blank_values=True)  # the realm's own stays
    if service:
        query.append(("service", service))
    query += [("scope", scope) for scope in scopes]
    headers = {"Accept": "application/json"}
    if credentials is not None:
        if credentials.username:
            query.append(("account", credentials.username))
        password = credentials.password if credentials.identity_token is None else credentials.identity_token
        headers["Authorization"] = f"Basic {_basic(credentials.username, password)}"
    return Request("GET", urlunsplit(parts._replace(query=_form(query), fragment="")), what, headers)


def parse_token(body: bytes, asked_at: float, host: str, what: str) -> Token:
    """Return the token in an answer to a request of the time *asked_at*, by our clock.

    Raises:
        FormatError: the answer is no JSON.
        RegistryError: it holds no token that a header can have.
    """
    value = parse_json(body, what, max_size=limits.REGISTRY_ERROR_SIZE)
    found = value if isinstance(value, dict) else {}
    token = found.get("token") or found.get("access_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RegistryError(f"{what}: the answer holds none", host)
    life = found.get("expires_in")
    if isinstance(life, bool) or not isinstance(life, int | float) or not life > LEAST_LIFE:
        life = LEAST_LIFE
    return Token(token, asked_at + min(life, _LONGEST_LIFE) - _EARLY)


def _form(fields: Sequence[tuple[str, str]]) -> str:
    return urlencode(fields, errors=_AS_TYPED)


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode(errors=_AS_TYPED)).decode()
