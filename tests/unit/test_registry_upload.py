"""Blobs and manifests are put into a registry, and again where the connection is lost."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import pytest

from composefs.errors import AuthenticationError, ConnectionLostError, IntegrityError, RegistryError
from composefs.registry.documents import OCI_MANIFEST
from composefs.registry.endpoint import Credentials, Endpoint
from composefs.registry.pool import close_connections
from composefs.registry.session import TRIES
from composefs.registry.upload import PushClient
from tests.layouts import noise, sha256
from tests.registries import answers, honest
from tests.registries.scripted import ScriptedServer
from tests.registries.wire import Reply

DATA = noise(100_000)
DIGEST = sha256(DATA)
MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'


@dataclass
class Uploads:
    """What a registry does with uploads; a script may be before it."""

    server: ScriptedServer
    open: dict[str, bytearray] = field(default_factory=dict)
    count: int = 0

    def answer(self, exchange, reply):
        exchange.reply(self.reply(exchange.request) or reply)

    def reply(self, request):
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        if request.method == "POST":
            return self._begin()
        if "/manifests/" in request.path:
            digest = sha256(request.body)
            self.server.contents.manifests["a/b", digest] = request.headers["content-type"], request.body
            return Reply(201, {"Docker-Content-Digest": digest})
        if request.path not in self.open:
            return honest.refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown")
        return self._go_on(request, self.open[request.path], query)

    def _go_on(self, request, held, query):
        if request.method == "DELETE":
            del self.open[request.path]
            return Reply(204)
        held += request.body
        return self._finish(request.path, query["digest"])

    def _begin(self):
        self.count += 1
        path = f"/v2/a/b/blobs/uploads/{self.count}"
        self.open[path] = bytearray()
        return Reply(202, {"Location": f"{path}?_state=x", "Range": "0-0"})

    def _finish(self, path, digest):
        data = bytes(self.open.pop(path))
        if sha256(data) != digest:
            return honest.refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.server.contents.blobs[digest] = data
        return Reply(201, {"Docker-Content-Digest": digest, "Location": f"/v2/a/b/blobs/{digest}"})


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def uploads(server):
    return Uploads(server)


@pytest.fixture
def client(server):
    return PushClient(Endpoint(server.address, "a/b", plain_http=True))


WRITES = "^(POST|PUT|DELETE)"


def lines(server):
    return [re.sub(r"(uploads/)\d+", r"\1N", line) for line in server.lines[1:]]


def test_whole(server, uploads, client):
    """POST, then PUT of all of it, at the Location with its own query."""
    server.always(WRITES, uploads.answer)

    client.upload_blob(DIGEST, len(DATA), [DATA[:7], b"", DATA[7:]])

    assert server.contents.blobs == {DIGEST: DATA}
    assert lines(server) == [
        "POST /v2/a/b/blobs/uploads/",
        f"PUT /v2/a/b/blobs/uploads/N?_state=x&digest={DIGEST}",
    ]
    assert server.requests[-1].headers["content-length"] == str(len(DATA))
    assert server.requests[-1].headers["content-type"] == "application/octet-stream"
    assert client.has_blob(DIGEST)


def test_empty(server, uploads, client):
    """Nothing is a blob, too."""
    server.always(WRITES, uploads.answer)
    client.upload_blob(sha256(b""), 0, [])
    assert server.contents.blobs == {sha256(b""): b""}


@pytest.mark.parametrize(
    "failure",
    [answers.say(503), answers.hang_up(), answers.hang_up(reset=True), answers.say(429, {"Retry-After": "0"})],
)
def test_whole_again(server, uploads, client, failure):
    """What failed is begun anew, if it can be gone through again."""
    server.script("PUT", *[failure] * (TRIES - 1))
    server.always(WRITES, uploads.answer)

    client.upload_blob(DIGEST, len(DATA), [DATA])

    assert server.contents.blobs == {DIGEST: DATA}
    assert uploads.count == TRIES
    assert uploads.open == {}, "and nothing is left there"


def test_whole_but_once(server, uploads, client):
    """A generator cannot be gone through again: the failure is said."""
    server.script("PUT", answers.hang_up())
    server.always(WRITES, uploads.answer)
    with pytest.raises(RegistryError, match="it would have to be sent again, and cannot be"):
        client.upload_blob(DIGEST, len(DATA), iter([DATA]))
    assert DIGEST not in server.contents.blobs


def test_whole_for_ever(server, uploads, client):
    """5 tries."""
    server.always("PUT", answers.hang_up())
    server.always(WRITES, uploads.answer)
    with pytest.raises(ConnectionLostError, match=f"upload of blob {DIGEST}"):
        client.upload_blob(DIGEST, len(DATA), [DATA])
    assert sum(request.method == "PUT" for request in server.requests) == TRIES


def test_wrong_digest(server, uploads, client):
    """The registry checks; its words are shown."""
    server.always(WRITES, uploads.answer)
    with pytest.raises(RegistryError, match="400: DIGEST_INVALID: provided digest did not match"):
        client.upload_blob(DIGEST, len(DATA), [DATA[:-1] + b"x"])


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_wrong_size(server, uploads, client, size):
    """Pieces of another size than was said are not put there."""
    server.always(WRITES, uploads.answer)
    with pytest.raises(IntegrityError, match=f"wanted {size} bytes"):
        client.upload_blob(DIGEST, size, [DATA])
    assert server.contents.blobs == {}


def test_another_digest_is_said(server, uploads, client):
    """201, but for something else."""
    server.script("PUT", answers.say(201, {"Docker-Content-Digest": "sha256:" + "0" * 64}))
    server.always(WRITES, uploads.answer)
    with pytest.raises(IntegrityError):
        client.upload_blob(DIGEST, len(DATA), [DATA])


@pytest.mark.parametrize("location", [None, "ftp://x/", "file:///x", "//["])
def test_location_that_is_none(server, client, location):
    """The registry has to say where."""
    server.always("POST", answers.say(202, {} if location is None else {"Location": location}))
    with pytest.raises(RegistryError, match="does not say where to send it"):
        client.upload_blob(DIGEST, len(DATA), [DATA])


@pytest.mark.parametrize("name", ["tag", sha256(MANIFEST)])
def test_manifests(server, uploads, client, name):
    """By tag and by digest."""
    server.always(WRITES, uploads.answer)
    assert client.put_manifest(name, MANIFEST, OCI_MANIFEST) == sha256(MANIFEST)
    assert server.contents.manifests["a/b", sha256(MANIFEST)] == (OCI_MANIFEST, MANIFEST)
    assert lines(server) == [f"PUT /v2/a/b/manifests/{name}"]


def test_wrong_manifest(server, client):
    """What is no such manifest is not sent; what the registry got otherwise is said."""
    with pytest.raises(IntegrityError):
        client.put_manifest("sha256:" + "0" * 64, MANIFEST, OCI_MANIFEST)
    assert server.requests == []
    server.always("PUT", answers.say(201, {"Docker-Content-Digest": "sha256:" + "0" * 64}))
    with pytest.raises(IntegrityError):
        client.put_manifest("tag", MANIFEST, OCI_MANIFEST)


def test_scopes(server, uploads):
    """Pushing wants pull and push; a token that expires is renewed."""
    server.tokens = honest.Tokens()
    check, server.tokens.check = server.tokens.check, lambda request: None

    def gate(exchange, reply):
        refused = check(exchange.request)
        exchange.reply(refused) if refused else uploads.answer(exchange, reply)

    server.script("GET /v2/$", lambda exchange, _: exchange.reply(check(exchange.request)))
    server.always(WRITES, gate)
    client = PushClient(Endpoint(server.address, "a/b", plain_http=True, credentials=Credentials("user", "password-1")))
    client.upload_blob(DIGEST, len(DATA), [DATA])
    server.tokens.revoke()
    client.upload_blob(DIGEST, len(DATA), [DATA])

    asked = [parse_qs(request.query)["scope"] for request in server.requests if request.path == "/token"]
    assert asked == [
        ["repository:a/b:pull,push"],
        ["repository:a/b:pull,push"],
    ]


def test_what_signs_a_location_is_in_no_error(server, uploads):
    """Where to send an upload may be signed; who is there repeats that."""
    server.always("POST", answers.say(202, {"Location": "/upload?state=secret%2Fstate"}))
    server.always("PUT", lambda exchange, _: answers.say(403, {}, exchange.request.target.encode())(exchange, _))
    client = PushClient(Endpoint(server.address, "a/b", plain_http=True))

    with pytest.raises(AuthenticationError) as caught:
        client.upload_blob(DIGEST, len(DATA), [DATA])

    assert "/upload?***" in str(caught.value)
    assert "state=" not in repr(caught.value)


def test_locations_elsewhere_have_no_authorization(server, uploads):
    """An upload that goes on at another server: it gets the bytes, and not our password."""
    with ScriptedServer() as storage:
        server.always("GET /v2/$", answers.say(401, {"WWW-Authenticate": 'Basic realm="x"'}))
        server.always("POST", answers.say(202, {"Location": f"{storage.url}/x?signature=abc"}))
        storage.always("PUT", answers.say(201))
        client = PushClient(
            Endpoint(server.address, "a/b", plain_http=True, credentials=Credentials("user", "password-1"))
        )
        client.upload_blob(DIGEST, len(DATA), [DATA])

        (request,) = storage.requests
        assert (request.authorization, request.body) == (None, DATA)
        assert server.requests[-1].authorization is not None
        close_connections()
