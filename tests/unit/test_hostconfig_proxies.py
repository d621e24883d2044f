"""Proxies: the variables, and the entries of NO_PROXY.

What is expected here is what golang.org/x/net/http/httpproxy 0.38 answers.
"""

import pickle

import pytest

from composefs.hostconfig.proxies import find_proxies, parse_no_proxy
from composefs.reference import parse_name
from composefs.registry.endpoint import Proxies
from tests.hosts import SECRET


def is_direct(entries, host, port=443):
    """Tell whether *host* is reached without a proxy."""
    proxies = Proxies("http://proxy:1", "http://proxy:1", parse_no_proxy(entries))
    return proxies.for_host(host, port, "https") is None


@pytest.mark.parametrize(
    ("entries", "direct", "through"),
    [
        ("", "localhost 127.0.0.1 127.9.9.9 [::1]", "example.com 10.0.0.1"),
        ("*", "example.com 10.0.0.1 [fd00::1]", ""),
        ("a.b,*", "example.com", ""),
        ("example.com", "example.com a.example.com a.b.example.com EXAMPLE.COM", "xexample.com example.com.x com"),
        (".example.com", "a.example.com", "example.com"),
        ("*.example.com", "a.example.com a.b.example.com", "example.com"),
        (" EXAMPLE.com , b.c", "example.com x.b.c", "a"),
        ("registry", "registry a.registry", "registry2"),
        ("10.0.0.1", "10.0.0.1 [::ffff:10.0.0.1]", "10.0.0.2 1"),
        ("10.0.0.0/8", "10.0.0.1 10.255.0.1", "11.0.0.1 a.10.0.0.0"),
        ("10.0.0.7/30", "10.0.0.4 10.0.0.6", "10.0.0.8"),
        ("::ffff:10.0.0.0/120", "10.0.0.1", "10.0.1.1"),
        ("fd00::1", "[fd00::1]", "[fd00::2]"),
        ("fd00::/64", "[fd00::2]", "[fd00:0:0:1::2] 10.0.0.1"),
        ("0.0.0.0/0", "10.0.0.1", "example.com [fd00::1]"),
        ("0.0.0.1", "", "a.0.0.0.1"),
        ("[fd00::1]:443", "[fd00::1]", "[fd00::2]"),
        ("10.0.0.1:443", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.1:80,example.com:80", "", "10.0.0.1 example.com a.example.com"),
        ("example.com:443", "example.com a.example.com", "b.com"),
        ("10.0.0.0/33,10.0.0.0/255.0.0.0,/8,,.,*.,:443,[]:443,a:b:c", "", "10.0.0.1 example.com c"),
    ],
)
def test_no_proxy(entries, direct, through):
    """Each entry keeps from the proxy what it names, and nothing else."""
    for host in direct.split():
        assert is_direct(entries, host), host
    for host in through.split():
        assert not is_direct(entries, host), host


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://a:1", "http://b:2"),
        ({"https_proxy": "http://a:1", "http_proxy": "http://b:2"}, "http://a:1", "http://b:2"),
        ({"HTTPS_PROXY": "a:1", "https_proxy": "http://b:2"}, "a:1", None),
        ({"HTTPS_PROXY": "", "https_proxy": "HTTPS://b:2"}, "HTTPS://b:2", None),
        ({"HTTP_PROXY": "http://b:2", "HTTPS_PROXY": "http://b:2", "REQUEST_METHOD": "GET"}, "http://b:2", None),
        ({"ALL_PROXY": "http://a:1"}, None, None),
    ],
)
def test_variables(environ, https, http):
    """In upper case they go before those in lower case; in a CGI program HTTP_PROXY is the client's, and void."""
    found = find_proxies(environ)

    assert (found.https, found.http) == (https, http)


@pytest.mark.parametrize(("variable", "direct"), [("NO_PROXY", "a.b"), ("no_proxy", "a.b"), ("NOPROXY", "")])
def test_variable_of_exceptions(variable, direct):
    """NO_PROXY is read in both cases."""
    found = find_proxies({"HTTPS_PROXY": "http://a:1", variable: "a.b"})

    assert (found.for_host("a.b", 443, "https") is None) == bool(direct)
    assert find_proxies({"NO_PROXY": "a", "no_proxy": "b", "HTTPS_PROXY": "p"}).for_host("b", 443, "https")


def test_endpoints(host):
    """They know the way, take it along to workers, and show no password."""
    host.environ |= {"HTTPS_PROXY": f"http://user:{SECRET}@proxy:1", "NO_PROXY": "10.0.0.0/8,.b.example:5000,*.c"}

    endpoint = next(host.config().endpoints(parse_name("a.example/x")))

    assert endpoint.proxies.for_host("a.example", 443, "https") == f"http://user:{SECRET}@proxy:1"
    assert endpoint.proxies.for_host("10.0.0.1", 443, "https") is None
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    assert hash(endpoint) == hash(pickle.loads(pickle.dumps(endpoint)))
    assert SECRET not in repr(endpoint) + repr(host.config().network)
