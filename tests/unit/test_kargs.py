"""Kernel arguments that name images: what they are, what they are not, and where in the line that is."""

import pytest

from composefs import Algorithm, Digest, FormatError
from composefs.boot.kargs import ImageArgument, format_argument, parse_cmdline, split_cmdline

HEX = {Algorithm.SHA256: "0123456789abcdef" * 4, Algorithm.SHA512: "fedcba9876543210" * 8}
DIGESTS = {algorithm: Digest.from_hex(algorithm, text) for algorithm, text in HEX.items()}
SHORT, LONG = DIGESTS.values()


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize(
    ("spelling", "version"), [("composefs=", 2), ("composefs.digest={}v1-", 1), ("composefs.digest={}v2-", 2)]
)
def test_spellings(spelling, version, algorithm, insecure):
    """Each spelling tells digest, format, and whether fs-verity is required."""
    mark = "?" if insecure else ""
    if "{}" in spelling:
        token = f"{spelling.format(mark)}{algorithm.hash_name}-12:{HEX[algorithm]}"
    else:
        token = f"{spelling}{mark}{HEX[algorithm]}"

    assert parse_cmdline(token) == [ImageArgument(DIGESTS[algorithm], version, insecure)]


def test_order():
    """All are found, in the order of the line, whatever their spelling."""
    words = [
        "quiet",
        f"composefs=?{SHORT.hex}",
        f"composefs.digest=v1-sha512-12:{LONG.hex.upper()}",
        f"composefs={LONG.hex}\n",
    ]
    line = " ".join(words)

    assert parse_cmdline(line) == [
        ImageArgument(SHORT, 2, insecure=True),
        ImageArgument(LONG, 1, insecure=False),
        ImageArgument(LONG, 2, insecure=False),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "quiet splash",
        f"xcomposefs={SHORT.hex}",
        f"composefs {SHORT.hex}",
        f'"composefs={SHORT.hex}"',  # the quote is part of the token
        f'a="b composefs={SHORT.hex}"',
        f'a="b composefs={SHORT.hex}',  # a quote that is never closed
        f"Composefs={SHORT.hex}",
        "composefs.other=1",
    ],
)
def test_none(line):
    """What only looks like one is none."""
    assert parse_cmdline(line) == []


@pytest.mark.parametrize(
    ("token", "what"),
    [
        ("composefs=", "invalid composefs= digest length: 0"),
        ("composefs=?", "invalid composefs= digest length: 0"),
        ("composefs=abcd", "invalid composefs= digest length: 4"),
        (f"composefs=??{SHORT.hex}", "invalid composefs= digest length: 65"),
        (f'composefs="{SHORT.hex}"', "invalid composefs= digest length: 66"),
        ("composefs=" + "g" * 64, "is no sha256 digest in hexadecimal"),
        ("composefs=" + " ".join(["ab"] * 22), "invalid composefs= digest length: 2"),
        (f"composefs.digest={SHORT.hex}", "expected '<version>-<hash>-<blocksize>:<hex>'"),
        (f"composefs.digest=v3-sha256-12:{SHORT.hex}", "unsupported format version 'v3'"),
        (f"composefs.digest=1-sha256-12:{SHORT.hex}", "unsupported format version '1'"),
        (f"composefs.digest=v1:{SHORT.hex}", "names no block size"),
        (f"composefs.digest=v1-sha256-16:{SHORT.hex}", "block size 16, only 12 is known"),
        (f"composefs.digest=v1-md5-12:{SHORT.hex}", "unknown hash 'md5'"),
        (f"composefs.digest=v1-sha512-12:{SHORT.hex}", "is no sha512 digest"),
        (f"composefs.digest=v1-sha256-12:{SHORT.hex}x", "is no sha256 digest"),
    ],
)
def test_malformed(token, what):
    """A malformed one is an error that shows it and says where it is, even if there is another, before or behind."""
    good = f"composefs={LONG.hex}"

    with pytest.raises(FormatError) as caught:
        parse_cmdline(f"quiet {token} {good}")
    with pytest.raises(FormatError):
        parse_cmdline(f"{good} {token}")

    assert what in str(caught.value)
    assert str(caught.value).startswith(f"kernel command line, offset 6: {token.split()[0]}: ")


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("a b", ["a", "b"]),
        ("  a\t\nb \f\r", ["a", "b"]),
        ("a\vb\xa0c", ["a\vb\xa0c"]),  # ASCII, and what Rust takes for white space there
        ('a="b c" d', ['a="b c"', "d"]),
        ('"a b"c" d', ['"a b"c" d']),
        ('a\\"b c', ['a\\"b c']),  # nothing escapes a quote
        ('""', ['""']),
    ],
)
def test_split(line, tokens):
    """Blanks end a token outside of quotes, and quotes stay."""
    found = list(split_cmdline(line))

    assert [token for _, token in found] == tokens
    assert all(line[offset:].startswith(token) for offset, token in found)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_format(version):
    """What is told to the kernel is read as what was meant; formats 0 and 1 are one."""
    text = format_argument(LONG, version, insecure=version == 1)

    (found,) = parse_cmdline(f"quiet {text}")

    assert found == (LONG, version or 1, version == 1)
    assert str(found) == text
