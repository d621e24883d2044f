"""Where a repository of a registry is, and all that is needed to talk to it, as values.

They are made of what the host is configured to (`composefs.hostconfig`), or by a caller, and pickle, so that a worker
can have them.  Secrets are in no `repr`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Protocol

_DOCKER_HUB = frozenset(["docker.io", "index.docker.io"])
_DOCKER_HUB_ADDRESS = "registry-1.docker.io"  # the API of Docker Hub is at a host that no reference names


@dataclass(frozen=True)
class Credentials:
    """Who asks: user and password, or an identity token, which goes before them."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Tls:
    """Which servers are believed, and what they are shown."""

    verify: bool = True  # False: any certificate will do
    authorities: tuple[str, ...] = ()  # files of CA certificates, added to those of the system
    certificates: tuple[tuple[str, str], ...] = ()  # files of client certificates, each with that of its key


class ProxyRule(Protocol):
    """What to reach without a proxy: one entry of NO_PROXY.  It is hashable and pickles."""

    def matches(self, host: str, port: int) -> bool:
        """Return whether *host*, a name in lower case or an address without brackets, is to be reached directly."""


@dataclass(frozen=True)
class Proxies:
    """The proxies of the host: URLs, which may hold a password."""

    https: str | None = field(default=None, repr=False)
    http: str | None = field(default=None, repr=False)
    no_proxy: tuple[ProxyRule, ...] = ()

    def for_host(self, host: str, port: int, scheme: str) -> str | None:
        """Return the URL of the proxy that leads to *host*, or None: go there directly, as to this machine always."""
        host = host.strip("[]").lower()
        if _is_this_machine(host) or any(rule.matches(host, port) for rule in self.no_proxy):
            return None
        return self.https if scheme == "https" else self.http


@dataclass(frozen=True)
class Endpoint:
    """One repository of one registry, or of a mirror of it.

    Attributes:
        host: host[:port] as references and auth.json have it; see `address`.
        repository: its path at this host, such as `library/fedora`.
        plain_http: whether HTTP without TLS will do, where HTTPS does not answer.
        tls: which servers are believed: this host, and those that it sends us to.
        credentials: None: anonymous.
        proxies: how to get to this host, and to those it sends us to.
    """

    host: str
    repository: str
    plain_http: bool = False
    tls: Tls = Tls()
    credentials: Credentials | None = None
    proxies: Proxies = Proxies()

    @property
    def address(self) -> str:
        """The host[:port] that is connected to."""
        return _DOCKER_HUB_ADDRESS if self.host in _DOCKER_HUB else self.host

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
