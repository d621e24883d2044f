"""The parts of archives in container storage: what is read, and what is refused, with the line."""

import contextlib
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composefs import limits
from composefs.errors import FormatError, LimitError
from composefs.oci.sources.storage import tar_split
from composefs.oci.sources.storage.tar_split import FileContents, read_tar_split
from tests.layouts import noise, tar
from tests.storages import gzipped
from tests.storages import tar_split as split

BYTES = {"type": 2, "payload": "YWI="}
FILE = {"type": 1, "name": "./a", "size": 3, "payload": "AAAAAAAAAAA="}


def parts(data):
    return list(read_tar_split(io.BytesIO(data), "split"))


def test_parts():
    """Bytes and contents come in order; files that are empty have none."""
    lines = [BYTES, FILE, BYTES | {"payload": ""}, {"type": 1, "name": "d/", "payload": None}, FILE | {"size": 0}]

    assert parts(gzipped(lines)) == [b"ab", FileContents(b"./a", 3), b""]


def test_names_that_are_no_text():
    """What is no UTF-8 comes as bytes."""
    assert parts(gzipped([FILE | {"name": "?", "name_raw": "/w=="}])) == [FileContents(b"\xff", 3)]


def test_archives_are_what_their_parts_are():
    """Joined with the contents, the parts are the archive."""
    files = {"d/": b"", "d/a": noise(5000), "b": b"", "c": b"x" * 64, "ä": b"y" * 65}
    archive = tar(files)

    joined = b"".join(
        part if isinstance(part, bytes) else files[part.path.decode()] for part in parts(gzipped(split(archive)))
    )

    assert joined == archive


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"\n", "line 1 is broken"),
        (b"{}\n", "line 1 is broken: KeyError"),
        (b"[]\n", "line 1 is broken: TypeError"),
        (b'{"type": 3}\n', "line 1 is of the unknown type 3"),
        (b'{"type": 2, "payload": "#"}\n', "line 1 is broken"),
        (b'{"type": 2}\n', "line 1 is broken: KeyError"),
        (b'{"type": 1, "name": 7, "size": 1}\n', "name 7 is no text"),
        (b'{"type": 1, "name": "\\ud800", "size": 1}\n', "line 1 is broken: UnicodeEncodeError"),
        (b'{"type": 1, "name": "a", "size": -1}\n', "size -1 is no number of bytes"),
        (b'{"type": 1, "name": "a", "size": true}\n', "size True is no number of bytes"),
        (b'{"type": 1, "name": "a", "size": 1.5}\n', "size 1.5 is no number of bytes"),
        (b"[" * 100_000 + b"\n", "line 1 is broken: RecursionError"),
        (b'{"type": 2, "payload": ""}', "line 1 is cut"),
    ],
)
def test_broken_lines(line, what):
    """Each is refused for what is wrong with it."""
    with pytest.raises(FormatError, match=what) as caught:
        parts(gzip.compress(line))

    assert caught.value.source == "split"


@pytest.mark.parametrize("cut", [0, 1, 9, 20, -9, -1])
def test_cut_files(cut):
    """What is cut is refused; nothing at all is an archive of no bytes, which its digest is not that of."""
    data = gzipped([BYTES, FILE] * 50)[:cut]

    if data:
        with pytest.raises(FormatError, match="broken gzip data"):
            parts(data)
    else:
        assert parts(data) == []


def test_no_gzip():
    """Anything else is refused."""
    with pytest.raises(FormatError, match="broken gzip data"):
        parts(b'{"type": 2, "payload": ""}\n')


def test_limits(monkeypatch):
    """Lines, their number and the archive are bounded."""
    monkeypatch.setattr(tar_split, "_LINE_MAX", 100)
    with pytest.raises(LimitError, match="bytes in line 2"):
        parts(gzipped([BYTES, {"type": 2, "payload": "A" * 200}]))

    monkeypatch.setattr(limits, "ARCHIVE_SIZE", 10)
    with pytest.raises(LimitError, match="bytes of archive"):
        parts(gzipped([FILE | {"size": 11}]))

    monkeypatch.setattr(limits, "ENTRIES", 2)
    with pytest.raises(LimitError, match="lines"):
        parts(gzipped([BYTES | {"payload": ""}] * 5))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda each: (
            st.lists(each) | st.dictionaries(st.sampled_from(["type", "payload", "name", "name_raw", "size"]), each)
        ),
    )
)
def test_any_line(value):
    """A line gives a part or a typed error, whatever it is."""
    with contextlib.suppress(FormatError):
        parts(gzip.compress(json.dumps(value).encode() + b"\n"))


@given(st.binary())
def test_any_bytes(data):
    """Bytes give parts or a typed error."""
    with contextlib.suppress(FormatError):
        parts(data)
