"""Dumps: what was written is read again, and any bytes parse or raise FormatError, in either dialect."""

import contextlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump, parse_dump, read_lines
from composefs.dumpfile.reader import FIELDS
from composefs.errors import FormatError
from composefs.tree import Directory, walk
from tests.strategies import trees

# What is somebody's mistake, or somebody's trick, in one field or another.
WORDS = (
    rb"- / 0 1 -1 +1 1.0 -5.0 1.-1 100644 40755 @100644 @0 120777 20644 x@100644 18446744073709551616 \x00 \x2d \ \x4 "
    rb"\q /a /a/ //a /a/b /a/b/c a ../a . .. .// user.a=b = =x user.a= user.a=b=c \xff:\x01"
)
VALUES = [*WORDS.split(b" "), b"", "é".encode(), b"a" * 64, b"aa/" + b"a" * 62, b"\xff", b"\t7", b"\r", b"\0"]
LINE = st.lists(st.sampled_from(VALUES), min_size=1, max_size=len(FIELDS) + 2).map(b" ".join)
PLAIN_LINE = st.builds(
    lambda path, index, value: b" ".join(
        [path, *[value if at == index else old for at, old in enumerate(b"0 100644 1 0 0 0 1.0 - - -".split(b" "))]]
    ),
    st.sampled_from([b"/a", b"/b", b"/d/a", b"/d/e/a", b"/d"]),
    st.integers(0, 10),
    st.sampled_from(VALUES),
)
DIRECTORY = st.sampled_from([b"/d", b"/d/e", b"/a"]).map(lambda path: path + b" 0 40755 2 0 0 0 1.0 - - -")
LINK = st.tuples(st.sampled_from([b"/b", b"/c", b"/d/b"]), st.sampled_from([b"/a", b"/c", b"/d/b", b"d/a"])).map(
    lambda link: b"%b 0 @100644 - - - - 0.0 %b - -" % link
)
DUMPS = st.lists(st.one_of(DIRECTORY, LINK, PLAIN_LINE, LINE), max_size=8).map(
    lambda lines: b"\n".join([b"/ 0 40755 2 0 0 0 1.0 - - -", *lines])
)


def shape(root):
    """Return all of a tree that a dump tells, with equal numbers for the names of one leaf."""
    numbers = {}
    nodes = []
    for path, node in walk(root):
        content = None if isinstance(node, Directory) else node.content
        nodes.append((path, node.stat, content, numbers.setdefault(node, len(numbers))))
    return nodes


def read(text, dialect, **options):
    return parse_dump(read_lines(io.BytesIO(text)), "x", dialect=dialect, **options)


@pytest.mark.parametrize("dialect", Dialect)
@given(tree=trees(Algorithm.SHA256))
def test_written_and_read(tree, dialect):
    """The same tree comes back, and from it the same dump."""
    text = b"".join(format_dump(tree))

    root = read(text, dialect, algorithm=Algorithm.SHA256).root

    assert shape(root) == shape(tree)
    assert b"".join(format_dump(root)) == text


@given(trees(Algorithm.SHA512))
def test_written_and_read_with_sha512(tree):
    text = b"".join(format_dump(tree))

    assert shape(read(text, Dialect.RUST).root) == shape(tree)


@pytest.mark.parametrize(("dialect", "strict"), [(Dialect.RUST, False), (Dialect.C, False), (Dialect.C, True)])
@given(text=st.one_of(st.binary(max_size=300), DUMPS, DUMPS.map(lambda text: text + b"\n")))
@example(text=b"")
def test_any_bytes(text, dialect, strict):
    """They are a dump or they are not; what is one can be written, and read again if it was written here."""
    with contextlib.suppress(FormatError):
        root = read(text, dialect, strict=strict).root
        again = b"".join(format_dump(root))
        with contextlib.suppress(FormatError):  # composefs-rs cannot read all that it writes: no times before 1970
            assert b"".join(format_dump(read(again, dialect).root)) == again


@pytest.mark.parametrize("dialect", Dialect)
@given(text=DUMPS, offset=st.integers(0, 400))
def test_mistakes_have_a_place(text, offset, dialect):
    """The offset of an error is in the input, and its line and column are those of the offset."""
    text = text[:offset] + b"\x01" + text[offset:]

    error = mistake(text, dialect)

    if error is not None:
        before = text[: error.offset]
        line, column = before.count(b"\n") + 1, error.offset - (before.rfind(b"\n") + 1) + 1
        assert 0 <= error.offset <= len(text)
        assert error.what.startswith((f"line {line}, column {column}: ", "wanted the line of / first, got none"))


def mistake(text, dialect):
    """Return what is wrong with *text*, if something is."""
    try:
        read(text, dialect)
    except FormatError as error:
        return error
    return None
