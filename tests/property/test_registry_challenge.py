"""Challenges of any text parse, and those that are written parse to themselves, however they are put into headers."""

import time

from hypothesis import given
from hypothesis import strategies as st

from composefs.registry.challenge import Challenge, parse_challenges

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=30)
CHALLENGES = st.builds(Challenge, TOKENS, st.dictionaries(TOKENS, VALUES, max_size=4))


def write(challenge: Challenge, upper: bool, gap: str) -> str:
    """Return *challenge* as a server writes it: every value quoted, so that commas and quotes are in it."""
    pairs = []
    for name, value in challenge.parameters.items():
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        pairs.append(f'{name.upper() if upper else name}{gap}={gap}"{quoted}"')
    scheme = challenge.scheme.upper() if upper else challenge.scheme
    return f"{scheme} {f'{gap},{gap}'.join(pairs)}".strip()


@given(st.lists(st.tuples(CHALLENGES, st.booleans(), st.sampled_from(["", " ", "\t "]), st.booleans())))
def test_what_is_written_is_read(written):
    """Several in one header, or in several: all of them come out, in order."""
    headers: list[str] = []
    for challenge, upper, gap, is_new in written:
        text = write(challenge, upper, gap)
        if is_new or not headers:
            headers.append(text)
        else:
            headers[-1] += f"{gap},{gap}{text}"

    assert list(parse_challenges(headers)) == [challenge for challenge, _, _, _ in written]


@given(st.lists(st.text() | st.text('Bb="\\, \t/abc'), max_size=3))
def test_any_text_is_read(headers):
    """Nothing fails, and what is found looks like challenges."""
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower() != ""
        assert all(name == name.lower() != "" for name in challenge.parameters)


def test_long_texts_take_no_time():
    """A header has at most 64 KiB; none of them is read in more than linear time."""
    began = time.monotonic()
    for text in ('"', "\\", ",", "=", "a", "a=", 'a="', "a ", "(", '\\"', "a=,", "Basic a=b,"):
        parse_challenges(['Bearer realm="' + text * (65536 // len(text)), text * (65536 // len(text))])
    assert time.monotonic() - began < 5
