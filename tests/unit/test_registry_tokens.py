"""Tokens are asked for as registries want it, at places that may have our password, and kept while they are good."""

import base64
import json
import pickle
import threading
import time
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest

from composefs.errors import AuthenticationError, ComposefsError, RegistryError
from composefs.registry import tokens as tokens_module
from composefs.registry.challenge import Challenge
from composefs.registry.endpoint import Credentials, Endpoint
from composefs.registry.tokens import Tokens, check_realm

REALM = "https://auth.example/token"
SCOPE = "repository:a/b:pull"
BASIC = Challenge("basic", {"realm": "x"})
BEARER = Challenge("bearer", {"realm": REALM, "service": "registry"})
USER = Credentials("user", "password-1")
IDENTITY = Credentials("user", "password-1", "identity-1")


class Server:
    """Gives tokens, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers, self.requests = list(answers), []

    def __call__(self, request):
        self.requests.append(request)
        status, value = self.answers.pop(0) if self.answers else (200, {"token": f"token-{len(self.requests)}"})
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return SimpleNamespace(status=status, body=body, host="auth.example")


def make(*challenges, **options):
    tokens = Tokens()
    tokens.scheme = "https"
    tokens.learn(challenges)
    return tokens, Endpoint("registry.example", "a/b", **options)


def header(tokens, endpoint, server, scopes=(SCOPE,)):
    return tokens.authorization(endpoint, scopes, server).header


def query(request):
    return parse_qsl(urlsplit(request.url).query, keep_blank_values=True)


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("challenges", "credentials", "expected"),
    [
        ((), None, None),
        ((), USER, None),
        ((BASIC,), None, None),
        ((BASIC,), USER, basic("user:password-1")),
        ((BASIC, BEARER), USER, "Bearer token-1"),
        ((BEARER, BASIC), USER, "Bearer token-1"),
        ((BEARER,), None, "Bearer token-1"),
        ((Challenge("bearer"), BASIC), USER, basic("user:password-1")),
        ((Challenge("negotiate"),), USER, None),
    ],
)
def test_which_challenge(challenges, credentials, expected):
    """Bearer goes before Basic; public images need a token, too; without a realm there is no Bearer."""
    tokens, endpoint = make(*challenges, credentials=credentials)

    assert header(tokens, endpoint, Server()) == expected


def test_get_with_a_password():
    """A token: GET, Basic, account, service, a scope each, and realm's own query."""
    challenge = Challenge("bearer", {"realm": f"{REALM}?own=1&empty=", "service": "the registry"})
    tokens, endpoint = make(challenge, credentials=USER)
    server = Server()

    header(tokens, endpoint, server, (SCOPE, "repository:c/d:pull"))

    (request,) = server.requests
    assert request.method == "GET"
    assert request.url.startswith(REALM + "?")
    assert query(request) == [
        ("own", "1"),
        ("empty", ""),
        ("service", "the registry"),
        ("scope", SCOPE),
        ("scope", "repository:c/d:pull"),
        ("account", "user"),
    ]
    assert request.headers["Authorization"] == basic("user:password-1")
    assert "password-1" not in request.url


def test_get_without_credentials():
    """Anonymous: no account, no header; no service if the challenge names none."""
    tokens, endpoint = make(Challenge("bearer", {"realm": REALM}))
    server = Server()

    header(tokens, endpoint, server)

    assert query(server.requests[0]) == [("scope", SCOPE)]
    assert "Authorization" not in server.requests[0].headers


def test_post_with_an_identity_token():
    """Method 2: POST of a form; never `grant_type=password`."""
    tokens, endpoint = make(BEARER, credentials=IDENTITY)
    server = Server((200, {"access_token": "token-1"}))

    assert header(tokens, endpoint, server, (SCOPE, "repository:c/d:pull")) == "Bearer token-1"

    (request,) = server.requests
    assert (request.method, request.url) == ("POST", REALM)
    (body,) = request.body
    assert request.body_size == len(body)
    assert dict(parse_qsl(body.decode())) == {
        "grant_type": "refresh_token",
        "refresh_token": "identity-1",
        "service": "registry",
        "scope": f"{SCOPE} repository:c/d:pull",
        "client_id": "composefs",
    }
    assert "Authorization" not in request.headers


def test_post_that_is_not_known():
    """404 to POST: GET with the identity token in place of a password (GCR)."""
    tokens, endpoint = make(BEARER, credentials=IDENTITY)
    server = Server((404, b"not found"))

    assert header(tokens, endpoint, server) == "Bearer token-2"

    assert [request.method for request in server.requests] == ["POST", "GET"]
    assert server.requests[1].headers["Authorization"] == basic("user:identity-1")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"token": ""},
        {"token": 7},
        {"token": None, "access_token": None},
        {"token": "two words"},
        {"token": "line\nInjected: yes"},
        {"token": "\N{SNOWMAN}"},
        b"rubbish",
        b"",
    ],
)
def test_answers_without_a_token(answer):
    """None of them gets into a header, and none into the message."""
    tokens, endpoint = make(BEARER, credentials=USER)

    with pytest.raises(ComposefsError, match="a token for registry.example") as caught:
        header(tokens, endpoint, Server((200, answer)))

    assert "Injected" not in str(caught.value)


@pytest.mark.parametrize(
    ("expires_in", "good_after", "renewed_after"),
    [
        (300, 289, 291),
        (1e308, 80000, 86400),
        (10**400, 80000, 86400),
        (None, 49, 51),
        (0, 49, 51),
        (10, 49, 51),
        (-5, 49, 51),
        ("x", 49, 51),
        (True, 49, 51),
    ],
)
def test_expiry(monkeypatch, expires_in, good_after, renewed_after):
    """`expires_in` counts from our clock, is 60 s at least and by default; tokens are renewed a little early."""
    clock = [1000.0]
    monkeypatch.setattr(tokens_module, "time", SimpleNamespace(time=lambda: clock[0]))
    tokens, endpoint = make(BEARER)
    first = {"token": "token-x", "issued_at": "1999-01-01T00:00:00Z"}
    server = Server((200, first if expires_in is None else {**first, "expires_in": expires_in}))

    assert header(tokens, endpoint, server) == "Bearer token-x"
    clock[0] = 1000.0 + good_after
    assert header(tokens, endpoint, server) == "Bearer token-x"
    clock[0] = 1000.0 + renewed_after
    assert header(tokens, endpoint, server) == "Bearer token-2"


def test_cache():
    """By realm, service and scope; another one has its own."""
    tokens, endpoint = make(BEARER)
    server = Server()

    assert header(tokens, endpoint, server) == header(tokens, endpoint, server) == "Bearer token-1"
    assert header(tokens, endpoint, server, ("repository:a/b:pull,push",)) == "Bearer token-2"
    tokens.learn([Challenge("bearer", {"realm": REALM, "service": "other"})])
    assert header(tokens, endpoint, server) == "Bearer token-3"
    tokens.learn([])
    assert header(tokens, endpoint, server) == "Bearer token-3", "no challenge: as before"


def test_one_request_at_a_time():
    """Many threads that want the same token ask for it once."""
    tokens, endpoint = make(BEARER)
    server = Server()

    def slowly(request):
        time.sleep(0.05)
        return server(request)

    found = []
    threads = [threading.Thread(target=lambda: found.append(header(tokens, endpoint, slowly))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == ["Bearer token-1"] * 8
    assert len(server.requests) == 1


def test_rejected_tokens_are_forgotten():
    """Once; a token that another thread has got meanwhile stays."""
    tokens, endpoint = make(BEARER)
    server = Server()
    old = tokens.authorization(endpoint, (SCOPE,), server)
    assert not old.is_proven
    tokens.prove(old)
    assert tokens.authorization(endpoint, (SCOPE,), server).is_proven

    tokens.reject(old)
    new = tokens.authorization(endpoint, (SCOPE,), server)
    tokens.reject(old)

    assert new.header == "Bearer token-2"
    assert not new.is_proven
    assert tokens.authorization(endpoint, (SCOPE,), server).header == "Bearer token-2"


def test_pickle():
    """A worker goes on with what is known, and may renew it."""
    tokens, endpoint = make(BEARER, credentials=USER)
    server = Server()
    tokens.prove(tokens.authorization(endpoint, (SCOPE,), server))

    copy = pickle.loads(pickle.dumps(tokens))

    found = copy.authorization(endpoint, (SCOPE,), server)
    assert (copy.scheme, found.header, found.is_proven) == ("https", "Bearer token-1", True)
    copy.reject(found)
    assert copy.authorization(endpoint, (SCOPE,), server).header == "Bearer token-2"
    assert tokens.authorization(endpoint, (SCOPE,), server).header == "Bearer token-1"


def test_nothing_shows_a_secret():
    """Neither what holds tokens, nor what is sent."""
    tokens, endpoint = make(BEARER, credentials=IDENTITY)
    server = Server((404, b""), (200, {"token": "token-secret"}))
    found = tokens.authorization(endpoint, (SCOPE,), server)

    text = repr((tokens, found, server.requests, endpoint, tokens._held))

    for secret in ("token-secret", "password-1", "identity-1", basic("user:identity-1")):
        assert secret not in text
    assert {"token-secret", "password-1", "identity-1"} <= set(tokens.secrets(IDENTITY))


@pytest.mark.parametrize("identity", [None, "caf\udce9"])
def test_credentials_that_are_no_utf8(identity):
    """A command line may have any bytes; they are sent as they were typed."""
    tokens, endpoint = make(BEARER, credentials=Credentials("\udcff", "p\udce9ssword", identity))
    server = Server()

    assert header(tokens, endpoint, server) == "Bearer token-1"

    if identity is None:
        assert server.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"\xff:p\xe9ssword").decode()
        assert "account=%FF" in server.requests[0].url
    else:
        assert b"refresh_token=caf%E9&" in server.requests[0].body[0]


def test_secrets():
    """All that may be sent is known, in each form in which it is sent."""
    tokens, endpoint = make(BEARER, credentials=IDENTITY)
    header(tokens, endpoint, Server())

    found = tokens.secrets(IDENTITY)

    sent = {"token-1", "password-1", "identity-1", basic("user:password-1")[6:], basic("user:identity-1")[6:]}
    assert sent <= set(found)
    assert tokens.secrets(None) == ["token-1"]


HTTPS_ONLY = "is not one of HTTPS"
PRIVATE = "in a private network"


@pytest.mark.parametrize(
    ("realm", "host", "plain_http", "refused"),
    [
        ("https://auth.example/token", "registry.example", False, None),
        ("https://auth.example:8443/token", "registry.example", False, None),
        ("https://93.184.216.34/token", "registry.example", False, None),
        ("http://auth.example/token", "registry.example", False, HTTPS_ONLY),
        ("http://registry.example/token", "registry.example", False, HTTPS_ONLY),
        ("http://auth.example/token", "registry.example", True, None),
        ("https://127.0.0.1/token", "registry.example", False, PRIVATE),
        ("https://127.1.2.3:99/token", "registry.example", True, PRIVATE),
        ("https://localhost/token", "registry.example", False, PRIVATE),
        ("https://x.localhost/token", "registry.example", False, PRIVATE),
        ("https://[::1]/token", "registry.example", False, PRIVATE),
        ("https://[::ffff:127.0.0.1]/token", "registry.example", False, PRIVATE),
        ("https://[fe80::1]/token", "registry.example", False, PRIVATE),
        ("https://[fd00::1]/token", "registry.example", False, PRIVATE),
        ("https://169.254.169.254/latest/meta-data", "registry.example", False, PRIVATE),
        ("https://10.0.0.1/token", "registry.example", False, PRIVATE),
        ("https://172.16.0.1/token", "registry.example", False, PRIVATE),
        ("https://192.168.1.1/token", "registry.example", False, PRIVATE),
        ("https://0.0.0.0/token", "registry.example", False, PRIVATE),
        ("https://127.1/token", "registry.example", False, PRIVATE),
        ("https://2130706433/token", "registry.example", False, PRIVATE),
        ("https://0xa9fea9fe/token", "registry.example", False, PRIVATE),
        ("https://0300.0250.1.1/token", "registry.example", False, PRIVATE),
        ("https://localhost./token", "registry.example", False, PRIVATE),
        ("https://x.localhost./token", "registry.example", False, PRIVATE),
        ("https://10.0.0.1/token", "10.0.0.1", False, None),
        ("https://10.0.0.1:5000/token", "10.0.0.1:5000", False, None),
        ("https://10.0.0.1:5001/token", "10.0.0.1:5000", False, PRIVATE),
        ("https://10.0.0.2:5000/token", "10.0.0.1:5000", False, PRIVATE),
        ("ftp://auth.example/token", "registry.example", True, "no URL of HTTP"),
        ("/token", "registry.example", True, "no URL of HTTP"),
        ("https://", "registry.example", True, "no URL of HTTP"),
        ("https://auth.example:port/", "registry.example", True, "no URL of HTTP"),
        ("https://[::1", "registry.example", True, "no URL of HTTP"),
    ],
)
def test_realms(realm, host, plain_http, refused):
    """The realm decides where a password goes."""
    endpoint = Endpoint(host, "a/b", plain_http=plain_http, credentials=USER)
    tokens = Tokens()
    tokens.learn([Challenge("bearer", {"realm": realm})])
    server = Server()

    if refused is None:
        check_realm(realm, endpoint, "https")
        assert header(tokens, endpoint, server) == "Bearer token-1"
    else:
        with pytest.raises(AuthenticationError, match=refused):
            header(tokens, endpoint, server)
        assert server.requests == []


def test_token_server_errors_go_on():
    """What the server of tokens refuses is for the caller to see."""
    tokens, endpoint = make(BEARER, credentials=USER)

    def refuse(request):
        raise RegistryError("no", "auth.example", 500)

    with pytest.raises(RegistryError, match="no"):
        header(tokens, endpoint, refuse)
    assert header(tokens, endpoint, Server()) == "Bearer token-1", "and the lock is free again"
