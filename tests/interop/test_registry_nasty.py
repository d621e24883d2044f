"""Whatever a registry or the network does, an import ends: with the image, or with one error and no new name."""

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from composefs.errors import (
    AuthenticationError,
    ComposefsError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    RegistryError,
)
from composefs.registry import connection, download
from composefs.registry.endpoint import Credentials
from composefs.registry.session import Session
from tests import layouts
from tests.layouts import INDEX, Layout, sha256
from tests.registries import answers, honest
from tests.registries.reaching import mirrored
from tests.registries.scene import BLOB, LAYER, MIB, SIZE, Scene, made_scene, make_layout
from tests.registries.scripted import Answer, ScriptedServer
from tests.registries.tls import make_authority
from tests.registries.wire import Exchange, Reply


@pytest.fixture(autouse=True)
def _soon(monkeypatch, no_flush):
    """Wait for no long time where the wait makes no difference."""
    monkeypatch.setattr("composefs.registry.session._FIRST_BACKOFF", 0.01)
    monkeypatch.setattr("composefs.registry.session._FIRST_PAUSE", 0.01)
    monkeypatch.setattr(download, "PACE", replace(download.PACE, pause=0.01))


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return make_layout(tmp_path_factory.mktemp("layout"))


@pytest.fixture
def scene(layout, repository, tmp_path) -> Iterator[Scene]:
    with made_scene(layout, repository, tmp_path) as made:
        yield made


# Cut


@pytest.mark.parametrize("end", ["FIN", "RST", "chunked"])
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, SIZE - 1])
def test_a_cut_blob_is_finished(scene, size, end):
    """The rest comes with a range; no byte comes twice, but of what an RST took away."""
    scene.server.script(BLOB, answers.cut(size, reset=end == "RST", chunked=end == "chunked"))

    scene.succeed()

    sent = [request for request in scene.server.blob_requests if LAYER.digest in request.path]
    assert len(sent) == 2
    if end != "RST":
        assert sent[1].range == (f"bytes={size}-" if size else None)
        assert sum(request.sent for request in sent) == SIZE


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_blob_that_is_always_cut_ends_the_import(scene, reset):
    """After three connections without progress; the error says which blob, where, and how far."""
    scene.server.always(BLOB, answers.cut(0, reset=reset))

    scene.fail(RegistryError, LAYER.digest, scene.server.address, "byte 0", "without progress")


# Ranges

RANGES: dict[str, Answer] = {
    "other start": answers.other_start(5),
    "other total": answers.other_total(5),
    "multipart": answers.multipart,
    "no Content-Range": answers.content_range(None),
    "200": answers.ignore_range,
    "416": answers.say(416),
    "lying 416": answers.lying_416(SIZE),
    "400": answers.say(400),
    "501": answers.say(501),
}


@pytest.mark.parametrize("answer", RANGES.values(), ids=RANGES)
def test_a_wrong_range_is_not_mixed_in(scene, answer):
    """The blob comes whole all the same."""
    scene.server.script(BLOB, answers.cut(MIB), answer)

    scene.succeed()


# Digests


def test_a_blob_that_was_damaged_on_the_way_is_fetched_once_more(scene):
    """From the first byte."""
    scene.server.script(BLOB, answers.flip(MIB))

    scene.succeed()

    assert [request.range for request in scene.server.blob_requests if LAYER.digest in request.path] == [None, None]


@pytest.mark.parametrize("offset", [0, 100, MIB, -1])
def test_a_damaged_blob_ends_the_import(scene, offset):
    """The error names blob, digests and host; nothing has got a name."""
    scene.server.always(BLOB, answers.flip(offset))

    scene.fail(IntegrityError, LAYER.digest, scene.server.address)

    assert len([request for request in scene.server.blob_requests if LAYER.digest in request.path]) == 2


def test_damage_in_the_resumed_half_is_found(scene):
    """Both halves are proved together."""
    scene.server.script(BLOB, answers.cut(MIB), answers.flip(1000), answers.cut(MIB), answers.flip(1000))

    scene.fail(IntegrityError, LAYER.digest, scene.server.address)


# Sizes


@pytest.mark.parametrize("by", [1, MIB])
@pytest.mark.parametrize("change", [answers.shorter, answers.longer])
def test_a_blob_of_another_size_ends_the_import(scene, change, by):
    """The size in the manifest is as true as the digest."""
    scene.server.always(BLOB, change(by))

    scene.fail(IntegrityError, LAYER.digest, str(SIZE), scene.server.address)


def test_an_endless_blob_ends_the_import(scene):
    """No more is read than the manifest says."""
    scene.server.always(BLOB, answers.endless_body)

    scene.fail(IntegrityError, LAYER.digest)

    assert scene.server.blob_bytes < 20 * MIB


@pytest.mark.parametrize("what", ["/v2/$", "HEAD .*/manifests/", "GET .*/manifests/", "GET .*/blobs/"])
def test_endless_headers_end_the_import(scene, what):
    """Wherever they come."""
    scene.server.always(what, answers.endless_headers)

    scene.fail(RegistryError, scene.server.address)


def test_a_huge_manifest_ends_the_import(scene):
    """No 100 MiB of JSON are read."""
    data = json.dumps({"schemaVersion": 2, "filler": "x" * (100 * MIB)}).encode()
    scene.server.always("GET .*/manifests/", answers.say(200, {"Content-Type": layouts.MANIFEST}, data))

    scene.fail((LimitError, RegistryError))

    assert max(request.sent for request in scene.server.requests) < 20 * MIB


@pytest.mark.parametrize("answer", [answers.endless_body, answers.chunked], ids=["endless", "chunked"])
def test_a_manifest_without_a_length(scene, answer):
    """It may come in chunks, but not without end."""
    scene.server.always("GET .*/manifests/", answer)

    if answer is answers.chunked:
        scene.succeed()
    else:
        scene.fail(ComposefsError)


# Redirects


@pytest.mark.parametrize("what", ["GET .*/manifests/", "GET .*/blobs/"])
def test_a_redirect_without_end_ends_the_import(scene, what):
    """Ten in a row are enough."""
    scene.server.always(what, answers.redirect_on)

    scene.fail(RegistryError, "redirects")

    assert len(scene.server.requests) < 50


def hops(count: int) -> Answer:
    """Redirect *count* times, then answer."""

    def hop(exchange: Exchange, reply: Reply) -> None:
        done = int(exchange.request.query.removeprefix("hop=") or 0)
        if done < count:
            exchange.reply(Reply(307, {"Location": f"{exchange.request.path}?hop={done + 1}"}))
        else:
            exchange.reply(reply)

    return hop


def test_ten_redirects_are_followed_and_eleven_are_not(scene):
    """Their locations are relative here."""
    scene.server.always(BLOB, hops(11))
    scene.fail(RegistryError, "redirects")
    scene.server.clear()
    scene.server.always(BLOB, hops(10))
    scene.succeed()


@pytest.fixture
def target(scene) -> Iterator[ScriptedServer]:
    """A second server, to which the registry, which wants a password, redirects those who want the blob."""
    scene.server.tokens = honest.Tokens(users={"user": "pass-word"})
    with ScriptedServer() as target:
        target.contents.blobs |= scene.server.contents.blobs
        location = f"{target.url}/v2/x/blobs/{LAYER.digest}?X-Signature=sig-secret"
        scene.server.always(BLOB, answers.redirect(location))
        yield target


def test_a_redirect_to_another_port_gets_no_credentials(scene, target):
    """Whoever stores the blobs has its own."""
    scene.succeed(credentials=Credentials("user", "pass-word"))

    assert target.requests
    assert not any(request.authorization for request in target.requests)


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500])
def test_what_signs_a_url_is_in_no_error(scene, target, status, caplog):
    """Nor in a log; nor are passwords, also where the server repeats them."""
    caplog.set_level("DEBUG")
    target.always("GET", answers.say(status, {}, b"no: ?X-Signature=sig-secret"))

    text = scene.fail(RegistryError, target.address, credentials=Credentials("user", "pass-word"))

    for secret in ("sig-secret", "pass-word", "dXNlcjpwYXNzLXdvcmQ=", "-secret"):
        assert secret not in text
        assert secret not in caplog.text


def test_a_signed_url_that_has_ended_is_asked_for_again(scene):
    """It is good for minutes; the registry gives another one."""
    with ScriptedServer() as target:
        target.contents.blobs |= scene.server.contents.blobs
        scene.server.always(BLOB, answers.redirect(f"{target.url}/v2/x/blobs/{LAYER.digest}"))
        target.script("GET", answers.cut(MIB), answers.say(403))
        scene.succeed()
        assert [request.range for request in target.requests] == [None, f"bytes={MIB}-", f"bytes={MIB}-"]


def test_a_redirect_from_https_to_http_ends_the_import(scene, tmp_path):
    """What is asked for under TLS does not come without."""
    authority = make_authority(tmp_path / "certificates")
    with ScriptedServer(tls=authority.issue("server", "127.0.0.1")) as secure:
        secure.contents = scene.server.contents
        scene.server, target = secure, scene.server
        secure.script(BLOB, *[answers.redirect(f"{target.url}/v2/x/blobs/{LAYER.digest}")] * 5)
        for file in tmp_path.joinpath("certificates").iterdir():
            if file.name != "ca.crt":
                file.unlink()
        scene.fail(RegistryError, "HTTPS", certificates=tmp_path / "certificates")
        assert not target.blob_requests
        secure.clear()
        scene.succeed(certificates=tmp_path / "certificates")


# Tokens


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_a_token_that_ends_in_the_middle_is_renewed(scene, uses):
    """Also in the middle of a blob."""
    scene.server.tokens = honest.Tokens(uses=uses, expires_in=0)
    scene.server.script(BLOB, answers.cut(MIB))

    scene.succeed()

    assert len(scene.server.tokens.given) > 1


def test_a_token_that_is_never_good_ends_the_import(scene):
    """It is asked for again once, not for ever."""
    scene.server.tokens = honest.Tokens(uses=0)

    scene.fail(AuthenticationError, scene.server.address)

    assert len(scene.server.tokens.given) < 10


def test_a_password_is_not_sent_to_a_private_network(scene):
    """The realm of a challenge decides where the password goes."""
    with ScriptedServer() as other:
        scene.server.tokens = honest.Tokens(realm=f"{other.url}/token")
        scene.fail(AuthenticationError, credentials=Credentials("user", "pass-word"))
        assert not other.requests


def test_a_wrong_password_is_an_error_that_does_not_say_it(scene):
    """Neither as it is, nor as it was sent."""
    scene.server.tokens = honest.Tokens(users={"user": "right"})

    text = scene.fail(AuthenticationError, credentials=Credentials("user", "wrong-pass-word"))

    assert "wrong-pass-word" not in text
    assert "dXNlcjp" not in text  # "user:" in base64


# Too many requests, and other failures that pass


@pytest.mark.parametrize("value", ["0", "Thu, 01 Jan 1970 00:00:01 GMT", None, "soon"])
@pytest.mark.parametrize("what", ["GET .*/manifests/", BLOB, "/token"])
def test_too_many_requests_are_repeated_later(scene, what, value):
    """By what the registry says, or by our own measure; also where tokens are given out."""
    scene.server.tokens = honest.Tokens()
    scene.server.script(what, answers.too_many(value))

    scene.succeed()


def test_a_registry_that_asks_for_a_second_gets_it(scene):
    """All the other requests wait, too."""
    scene.server.script(BLOB, answers.too_many("1"))
    began = time.monotonic()

    scene.succeed()

    assert time.monotonic() - began >= 1


def test_too_many_requests_for_ever_end_the_import(scene):
    """Five tries are enough."""
    scene.server.always(BLOB, answers.too_many("0"))

    scene.fail(RegistryError, "429")


@pytest.mark.parametrize("status", [408, 502])
def test_a_storm_that_passes(scene, status):
    """Four failures in a row, of manifest and of blob."""
    scene.server.script("GET .*/manifests/", *[answers.say(status)] * 4)
    scene.server.script(BLOB, *[answers.say(status)] * 4)

    scene.succeed()


@pytest.mark.parametrize("what", ["/v2/$", "/manifests/", BLOB])
def test_a_storm_that_does_not_pass(scene, what):
    """It ends the import."""
    scene.server.always(what, answers.say(503, {}, b"<html>sorry</html>"))

    scene.fail(RegistryError, "503", scene.server.address)

    assert len(scene.server.requests) < 30


# Too slow


@pytest.fixture
def impatient(monkeypatch):
    """Let the limits of time be tenths of seconds."""
    monkeypatch.setitem(Session.request.__kwdefaults__, "patience", 0.2)
    defaults = connection.Request.__init__.__defaults__
    patient = [field.name for field in dataclasses.fields(connection.Request)][-len(defaults) :].index("patience")
    quick = (*defaults[:patient], 0.2, *defaults[patient + 1 :])
    monkeypatch.setattr(connection.Request.__init__, "__defaults__", quick)
    monkeypatch.setattr("composefs.registry.connection.READ_TIME", 0.2)
    monkeypatch.setattr("composefs.registry.connection.SLOWEST", MIB)
    monkeypatch.setattr("composefs.registry.pool.HANDSHAKE_TIME", 0.2)
    monkeypatch.setattr("composefs.registry.watchdog._PERIOD", 0.02)


def test_a_server_that_takes_connections_and_says_nothing(scene, impatient):
    """The import does not wait for it for ever."""
    with ScriptedServer(is_deaf=True) as deaf:
        scene.server = deaf
        scene.fail(RegistryError, deaf.address)


@pytest.mark.parametrize("what", ["/v2/$", BLOB])
@pytest.mark.parametrize("answer", [answers.silent, answers.slow_head(10)], ids=["silent", "drops"])
def test_headers_that_do_not_come(scene, impatient, answer, what):
    """Neither at once, nor a byte at a time."""
    scene.server.always(what, answer)

    scene.fail(RegistryError, scene.server.address)


@pytest.mark.parametrize("what", ["GET .*/manifests/", BLOB])
@pytest.mark.parametrize("answer", [answers.stall(100), answers.slow(10)], ids=["stall", "drops"])
def test_a_body_that_does_not_come(scene, impatient, answer, what):
    """Neither at once, nor a byte at a time."""
    scene.server.always(what, answer)

    scene.fail(RegistryError, scene.server.address)


def test_a_body_that_stalls_once_is_resumed(scene, impatient):
    """The next connection brings the rest."""
    scene.server.script(BLOB, answers.stall(MIB))

    scene.succeed()


# Mirrors


def test_a_mirror_that_has_nothing_is_passed_over(scene, tmp_path):
    """Whether it is down, has no such image, or has the image, but not the blob."""
    with ScriptedServer() as down:
        pass
    with ScriptedServer() as empty, ScriptedServer() as half:
        half.contents = replace(scene.server.contents, blobs=dict(scene.server.contents.blobs))
        del half.contents.blobs[LAYER.digest]
        environ = mirrored(tmp_path, scene.server.address, [down.address, empty.address, half.address])
        scene.succeed(environ=environ)
        assert empty.requests
        assert any(LAYER.digest in request.path and request.status == 404 for request in half.requests)
    assert [request.path for request in scene.server.blob_requests] == [f"/v2/x/blobs/{LAYER.digest}"]


def test_a_mirror_with_another_image_under_the_digest_is_passed_over(scene, tmp_path):
    """The digest decides what it is; the error of the mirror is none, if the registry is right."""
    with ScriptedServer() as forged:
        forged.contents.manifests["x", scene.manifest] = layouts.MANIFEST, b'{"schemaVersion":2}'
        environ = mirrored(tmp_path, scene.server.address, [forged.address])
        scene.succeed(name=f"x@{scene.manifest}", environ=environ)
        assert forged.requests


def test_a_mirror_with_a_forged_blob_is_not_asked_for_it_again(scene, tmp_path):
    """The second time it comes from the registry itself."""
    with ScriptedServer() as forged:
        forged.contents = scene.server.contents
        forged.always(BLOB, answers.flip(1000))
        scene.succeed(environ=mirrored(tmp_path, scene.server.address, [forged.address]))
    assert [request.path for request in scene.server.blob_requests] == [f"/v2/x/blobs/{LAYER.digest}"]


def test_where_all_places_fail_all_say_why(scene, tmp_path):
    """The registry last."""
    with ScriptedServer() as mirror:
        environ = mirrored(tmp_path, scene.server.address, [mirror.address])
        text = scene.fail(RegistryError, mirror.address, scene.server.address, name="x:other", environ=environ)
    assert "404" in text or "unknown" in text


# Images


def test_an_index_without_our_platform(scene, tmp_path):
    """The error says which there are."""
    scene.server.contents.put_manifest("x", index(scene, "linux/s390x"), INDEX, "many")

    scene.fail(NotFoundError, "s390x", name="x:many")


def index(scene: Scene, platform: str, **changes) -> bytes:
    media_type, data = scene.server.contents.manifests["x", scene.manifest]
    descriptor = {"mediaType": media_type, "digest": scene.manifest, "size": len(data), **changes}
    manifests = [layouts.for_platform(descriptor, platform)]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


@pytest.mark.parametrize("changes", [{"size": 7}, {"mediaType": layouts.INDEX}, {"digest": sha256(b"other")}])
def test_an_index_that_lies(scene, changes):
    """What it says of a manifest has to be so."""
    data = index(scene, "linux/amd64", **changes)
    scene.server.contents.put_manifest("x", data, INDEX, "lies")

    scene.fail(ComposefsError, name="x:lies")


@pytest.mark.parametrize("what", ["GET .*/manifests/", BLOB])
def test_encoded_answers_are_refused(scene, what):
    """gzip was not asked for."""
    scene.server.always(what, answers.encoded)

    scene.fail(RegistryError, "gzip")


@pytest.mark.parametrize("content_type", ["text/html", "application/vnd.docker.distribution.manifest.v1+prettyjws"])
def test_what_is_no_manifest_is_refused(scene, content_type):
    """By what the registry says it is."""
    scene.server.always("GET .*/manifests/", answers.say(200, {"Content-Type": content_type}, b"<html></html>"))

    scene.fail((FormatError, RegistryError, IntegrityError))
