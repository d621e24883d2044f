"""What servers and connections do wrong, as errors for people, without secrets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from composefs import limits
from composefs.errors import AuthenticationError, FormatError, RegistryError
from composefs.json_text import parse_json

_TITLE = re.compile("<title>([^<]*)", re.IGNORECASE)
_TAG = re.compile("<[^<>]*>")
_SHOWN = 200  # characters of what a server says
_SHORTEST_SECRET = 6  # characters; what is shorter would be found in any text


def refusal(
    status: int, body: bytes, *, what: str, host: str, secrets: Iterable[str] = (), remedy: str = ""
) -> RegistryError:
    """Return the error for an answer that was not hoped for.

    Args:
        status: of the answer.
        body: of the answer, or its beginning.
        what: was asked for.
        host: that answered.
        secrets: which the answer may repeat, and the error must not.
        remedy: what the user may do about it, if that is known.
    """
    code, text = _read_body(body, tuple(secrets))
    said = f": {text[:_SHOWN]}" if text else ""
    kind = AuthenticationError if status in (401, 403) else RegistryError
    return kind(f"{what}: {status}{said}{remedy}", host, status, code)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return *text* without any of *secrets*.  It must not be cut before: the part of one that is left is not found."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be part of another
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def _read_body(body: bytes, secrets: Collection[str]) -> tuple[str | None, str]:
    """Return the code of the registry API in *body*, and what it says, as one line."""
    try:
        value = parse_json(body, "error", max_size=limits.REGISTRY_ERROR_SIZE)
    except FormatError:
        value = None
    code, said = _read_json(value, secrets) if isinstance(value, dict) else (None, "")
    return code, said or _line(_without_markup(body.decode("utf-8", "backslashreplace")), secrets)


def _without_markup(text: str) -> str:
    """Return what HTML has as its title, and of XML what is not markup; else *text*."""
    if not text.lstrip().startswith("<"):
        return text
    title = _TITLE.search(text)
    return title[1] if title else _TAG.sub(" ", text)


def _read_json(value: Mapping[str, object], secrets: Collection[str]) -> tuple[str | None, str]:
    errors = value.get("errors")
    texts, code = [], None
    for error in errors[:3] if isinstance(errors, list) else ():
        if isinstance(error, dict):
            its_code = _line(error.get("code"), secrets)
            code = code or its_code or None
            texts.append(": ".join(filter(None, (its_code, _line(error.get("message"), secrets)))))
    if not any(texts):
        texts = [_line(value.get(key), secrets) for key in ("message", "details", "error_description", "error")]
    return code, "; ".join(filter(None, texts))


def _line(text: object, secrets: Collection[str]) -> str:
    """Return *text* as one line, but no more than may be shown; nothing if it is no text."""
    if not isinstance(text, str):
        return ""
    begin = without_secrets(text, secrets)[: 4 * _SHOWN]
    return " ".join("".join(character if character.isprintable() else " " for character in begin).split())[:_SHOWN]
