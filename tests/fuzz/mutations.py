"""Ways to break bytes and JSON, from which the targets choose."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 23, 24, 31, 32, 36, 63, 64, 65, 127, 128, 255, 256, 511, 512, 513)
INTERESTING += (4095, 4096, 4097, *((1 << bits) + step for bits in (15, 16, 31, 32, 63, 64) for step in (-2, -1, 0, 1)))
_SIZES = (1, 2, 4, 8)


def havoc(chance: random.Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """Return *data* with one change anywhere; *words* are put in now and then."""
    if not data:
        return chance.choice(words) if words else chance.randbytes(chance.randrange(1, 17))
    return chance.choice(_HAVOC)(chance, data, words)


def _flip(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _number(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    size = chance.choice(_SIZES)
    at = chance.randrange(len(data))
    value = chance.choice(INTERESTING) & (1 << 8 * size) - 1
    order = chance.choice(("little", "big"))
    return data[:at] + value.to_bytes(size, order) + data[at + size :]


def _step(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] + chance.choice((-32, -8, -1, 1, 8, 32)) & 0xFF]) + data[at + 1 :]


def _noise(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data))
    noise = chance.randbytes(chance.randrange(1, 9))
    return data[:at] + noise + data[at + len(noise) :]


def _word(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    if not words:
        return _noise(chance, data, words)
    at, word = chance.randrange(len(data) + 1), chance.choice(words)
    return data[:at] + word + data[at + chance.choice((0, 0, len(word), chance.randrange(32))) :]


def _remove(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at, size = chance.randrange(len(data)), chance.choice((1, 2, 8, 64, 512, chance.randrange(len(data)) + 1))
    return data[:at] + data[at + size :]


def _repeat(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    start, size = chance.randrange(len(data)), chance.choice((1, 2, 8, 64, 512, chance.randrange(len(data)) + 1))
    at = chance.choice((start, chance.randrange(len(data))))
    return data[:at] + data[start : start + size] * chance.choice((1, 1, 2, 20)) + data[at:]


def _fill(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at, size = chance.randrange(len(data)), chance.choice((2, 4, 32, 512))
    return data[:at] + bytes([chance.choice((0, 0, 0xFF, 0x20))]) * len(data[at : at + size]) + data[at + size :]


def _cut(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


_HAVOC = (_flip, _flip, _number, _number, _step, _noise, _word, _word, _word, _remove, _repeat, _fill, _cut)

_SCALARS: tuple[object, ...] = (
    None, True, False, 0, 1, 2, -1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, 10**400, 0.0, 1.0, 2.0, 1e400,
    -0.5, float("nan"), "", "a", "a/b", "..", "\0", "\n", "\ud800", "\udc80", "é", "😀", "a" * 300, [], {}, [[]], [{}],
)  # fmt: skip


def json_value(chance: random.Random, text: bytes, words: Sequence[object] = ()) -> bytes:
    """Return the JSON *text* with one value, key or item changed; other text, or none, as `havoc` does.

    Args:
        chance: decides.
        text: what to change.
        words: values to put in now and then.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return havoc(chance, text, JSON_WORDS)
    kind = chance.randrange(12)
    if kind == 0:
        return havoc(chance, text, JSON_WORDS)
    if kind == 1:
        return _odd_text(chance, text)
    places = list(_places(value))
    if not places:
        return _dumped(chance.choice(_SCALARS))
    container, key = chance.choice(places)
    _change(chance, container, key, words)
    return _dumped(value)


def _places(value: object) -> list[tuple[dict[str, object] | list[object], object]]:
    """Return where in *value* something stands."""
    found: list[tuple[dict[str, object] | list[object], object]] = []
    pending = [value]
    while pending:
        here = pending.pop()
        if isinstance(here, dict):
            found += [(here, key) for key in here]
            pending += here.values()
        elif isinstance(here, list):
            found += [(here, index) for index in range(len(here))]
            pending += here
    return found


def _change(chance: random.Random, container, key, words: Sequence[object]) -> None:
    kind = chance.randrange(8)
    old = container[key]
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.insert(key, old)
    elif kind == 1:
        container[chance.choice(("", "x", key + "s", key.upper()))] = old
    elif kind == 2:
        container[key] = [old] * chance.choice((1, 2, 3))
    elif kind == 3 and isinstance(old, int):
        container[key] = chance.choice((old - 1, old + 1, old + (1 << 32), -old, float(old & 0xFFFF)))
    elif kind == 3 and isinstance(old, str):
        container[key] = havoc(chance, old.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    elif kind in (4, 5) and words:
        container[key] = chance.choice(words)
    else:
        container[key] = chance.choice(_SCALARS)


def _odd_text(chance: random.Random, text: bytes) -> bytes:
    """Return the JSON *text* as only hostile ones are written: keys twice, nesting, other encodings, odd numbers."""
    kind = chance.randrange(8)
    if kind == 0:
        depth = chance.choice((10, 900, 1100, 5000))
        return b'{"x":' + b"[" * depth + b"]" * depth + b"," + text.lstrip()[1:]
    if kind == 1:
        return text.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32", "utf-16-be", "utf-8-sig")))
    if kind == 2:
        return b"{" + text.strip()[1:-1] + b"," + text.strip()[1:]
    if kind == 3:
        return text.replace(b": 2", b": " + chance.choice((b"2e0", b"2.0", b"NaN", b"-0", b"2" * 5000)), 1)
    if kind == 4:
        return chance.choice((b" ", b" " * 5000, b"")) + text + chance.choice((b"\0", b"\n{}", text))
    return text.replace(b'"', chance.choice((b"'", b'"\\u0000', b'"\\ud800', b'"\x80')), chance.choice((1, 2)))


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


JSON_WORDS = [
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udcff", b"[", b"]", b"{", b"}", b":", b",", b"null", b"true", b"NaN",
    b"Infinity", b"1e400", b"-1", b"0.5", b"9" * 30, b'"size":', b'"digest":', b'"mediaType":', b"[" * 100,
]  # fmt: skip
