"""The calls of a puller: resolving, manifests, blobs, referrers."""

import hashlib
import json
import pickle
import threading
import time

import pytest

from composefs import limits
from composefs.errors import (
    CancelledError,
    ComposefsError,
    ConnectionLostError,
    FormatError,
    IntegrityError,
    LimitError,
    RangeError,
    RegistryError,
)
from composefs.registry.client import Client
from composefs.registry.documents import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from composefs.registry.endpoint import Credentials, Endpoint, Proxies
from composefs.registry.foreign import ForeignBlob
from composefs.registry.pool import close_connections
from tests.layouts import noise, sha256
from tests.registries import answers, honest

DATA = noise(100_000)
DIGEST = sha256(DATA)
MANIFEST = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
MANIFEST_DIGEST = sha256(MANIFEST)
BLOB = "GET .*/blobs/"
TAG = "GET .*/manifests/tag"


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def server(server):
    server.contents.blobs[DIGEST] = DATA
    server.contents.put_manifest("a/b", MANIFEST, OCI_MANIFEST, "tag")
    return server


@pytest.fixture
def client(server):
    return Client(Endpoint(server.address, "a/b", plain_http=True))


def read(response):
    with response:
        return b"".join(iter(lambda: response.read(30_000), b""))


# Manifests


def test_flow(server, client):
    """Ping, HEAD by tag, GET by that digest."""
    digest = client.resolve("tag")
    document = client.manifest(digest)

    assert (document.data, document.media_type, document.digest) == (MANIFEST, OCI_MANIFEST, digest)
    assert server.lines == [
        "GET /v2/",
        "HEAD /v2/a/b/manifests/tag",
        f"GET /v2/a/b/manifests/{MANIFEST_DIGEST}",
    ]


def test_accept_names_both_families(server, client):
    """OCI and Docker, manifests and indexes, in one header; and no encodings."""
    client.resolve("tag")
    client.manifest("tag")
    for request in server.requests[1:]:
        accepted = request.headers["accept"].split(", ")
        assert sorted(accepted) == sorted([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
        assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_each_family_comes(server, client, media_type):
    """A registry that gives only what is accepted gives both."""
    server.contents.put_manifest("a/b", MANIFEST, media_type, "tag")
    assert client.manifest("tag").media_type == media_type


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 405, 429, 501, 503])
def test_head_that_does_not_say(server, client, status):
    """HEAD: 405 and its like: GET will say."""
    server.script("HEAD", answers.say(status, {"Location": "/x", "Retry-After": "60"}))
    assert client.resolve("tag") is None
    assert client.manifest("tag").digest == MANIFEST_DIGEST


@pytest.mark.parametrize("digest", [None, "", "sha256:abc", "md5:" + "0" * 32])
def test_head_without_a_digest(server, client, digest):
    """HEAD: no Docker-Content-Digest, or none that is one."""
    server.script("HEAD", answers.say(200, {} if digest is None else {"Docker-Content-Digest": digest}))
    assert client.resolve("tag") is None


def test_head_is_repeated(server, client):
    """Where the connection is lost."""
    server.script("HEAD", answers.hang_up(), answers.hang_up(reset=True))
    assert client.resolve("tag") == MANIFEST_DIGEST


def test_wrong_manifest(server, client):
    """The bytes are checked against the digest asked for; by tag against what the registry says."""
    server.script("GET .*/manifests/", answers.flip(5), answers.flip(5))
    with pytest.raises(
        IntegrityError, match=f"manifest {MANIFEST_DIGEST} of a/b at {server.address}: wanted sha256:.*, got"
    ):
        client.manifest(MANIFEST_DIGEST)
    with pytest.raises(IntegrityError):
        client.manifest("tag")


def test_sha512(server, client):
    """A name may have another digest."""
    digest = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    server.contents.manifests["a/b", digest] = OCI_MANIFEST, MANIFEST
    assert client.manifest(digest).digest == digest
    server.script("GET .*/manifests/", answers.flip(0))
    with pytest.raises(IntegrityError):
        client.manifest(digest)


@pytest.mark.parametrize("answer", [answers.longer(100 << 20), answers.endless_body])
def test_huge_manifest(server, client, answer, monkeypatch):
    """Limits: 4 MiB, whatever the length says; the rest is not read."""
    monkeypatch.setattr(limits, "REGISTRY_JSON_SIZE", 1 << 16)
    server.script(TAG, answer)
    with pytest.raises(LimitError, match="more than 65536"):
        client.manifest("tag")
    close_connections()


def test_limits():
    """As much as registries have to take."""
    assert limits.REGISTRY_JSON_SIZE == 4 << 20
    assert limits.REGISTRY_ERROR_SIZE == 1 << 20


def test_huge_error(server, client):
    """Limits: an error has at most 1 MiB; the rest is not read."""
    server.script(TAG, lambda exchange, reply: answers.endless_body(exchange, honest.Reply(404)))
    with pytest.raises(RegistryError, match=": 404"):
        client.manifest("tag")


def test_encoded_manifest(server, client):
    """Content-Encoding in the answer: refused."""
    server.script(TAG, answers.encoded)
    with pytest.raises(RegistryError, match="encoded as 'gzip'"):
        client.manifest("tag")


def test_missing_manifest(server, client):
    """404, with the registry's code or any other: it is missing."""
    with pytest.raises(RegistryError) as caught:
        client.manifest("none")
    assert (caught.value.status, caught.value.code) == (404, "MANIFEST_UNKNOWN")
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "Not Found"}]}).encode()
    server.script("GET .*/none", answers.say(404, {}, body))
    with pytest.raises(RegistryError) as caught:
        client.manifest("none")
    assert (caught.value.status, caught.value.code) == (404, "UNKNOWN")


def test_lying_type(server, client):
    """Another mediaType inside: refused."""
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    server.contents.put_manifest("a/b", data, OCI_MANIFEST, "lie")
    with pytest.raises(FormatError, match="media type"):
        client.manifest("lie")


# Blobs


def test_small_blob(server, client):
    """A config: its size and digest are known before."""
    assert client.small_blob(DIGEST, len(DATA), "config") == DATA


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answers.flip(-1), "wanted sha256:.*, got sha256:"),
        (answers.shorter(1), "wanted 100000 bytes, got 99999 bytes"),
        (answers.longer(1), "wanted 100000 bytes, got more"),
        (answers.endless_body, "wanted 100000 bytes, got more"),
    ],
)
def test_wrong_small_blob(server, client, answer, message):
    """The descriptor's size is the limit of what is read; its digest decides."""
    server.script(BLOB, answer)
    with pytest.raises(IntegrityError, match=f"config {DIGEST} at {server.address}: {message}"):
        client.small_blob(DIGEST, len(DATA), "config")


def test_large_small_blob(server, client):
    """A config that says that it is large is not asked for."""
    with pytest.raises(LimitError):
        client.small_blob(DIGEST, limits.REGISTRY_JSON_SIZE + 1, "config")
    assert server.requests == []


def test_cut_small_blob(server, client):
    """It is asked for again."""
    server.script(BLOB, *[answers.cut(10)] * 4)
    assert client.small_blob(DIGEST, len(DATA), "config") == DATA


@pytest.mark.parametrize(
    ("start", "end", "asked"),
    [
        (0, None, None),
        (0, 1, "bytes=0-0"),
        (0, len(DATA), "bytes=0-99999"),
        (5, None, "bytes=5-"),
        (5, 6, "bytes=5-5"),
        (99_999, None, "bytes=99999-"),
        (50_000, 70_000, "bytes=50000-69999"),
    ],
)
def test_ranges(server, client, start, end, asked):
    """One range a request; without If-Range."""
    response = client.open_blob(DIGEST, start=start, end=end)
    assert (response.start, response.total, response.host) == (start, len(DATA), server.address)
    assert read(response) == DATA[start:end]
    assert server.blob_requests[0].range == asked
    assert "if-range" not in server.blob_requests[0].headers
    assert server.blob_requests[0].headers["accept-encoding"] == "identity"


def test_range_that_is_ignored(server, client):
    """200: the whole blob, from 0."""
    server.script(BLOB, answers.ignore_range)
    response = client.open_blob(DIGEST, start=1000, end=2000)
    assert (response.start, response.total) == (0, len(DATA))
    assert read(response) == DATA


@pytest.mark.parametrize(
    ("value", "total"),
    [("bytes 1000-1999/100000", 100_000), ("bytes 1000-1999/*", None), ("bytes 1000-1499/100000", 100_000)],
)
def test_ranges_that_will_do(server, client, value, total):
    """206: total = size or `*`; e may be less than asked."""

    def answer(exchange, reply):
        size = 500 if "1499" in value else 1000
        exchange.reply(honest.Reply(206, {"Content-Range": value}, DATA[1000 : 1000 + size]))

    server.script(BLOB, answer)
    response = client.open_blob(DIGEST, start=1000, end=2000)
    assert (response.start, response.total) == (1000, total)
    assert DATA[1000:].startswith(read(response))


@pytest.mark.parametrize(
    "answer",
    [
        answers.multipart,
        answers.other_start(1),
        answers.content_range(None),
        answers.content_range(""),
        answers.content_range("bytes */100000"),
        answers.content_range("bytes 1000-2000/100000"),
        answers.content_range("bytes 999-1998/100000"),
        answers.content_range("bytes 1000-999/100000"),
        answers.content_range("bytes 1000-1999/1500"),
        answers.content_range("bytes 1000-1998/100000"),
        answers.content_range("bytes 1000-1999/100000, bytes 1000-1999/100000"),
        answers.content_range("items 1000-1999/100000"),
        answers.content_range("bytes -1000-1999/100000"),
        answers.content_range("bytes 1000-1999"),
        lambda exchange, _: exchange.head(
            206,
            [
                ("Content-Length", "1000"),
                ("Content-Range", "bytes 1000-1999/9"),
                ("Content-Range", "bytes 1000-1999/9"),
            ],
        ),
        answers.say(400),
        answers.say(403),
        answers.say(501),
    ],
)
def test_no_ranges(server, client, answer):
    """206 otherwise, 400, 403, 501: no ranges here, and no byte of the answer is used."""
    server.script(BLOB, answer)
    with pytest.raises(RangeError):
        client.open_blob(DIGEST, start=1000, end=2000)
    assert len(server.blob_requests) == 1
    assert read(client.open_blob(DIGEST)) == DATA
    assert len({request.connection for request in server.blob_requests}) <= 2


def test_lying_416(server, client):
    """416: the size lies, and the whole blob will tell; the body is not read, however long it is said to be."""
    server.script(BLOB, answers.lying_416(1 << 40))
    began = time.monotonic()
    with pytest.raises(RangeError, match="416"):
        client.open_blob(DIGEST, start=1000)
    assert time.monotonic() - began < 2
    assert read(client.open_blob(DIGEST)) == DATA


@pytest.mark.parametrize("options", [{}, {"start": 5}])
def test_encoded_blob(server, client, options):
    """Content-Encoding in the answer: refused."""
    server.script(BLOB, answers.encoded)
    with pytest.raises(RegistryError, match="encoded as 'gzip'"):
        client.open_blob(DIGEST, **options)


@pytest.mark.parametrize("status", [206, 400, 403, 404, 501])
def test_whole_blob_that_does_not_come(server, client, status):
    """Without a range these are final."""
    server.script(BLOB, answers.say(status))
    with pytest.raises(RegistryError) as caught:
        client.open_blob(DIGEST)
    assert (caught.value.status, type(caught.value) is RangeError) == (status, False)


def test_stop(server, client):
    """Who is to stop does not wait for another try."""
    server.always(BLOB, answers.say(503, {"Retry-After": "60"}))
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CancelledError):
        client.open_blob(DIGEST, stop=stop)


def test_abort(server, client):
    """Another thread ends a reading."""
    server.script(BLOB, answers.stall(1000))
    with client.open_blob(DIGEST) as response:
        threading.Timer(0.1, response.abort).start()
        with pytest.raises(ConnectionLostError):
            read(response)


def test_has_blob(server, client):
    """200, 404, and a redirect, which is not followed: the other server may not know HEAD."""
    assert client.has_blob(DIGEST)
    assert not client.has_blob("sha256:" + "0" * 64)
    server.script("HEAD", answers.redirect("http://127.0.0.1:9/"))
    assert client.has_blob(DIGEST)


def test_workers_go_on(server):
    """A client in another process needs no ping and no token: they pickle."""
    server.tokens = honest.Tokens()
    first = Client(Endpoint(server.address, "a/b", plain_http=True, credentials=Credentials("user", "password-1")))
    first.manifest("tag")
    server.requests.clear()

    endpoint, tokens = pickle.loads(pickle.dumps((first.endpoint, first.tokens)))
    assert read(Client(endpoint, tokens=tokens).open_blob(DIGEST)) == DATA
    assert server.lines == [f"GET /v2/a/b/blobs/{DIGEST}"]
    server.tokens.revoke()
    assert read(Client(endpoint, tokens=tokens).open_blob(DIGEST)) == DATA
    assert len(server.tokens.given) == 2, "and may renew it"


# Blobs elsewhere


def test_foreign_blobs(server):
    """`urls`: fetched without credentials, ranges and all."""
    blob = ForeignBlob(f"{server.url}/v2/x/blobs/{DIGEST}", Proxies())
    assert read(blob.open_blob(DIGEST)) == DATA
    assert read(blob.open_blob(DIGEST, start=10, end=20)) == DATA[10:20]
    assert (blob.host, len(server.requests)) == (server.address, 2)
    assert all(request.authorization is None for request in server.requests)
    server.always(BLOB, answers.say(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/token"'}))
    with pytest.raises(RegistryError, match="401"):
        blob.open_blob(DIGEST)
    assert "GET /token" not in server.lines
    assert blob.refusals() >= 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "/x", "http://", "oci:x", "http://[", "https://x:y"]
)
def test_foreign_blobs_by_http_only(url):
    """Nothing else is ever opened (CVE-2020-15157 and its like)."""
    with pytest.raises(RegistryError, match="no URL of HTTP"):
        ForeignBlob(url, Proxies())


# Referrers

SUBJECT = MANIFEST_DIGEST
SIGNATURE = {
    "mediaType": OCI_MANIFEST,
    "digest": "sha256:" + "1" * 64,
    "size": 7,
    "artifactType": "application/signature",
    "annotations": {"a": "b", "c": 5},
}
SBOM = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "2" * 64, "size": 8, "artifactType": "application/sbom"}


def digests(referrers):
    return [each.digest[-1] for each in referrers]


@pytest.mark.parametrize("filters", [True, False])
def test_referrers(server, client, filters):
    """Filtered again where the registry does not say that it has."""
    server.contents.referrers = {SUBJECT: [SIGNATURE, SBOM]}
    if not filters:
        body = json.dumps({"schemaVersion": 2, "manifests": [SIGNATURE, SBOM]}).encode()
        server.always("GET .*/referrers/", answers.say(200, {"Content-Type": OCI_INDEX}, body))

    assert digests(client.referrers(SUBJECT)) == ["1", "2"]
    (found,) = client.referrers(SUBJECT, "application/signature")

    assert (found.digest, found.media_type, found.size) == (SIGNATURE["digest"], OCI_MANIFEST, 7)
    assert (found.artifact_type, found.annotations) == ("application/signature", {"a": "b"})
    assert server.lines[-1] == f"GET /v2/a/b/referrers/{SUBJECT}?artifactType=application%2Fsignature"


def test_no_referrers(server, client):
    """404, and 404 for the tag: none."""
    assert client.referrers(SUBJECT) == ()
    assert server.lines[-1] == f"GET /v2/a/b/manifests/sha256-{SUBJECT[7:]}"
    server.contents.referrers = {}
    assert client.referrers(SUBJECT) == ()


@pytest.mark.parametrize(
    ("digest", "tag"),
    [
        (SUBJECT, f"sha256-{SUBJECT[7:]}"),
        ("sha512:" + "ab" * 64, "sha512-" + "ab" * 32),
    ],
)
def test_referrers_by_tag(server, client, digest, tag):
    """404: the tag <alg>-<hex>, hex cut at 64; filtered by us."""
    index = json.dumps({"schemaVersion": 2, "manifests": [SIGNATURE, SBOM]}).encode()
    server.contents.put_manifest("a/b", index, OCI_INDEX, tag)

    assert digests(client.referrers(digest)) == ["1", "2"]
    assert digests(client.referrers(digest, "application/sbom")) == ["2"]


def test_referrers_by_tag_that_names_no_index(server, client):
    """It is expected to be one."""
    server.contents.put_manifest("a/b", MANIFEST, OCI_MANIFEST, f"sha256-{SUBJECT[7:]}")
    with pytest.raises(RegistryError, match="names no index"):
        client.referrers(SUBJECT)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"manifests": {}},
        {"manifests": [7]},
        {"manifests": [{}]},
        {"manifests": [{**SIGNATURE, "digest": "x"}]},
        {"manifests": [{**SIGNATURE, "size": -1}]},
        {"manifests": [{**SIGNATURE, "size": True}]},
        {"manifests": [{**SIGNATURE, "mediaType": None}]},
        [],
    ],
)
def test_broken_referrers(server, client, value):
    """What is no list of descriptors is an error, not none."""
    server.always("GET .*/referrers/", answers.say(200, {}, json.dumps(value).encode()))
    with pytest.raises(FormatError):
        client.referrers(SUBJECT)


def test_referrers_come_in_pages(server, client):
    """Pages by `Link`."""
    index = [json.dumps({"manifests": [each]}).encode() for each in (SIGNATURE, SBOM)]
    link = {"Link": f'<{server.url}/v2/a/b/referrers/{SUBJECT}?page=2>; rel="next"'}
    server.script("GET .*/referrers/", answers.say(200, link, index[0]), answers.say(200, {}, index[1]))
    assert digests(client.referrers(SUBJECT)) == ["1", "2"]


# Tags


def test_tags(server, client):
    """All pages, in order."""
    tags = sorted(f"v{number}" for number in range(2500))
    for tag in tags:
        server.contents.manifests["a/b", tag] = OCI_MANIFEST, MANIFEST
    assert list(client.tags()) == ["tag", *tags]
    assert server.lines[1:] == [
        "GET /v2/a/b/tags/list?n=1000",
        f"GET /v2/a/b/tags/list?n=1000&last={tags[998]}",
        f"GET /v2/a/b/tags/list?n=1000&last={tags[1998]}",
    ]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('</v2/a/b/tags/list?last=x>; rel="next"', ["one", "tag"]),
        ("</v2/a/b/tags/list?last=x>; rel=next", ["one", "tag"]),
        ('<?last=x>; title="a"; rel="next"', ["one", "tag"]),
        ('</other>; rel="prev", </v2/a/b/tags/list?last=x>; rel="next"', ["one", "tag"]),
        ('</other>; rel="prev"', ["one"]),
        ("rubbish", ["one"]),
    ],
)
def test_links(server, client, link, expected):
    """The forms of `Link` that registries send."""
    server.contents.manifests["a/b", "z"] = OCI_MANIFEST, MANIFEST
    body = json.dumps({"tags": ["one"]}).encode()
    server.script("GET .*/tags/list", answers.say(200, {"Link": link}, body))
    server.always("GET .*/tags/list.last=x", answers.say(200, {}, json.dumps({"tags": ["tag"]}).encode()))
    assert list(client.tags()) == expected


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "https://other.example/x", "ftp://x/"])
def test_the_next_page_is_elsewhere(server, client, url):
    """No other server is asked, and none gets our token."""
    server.always("GET .*/tags/list", answers.say(200, {"Link": f'<{url}>; rel="next"'}, b'{"tags": ["one"]}'))
    with pytest.raises(RegistryError, match="the next page is at another server"):
        client.tags()


def test_pages_without_end(server, client, monkeypatch):
    """They end, for us."""
    monkeypatch.setattr(limits, "REGISTRY_PAGES", 7)
    server.always("GET .*/tags/list", answers.say(200, {"Link": '</v2/a/b/tags/list>; rel="next"'}, b'{"tags": []}'))
    with pytest.raises(LimitError, match="more than 7 pages"):
        client.tags()
    assert len(server.requests) == 8


def test_pages_that_are_too_much_together(server, client, monkeypatch):
    """Each is small enough; all of them are not."""
    monkeypatch.setattr(limits, "REGISTRY_LIST_SIZE", 50)
    page = b'{"tags": ["0123456789"]}'
    server.always("GET .*/tags/list", answers.say(200, {"Link": '</v2/a/b/tags/list>; rel="next"'}, page))
    with pytest.raises(LimitError, match="more than 50 bytes of all pages"):
        client.tags()
    assert len(server.requests) == 4


@pytest.mark.parametrize("body", [b'{"tags": [7]}', b'{"tags": "x"}', b"{}", b"[]", b"x"])
def test_broken_tags(server, client, body):
    """What is no list of texts is an error."""
    server.always("GET .*/tags/list", answers.say(200, {}, body))
    with pytest.raises(ComposefsError):
        client.tags()


def test_null_is_no_tags(server, client):
    """What Go makes of an empty list."""
    server.always("GET .*/tags/list", answers.say(200, {}, b'{"name": "a/b", "tags": null}'))
    assert client.tags() == ()
