"""Blobs come whole and in order, whatever the server and the connections do; or not at all, and soon."""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from composefs.errors import CancelledError, ComposefsError, IntegrityError, RegistryError
from composefs.registry.blobs import BlobResponse
from composefs.registry.client import Client
from composefs.registry.download import PACE, Download, Pace
from composefs.registry.endpoint import Endpoint
from tests.layouts import noise, sha256
from tests.registries import answers, honest
from tests.registries.scripted import Answer, ScriptedServer
from tests.registries.wire import Exchange, Reply

DATA = noise(300_000)
DIGEST = sha256(DATA)
QUICK = replace(PACE, pause=0.01, look=0.02)
RANGES = replace(QUICK, range_size=50_000, buffer=20_000)  # so that DATA has six
BLOB = "GET .*/blobs/"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A registry that has DATA."""
    with ScriptedServer() as running:
        running.contents.blobs[DIGEST] = DATA
        yield running


def clients(*servers: ScriptedServer) -> list[Client]:
    return [Client(Endpoint(server.address, "x", plain_http=True)) for server in servers]


@contextlib.contextmanager
def downloading(
    *servers: ScriptedServer,
    digest: str = DIGEST,
    size: int = len(DATA),
    streams: Callable[[], int] = lambda: 1,
    pace: Pace = QUICK,
) -> Iterator[Download]:
    """Download the blob *digest* from *servers*; no thread of it must be left afterwards."""
    download = Download(clients(*servers), digest, size, "layer x", streams, pace=pace)
    try:
        yield download
    finally:
        began = time.monotonic()
        download.close()
        assert time.monotonic() - began < 1
        assert not [thread.name for thread in threading.enumerate() if thread.name == "composefs-download"]


def read_all(download: Download, size: int = 1 << 16) -> bytes:
    return b"".join(iter(lambda: download.read(size), b""))


def fetch(*servers: ScriptedServer, **options: Any) -> bytes:
    with downloading(*servers, **options) as download:
        return read_all(download)


def places(value: str | None) -> tuple[int, int]:
    """Return the first and the last byte that a header Range asks for."""
    first, _, last = (value or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(first), int(last or len(DATA) - 1)


def ranges(server: ScriptedServer) -> list[str | None]:
    return [request.range for request in server.blob_requests]


@pytest.mark.parametrize("size", [1, 4096, 100_000, 1 << 20])
def test_a_blob_comes_whole_with_one_request(server, size):
    """No range is asked for where nothing goes wrong; the reader may ask for any size."""
    with downloading(server) as download:
        assert read_all(download, size) == DATA
        assert download.read(size) == b""

    assert ranges(server) == [None]


def test_an_empty_blob_is_not_asked_for(server):
    """There is nothing to fetch."""
    assert fetch(server, digest=sha256(b""), size=0) == b""
    assert not server.requests


CUTS = [0, 1, 4095, 1 << 16, (1 << 18) - 1, (1 << 18) + 1, len(DATA) - 1]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", CUTS)
def test_a_download_goes_on_where_the_connection_ended(server, size, chunked):
    """The next request asks for the bytes from there, and for none that came."""
    server.script(BLOB, answers.cut(size, chunked=chunked))

    assert fetch(server) == DATA

    assert ranges(server) == [None, f"bytes={size}-" if size else None]
    assert server.blob_bytes == len(DATA)


@pytest.mark.parametrize("size", CUTS)
def test_a_download_goes_on_after_a_reset(server, size):
    """Of what the connection brought, what was read is not asked for again; RST may take the rest with it."""
    server.script(BLOB, answers.cut(size, reset=True))

    assert fetch(server) == DATA

    _, second = ranges(server)
    assert 0 <= size - places(second)[0] <= 1 << 18


def test_a_blob_may_take_many_connections(server):
    """As long as each brings enough, it does not matter how many there are."""
    server.script(BLOB, *[answers.cut(61_000)] * 4)

    assert fetch(server) == DATA

    assert ranges(server) == [None, *(f"bytes={61_000 * count}-" for count in (1, 2, 3, 4))]


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_download_without_progress_ends(server, size):
    """Three connections that bring too little are enough; the error says which blob, where and how far."""
    server.always(BLOB, answers.cut(size))

    with pytest.raises(RegistryError, match="without progress") as caught:
        fetch(server)

    assert caught.value.host == server.address
    assert DIGEST in str(caught.value)
    assert f"byte {3 * size} " in str(caught.value)
    assert len(server.blob_requests) == 3


def test_connections_without_an_answer_end_a_download(server, monkeypatch):
    """The client asks a few times; then it is over."""
    monkeypatch.setattr("composefs.registry.session._FIRST_BACKOFF", 0.01)
    server.always(BLOB, answers.hang_up())

    with pytest.raises(RegistryError) as caught:
        fetch(server)

    assert caught.value.host == server.address
    assert len(server.blob_requests) == 5


def cut_then(answer: Answer) -> tuple[Answer, Answer]:
    """Cut the first connection; the next one asks for a range, and gets *answer*."""
    return answers.cut(100_001), answer


WRONG_RANGES = {
    "200": answers.ignore_range,
    "other start": answers.other_start(7),
    "other start, before": answers.other_start(-7),
    "other total": answers.other_total(7),
    "multipart": answers.multipart,
    "no Content-Range": answers.content_range(None),
    "no numbers": answers.content_range("bytes x-y/z"),
    "no range": answers.content_range("bytes */300000"),
    "416": answers.say(416, {"Content-Range": "bytes */300000"}),
    "lying 416": answers.lying_416(len(DATA)),
    "400": answers.say(400),
    "403": answers.say(403),
    "501": answers.say(501),
}


@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_a_wrong_range_is_never_mixed_in(server, answer):
    """What is no right answer to a range is dropped; the blob comes whole, in one stream."""
    server.script(BLOB, *cut_then(answer))

    assert fetch(server) == DATA

    assert ranges(server)[:2] == [None, "bytes=100001-"]
    assert ranges(server)[2:] in ([], [None])
    assert len(server.requests) < 8


@pytest.mark.parametrize("answer", WRONG_RANGES.values(), ids=WRONG_RANGES)
def test_a_server_that_always_gives_wrong_ranges_is_asked_for_none(server, answer):
    """Each later connection begins at the first byte."""
    server.script(BLOB, *cut_then(answer), answers.cut(200_002), answers.cut(200_003))

    assert fetch(server) == DATA

    assert set(ranges(server)) <= {None, "bytes=100001-"}


def test_a_range_may_be_shorter_than_asked(server):
    """Then the next one begins behind it."""

    def short(exchange: Exchange, reply: Reply) -> None:
        headers = {**reply.headers, "Content-Range": "bytes 100001-150000/300000"}
        exchange.reply(Reply(206, headers, reply.body[:50_000]))

    server.script(BLOB, *cut_then(short))

    assert fetch(server) == DATA

    assert ranges(server) == [None, "bytes=100001-", "bytes=150001-"]


@pytest.mark.parametrize(
    "answer",
    [answers.shorter(1), answers.longer(1), answers.longer(1 << 20)],
    ids=["shorter", "longer", "much longer"],
)
def test_a_blob_of_another_size_is_refused(server, answer):
    """The length in the answer's head is enough to know; nothing of it is handed on."""
    server.always(BLOB, answer)

    with downloading(server) as download, pytest.raises(IntegrityError) as caught:
        download.read(1)

    assert server.address in str(caught.value)
    assert DIGEST in str(caught.value)


def test_of_an_endless_body_no_more_is_read_than_promised(server):
    """The size in the manifest is the limit."""
    server.always(BLOB, answers.endless_body)

    assert fetch(server) == bytes(len(DATA))  # which whoever reads it finds out


def test_a_content_encoding_is_refused(server):
    """It was not asked for, and the bytes are others."""
    server.always(BLOB, answers.encoded)

    with pytest.raises(ComposefsError):
        fetch(server)


# Several at a time

SLOW = answers.slow(1_000_000)  # bytes per second of a connection


def test_a_reader_that_waits_gets_ranges_at_a_time(server):
    """The first stream ends soon, and ranges follow, each byte once, in order."""
    server.always(BLOB, SLOW)

    assert fetch(server, streams=lambda: 4, pace=RANGES) == DATA

    first, *others = ranges(server)
    assert first is None
    assert len(others) >= 3
    bounds = sorted(map(places, others))
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(bounds))
    assert bounds[-1][1] == len(DATA) - 1
    assert server.blob_bytes <= len(DATA) + (1 << 17)  # the first stream is cut in the middle of what was sent


def test_ranges_are_faster_than_one_stream(server):
    """That is what they are for."""
    server.always(BLOB, answers.slow(400_000))

    def seconds(streams: int) -> float:
        began = time.monotonic()
        assert fetch(server, streams=lambda: streams, pace=RANGES) == DATA
        return time.monotonic() - began

    assert seconds(6) < 0.75 * seconds(1)


def test_a_reader_that_does_not_wait_has_one_stream(server):
    """Other connections would not help it."""
    with downloading(server, streams=lambda: 6, pace=RANGES) as download:
        data = b""
        while piece := download.read(10_000):
            data += piece
            time.sleep(0.01)

    assert data == DATA
    assert ranges(server) == [None]


def test_one_stream_is_all_that_is_allowed(server):
    """However much the reader waits."""
    server.always(BLOB, SLOW)

    assert fetch(server, streams=lambda: 1, pace=RANGES) == DATA

    assert ranges(server) == [None]


def test_no_more_streams_are_used_than_allowed_now(server):
    """What is allowed may change, as other layers begin and end."""
    server.always(BLOB, answers.slow(300_000))
    allowed = [4]
    with downloading(server, streams=lambda: allowed[0], pace=RANGES) as download:
        data = download.read(60_000)
        while len(server.blob_requests) < 4:
            data += download.read(5000)
        allowed[0] = 1
        while piece := download.read(5000):
            data += piece
            if len(data) > 250_000:
                assert len(download._fetchers) <= 1  # none, once all is there that the reader has still to take

    assert data == DATA


def test_ranges_stay_a_little_ahead_of_the_reader(server):
    """Memory is bounded, whatever the reader does."""
    server.always(BLOB, answers.slow(500_000))
    pace = replace(RANGES, range_size=20_000, ahead=2)
    with downloading(server, streams=lambda: 6, pace=pace) as download:
        data = download.read(1)
        while len(server.blob_requests) < 3:
            data += download.read(1000)
        time.sleep(0.5)  # long enough to fetch all
        ahead = sum(len(piece) for part in download._ranges for piece in part.pieces)
        assert ahead <= (pace.ahead + 1) * pace.range_size + pace.buffer
        data += read_all(download)

    assert data == DATA


@pytest.mark.parametrize(
    "answer",
    [answers.ignore_range, answers.say(416), answers.say(400), answers.multipart],
    ids=["200", "416", "400", "x"],
)
def test_without_ranges_there_is_one_stream(server, answer):
    """A server that gives none is asked for no more of them; the bytes come whole and in order all the same."""
    server.script(BLOB, SLOW, *[answer] * 5)
    server.always(BLOB, SLOW)

    assert fetch(server, streams=lambda: 3, pace=RANGES) == DATA

    asked = ranges(server)
    assert sum(value is not None for value in asked) <= 2  # as many as may be under way
    assert len(asked) <= 5


def test_a_range_that_breaks_is_resumed(server):
    """From where it broke, to its own end."""
    server.script(BLOB, SLOW, SLOW, answers.cut(20_000))
    server.always(BLOB, SLOW)

    assert fetch(server, streams=lambda: 3, pace=RANGES) == DATA

    start, end = places(server.blob_requests[2].range)
    assert (start + 20_000, end) in map(places, ranges(server))


def test_too_many_requests_halve_the_streams(server, monkeypatch):
    """What the registry says of one connection counts for all."""
    monkeypatch.setattr("composefs.registry.session._FIRST_PAUSE", 0.01)
    server.script(BLOB, SLOW, answers.too_many("0"), answers.too_many("0"))
    server.always(BLOB, SLOW)

    with downloading(server, streams=lambda: 4, pace=RANGES) as download:
        assert read_all(download) == DATA
        assert download._most == 1  # halved twice


# Ends


def test_a_download_that_is_closed_ends_at_once(server):
    """Also while the server says nothing: the connection ends, and the thread does."""
    server.always(BLOB, answers.stall(50_000))

    with downloading(server) as download:
        assert download.read(10_000) == DATA[:10_000]

    assert server.blob_requests[0].sent == 50_000


def test_what_streams_raises_ends_the_reading(server):
    """So a reader that waits notices that it is to stop."""
    server.always(BLOB, answers.stall(20_000))
    is_over = False

    def streams() -> int:
        if is_over:
            raise CancelledError("the import was stopped")
        return 4

    with downloading(server, streams=streams) as download:
        download.read(1)
        is_over = True
        began = time.monotonic()
        with pytest.raises(CancelledError):
            read_all(download)
        assert time.monotonic() - began < 1


def test_a_pause_ends_with_the_download(server):
    """A registry may ask to wait for an hour."""
    server.always(BLOB, answers.too_many("3600"))

    with downloading(server):
        while not server.blob_requests:
            time.sleep(0.01)
        time.sleep(0.05)


def test_a_stalled_body_is_given_up(server, monkeypatch):
    """Less than 1 kB/s is too little, also if each byte comes in time; the next connection goes on."""
    monkeypatch.setattr("composefs.registry.connection.READ_TIME", 0.3)
    monkeypatch.setattr("composefs.registry.connection.SLOWEST", 1 << 20)
    monkeypatch.setattr("composefs.registry.watchdog._PERIOD", 0.05)
    server.script(BLOB, answers.stall(100_000), answers.slow(50))

    assert fetch(server) == DATA

    assert ranges(server)[1] == "bytes=100000-"
    assert len(ranges(server)) == 3


# Other places


def test_the_next_place_goes_on_where_one_failed(server):
    """A mirror may have the tag, and not the blob, or only some of it."""
    with ScriptedServer() as mirror:
        assert fetch(mirror, server) == DATA
        mirror.contents.blobs[DIGEST] = DATA
        mirror.script(BLOB, answers.cut(70_000), answers.say(404))
        assert fetch(mirror, server) == DATA

    assert ranges(server) == [None, "bytes=70000-"]


def test_a_mirror_that_is_down_is_passed_over(server):
    """So is one that nobody listens at."""
    with ScriptedServer() as mirror:
        pass

    assert fetch(mirror, server) == DATA


def test_if_all_places_fail_the_last_says_why_and_the_others_are_noted(server):
    """The last one is the registry itself."""
    server.always(BLOB, answers.say(403))
    with ScriptedServer() as mirror, pytest.raises(RegistryError) as caught:
        fetch(mirror, server)

    assert caught.value.host == server.address
    assert any(mirror.address in note for note in caught.value.__notes__)


def test_a_token_that_ends_in_the_middle_is_renewed(server):
    """The connection that breaks then goes on with another token."""
    server.tokens = honest.Tokens(uses=1)
    server.script(BLOB, answers.cut(100_000))

    assert fetch(server) == DATA

    assert len(server.tokens.given) >= 2
    assert "bytes=100000-" in ranges(server)


def test_each_request_begins_at_the_registry(server):
    """Where it redirects to is good for minutes, so a resumed download asks it again."""
    with ScriptedServer() as target:
        target.contents.blobs[DIGEST] = DATA
        server.always(BLOB, answers.redirect(f"{target.url}/v2/x/blobs/{DIGEST}?signature=secret"))
        target.script(BLOB, answers.cut(100_000), answers.say(403), answers.cut(50_000))

        assert fetch(server) == DATA

        assert ranges(target) == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
        assert all(request.authorization is None for request in target.requests)
    assert len(server.blob_requests) == 4


def test_a_network_that_goes_for_a_moment_does_not_end_a_download(server):
    """Where bytes have come from before, no connection is a connection lost."""
    tries = iter([RegistryError("network is unreachable", server.address)] * 2)
    client = clients(server)[0]
    open_blob = client.open_blob

    def unreachable(digest: str, *, start: int = 0, **options: Any) -> BlobResponse:
        if start and (error := next(tries, None)) is not None:
            raise error
        return open_blob(digest, start=start, **options)

    client.open_blob = unreachable
    server.script(BLOB, answers.cut(100_000))
    download = Download([client], DIGEST, len(DATA), "layer x", lambda: 1, pace=QUICK)
    with contextlib.closing(download):
        assert read_all(download) == DATA


@pytest.mark.parametrize("is_deaf", [False, True], ids=["headers", "handshake"])
def test_a_download_ends_at_once_also_where_nothing_is_said(is_deaf):
    """No thread stays until its time is up."""
    with ScriptedServer(is_deaf=is_deaf) as silent:
        silent.always(BLOB, answers.silent)
        with downloading(silent):
            time.sleep(0.2)


# Anything


def random_answer(chance: random.Random) -> Answer:
    """Return one of the ways in which an answer goes wrong, or a good one."""
    size = chance.choice([0, 1, 10_000, 70_000, chance.randrange(len(DATA))])
    ways = [
        answers.honest,
        answers.slow(chance.choice([300_000, 1_000_000, 5_000_000])),
        answers.cut(size, reset=chance.random() < 0.3, chunked=chance.random() < 0.3),
        answers.hang_up(reset=chance.random() < 0.5),
        answers.after(0.05, answers.cut(size)),
        answers.chunked,
        answers.ignore_range,
        answers.other_start(chance.choice([-1, 1, 1000])),
        answers.other_total(1),
        answers.content_range(None),
        answers.multipart,
        answers.lying_416(len(DATA)),
        answers.say(chance.choice([400, 403, 404, 416, 500, 501, 503])),
        answers.too_many("0"),
    ]
    return chance.choice(ways)


@pytest.mark.parametrize("seed", range(24))
def test_whatever_comes_the_bytes_are_right_or_there_is_an_error(server, monkeypatch, seed):
    """Any number of connections, whatever each of them does, and however the reader reads."""
    monkeypatch.setattr("composefs.registry.session._FIRST_BACKOFF", 0.001)
    monkeypatch.setattr("composefs.registry.session._FIRST_PAUSE", 0.001)
    chance = random.Random(seed)
    server.script(BLOB, *(random_answer(chance) for _ in range(chance.randrange(12))))
    server.always(BLOB, answers.slow(chance.choice([500_000, 2_000_000, 50_000_000])))
    with ScriptedServer() as other:
        other.contents = server.contents
        other.always(BLOB, answers.slow(2_000_000))
        servers = (server, other) if chance.random() < 0.5 else (server,)
        streams = chance.randint(1, 6)
        pace = replace(RANGES, range_size=chance.choice([20_000, 50_000]), pause=0.001)
        got = bytearray()
        with downloading(*servers, streams=lambda: chance.choice([1, streams]), pace=pace) as download:
            try:
                while piece := download.read(chance.choice([1000, 50_000, 1 << 18])):
                    got += piece
                    if chance.random() < 0.1:
                        time.sleep(0.01)
            except (RegistryError, IntegrityError):
                assert DATA.startswith(got)
            else:
                assert got == DATA
