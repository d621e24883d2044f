"""Dumps are those of composefs-rs: taken and refused alike, read and written without a difference, and of one image."""

import hashlib
import io
import re
from itertools import pairwise

import pytest

from composefs.dialect import Dialect
from composefs.digest import Algorithm
from composefs.dumpfile import format_dump, parse_dump, read_lines
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, TreeError
from tests.golden import vectors

CASES = vectors.expected("dumps")
STORED = [case for case in CASES if "dump" in case]  # the others are large, and made of nothing but hard links
# What composefs-rs writes and does not read again: negative times, long or no link targets, large values, deep paths.
UNREADABLE = {
    "erofs-compact": "MTIME",
    "erofs-symlink-blocks": "PAYLOAD",
    "modes": "PAYLOAD",
    "times": "MTIME",
    "times-before-1970": "MTIME",
    "deep-2050": "PATH",
    "xattr-value-65536": "XATTR",
    "xattr-value-65537": "XATTR",
}


def read(text, **options):
    return parse_dump(read_lines(io.BytesIO(text)), "the dump", **options).root


def check_round_trip(name, text):
    """Read and write *text*, unless composefs-rs cannot either."""
    if name in UNREADABLE:
        with pytest.raises(FormatError, match=f": {UNREADABLE[name]}: wanted"):
            read(text)
    else:
        assert b"".join(format_dump(read(text))) == text


def text_of(recorded, place):
    """Return a recorded text: its lines, or the file that has it; None if only its digest is there."""
    if isinstance(recorded, list):
        return "".join(f"{line}\n" for line in recorded).encode()
    return vectors.read(vectors.ROOT / place / recorded["file"]) if "file" in recorded else None


@pytest.mark.parametrize("case", STORED, ids=lambda case: case["case"])
def test_verdict_and_image(case):
    """What composefs-rs makes an image of is read, and gives that image; the rest is refused."""
    text = vectors.read(vectors.ROOT / "dumps" / case["dump"])

    if "error" in case:
        with pytest.raises((FormatError, TreeError)):
            write_image(read(text, algorithm=Algorithm.SHA256))
        return
    root = read(text, algorithm=Algorithm.SHA256)
    for version in (0, 1):
        assert hashlib.sha256(write_image(root, version)).hexdigest() == case[f"V{version}"]["sha256"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("name", [path.name for path in sorted((vectors.ROOT / "trees").iterdir())])
def test_tree(name, algorithm):
    (path,) = (vectors.ROOT / "trees" / name / algorithm).glob("tree.dump*")

    check_round_trip(name, vectors.read(path))


@pytest.mark.parametrize("path", sorted((vectors.ROOT / "sweeps").glob("*.dumps.gz")), ids=lambda path: path.name)
def test_sweep(path):
    """Link targets are too long there for composefs-rs to read them, but not for C."""
    dialect = Dialect.C if path.name.startswith("symlink-") else Dialect.RUST
    for text in split(vectors.read(path)):
        assert b"".join(format_dump(read(text, dialect=dialect))) == text


def split(text):
    """Return the dumps that stand in *text* one after another: each begins with the line of the root."""
    starts = [0, *(match.start() + 1 for match in re.finditer(rb"\n/ ", text)), len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


@pytest.mark.parametrize("name", vectors.image_names())
def test_image(name):
    recorded = vectors.expected(f"images/{name}")
    for algorithm in ("sha256", "sha512"):
        for key in ("dump", "dump_keep_user_xattrs", "dump_bootable"):
            if key in recorded[algorithm]:
                text = text_of(recorded[algorithm][key], f"images/{name}")
                if text is not None:
                    check_round_trip(name, text)


@pytest.mark.parametrize("path", sorted((vectors.ROOT / "refused" / "dumps").iterdir()), ids=lambda path: path.stem)
def test_dump_of_a_doubtful_image(path):
    check_round_trip(path.name.partition(".")[0], vectors.read(path))
