"""Errors of servers are shown in one line, by their code and message if they say one."""

import json

import pytest

from composefs.errors import AuthenticationError, RegistryError
from composefs.registry.failures import refusal


def text_of(body: bytes, status: int = 404, **options: object) -> str:
    return str(refusal(status, body, what="manifest x", host="registry.example", **options))


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        (
            {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": "x"}}]},
            "MANIFEST_UNKNOWN: manifest unknown",
            "MANIFEST_UNKNOWN",
        ),
        ({"errors": [{"code": "DENIED"}]}, "DENIED", "DENIED"),
        ({"errors": [{"code": "UNKNOWN", "message": "Not Found"}]}, "UNKNOWN: Not Found", "UNKNOWN"),
        (
            {"errors": [{"code": "A", "message": "one"}, {"code": "B", "message": "two"}, 7]},
            "A: one; B: two",
            "A",
        ),
        ({"message": "no such thing"}, "no such thing", None),
        ({"details": "incorrect username or password"}, "incorrect username or password", None),
        ({"errors": "none"}, '{"errors": "none"}', None),
        ({"errors": []}, '{"errors": []}', None),
        ([1], "[1]", None),
        (b"<html>\n <body>Bad   gateway</body></html>", "Bad gateway", None),
        (b" <html><head><title>401 Unauthorized</title></head><body>x</body>", "401 Unauthorized", None),
        (
            b"<Error><Code>InvalidRequest</Code><Message>Only one auth mechanism allowed</Message></Error>",
            "InvalidRequest Only one auth mechanism allowed",
            None,
        ),
        (b"\x1b[31mred\x00\xff", "[31mred \\xff", None),
        (b"", "", None),
    ],
)
def test_bodies(body, text, code):
    """JSON of the specification, other JSON, text, HTML, S3's XML, nothing."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    error = refusal(404, data, what="manifest x", host="registry.example")

    assert str(error) == f"registry.example: manifest x: 404{': ' if text else ''}{text}"
    assert (error.status, error.code, error.host) == (404, code, "registry.example")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_kinds(status):
    """Those about credentials are of their own kind."""
    error = refusal(status, b"", what="x", host="h")
    assert type(error) is (AuthenticationError if status in (401, 403) else RegistryError)


@pytest.mark.parametrize("body", [b"x" * 5000, json.dumps({"message": "x" * 5000}).encode(), b"{" + b"x" * 5000])
def test_long_bodies_are_cut(body):
    """At most 200 characters of what a server says are shown."""
    assert len(text_of(body)) < 250


def test_secrets_are_left_out():
    """A server that repeats what it was sent does not get it into a message."""
    body = json.dumps({"message": "no: Bearer token-secret for hunter22"}).encode()

    text = text_of(body, secrets=("token-secret", "hunter22", ""))

    assert text == "registry.example: manifest x: 404: no: Bearer *** for ***"


@pytest.mark.parametrize(
    "body",
    [
        b"no: %s",
        b'{"message": "no: %s"}',
        b'{"errors": [{"code": "DENIED", "message": "no: %s"}]}',
        b'{"errors": [{"code": "no: %s"}]}',
    ],
)
@pytest.mark.parametrize("size", [20, 900, 5000])
def test_long_secrets_are_left_out(body, size):
    """A token has often more characters than are shown: it is found before the text is cut, in the code, too."""
    token = "".join(f"{number:05}" for number in range(size))[:size]

    error = refusal(401, body % token.encode(), what="x", host="h", secrets=(token[4:9], token))

    assert str(error).endswith("no: ***")
    assert token[:9] not in f"{error!r} {error.code}"


def test_codes_are_cut():
    """As is all else that a server says."""
    error = refusal(404, json.dumps({"errors": [{"code": "X" * 5000}]}).encode(), what="x", host="h")
    assert error.code == "X" * 200
