"""Requests are let in, led on without our credentials, and repeated where that helps.

The tests name what is to be done in each case.
"""

import itertools
import json
import logging
import pickle
import threading
import time

import pytest

from composefs.errors import AuthenticationError, ComposefsError, ConnectionLostError, RegistryError
from composefs.registry import connection, pool, session
from composefs.registry.client import Client
from composefs.registry.endpoint import Credentials, Endpoint, Tls
from composefs.registry.pauses import MAX_PAUSE, PAUSES
from composefs.registry.session import TRIES, Session
from composefs.registry.tokens import Tokens
from tests.layouts import sha256
from tests.registries import answers, honest
from tests.registries.scripted import ScriptedServer
from tests.registries.tls import make_authority

DATA = bytes(range(256)) * 1000
DIGEST = sha256(DATA)
MANIFEST = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
USER = Credentials("user", "password-1")
SECRETS = ("password-1", "identity-1", "dXNlcjpwYXNzd29yZC0x", "-secret", "signature=", "very/secret", "very%2Fsecret")
BASIC = answers.say(401, {"WWW-Authenticate": 'Basic realm="x"'})
BLOB = "GET .*/blobs/"


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def server(server):
    fill(server)
    return server


@pytest.fixture
def other():
    """A second server: storage, or whoever is not to be shown our password."""
    with ScriptedServer() as running:
        fill(running)
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def secure(authority):
    """A registry that speaks TLS, with a certificate of a private CA."""
    with ScriptedServer(tls=authority.issue("server", "127.0.0.1", "localhost")) as running:
        fill(running)
        yield running


def fill(server):
    server.contents.blobs[DIGEST] = DATA
    server.contents.put_manifest("a/b", MANIFEST, MANIFEST_TYPE, "tag")


def client_of(server, host=None, **options):
    address = f"{host}:{server.port}" if host else server.address
    notices = options.pop("on_notice", None)
    return Client(Endpoint(address, "a/b", **{"plain_http": True, **options}), on_notice=notices)


def blob_of(client, **options):
    with client.open_blob(DIGEST, **options) as response:
        return b"".join(iter(lambda: response.read(1 << 20), b""))


def count(server, text):
    return sum(text in line for line in server.lines)


# First contact


def test_nobody_is_there(server):
    """Neither with nor without TLS, for the same reason: it is said once."""
    client = client_of(server)
    server.__exit__()
    with pytest.raises(RegistryError, match=f"^{server.address}: GET /v2/: connection refused$"):
        client.manifest("tag")


def test_ping_first(server):
    """Ping: its answer serves all later requests, of all clients that share what is known."""
    client = client_of(server)
    client.manifest("tag")
    Client(client.endpoint, tokens=client.tokens).manifest("tag")

    assert server.lines == ["GET /v2/", *["GET /v2/a/b/manifests/tag"] * 2]


def test_plain_http_only_where_asked(server):
    """HTTPS first; HTTP only if it will do."""
    with pytest.raises(RegistryError, match="the server does not speak TLS"):
        client_of(server, plain_http=False).manifest("tag")
    assert server.requests == []

    assert client_of(server).manifest("tag").data == MANIFEST


def test_https_first(secure, authority):
    """Where HTTP will do, HTTPS goes before it all the same."""
    client = client_of(secure, tls=Tls(authorities=(str(authority.certificate),)))

    assert client.manifest("tag").data == MANIFEST
    assert client.tokens.scheme == "https"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tls_that_is_busy_is_tls(secure, authority, status):
    """Where HTTP will do, a registry that answers over TLS is asked again over TLS, whatever it answers just then."""
    secure.script("/v2/$", *[answers.say(status)] * 2)
    client = client_of(secure, tls=Tls(authorities=(str(authority.certificate),)))

    assert client.manifest("tag").data == MANIFEST
    assert client.tokens.scheme == "https"


@pytest.mark.parametrize("host", ["localhost:99999", "localhost:x", "[::1:5000", ""])
def test_what_is_no_host(host):
    """A registries.conf may have anything for one."""
    with pytest.raises(RegistryError, match="no HOST"):
        Client(Endpoint(host, "a/b")).manifest("tag")


def test_neither_https_nor_http(server):
    """Both failures are said."""
    server.always("/v2/$", answers.say(404, {}, b"nothing here"))

    with pytest.raises(RegistryError, match="does not speak TLS; without TLS, GET /v2/: 404: nothing here"):
        client_of(server).manifest("tag")


@pytest.mark.parametrize("status", [204, 400, 403, 404, 501])
def test_ping_that_is_no_registry(server, status):
    """Ping: neither 200 nor 401 is an error."""
    server.always("/v2/$", answers.say(status))

    with pytest.raises(RegistryError, match=f"GET /v2/: {status}"):
        client_of(server).manifest("tag")
    assert count(server, "manifests") == 0


def test_later_requests_without_a_challenge(server):
    """gcr.io: 401 without a challenge later; that of the ping counts."""
    server.tokens = honest.Tokens()
    server.script("GET .*/manifests/", answers.say(401))
    client = client_of(server)
    client.tokens.scheme = None
    with pytest.raises(AuthenticationError):
        client.manifest("tag")  # the token is fresh: final

    assert client.manifest("tag").data == MANIFEST
    server.tokens.revoke()
    server.script("GET .*/manifests/", answers.say(401))
    assert client.manifest("tag").data == MANIFEST, "it worked before: a new one is got, from the realm of the ping"


def test_challenge_of_another_host_is_not_believed(server, other):
    """A ping that is redirected to another host: that one does not say where our password goes."""
    server.always("GET /v2/$", answers.redirect(f"{other.url}/v2/"))
    other.always("GET /v2/$", BASIC)
    client = client_of(server, credentials=USER)

    assert client.manifest("tag").data == MANIFEST
    assert all(request.authorization is None for request in (*server.requests, *other.requests))


# Being let in


def test_basic(server):
    """Basic: on each request to the registry."""
    server.always("GET /v2/$", BASIC)
    client = client_of(server, credentials=USER)
    client.manifest("tag")
    blob_of(client)

    assert [request.authorization for request in server.requests] == [None, *["Basic dXNlcjpwYXNzd29yZC0x"] * 2]


def test_what_may_pass_is_told(server, caplog):
    """Who waits for another try is told what for, once; the last failure is the error itself."""
    server.script("GET /v2/a/b/manifests/", answers.say(503), answers.say(503), answers.say(502))

    client_of(server).manifest("tag")

    texts = [record.getMessage().partition(": ")[2] for record in caplog.records if record.name.endswith("session")]
    assert texts == ["manifest tag of a/b: 503; trying again", "manifest tag of a/b: 502; trying again"]


def test_basic_that_is_refused(server):
    """401 with the password is final, at once, and says nothing of it."""
    server.always("GET", answers.say(401, {"WWW-Authenticate": 'Basic realm="x"'}, b"no password-1 for you"))

    with pytest.raises(AuthenticationError, match=r"401: no \*\*\* for you; credentials are configured$"):
        client_of(server, credentials=USER).manifest("tag")
    assert count(server, "manifests") == 1


def test_no_credentials(server):
    """Nobody has said who we are: the error says that."""
    server.always("GET", BASIC)

    with pytest.raises(AuthenticationError, match="401; asked without credentials"):
        client_of(server).manifest("tag")


@pytest.mark.parametrize("users", [{}, {"user": "password-1"}])
def test_bearer(server, users):
    """Anonymous or not: a token is got once."""
    server.tokens = honest.Tokens(users=users)
    client = client_of(server, credentials=USER if users else None)
    client.manifest("tag")
    blob_of(client)

    assert len(server.tokens.given) == 1
    assert count(server, "GET /token?service=a+test&scope=repository%3Aa%2Fb%3Apull") == 1
    assert {request.authorization for request in server.requests if "/a/b/" in request.path} == {
        "Bearer token-0-secret"
    }


def test_wrong_password(server):
    """The server of tokens refuses: final, in its words."""
    server.tokens = honest.Tokens(users={"user": "another"})

    with pytest.raises(AuthenticationError, match="a token for .*: 401: UNAUTHORIZED: incorrect username or password"):
        client_of(server, credentials=USER).manifest("tag")


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_token_that_expires_in_the_middle(server, uses):
    """Row "401 with a token that worked": a new one, once, also in the middle of a pull."""
    server.tokens = honest.Tokens(uses=uses)
    client = client_of(server)

    for _ in range(7):
        assert blob_of(client) == DATA
    assert len(server.tokens.given) == -(-7 // uses)


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_token_that_expires_where_blobs_are_elsewhere(server, other, uses):
    """The same where the registry sends on to storage each time: that it does shows that the token was good."""
    gate = server.tokens = honest.Tokens(uses=uses)
    check = gate.check
    gate.check = lambda request: None if "/blobs/" in request.path else check(request)  # those are checked below

    def lead_on(exchange, reply):
        refused = check(exchange.request)
        if refused is not None:
            exchange.reply(refused)
        else:
            answers.redirect(f"{other.url}/v2/a/b/blobs/{DIGEST}")(exchange, reply)

    server.always(BLOB, lead_on)
    client = client_of(server)

    for _ in range(7):
        assert blob_of(client) == DATA
    assert len(gate.given) == -(-7 // uses)


def test_fresh_token_that_is_refused(server):
    """Row "401/403 after a fresh token": final, without another try."""
    server.tokens = honest.Tokens(uses=0)

    with pytest.raises(AuthenticationError, match="401: UNAUTHORIZED: authentication required"):
        client_of(server).manifest("tag")
    assert len(server.tokens.given) == 1
    assert count(server, "manifests") == 1


def test_token_that_is_refused_twice(server):
    """It worked, is refused, and so is the new one: final."""
    server.tokens = honest.Tokens()
    client = client_of(server)
    client.manifest("tag")
    server.tokens._left.clear()
    server.tokens.uses = 0

    with pytest.raises(AuthenticationError):
        client.manifest("tag")
    assert len(server.tokens.given) == 2


def test_insufficient_scope(server):
    """Row 3 of 1.4: once more, with the scope that is wanted first; with 403, too."""
    realm = f"http://{server.address}/token"
    wanted = f'Bearer realm="{realm}",service="a test",scope="repository:a/b:pull,push",error="insufficient_scope"'
    for status in (401, 403):
        server.tokens = honest.Tokens()
        server.clear()
        server.script("GET .*/manifests/", answers.say(status, {"WWW-Authenticate": wanted}))

        assert client_of(server).manifest("tag").data == MANIFEST

        assert [line for line in server.lines if "/token" in line] == [
            "GET /token?service=a+test&scope=repository%3Aa%2Fb%3Apull",
            "GET /token?service=a+test&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aa%2Fb%3Apull",
        ]


def test_insufficient_scope_twice(server):
    """Only once."""
    server.tokens = honest.Tokens()
    wanted = {"WWW-Authenticate": 'Bearer realm="http://x/",error="insufficient_scope",scope="repository:a/b:*"'}
    server.tokens.check = lambda request: honest.refusal(401, "DENIED", "no", wanted)
    server.script("GET /v2/$", answers.say(200))

    with pytest.raises(ComposefsError):
        client_of(server).manifest("tag")
    assert count(server, "manifests") == 1


def test_several_challenges(server):
    """Two in one line and one in another header: Bearer is taken."""
    server.tokens = honest.Tokens()
    realm = f"http://{server.address}/token"

    def challenge(exchange, _):
        pairs = [("Content-Length", "0"), ("WWW-Authenticate", 'Negotiate, Basic realm="a, b"')]
        exchange.head(
            401, [*pairs, ("WWW-Authenticate", f'Digest realm="x", Bearer realm="{realm}", service="a test"')]
        )

    server.always("GET /v2/$", challenge)

    assert client_of(server, credentials=USER).manifest("tag").data == MANIFEST
    assert len(server.tokens.given) == 1


def test_threads_get_one_token(server):
    """Row 4 of 1.4: one request at a time."""
    server.tokens = honest.Tokens()
    client = client_of(server)
    found = []
    threads = [threading.Thread(target=lambda: found.append(blob_of(client))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [DATA] * 8
    assert len(server.tokens.given) == 1
    assert count(server, "GET /v2/") == 9


def test_realm_in_a_private_network(server):
    """The registry names a place of our network for tokens: it is not asked."""
    with ScriptedServer() as inner:
        server.tokens = honest.Tokens(realm=f"http://{inner.address}/token")

        with pytest.raises(AuthenticationError, match="in a private network"):
            client_of(server, credentials=USER).manifest("tag")
        assert inner.requests == []


def test_realm_that_redirects(server):
    """After redirects the same is checked: another machine of ours is not asked."""
    with ScriptedServer() as inner:
        server.tokens = honest.Tokens()
        server.script("GET /token", answers.redirect(f"http://{inner.address}/token"))

        with pytest.raises(AuthenticationError, match="in a private network"):
            client_of(server, credentials=USER).manifest("tag")
        assert inner.requests == []


def test_identity_token_is_not_sent_on(server):
    """The POST that has it is never redirected."""
    server.tokens = honest.Tokens()
    server.script("POST /token", answers.redirect(f"{server.url}/token?other", 307))
    identity = Credentials("user", "password-1", "identity-1")

    with pytest.raises(RegistryError, match="a redirect of POST"):
        client_of(server, credentials=identity).manifest("tag")
    assert count(server, "POST") == 1
    assert any(b"identity-1" in request.body for request in server.requests)


def test_huge_token(server):
    """Limits: an answer with a token has at most 1 MiB."""
    server.tokens = honest.Tokens()
    server.always("GET /token", answers.say(200, {}, json.dumps({"token": "x" * (1 << 21)}).encode()))

    with pytest.raises(ComposefsError, match="bytes of JSON"):
        client_of(server).manifest("tag")


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("is_absolute", [True, False])
def test_redirects(server, status, is_absolute):
    """They are normal, absolute or relative."""
    location = f"/elsewhere?x=1&y={'a%2F'}"
    server.script(BLOB, answers.redirect(server.url + location if is_absolute else location, status))
    server.always("/elsewhere", answers.say(200, {}, DATA))

    assert blob_of(client_of(server)) == DATA
    assert server.lines[-1] == f"GET {location}"


def test_range_is_kept(server, other):
    """The other server is asked for the same range."""
    server.always(BLOB, answers.redirect(f"{other.url}/v2/a/b/blobs/{DIGEST}"))

    assert blob_of(client_of(server), start=1000, end=2000) == DATA[1000:2000]
    assert other.requests[0].range == "bytes=1000-1999"


def hops(server, number):
    for hop in range(number):
        server.script(f"hop{hop}$" if hop else BLOB, answers.redirect(f"/hop{hop + 1}"))
    server.always(f"hop{number}$", answers.say(200, {}, DATA))


def test_ten_redirects(server):
    """At most 10."""
    hops(server, 10)
    assert blob_of(client_of(server)) == DATA


def test_eleven_redirects(server):
    """One more is too many."""
    hops(server, 11)
    with pytest.raises(RegistryError, match="more than 10 redirects"):
        blob_of(client_of(server))


def test_redirect_loop(server):
    """Without an end."""
    server.always("/blobs/", answers.redirect_on)

    with pytest.raises(RegistryError, match="more than 10 redirects"):
        blob_of(client_of(server))
    assert count(server, "/blobs/") == 11


@pytest.mark.parametrize("location", ["ftp://x/", "file:///etc/passwd", "//[", "http://x:y/", "https:///x"])
def test_redirect_to_nothing(server, location):
    """What is no URL of HTTP is an error, and not asked for."""
    server.always(BLOB, answers.redirect(location))

    with pytest.raises(RegistryError, match="a redirect to what is no URL"):
        blob_of(client_of(server))


@pytest.mark.parametrize(
    ("location", "asked"),
    [("/a b?c d", "/a%20b?c%20d"), ("/\xe9", "/%C3%A9"), ("?x=1#y", f"/v2/a/b/blobs/{DIGEST}?x=1")],
)
def test_redirect_to_odd_places(server, location, asked):
    """What is no clean URL is made one, and never breaks a request."""
    server.script(BLOB, answers.redirect(location))
    server.always("GET", answers.say(200, {}, DATA))

    assert blob_of(client_of(server, host="127.0.0.1")) == DATA
    assert server.lines[-1].lower() == f"GET {asked}".lower()


def test_redirect_without_location(server):
    """It is an answer like any other."""
    server.always(BLOB, answers.say(302))

    with pytest.raises(RegistryError, match=": 302"):
        blob_of(client_of(server))


def test_no_redirect_from_https_to_http(secure, other, authority):
    """It is refused, whatever is asked for."""
    client = client_of(secure, plain_http=False, tls=Tls(authorities=(str(authority.certificate),)), credentials=USER)
    secure.always("/a/b/", answers.redirect(f"{other.url}/x"))

    for ask in (blob_of, lambda client: client.manifest("tag"), lambda client: client.tags()):
        with pytest.raises(RegistryError, match="a redirect from HTTPS to HTTP"):
            ask(client)
    assert other.requests == []


@pytest.mark.parametrize("status", [400, 401, 403])
def test_target_that_refuses_once(server, other, status):
    """400, 401, 403 from a target: the URL was signed too long ago; ask the registry again, once."""
    numbers = itertools.count()

    def sign(exchange, reply):
        location = f"{other.url}/v2/a/b/blobs/{DIGEST}?signature={next(numbers)}"
        answers.redirect(location)(exchange, reply)

    server.always(BLOB, sign)
    other.script("GET", answers.say(status))

    assert blob_of(client_of(server)) == DATA

    assert [request.query for request in other.requests] == ["signature=0", "signature=1"]
    assert count(server, "/blobs/") == 2


@pytest.mark.parametrize("status", [400, 401, 403])
def test_target_that_refuses_twice(server, other, status):
    """Then it is final; the error names that host, and not the signature."""
    server.tokens = honest.Tokens()
    server.always(BLOB, answers.redirect(f"{other.url}/x?signature=very%2Fsecret"))
    other.always("GET", answers.say(status, {}, b"gone"))

    with pytest.raises(RegistryError, match=f"^{other.address}: blob .*: {status}: gone") as caught:
        blob_of(client_of(server))
    assert "signature" not in str(caught.value) + repr(caught.value)
    assert len(other.requests) == 2
    assert len(server.tokens.given) == 1, "it is not our token that was refused"


def test_each_try_begins_at_the_registry(server, other):
    """Pre-signed URLs live minutes: after a failure of the target the registry is asked for a new one."""
    server.always(BLOB, answers.redirect(f"{other.url}/v2/a/b/blobs/{DIGEST}"))
    other.script("GET", answers.say(503), answers.hang_up(), answers.hang_up(reset=True))

    assert blob_of(client_of(server)) == DATA
    assert count(server, "/blobs/") == count(other, "/blobs/") == 4


def test_a_url_with_a_password(server):
    """A redirect with user and password in it: they are no credentials of ours, and are not sent, nor shown."""
    server.script(BLOB, answers.redirect(f"http://user:hunter22@{server.address}/x"))
    server.script("/x", answers.say(404))

    with pytest.raises(RegistryError) as caught:
        blob_of(client_of(server))
    assert "hunter22" not in str(caught.value)
    assert str(caught.value).startswith(server.address)
    assert all(request.authorization is None for request in server.requests)


# Who is shown our credentials

ASKS = {
    "blob": (f"/v2/a/b/blobs/{DIGEST}", blob_of),
    "range": (f"/v2/a/b/blobs/{DIGEST}", lambda client: blob_of(client, start=5)),
    "manifest": ("/v2/a/b/manifests/tag", lambda client: client.manifest("tag")),
    "tags": ("/v2/a/b/tags/list", lambda client: client.tags()),
    "referrers": (f"/v2/a/b/referrers/{DIGEST}", lambda client: client.referrers(DIGEST)),
}


@pytest.mark.parametrize("ask", list(ASKS))
@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("where", ["port", "host", "scheme", "back"])
def test_redirects_elsewhere_have_no_authorization(server, other, secure, authority, kind, ask, where):
    """Other port, host, or scheme: none of them sees it, also not after a way back; the registry always does."""
    path, call = ASKS[ask]
    ca = Tls(authorities=(str(authority.certificate),))
    if kind == "basic":
        server.always("GET /v2/$", BASIC)
    else:
        server.tokens = honest.Tokens()
    here = f"http://localhost:{server.port}"
    target = {"port": other.url, "host": here, "scheme": secure.url, "back": other.url}[where]
    for running in (server, other, secure):
        running.contents.referrers = {}
    if where == "back":
        server.script(f"GET {path}", answers.redirect(f"{other.url}{path}"), answers.say(404))
        other.script(f"GET {path}", answers.redirect(f"{server.url}{path}"))
    elif where == "host":
        server.script(f"GET {path}", answers.redirect(f"{here}{path}"), answers.honest)
        server.tokens_of_host = None
    else:
        server.always(f"GET {path}", answers.redirect(f"{target}{path}"))
    client = client_of(server, credentials=USER, tls=ca)

    try:
        call(client)
    except RegistryError:
        assert where in ("back", "host")  # which want it, and do not get it

    for request in (*other.requests, *secure.requests):
        assert request.authorization is None
    mine = [request for request in server.requests if request.path == path]
    assert mine[0].authorization is not None
    if where in ("back", "host"):
        assert len(mine) >= 2
        assert mine[1].authorization is None
    for request in mine:
        if request.headers["host"].startswith("localhost"):
            assert request.authorization is None
    assert other.requests or secure.requests or where == "host"


# Retries


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_statuses_that_pass(server, status):
    """Row "408, 500, 502-504": up to 5."""
    server.script("GET .*/manifests/", *[answers.say(status)] * (TRIES - 1))

    assert client_of(server).manifest("tag").data == MANIFEST
    assert count(server, "manifests") == TRIES


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_statuses_that_do_not_pass(server, status):
    """Then it is final, with what the server said."""
    server.always("GET .*/manifests/", answers.say(status, {}, b"come back later"))

    with pytest.raises(RegistryError, match=f"{status}: come back later"):
        client_of(server).manifest("tag")
    assert count(server, "manifests") == TRIES


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 418, 501, 505])
def test_statuses_that_are_final(server, status):
    """Row "404, 400": once."""
    server.always("GET .*/manifests/", answers.say(status, {}, b"no"))

    with pytest.raises(RegistryError, match=f"{status}: no") as caught:
        client_of(server).manifest("tag")
    assert caught.value.status == status
    assert count(server, "manifests") == 1


@pytest.mark.parametrize(
    "failure", [answers.hang_up(), answers.hang_up(reset=True), answers.cut(3), answers.cut(3, chunked=True)]
)
def test_connections_that_end(server, failure):
    """Row "EOF before headers, reset": up to 5; a manifest that is cut, too."""
    server.script("GET .*/manifests/", *[failure] * (TRIES - 1))

    assert client_of(server).manifest("tag").data == MANIFEST
    assert count(server, "manifests") == TRIES

    server.always("GET .*/manifests/", failure)
    with pytest.raises(ConnectionLostError):
        client_of(server).manifest("tag")


def test_silence(server, monkeypatch):
    """Row "timeout": up to 5."""
    monkeypatch.setattr(connection.Request, "patience", 0.1)
    monkeypatch.setattr(session, "TRIES", 2)
    client = client_of(server)
    client.session.enter()
    server.script("GET .*/manifests/", answers.silent)

    answer = client.session.request(
        "GET",
        "/v2/a/b/manifests/tag",
        what="x",
        scopes=(),
        expected=(200,),
        headers={"Accept": MANIFEST_TYPE},
        patience=0.1,
    )
    answer.close()
    assert count(server, "manifests") == 2

    server.always("GET .*/manifests/", answers.silent)
    with pytest.raises(ConnectionLostError, match="no answer in time"):
        client.session.request(
            "GET", "/v2/a/b/manifests/tag", what="x", scopes=(), expected=(200,), patience=0.1, tries=2
        )


def test_nobody_listens(server):
    """A registry that is down is not asked five times: the next mirror is waiting."""
    address = server.address
    server.__exit__()
    waited = []
    tokens = Tokens()
    tokens.scheme = "http"
    with pytest.raises(RegistryError, match="connection refused"):
        Session(Endpoint(address, "a/b", plain_http=True), tokens).request(
            "GET", "/v2/x", what="x", scopes=(), expected=(200,), wait=waited.append
        )
    assert waited == []


def request_with(wait, server, **options):
    client = client_of(server, **options)
    client.session.enter()
    with client.session.request(
        "GET",
        "/v2/a/b/manifests/tag",
        what="x",
        scopes=(),
        expected=(200,),
        headers={"Accept": MANIFEST_TYPE},
        wait=wait,
    ) as answer:
        return answer.status


class EnoughError(Exception):
    """Ends what is waiting, as Ctrl-C does."""


@pytest.mark.parametrize(
    ("status", "retry_after", "least", "most"),
    [
        (429, "3", 2.9, 4.0),
        (429, "Fri, 01 Jan 2100 00:00:00 GMT", MAX_PAUSE - 0.1, MAX_PAUSE + 1),
        (429, "1000000000", MAX_PAUSE - 0.1, MAX_PAUSE + 1),
        (503, "3", 3.0, 4.0),
        (503, "1000000000", MAX_PAUSE, MAX_PAUSE + 1),
        (503, None, 0.75, 1.25),
        (429, None, 1.4, 2.5),
        (429, "soon", 1.4, 2.5),
    ],
)
def test_how_long_is_waited(server, monkeypatch, status, retry_after, least, most):
    """Row 429: seconds, a date, nothing, 10^9; capped; what waits can be ended."""
    monkeypatch.setattr(session, "_FIRST_BACKOFF", 1.0)
    monkeypatch.setattr(session, "_FIRST_PAUSE", 2.0)
    server.always("GET .*/manifests/", answers.say(status, {"Retry-After": retry_after} if retry_after else {}))
    waited = []

    def wait(seconds):
        waited.append(seconds)
        raise EnoughError

    with pytest.raises(EnoughError):
        request_with(wait, server)
    assert least <= waited[0] <= most


def test_backoff_grows(server, monkeypatch):
    """1, 2, 4, 8 s with jitter."""
    monkeypatch.setattr(session, "_FIRST_BACKOFF", 1.0)
    server.script("GET .*/manifests/", *[answers.say(500)] * 2, *[answers.hang_up()] * 2)
    waited = []

    assert request_with(waited.append, server) == 200

    assert [round(seconds / factor) for seconds, factor in zip(waited, (1, 2, 4, 8), strict=True)] == [1] * 4
    assert waited != sorted(map(round, waited))


def test_429_stops_all_streams_and_says_so(server, monkeypatch):
    """Row 429: all streams to the host wait, other clients' too; it is said once."""
    monkeypatch.setattr(session, "_FIRST_PAUSE", 0.5)
    notices = []
    clients = [client_of(server, on_notice=notices.append) for _ in range(4)]
    for client in clients:
        client.session.enter()
    before = PAUSES.count
    server.script(BLOB, answers.too_many())
    times = []

    def fetch(client):
        blob_of(client)
        times.append(time.monotonic())

    first = threading.Thread(target=fetch, args=(clients[0],))
    began = time.monotonic()
    first.start()
    while PAUSES.count == before:
        time.sleep(0.005)
    others = [threading.Thread(target=fetch, args=(client,)) for client in clients[1:]]
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join()

    assert all(each - began >= 0.35 for each in times), "nobody was served during the pause"
    assert len(notices) == 1
    assert notices[0].startswith(f"{server.address}: too many requests (429); all streams to it wait")
    assert clients[0].refusals() == before + 1


def test_429_at_the_server_of_tokens(server):
    """It waits there, too."""
    server.tokens = honest.Tokens()
    server.script("GET /token", *[answers.too_many()] * 2)

    assert client_of(server).manifest("tag").data == MANIFEST
    assert count(server, "GET /token") == 3


def test_429_for_ever(server):
    """5 tries, then its message."""
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit"}]})
    server.always("GET .*/manifests/", answers.say(429, {"Retry-After": "0"}, body.encode()))

    with pytest.raises(RegistryError, match="429: TOOMANYREQUESTS: You have reached") as caught:
        client_of(server).manifest("tag")
    assert (caught.value.status, caught.value.code) == (429, "TOOMANYREQUESTS")
    assert count(server, "manifests") == TRIES


def test_429_where_there_is_one_try(server):
    """The next request waits for what was asked, whoever makes it: uploads repeat some requests by themselves."""
    client = client_of(server)
    client.session.enter()
    server.script(BLOB, answers.too_many("1"))

    def ask():
        options = {"what": "x", "scopes": (), "expected": (200,), "tries": 1, "max_size": len(DATA)}
        return client.session.request("GET", f"/v2/a/b/blobs/{DIGEST}", **options)

    with pytest.raises(RegistryError, match="429"):
        ask()
    began = time.monotonic()
    assert ask().body == DATA

    assert time.monotonic() - began > 0.8


def test_warnings_have_no_secret(server):
    """A warning may repeat what it warns of."""
    notices = []
    header = {"Warning": '299 - "change the password: password-1"', "Content-Type": MANIFEST_TYPE}
    server.always("GET .*/manifests/", answers.say(200, header, MANIFEST))

    client_of(server, credentials=USER, on_notice=notices.append).manifest("tag")

    assert [notice.partition(" warns: ")[2] for notice in notices] == ["change the password: ***"]


def test_warnings_are_shown_once(server):
    """`Warning: 299`: shown once, not again by a worker that goes on with what is known, and nothing more."""
    notices = []
    header = {
        "Warning": '299 - "this registry \\"closes\\" soon", 299 - "really\x01", 199 - "no"',
        "Content-Type": MANIFEST_TYPE,
    }
    server.always("GET .*/manifests/", answers.say(200, header, MANIFEST))
    client = client_of(server, on_notice=notices.append)

    client.manifest("tag")
    client.manifest("tag")

    workers = pickle.loads(pickle.dumps(client.tokens))
    Client(client.endpoint, tokens=workers, on_notice=notices.append).manifest("tag")

    assert len(notices) == 2
    assert notices[0].startswith(f"{server.address} warns: this registry")
    assert notices[1].endswith("warns: really\\x01")


def test_no_secret_anywhere(server, other, caplog):
    """Neither in a log at its most talkative, nor in an error, its repr or its notes, nor in a notice."""
    caplog.set_level(logging.DEBUG)
    server.tokens = honest.Tokens(users={"user": "password-1"})
    server.always(BLOB, answers.redirect(f"{other.url}/x?signature=very%2Fsecret"))

    def echo(exchange, _):
        answers.say(404, {"Warning": '299 - "x"'}, str(exchange.request).encode())(exchange, _)

    other.always("/x", echo)
    server.script("GET .*/manifests/", echo)
    texts = []
    client = client_of(server, credentials=USER, on_notice=texts.append)
    for ask in (lambda: client.manifest("tag"), lambda: blob_of(client), lambda: client.manifest("tag")):
        try:
            texts.append(repr(ask()))
        except RegistryError as error:
            texts += [str(error), repr(error), repr(error.args), str(getattr(error, "__notes__", ""))]
            texts += [repr(error.__cause__), repr(error.__context__) if not error.__suppress_context__ else ""]
    texts += [repr(client.endpoint), repr(client.tokens), repr(vars(client.tokens))]

    assert len(texts) > 10
    for secret in SECRETS:
        for text in (*texts, caplog.text):
            assert secret not in text
    assert "urllib3" in caplog.text, "it does log"
    assert pool.logging.getLogger("urllib3.connectionpool").filters
