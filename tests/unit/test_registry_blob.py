"""The place of a blob goes to a worker, is asked again at the registry itself, and shows no secret."""

import pickle

from composefs.oci.sources.registry_blob import RegistryBlob
from composefs.registry.endpoint import Credentials, Endpoint
from composefs.registry.tokens import Tokens
from tests.layouts import noise, sha256
from tests.registries import answers, honest
from tests.registries.scripted import ScriptedServer
from tests.sources import read_place

DATA = noise(50_000)
DIGEST = sha256(DATA)


def place_at(*servers, credentials=None):
    endpoints = [Endpoint(server.address, "x", plain_http=True, credentials=credentials) for server in servers]
    return RegistryBlob(tuple((endpoint, Tokens()) for endpoint in endpoints), DIGEST, len(DATA))


def test_a_worker_reads_what_the_place_says():
    """Also in another process; what lets it in goes with it."""
    with ScriptedServer(tokens=honest.Tokens(users={"user": "pass-word"})) as server:
        server.contents.blobs[DIGEST] = DATA
        place = place_at(server, credentials=Credentials("user", "pass-word"))
        assert read_place(place) == DATA

        assert read_place(pickle.loads(pickle.dumps(place))) == DATA

    assert len(server.tokens.given) == 1
    assert sum(request.path == "/v2/" for request in server.requests) == 1


def test_a_wrong_blob_is_asked_for_again_at_the_registry_itself():
    """Once."""
    with ScriptedServer() as mirror, ScriptedServer() as server:
        for each in (mirror, server):
            each.contents.blobs[DIGEST] = DATA
        mirror.always("GET .*/blobs/", answers.flip(0))
        place = place_at(mirror, server)
        assert read_place(place) != DATA

        again = place.again()

        assert read_place(again) == DATA
        assert str(again) == server.address
        assert again.again() is None


def test_no_secret_is_shown():
    """Neither in what a place is printed as, nor in what stands for it in a traceback."""
    with ScriptedServer() as server:
        place = place_at(server, credentials=Credentials("user", "pass-word", "identity-token"))

    for text in (str(place), repr(place)):
        assert "pass-word" not in text
        assert "identity-token" not in text
