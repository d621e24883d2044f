"""Answers for `ScriptedServer`: each a way in which a server, or the network, does wrong."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping
from dataclasses import replace

from tests.registries.scripted import Answer
from tests.registries.wire import Exchange, Reply

_CHUNK = 1 << 14  # bytes of a chunk
_ENDLESS = 1 << 30  # bytes, after which what is endless ends all the same: a test has failed long before


def honest(exchange: Exchange, reply: Reply) -> None:
    """Answer as a good registry does."""
    exchange.reply(reply)


def say(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Answer this, whatever the request."""
    return lambda exchange, _: exchange.reply(Reply(status, headers or {}, body))


def too_many(retry_after: str | None = None) -> Answer:
    """Answer 429."""
    return say(429, {} if retry_after is None else {"Retry-After": retry_after}, b"slow down")


def redirect(location: str, status: int = 307) -> Answer:
    """Send elsewhere."""
    return say(status, {"Location": location})


def redirect_on(exchange: Exchange, _: Reply) -> None:
    """Send to the same path with one more hop in the query, without end."""
    hop = int(exchange.request.query.removeprefix("hop=") or 0)
    exchange.reply(Reply(307, {"Location": f"{exchange.request.path}?hop={hop + 1}"}))


def after(seconds: float, answer: Answer = honest) -> Answer:
    """Wait before the answer."""

    def waiting(exchange: Exchange, reply: Reply) -> None:
        exchange.sleep(seconds)
        answer(exchange, reply)

    return waiting


def silent(exchange: Exchange, _: Reply) -> None:
    """Say nothing, and keep the connection."""
    exchange.wait_for_end()


def hang_up(*, reset: bool = False) -> Answer:
    """End the connection without an answer."""
    return lambda exchange, _: exchange.hang_up(reset=reset)


def cut(size: int, *, reset: bool = False, chunked: bool = False) -> Answer:
    """End the connection after *size* bytes of the body, of which the head promises all."""

    def cutting(exchange: Exchange, reply: Reply) -> None:
        if chunked:
            _begin_chunked(exchange, reply)
            _send_chunks(exchange, reply.body[:size])
        else:
            _begin(exchange, reply, len(reply.body))
            exchange.body(reply.body[:size])
        if reset:
            exchange.sleep(0.05)  # an RST drops what the client has not yet been handed
        exchange.hang_up(reset=reset)

    return cutting


def stall(size: int) -> Answer:
    """Send *size* bytes of the body, then no more, and keep the connection."""

    def stalling(exchange: Exchange, reply: Reply) -> None:
        _begin(exchange, reply, len(reply.body))
        exchange.body(reply.body[:size])
        exchange.wait_for_end()

    return stalling


def slow(rate: float) -> Answer:
    """Send the body with *rate* bytes per second."""

    def trickling(exchange: Exchange, reply: Reply) -> None:
        _begin(exchange, reply, len(reply.body))
        exchange.body(reply.body, rate)

    return trickling


def slow_head(rate: float) -> Answer:
    """Send the head with *rate* bytes per second."""

    def trickling(exchange: Exchange, reply: Reply) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} OK\r\nContent-Length: {len(reply.body)}\r\n{lines}\r\n"
        exchange.raw(head.encode(), rate)
        exchange.body(reply.body)

    return trickling


def chunked(exchange: Exchange, reply: Reply) -> None:
    """Answer honestly, in chunks, so without a length."""
    _begin_chunked(exchange, reply)
    _send_chunks(exchange, reply.body)
    exchange.chunk(b"")


def flip(offset: int) -> Answer:
    """Change the byte of the body at *offset*, which may be negative; a body without it is honest."""

    def flipping(exchange: Exchange, reply: Reply) -> None:
        body = bytearray(reply.body)
        if -len(body) <= offset < len(body):
            body[offset] ^= 0x01
        exchange.reply(replace(reply, body=bytes(body)))

    return flipping


def shorter(by: int) -> Answer:
    """Answer with a body, and a length, that lack the last *by* bytes."""
    return lambda exchange, reply: exchange.reply(replace(reply, body=reply.body[:-by]))


def longer(by: int) -> Answer:
    """Answer with *by* bytes more, which the length promises, too."""
    return lambda exchange, reply: exchange.reply(replace(reply, body=reply.body + bytes(by)))


def endless_body(exchange: Exchange, reply: Reply) -> None:
    """Send a body that does not end, without a length."""
    _begin_chunked(exchange, reply)
    exchange.body(b"")
    for _ in range(_ENDLESS // _CHUNK):
        exchange.chunk(bytes(_CHUNK))


def endless_headers(exchange: Exchange, _: Reply) -> None:
    """Send a head that does not end."""
    exchange.raw(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        exchange.raw(f"X-Number-{number}: {'x' * 1000}\r\n".encode())


def ignore_range(exchange: Exchange, reply: Reply) -> None:
    """Answer 200 and the whole blob, whatever range is asked for."""
    body = reply.body if reply.whole is None else reply.whole
    exchange.reply(replace(reply, status=200, body=body, headers=_without_range(reply)))


def content_range(value: str | None) -> Answer:
    """Answer with another Content-Range than the right one, or with none."""

    def lying(exchange: Exchange, reply: Reply) -> None:
        headers = _without_range(reply)
        exchange.reply(replace(reply, status=206, headers=headers if value is None else {**headers, _RANGE: value}))

    return lying


def other_start(by: int) -> Answer:
    """Answer a range from another start, and say so; what is no range is honest."""

    def shifting(exchange: Exchange, reply: Reply) -> None:
        if _RANGE not in reply.headers:
            return exchange.reply(reply)
        start, end, total = _range(reply)
        headers = {**reply.headers, _RANGE: f"bytes {start + by}-{end}/{total}"}
        return exchange.reply(replace(reply, headers=headers, body=reply.body[by:]))

    return shifting


def other_total(by: int) -> Answer:
    """Answer the right range, but claim that the blob is *by* bytes longer; what is no range is honest."""

    def claiming(exchange: Exchange, reply: Reply) -> None:
        if _RANGE not in reply.headers:
            return exchange.reply(reply)
        start, end, total = _range(reply)
        return exchange.reply(replace(reply, headers={**reply.headers, _RANGE: f"bytes {start}-{end}/{total + by}"}))

    return claiming


def multipart(exchange: Exchange, reply: Reply) -> None:
    """Answer a range as multipart/byteranges."""
    value = reply.headers.get(_RANGE, "")
    body = f"\r\n--x\r\nContent-Range: {value}\r\n\r\n".encode() + reply.body + b"\r\n--x--\r\n"
    headers = {**_without_range(reply), "Content-Type": "multipart/byteranges; boundary=x"}
    exchange.reply(replace(reply, status=206, headers=headers, body=body))


def lying_416(length: int) -> Answer:
    """Answer 416 with a length of the body of which there are 33 bytes, as docker-registry 2.8.2 does."""

    def lying(exchange: Exchange, _: Reply) -> None:
        exchange.head(416, {"Content-Length": str(length), "Content-Type": "application/json"})
        exchange.body(b"x" * 33)
        exchange.wait_for_end()

    return lying


def encoded(exchange: Exchange, reply: Reply) -> None:
    """Answer with a gzip of the body, as Content-Encoding says."""
    headers = {**reply.headers, "Content-Encoding": "gzip"}
    exchange.reply(replace(reply, headers=headers, body=gzip.compress(reply.body, mtime=0)))


_RANGE = "Content-Range"


def _begin(exchange: Exchange, reply: Reply, length: int) -> None:
    exchange.head(reply.status, {"Content-Length": str(length), **reply.headers})


def _begin_chunked(exchange: Exchange, reply: Reply) -> None:
    exchange.head(reply.status, {"Transfer-Encoding": "chunked", **reply.headers})


def _send_chunks(exchange: Exchange, data: bytes) -> None:
    for start in range(0, len(data), _CHUNK):
        exchange.chunk(data[start : start + _CHUNK])


def _without_range(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name != _RANGE}


def _range(reply: Reply) -> tuple[int, int, int]:
    """Return start, end and total of the range that *reply* has."""
    places, _, total = reply.headers[_RANGE].removeprefix("bytes ").partition("/")
    start, _, end = places.partition("-")
    return int(start), int(end), int(total)
