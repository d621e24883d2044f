"""What a server wants to see before it answers: WWW-Authenticate; no I/O.

A header may hold several challenges, and there may be several headers.  Nothing is refused: what is no challenge is
passed over, and then no challenge may be left.

Source: RFC 9110, 11.2 to 11.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_GAP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|\Z))")  # such as of Negotiate; has no parameters
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)(?:"|\\?\Z)', re.DOTALL)  # one that is cut goes to the end
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_REST = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+', re.DOTALL)  # to the next comma outside of quotes


@dataclass(frozen=True)
class Challenge:
    """One way to be let in."""

    scheme: str  # in lower case
    parameters: dict[str, str] = field(default_factory=dict)  # names in lower case


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all WWW-Authenticate *headers*, in their order."""
    return tuple(challenge for header in headers for challenge in _parse(header))


def _parse(text: str) -> Iterator[Challenge]:
    found: Challenge | None = None
    position = 0
    while (position := _end(_GAP, text, position)) < len(text):
        name = _TOKEN.match(text, position)
        if name is None:
            position = max(_end(_REST, text, position), position + 1)
            continue
        position = name.end()
        equals = _EQUALS.match(text, position)
        if equals is None:
            if found is not None:
                yield found
            found = Challenge(name[0].lower())
            position = _end(_TOKEN68, text, position)
            continue
        value, position = _value(text, equals.end())
        if found is not None and value is not None:
            found.parameters.setdefault(name[0].lower(), value)
    if found is not None:
        yield found


def _value(text: str, position: int) -> tuple[str | None, int]:
    """Return the token or quoted text at *position*, None if there is neither, and where it ends."""
    if quoted := _QUOTED.match(text, position):
        return _ESCAPED.sub(r"\1", quoted[1]), quoted.end()
    if token := _TOKEN.match(text, position):
        return token[0], token.end()
    return None, _end(_REST, text, position)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()
