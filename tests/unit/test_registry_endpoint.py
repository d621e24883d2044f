"""What is needed to talk to a registry pickles, and shows no secret."""

import pickle
from dataclasses import dataclass

import pytest

from composefs.registry.endpoint import Credentials, Endpoint, Proxies, Tls


@dataclass(frozen=True)
class Rule:
    """Matches one host at one port."""

    host: str
    port: int

    def matches(self, host: str, port: int) -> bool:
        return (host, port) == (self.host, self.port)


ENDPOINT = Endpoint(
    "registry.example:5000",
    "a/b",
    tls=Tls(authorities=("/ca",), certificates=(("/cert", "/key"),)),
    credentials=Credentials("user", "password-1", "identity-1"),
    proxies=Proxies("http://u:proxy-1@proxy.example", "http://u:proxy-1@other.example", (Rule("direct.example", 443),)),
)


def test_pickle():
    """A worker gets all of it."""
    assert pickle.loads(pickle.dumps(ENDPOINT)) == ENDPOINT
    assert hash(pickle.loads(pickle.dumps(ENDPOINT))) == hash(ENDPOINT)


@pytest.mark.parametrize("secret", ["password-1", "identity-1", "proxy-1"])
def test_repr_has_no_secret(secret):
    """Not even where the whole endpoint is shown."""
    assert secret not in repr(ENDPOINT)
    assert secret not in str(ENDPOINT)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("docker.io", "registry-1.docker.io"),
        ("index.docker.io", "registry-1.docker.io"),
        ("registry-1.docker.io", "registry-1.docker.io"),
        ("quay.io", "quay.io"),
    ],
)
def test_address(host, address):
    """Docker Hub is at another host than its names say."""
    assert Endpoint(host, "library/x").address == address


@pytest.mark.parametrize(
    ("host", "port", "scheme", "proxy"),
    [
        ("registry.example", 443, "https", "http://u:proxy-1@proxy.example"),
        ("registry.example", 80, "http", "http://u:proxy-1@other.example"),
        ("direct.example", 443, "https", None),
        ("Direct.Example", 443, "https", None),
        ("direct.example", 444, "https", "http://u:proxy-1@proxy.example"),
        ("localhost", 443, "https", None),
        ("127.8.8.8", 80, "http", None),
        ("[::1]", 80, "http", None),
        ("::1", 80, "http", None),
    ],
)
def test_proxies(host, port, scheme, proxy):
    """By scheme, unless a rule matches; this machine is reached directly, always."""
    assert ENDPOINT.proxies.for_host(host, port, scheme) == proxy
