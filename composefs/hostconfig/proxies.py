"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or these in lower case, as programs written in Go read them.

An entry of NO_PROXY is `*` (everything), an address or a network (10.0.0.0/8), a domain with all below it, or, with a
dot before it, only what is below it; behind a colon there may be a port.

Source: the documentation of golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from composefs.registry.endpoint import Proxies, ProxyRule

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Everything:
    """`*`."""

    def matches(self, host: str, port: int) -> bool:  # noqa: ARG002  # as all rules have it
        """Return True."""
        return True


@dataclass(frozen=True, slots=True)
class Network:
    """`10.0.0.0/8`, or an address, perhaps with a port."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    port: str = ""

    def matches(self, host: str, port: int) -> bool:
        """Tell whether *host* is an address of the network."""
        address = _parse_address(host)
        return address is not None and address in self.network and self.port in ("", str(port))


@dataclass(frozen=True, slots=True)
class Domain:
    """`example.com`, or `.example.com`, perhaps with a port."""

    name: str  # without the dot before it
    port: str = ""
    only_below: bool = False

    def matches(self, host: str, port: int) -> bool:
        """Tell whether *host* is this name, or one below it."""
        is_it = host.endswith(f".{self.name}") or (host == self.name and not self.only_below)
        return is_it and self.port in ("", str(port)) and _parse_address(host) is None


def find_proxies(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies that *environ*, variables of the environment, say."""

    def find(variable: str) -> str:
        return environ.get(variable) or environ.get(variable.lower()) or ""

    # In a CGI program the client says what HTTP_PROXY is.
    http = find("HTTP_PROXY") if not environ.get("REQUEST_METHOD") else ""
    return Proxies(find("HTTPS_PROXY") or None, http or None, parse_no_proxy(find("NO_PROXY")))


def parse_no_proxy(text: str) -> tuple[ProxyRule, ...]:
    """Return the entries of NO_PROXY; those that mean nothing are left out."""
    rules: list[ProxyRule] = []
    for part in text.split(","):
        entry = part.strip().lower()
        if entry == "*":
            return (Everything(),)
        rule = _parse_rule(entry)
        if rule is not None:
            rules.append(rule)
    return tuple(rules)


def _parse_rule(entry: str) -> ProxyRule | None:
    if "/" in entry:
        network = _parse_network(entry)
        if network is not None:
            return Network(network)
    host, port = _split_port(entry)
    address = _parse_address(host)
    if address is not None:
        return Network(ipaddress.ip_network(address), port)
    host = host.removeprefix("*") if host.startswith("*.") else host
    name = host.removeprefix(".")
    return Domain(name, port, only_below=name != host) if name else None


def _split_port(entry: str) -> tuple[str, str]:
    """Return host and port of `HOST:PORT` or `[ADDRESS]:PORT`, and no port of anything else."""
    host, colon, port = entry.rpartition(":")
    if not colon:
        return entry, ""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    return (entry, "") if ":" in host else (host, port)


def _parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, _, bits = text.partition("/")
    if not (bits.isascii() and bits.isdigit()):  # a mask of addresses is none
        return None
    try:
        network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


def _parse_address(text: str) -> _Address | None:
    """Return the address that *text* is; an IPv4 address in an IPv6 one is the former."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else address
