"""JSON that somebody else wrote, as values: of bounded size, number and depth, whatever it is."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from composefs import limits
from composefs.errors import FormatError, LimitError

# A text, whatever is in it, also one that is cut; or a bracket outside of texts.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DEPTHS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(data: bytes, source: str, *, max_size: int) -> object:
    """Return the value that *data* is.

    What programs read in different ways is refused: keys that stand twice in an object, halves of surrogate pairs, and
    NaN and Infinity, which are no JSON.

    Memory is up to some 100 bytes for each of `limits.JSON_VALUES`.

    Args:
        data: the whole text.
        source: for messages.
        max_size: bytes that it may have.

    Raises:
        LimitError: it is too large or too deep.
        FormatError: it is no JSON, or not the same for everybody.
    """
    if len(data) > max_size:
        raise LimitError(source, 0, "bytes of JSON", max_size)
    # Each value but the first stands behind a comma or an opening bracket; those in texts do no harm here.
    openings = data.count(b"[") + data.count(b"{")
    if openings + data.count(b",") >= limits.JSON_VALUES:
        raise LimitError(source, 0, "values in JSON", limits.JSON_VALUES)
    if openings > limits.JSON_DEPTH:
        _check_depth(data, source)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        if _SURROGATE.search(data):  # mostly of a whole pair
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise FormatError(source, 0, "broken JSON: half of a surrogate pair") from None
    except UnicodeDecodeError as error:
        raise FormatError(source, error.start, "broken JSON: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise FormatError(source, error.pos, f"broken JSON: {error.msg}") from None
    except ValueError as error:  # numbers of thousands of digits, and what is raised below
        raise FormatError(source, 0, f"broken JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _check_depth(data: bytes, source: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(data):
        depth += _DEPTHS.get(data[token.start()], 0)
        if depth > limits.JSON_DEPTH:
            raise LimitError(source, token.start(), "lists and objects in one another in JSON", limits.JSON_DEPTH)
