"""An image of a registry, as an import sees it: mirrors, platforms, types, and where its layers are."""

import base64
import hashlib
import json
import pickle
from dataclasses import replace

import pytest

from composefs import limits
from composefs.errors import (
    ComposefsError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    RegistryError,
)
from composefs.oci.manifest import MANIFEST_TYPE, Compression, Platform
from composefs.oci.platforms import host_platform
from composefs.oci.sources.access import Access
from composefs.oci.sources.registry import RegistrySource, open_registry
from composefs.reference import RegistryName, RegistryReference
from composefs.registry.endpoint import Credentials, Endpoint
from tests.layouts import (
    CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Layout,
    files_layer,
    for_platform,
    image_layout,
    sha256,
)
from tests.registries import answers, honest
from tests.registries.scripted import ScriptedServer
from tests.sources import read_place

LAYERS = [files_layer({"etc/a": b"1" * 100}, "gzip"), files_layer({"etc/b": b"2" * 100}, "zstd")]
NAME = RegistryName("registry.example", "a/b", "tag", None)
HERE = str(host_platform())
ELSEWHERE = "linux/s390x" if "s390x" not in HERE else "linux/riscv64"
BLOB = "GET .*/blobs/"
MANIFESTS = "GET .*/manifests/"


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def mirror():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def layout(tmp_path):
    return image_layout(tmp_path / "layout", LAYERS)


def endpoint(server, **options):
    return Endpoint(server.address, "a/b", plain_http=True, **options)


def opened(*servers, name=NAME, **options):
    endpoints = [server if isinstance(server, Endpoint) else endpoint(server) for server in servers]
    return RegistrySource("docker://registry.example/a/b:tag", name, endpoints, streams=6, **options)


def by_digest(digest):
    return RegistryName(NAME.host, NAME.repository, NAME.tag, digest)


def image_of(*servers, platform=None, **options):
    with opened(*servers, **options) as source:
        return source.image(platform)


def read(blob):
    return read_place(blob.place)


def put(server, value, media_type, *tags):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {
        "mediaType": media_type,
        "digest": server.contents.put_manifest("a/b", data, media_type, *tags),
        "size": len(data),
    }


# The image


def test_image(server, layout):
    """Manifest and config are the stored bytes; ping, HEAD, GET by digest, and nothing twice."""
    digest = server.contents.put_layout(layout.path, "a/b", "tag")

    with opened(server) as source:
        image = source.image()
        again = source.image()

    manifest = json.loads(layout.blob_path(digest).read_bytes())
    assert again is image
    assert image.manifest_bytes == layout.blob_path(digest).read_bytes()
    assert image.config_bytes == layout.blob_path(manifest["config"]["digest"]).read_bytes()
    assert (image.descriptor.digest, image.source_digest) == (digest, None)
    assert image.diff_ids == tuple(layer.diff_id for layer in LAYERS)
    asked = [
        "HEAD /v2/a/b/manifests/tag",
        f"GET /v2/a/b/manifests/{digest}",
        f"GET /v2/a/b/blobs/{manifest['config']['digest']}",
    ]
    assert server.lines == ["GET /v2/", *asked]


def test_by_digest(server, layout):
    """Tag and digest together: the digest decides, and no tag is asked for."""
    digest = server.contents.put_layout(layout.path, "a/b", "other")
    assert image_of(server, name=by_digest(digest)).descriptor.digest == digest
    assert not any("HEAD" in line for line in server.lines)


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_by_another_digest(server, layout, algorithm):
    """The name may have another digest: it proves the manifest, which is known by its sha256 then."""
    digest = server.contents.put_layout(layout.path, "a/b", "tag")
    media_type, data = server.contents.manifests["a/b", digest]
    other = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    server.contents.manifests["a/b", other] = media_type, data

    assert image_of(server, name=by_digest(other)).descriptor.digest == digest
    server.always(MANIFESTS, answers.flip(20))
    with pytest.raises(IntegrityError, match=other):
        image_of(server, name=by_digest(other))


def test_layers_by_another_digest(server, layout):
    """A layer whose digest is not sha256 is refused by name."""
    digest = server.contents.put_layout(layout.path, "a/b", "x")
    value = json.loads(server.contents.manifests["a/b", digest][1])
    value["layers"][0]["digest"] = "sha512:" + "0" * 128
    put(server, value, MANIFEST, "tag")
    with pytest.raises(FormatError, match="layer 1.*sha512.*is not sha256"):
        image_of(server)


def test_a_tag_that_moves(server, layout, tmp_path):
    """What HEAD said is fetched, whatever the tag names by then."""
    first = server.contents.put_layout(layout.path, "a/b", "tag")
    moved = image_layout(tmp_path / "moved", LAYERS[:1])

    def move(exchange, reply):
        exchange.reply(reply)
        server.contents.put_layout(moved.path, "a/b", "tag")

    server.script("HEAD", move)
    assert image_of(server).descriptor.digest == first


def test_missing_image(server):
    """No such tag: in the words of the registry."""
    with pytest.raises(RegistryError, match="manifest tag of a/b: 404: MANIFEST_UNKNOWN: manifest unknown"):
        image_of(server)


def test_schema_1(server):
    """Refused by its name."""
    value = {"schemaVersion": 1, "name": "a/b", "fsLayers": [], "history": []}
    server.always(
        MANIFESTS,
        answers.say(
            200,
            {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
            json.dumps(value).encode(),
        ),
    )
    with pytest.raises(FormatError, match="schema 1"):
        image_of(server)


def test_schema_2(server, tmp_path):
    """An OCI manifest of ours over the config's own bytes; the registry's digest is known."""
    layout = image_layout(tmp_path / "docker", LAYERS[:1], docker=True)
    digest = server.contents.put_layout(layout.path, "a/b", "tag")

    with opened(server) as source:
        image = source.image()
        blob = source.blob(image, 0)
        assert read(blob) == LAYERS[0].blob

    original = json.loads(layout.blob_path(digest).read_bytes())
    assert image.source_digest == digest
    assert image.descriptor.media_type == MANIFEST_TYPE
    assert image.descriptor.digest == sha256(image.manifest_bytes)
    assert sha256(image.config_bytes) == original["config"]["digest"]


# Indexes


def index_of(server, tmp_path, *descriptors, media_type=INDEX, tag="tag"):
    return put(server, {"schemaVersion": 2, "mediaType": media_type, "manifests": list(descriptors)}, media_type, tag)


def images(server, tmp_path, *platforms):
    """Put an image for each of *platforms*, and return their descriptors."""
    found = []
    for number, platform in enumerate(platforms):
        layout = Layout(tmp_path / f"image{number}")
        descriptor = layout.image(LAYERS[: 1 + number % 2], platform=platform, author=str(number))
        layout.write(descriptor)
        server.contents.put_layout(layout.path, "a/b", f"image{number}")
        found.append(for_platform(descriptor, platform))
    return found


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_INDEX])
def test_index(server, tmp_path, media_type):
    """The one for the platform is chosen, by default for this machine; attestations never."""
    other, ours = images(server, tmp_path, ELSEWHERE, HERE)
    attestation = for_platform(ours, "unknown/unknown") | {"digest": "sha256:" + "0" * 64}
    index_of(server, tmp_path, attestation, other, ours, media_type=media_type)

    assert image_of(server).descriptor.digest == ours["digest"]
    assert image_of(server, platform=Platform.parse(ELSEWHERE)).descriptor.digest == other["digest"]
    assert image_of(server).descriptor.digest not in (other["digest"], attestation["digest"])


def test_what_says_no_platform_comes_last(server, tmp_path):
    """Nobody asks for it, so that it may be missing, unless nothing else will do."""
    unsaid, ours = images(server, tmp_path, HERE, HERE)
    del unsaid["platform"]
    missing = unsaid | {"digest": "sha256:" + "0" * 64}
    index_of(server, tmp_path, missing, unsaid, ours)
    server.requests.clear()

    assert image_of(server).descriptor.digest == ours["digest"]
    assert [request.method for request in server.requests if "/manifests/" in request.path] == ["HEAD", "GET", "GET"]

    index_of(server, tmp_path, unsaid)
    assert image_of(server).descriptor.digest == unsaid["digest"]


def test_indexes_that_lead_to_very_much(server, tmp_path):
    """Each of 30,000 entries could be an index again, or an image that says nothing: not all of them are asked for."""
    (ours,) = images(server, tmp_path, HERE)
    entries = [index_of(server, tmp_path, ours | {"annotations": {"n": str(number)}}) for number in range(100)]
    index_of(server, tmp_path, *entries)
    server.requests.clear()

    with pytest.raises(LimitError, match="more than 64 indexes, manifests and configs"):
        image_of(server)
    assert len(server.requests) < 70

    entries = images(server, tmp_path / "more", *[ELSEWHERE] * 40)
    for entry in entries:
        del entry["platform"]
    index_of(server, tmp_path, *entries)
    with pytest.raises(LimitError, match="more than 64 indexes, manifests and configs"):
        image_of(server)


def test_our_platform_is_missing(server, tmp_path):
    """What there is is said; other places would say the same."""
    (other,) = images(server, tmp_path, ELSEWHERE)
    index_of(server, tmp_path, other)
    with ScriptedServer() as unused:
        with pytest.raises(NotFoundError, match=f"no image for {HERE}; it has {ELSEWHERE}"):
            image_of(server, unused)
        assert unused.requests == []


def test_nested_indexes(server, tmp_path):
    """Followed, to a fixed depth."""
    (ours,) = images(server, tmp_path, HERE)
    descriptor = ours
    for _ in range(limits.INDEX_DEPTH):
        descriptor = index_of(server, tmp_path, descriptor)
    assert image_of(server).descriptor.digest == ours["digest"]
    index_of(server, tmp_path, index_of(server, tmp_path, descriptor))
    with pytest.raises(LimitError, match="indexes inside one another"):
        image_of(server)


def test_an_index_that_lies_about_types(server, tmp_path):
    """What the index calls a manifest has to be one, also for the registry."""
    (ours,) = images(server, tmp_path, HERE)
    index_of(server, tmp_path, ours | {"mediaType": DOCKER_MANIFEST})
    with pytest.raises(FormatError, match="but the index says"):
        image_of(server)


def test_an_index_that_lies_about_sizes(server, tmp_path):
    """The size has to be right; a huge one is not asked for."""
    (ours,) = images(server, tmp_path, HERE)
    index_of(server, tmp_path, ours | {"size": ours["size"] + 1})
    with pytest.raises(IntegrityError, match="bytes"):
        image_of(server)
    index_of(server, tmp_path, ours | {"size": 1 << 40})
    with pytest.raises(LimitError):
        image_of(server)


# `data` and `urls`


def with_data(descriptor, data):
    return descriptor | {"data": base64.b64encode(data).decode()}


def test_data(server, layout):
    """`data` is the blob itself: it is proved, and nothing is asked for."""
    digest = server.contents.put_layout(layout.path, "a/b", "x")
    value = json.loads(server.contents.manifests["a/b", digest][1])
    value["config"] = with_data(value["config"], server.contents.blobs[value["config"]["digest"]])
    value["layers"] = [with_data(each, server.contents.blobs[each["digest"]]) for each in value["layers"]]
    put(server, value, MANIFEST, "tag")
    server.requests.clear()

    with opened(server) as source:
        image = source.image()
        for number, layer in enumerate(LAYERS):
            blob = pickle.loads(pickle.dumps(source.blob(image, number)))
            assert (blob.digest, blob.size) == (layer.digest, layer.size)
            assert read(blob) == layer.blob
            assert blob.place.again() is None
            assert blob.place.open("x", lambda: 1).size == layer.size
    assert not any("/blobs/" in line for line in server.lines)


def test_data_that_lies(server, layout):
    """Of a config it is refused at once; of a layer it is proved with the layer."""
    digest = server.contents.put_layout(layout.path, "a/b", "x")
    value = json.loads(server.contents.manifests["a/b", digest][1])
    config = bytearray(server.contents.blobs[value["config"]["digest"]])
    config[5] ^= 1
    value["config"] = with_data(value["config"], bytes(config))
    put(server, value, MANIFEST, "tag")
    with pytest.raises(IntegrityError, match=f"config {value['config']['digest']}"):
        image_of(server)


def test_data_of_a_manifest(server, tmp_path):
    """In an index, too."""
    (ours,) = images(server, tmp_path, HERE)
    index_of(server, tmp_path, with_data(ours, server.contents.manifests["a/b", ours["digest"]][1]))
    server.requests.clear()
    assert image_of(server).descriptor.digest == ours["digest"]
    assert sum("manifests" in line for line in server.lines) == 2  # HEAD and GET of the index


def test_urls(server, mirror, layout):
    """A layer that the registry does not have is fetched where its descriptor says, without credentials."""
    digest = server.contents.put_layout(layout.path, "a/b", "x")
    value = json.loads(server.contents.manifests["a/b", digest][1])
    value["layers"][0]["urls"] = [f"{mirror.url}/v2/x/blobs/{LAYERS[0].digest}"]
    put(server, value, MANIFEST, "tag")
    mirror.contents.blobs[LAYERS[0].digest] = server.contents.blobs.pop(LAYERS[0].digest)
    server.always("GET /v2/$", answers.say(401, {"WWW-Authenticate": 'Basic realm="x"'}))

    with opened(endpoint(server, credentials=Credentials("user", "password-1"))) as source:
        assert read(source.blob(source.image(), 0)) == LAYERS[0].blob
    (request,) = mirror.requests
    assert request.authorization is None
    assert all(request.authorization for request in server.requests[1:])


def test_urls_that_lead_nowhere(server, layout):
    """What the registry has is fetched from there, whatever else is said of it; of many other places few are asked."""
    digest = server.contents.put_layout(layout.path, "a/b", "x")
    value = json.loads(server.contents.manifests["a/b", digest][1])
    nowhere = ["ftp://x/y", "", "http://h:99999/x", "http://[::1"]
    value["layers"][0]["urls"] = [*nowhere, *(f"https://h/{number}" for number in range(1000))]
    put(server, value, MANIFEST, "tag")

    with opened(server) as source:
        blob = source.blob(source.image(), 0)
        assert read(blob) == LAYERS[0].blob
        assert blob.place.urls == tuple(f"https://h/{number}" for number in range(8))


# Layers


def test_layers(server, layout):
    """Their places pickle, with what lets in; they are read as the registry has them."""
    server.tokens = honest.Tokens(users={"user": "password-1"})
    server.contents.put_layout(layout.path, "a/b", "tag")
    with opened(endpoint(server, credentials=Credentials("user", "password-1"))) as source:
        image = source.image()
        blobs = pickle.loads(pickle.dumps([source.blob(image, number) for number in range(2)]))
        assert source.streams == 6
        assert source.name == "docker://registry.example/a/b:tag"
    before = len(server.requests)

    assert [read(blob) for blob in blobs] == [layer.blob for layer in LAYERS]
    assert [(blob.digest, blob.size) for blob in blobs] == [(layer.digest, layer.size) for layer in LAYERS]
    assert [blob.compression for blob in blobs] == [Compression.GZIP, Compression.ZSTD]
    assert len(server.tokens.given) == 1
    assert len(server.requests) == before + 2
    assert "password-1" not in repr(blobs)
    assert "-secret" not in repr(blobs)


# Mirrors


def test_the_first_that_has_it_serves_all(server, mirror, layout):
    """Mirrors in order; the first whose manifest comes serves the pull, and the registry is not asked."""
    for running in (server, mirror):
        running.contents.put_layout(layout.path, "a/b", "tag")
    with opened(mirror, server) as source:
        image = source.image()
        assert read(source.blob(image, 0)) == LAYERS[0].blob
    assert server.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        answers.say(404),
        answers.say(403),
        answers.say(500),
        answers.hang_up(),
        answers.flip(3),
        answers.say(200, {"Content-Type": MANIFEST}, b"{}"),
        answers.say(200, {"Content-Type": "text/html"}, b"<html>"),
        answers.say(200, {"Content-Type": "application/problem+json"}, b'{"title": "log in first"}'),
        answers.endless_body,
    ],
)
def test_the_next_place(server, mirror, layout, answer):
    """A mirror that lacks it, refuses, breaks, or gives something else: the next one is asked."""
    digest = server.contents.put_layout(layout.path, "a/b", "tag")
    mirror.contents.put_layout(layout.path, "a/b", "tag")
    mirror.always("(GET|HEAD) .*/manifests/", answer)

    assert image_of(mirror, server).descriptor.digest == digest


def test_a_mirror_that_is_down(server, mirror, layout):
    """Nobody listens there."""
    digest = server.contents.put_layout(layout.path, "a/b", "tag")
    down = endpoint(mirror)
    mirror.__exit__()
    assert image_of(down, server).descriptor.digest == digest


def test_all_errors_are_reported(server, mirror):
    """The primary's last, which is the error; the others in its notes."""
    mirror.always("GET /v2/$", answers.say(403, {}, b"go away"))
    with pytest.raises(RegistryError, match=f"^{server.address}: manifest tag of a/b: 404: MANIFEST_UNKNOWN") as caught:
        image_of(mirror, endpoint(mirror), server)
    assert len(caught.value.__notes__) == 2
    for note in caught.value.__notes__:
        assert note.startswith(f"before that, {mirror.address}: GET /v2/: ")
        assert note.endswith("403: go away; asked without credentials")


def test_a_mirror_that_has_the_tag_but_not_the_blob(server, mirror, layout):
    """The next place is asked for that layer."""
    for running in (server, mirror):
        running.contents.put_layout(layout.path, "a/b", "tag")
    del mirror.contents.blobs[LAYERS[0].digest]
    with opened(mirror, server) as source:
        image = source.image()
        assert [read(source.blob(image, number)) for number in range(2)] == [layer.blob for layer in LAYERS]
    assert [line for line in server.lines if "blobs" in line] == [f"GET /v2/a/b/blobs/{LAYERS[0].digest}"]


def test_another_layer_under_the_digest(server, mirror, layout):
    """Wrong bytes of a mirror: once more at the registry itself, and no more."""
    for running in (server, mirror):
        running.contents.put_layout(layout.path, "a/b", "tag")
    with opened(mirror, server) as source:
        place = source.blob(source.image(), 0).place
    again = place.again()
    assert read(replace(source.blob(source.image(), 0), place=again)) == LAYERS[0].blob
    assert again.again() is None
    assert any("blobs" in line for line in server.lines)


def test_credentials_stay_with_their_place(server, mirror, layout):
    """Nothing meant for mirror A goes to B: neither password nor token."""
    server.tokens, mirror.tokens = (
        honest.Tokens(users={"user": "password-2"}),
        honest.Tokens(users={"user": "password-1"}),
    )
    for running in (server, mirror):
        running.contents.put_layout(layout.path, "a/b", "tag")
    del mirror.contents.blobs[LAYERS[0].digest]
    places = (
        endpoint(mirror, credentials=Credentials("user", "password-1")),
        endpoint(server, credentials=Credentials("user", "password-2")),
    )
    with opened(*places) as source:
        image = source.image()
        for number in range(2):
            read(source.blob(image, number))
    mine = {
        name: {request.authorization for request in running.requests}
        for name, running in (("a", mirror), ("b", server))
    }
    assert len(mine["a"]) == len(mine["b"]) == 3, "none, basic, bearer"
    assert (mine["a"] & mine["b"]) <= {None, "Bearer token-0-secret"}
    basics = {name: {each for each in found if each and each.startswith("Basic")} for name, found in mine.items()}
    assert basics["a"].isdisjoint(basics["b"])


def test_endpoints_are_taken_when_they_are_needed(server, mirror, layout):
    """No helper for credentials is asked in vain; one that fails for a later place does no harm."""
    server.contents.put_layout(layout.path, "a/b", "tag")
    taken, notices = [], []

    def places():
        taken.append("first")
        yield endpoint(server)
        taken.append("second")
        raise ComposefsError("the helper hangs")

    source = RegistrySource("x", NAME, places(), streams=6, on_notice=notices.append)
    image = source.image()
    assert taken == ["first"]
    assert read(source.blob(image, 0)) == LAYERS[0].blob
    assert notices == ["registry.example is left out: the helper hangs"]


def test_no_place():
    """A configuration that names none."""
    with pytest.raises(RegistryError, match="no place to fetch it from"):
        image_of()


# Opening


def test_open_anonymously():
    """Without anything of the host: the registry that is named, by HTTPS, as nobody."""
    source = open_registry(RegistryReference(NAME, "registry.example/a/b:tag"), Access(streams=3))
    assert (source.name, source.streams) == ("registry.example/a/b:tag", 3)
    assert list(source._endpoints) == [Endpoint("registry.example", "a/b")]


def test_open_with_the_host():
    """Its endpoints, which it may refuse."""

    class Host:
        def endpoints(self, name):
            assert name == NAME
            return iter([Endpoint("mirror.example", "x"), Endpoint("registry.example", "a/b")])

    source = open_registry(RegistryReference(NAME, "x"), Access(host=Host()))
    assert [each.host for each in source._endpoints] == ["mirror.example", "registry.example"]


def test_config_of_another_image(server, layout):
    """A config that is not the one of the manifest."""
    digest = server.contents.put_layout(layout.path, "a/b", "tag")
    config = json.loads(server.contents.manifests["a/b", digest][1])["config"]["digest"]
    server.contents.blobs[config] = server.contents.blobs[config].replace(b"linux", b"xinul")
    with pytest.raises(IntegrityError, match=f"config {config} at {server.address}"):
        image_of(server)
    assert CONFIG.startswith("application/")
