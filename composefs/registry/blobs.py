"""The bytes of a blob as one answer has them: from its start on, or a range of it.

Source: RFC 9110, 14 and 15.3.7, and what registries and their storage do.
"""

from __future__ import annotations

import re
from typing import Self

from composefs.errors import RangeError, RegistryError
from composefs.registry.connection import Answer

_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_NO_RANGES = (400, 403, 416, 501)  # what servers answer that know of no ranges, or not of these
BLOB_HEADERS = {"Accept-Encoding": "identity"}


class BlobResponse:
    """Bytes of a blob, from *start* on.  It has to be closed.

    Attributes:
        start: where the first byte belongs: 0, where the server does not give ranges.
        total: bytes that the blob has, as the server says; None: it does not.
        host: that sends them.
    """

    def __init__(self, answer: Answer, start: int, total: int | None) -> None:
        self.start, self.total, self.host = start, total, answer.host
        self._answer = answer

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, none only at the end of the answer.

        Raises:
            ConnectionLostError: the connection ended before that, or is slower than 1 kB/s.
        """
        return self._answer.read(size)

    def abort(self) -> None:
        """End the connection, also for another thread that is reading; does not wait."""
        self._answer.abort()

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def range_headers(start: int, end: int | None) -> dict[str, str]:
    """Return the headers that ask for a blob from *start* up to before *end*; without If-Range: its digest names it."""
    if start == 0 and end is None:
        return BLOB_HEADERS
    return {**BLOB_HEADERS, "Range": f"bytes={start}-{'' if end is None else end - 1}"}


def range_statuses(start: int, end: int | None) -> tuple[int, ...]:
    """Return the statuses that `blob_response` takes."""
    return (200,) if start == 0 and end is None else (200, 206, *_NO_RANGES)


def blob_response(answer: Answer, start: int, end: int | None) -> BlobResponse:
    """Return what *answer* has of a blob that was asked for from *start* up to before *end*.

    Raises:
        RangeError: no single range, or not this one.
        RegistryError: the bytes are encoded.
    """
    try:
        refuse_encoded(answer)
        if answer.status == 200:
            return BlobResponse(answer, 0, _number(answer.header("Content-Length")))
        if answer.status != 206:
            raise RangeError(f"{answer.what}: {answer.status}: no ranges", answer.host, answer.status)
        found = answer.all_headers("Content-Range")
        match = _CONTENT_RANGE.fullmatch(found[0].strip()) if len(found) == 1 else None
        if match is None:
            raise RangeError(f"{answer.what}: an answer that is no single range", answer.host, 206)
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        length = _number(answer.header("Content-Length"))
        if (
            first != start
            or not first <= last < (last + 1 if total is None else total)
            or (end is not None and last >= end)
            or (length is not None and length != last - first + 1)
        ):
            raise RangeError(f"{answer.what}: another range than was asked for", answer.host, 206)
        return BlobResponse(answer, first, total)
    except RegistryError:
        answer.close()
        raise


def refuse_encoded(answer: Answer) -> None:
    """Refuse an answer that has other bytes than were asked for, though they mean the same.

    Raises:
        RegistryError: it is one.
    """
    encoding = (answer.header("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise RegistryError(f"{answer.what}: the answer is encoded as {encoding[:20]!r}", answer.host, answer.status)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
