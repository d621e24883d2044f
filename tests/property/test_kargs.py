"""Kernel command lines: any text is read or refused, and what is written is read back."""

from hypothesis import given
from hypothesis import strategies as st

from composefs import Algorithm, Digest, FormatError
from composefs.boot.kargs import ImageArgument, parse_cmdline, split_cmdline

BLANKS = " \t\n\f\r"
ARGUMENTS = st.builds(
    ImageArgument,
    st.sampled_from(Algorithm).flatmap(
        lambda algorithm: st.binary(min_size=algorithm.digest_size, max_size=algorithm.digest_size).map(
            lambda raw: Digest(algorithm, raw)
        )
    ),
    st.sampled_from([1, 2]),
    st.booleans(),
)
OTHERS = st.text(st.characters(exclude_characters=BLANKS + '"', codec="utf-8")).filter(
    lambda text: not text.startswith(("composefs=", "composefs.digest="))
)
QUOTED = st.text(st.characters(exclude_characters='"', codec="utf-8")).map(lambda text: f'x="{text}"')
# Text in which keys, quotes and digits are frequent.
PIECES = st.sampled_from(
    ["composefs=", "composefs.digest=", "?", "v1-", "v2-", "sha256-12:", "ab" * 32, '"', " ", "\n", "-"]
)
LINES = st.lists(st.one_of(PIECES, st.text(max_size=5))).map("".join)


def split_slowly(text):
    """Return the tokens of *text*, character by character."""
    tokens, is_quoted = [""], False
    for character in text:
        is_quoted ^= character == '"'
        if character in BLANKS and not is_quoted:
            tokens.append("")
        else:
            tokens[-1] += character
    return [token for token in tokens if token]


@given(st.lists(st.one_of(ARGUMENTS, OTHERS, QUOTED)), st.lists(st.sampled_from(BLANKS), min_size=1))
def test_read_back(words, blanks):
    """Among other arguments, quoted or not, all that name images are found, in their order."""
    line = "".join(blanks).join(map(str, words))

    assert parse_cmdline(line) == [word for word in words if isinstance(word, ImageArgument)]


@given(LINES)
def test_any_text(line):
    """Any text is read, or refused at the argument that is wrong; what is read can be written and read again."""
    assert [token for _, token in split_cmdline(line)] == split_slowly(line)
    try:
        found = parse_cmdline(line)
    except FormatError as error:
        offset = error.offset
    else:
        assert parse_cmdline(" ".join(map(str, found))) == found
        return
    assert line[offset:].startswith("composefs")
