"""Dumps in both dialects: what is read can be written, as text and as an image, and is the same when read again."""

from __future__ import annotations

import io
import random

from composefs.dialect import Dialect
from composefs.dumpfile import format_dump, parse_dump, read_lines
from composefs.dumpfile.reader import FIELDS, Dump
from composefs.erofs.load import load_tree
from composefs.erofs.writer import write_image
from composefs.errors import FormatError, TreeError
from tests.fuzz.mutations import INTERESTING, havoc
from tests.fuzz.target import Target, chance_of
from tests.golden import vectors

_GOLDEN_MAX = 8 << 10  # bytes
_WAYS = ((Dialect.RUST, False), (Dialect.C, False), (Dialect.C, True))

_WORDS = (
    rb"- / 0 1 -1 +1 1.0 -5.0 1.-1 0.999999999 0.1000000000 100644 40755 @100644 @0 @40755 120777 20644 10644 140644"
    rb" x@100644 18446744073709551615 18446744073709551616 9223372036854775808.0 4294967296 \x00 \x2d \ \x4 \q \n \x+a"
    rb" \\ /a /a/ //a /a/b /a/b/c a ../a . .. /. /.. .// user.a=b = =x user.a= user.a=b=c \xff:\x01 0644 08 0x1"
    rb" trusted.overlay.metacopy= security.selinux=l:\x00 user.overlay.whiteout= trusted.overlay.opaque=y /00 /ff"
).split(b" ")
_WORDS += [
    b"",
    b"\xff",
    "é".encode(),
    b"\t7",
    b"\r",
    b"\0",
    b"\n",
    b" ",
    b"a" * 64,
    b"aa/" + b"a" * 62,
    b"c0/" + b"f" * 126,
]
_WORDS += [
    b"n" * 256,
    b"/" + b"n" * 4096,
    b"t" * 1025,
    b"c" * 513,
    b"/d" * 300,
    b"x" * 70_000,
    b"0" * 5000,
    b"9" * 5000,
]
_WORDS += [b"%d" % number for number in INTERESTING if number >= 1 << 31]
_LINES = [
    b"/ 0 40755 2 0 0 0 1.0 - - -",
    b"/a 0 40755 2 0 0 0 1.0 - - -",
    b"/a/b 3 100644 1 0 0 0 1.0 - abc -",
    b"/a/h 0 @100644 - - - - 0.0 /a/b - -",
    b"/a/l 1 120777 1 0 0 0 1.0 b - -",
    b"/a/o 5000 100644 1 0 0 0 1.0 aa/" + b"a" * 62 + b" - " + b"a" * 64,
    b"/a/w 0 20644 1 0 0 0 1.0 - - - user.x=y",
    b"/a/z 5000 100644 1 0 0 0 1.0 - - -",
]


def check(data: bytes) -> bool:
    """Read in every way, and write in every way."""
    found = {way: _read(data, *way) for way in _WAYS}
    lenient, strict = (found[Dialect.C, is_strict] for is_strict in (False, True))
    if strict is not None:
        assert lenient is not None, "strict takes more than lenient"
        assert _text(strict) == _text(lenient), "strict and lenient differ"
    for (dialect, is_strict), dump in found.items():
        if dump is not None and not is_strict:
            _check_written(dump, dialect, chance_of(data))
    return any(dump is not None for dump in found.values())


def _read(data: bytes, dialect: Dialect, strict: bool) -> Dump | None:
    try:
        return parse_dump(read_lines(io.BytesIO(data)), "dump", dialect=dialect, strict=strict)
    except FormatError as error:
        assert 0 <= error.offset <= len(data), error
        before = data[: error.offset]
        line, column = before.count(b"\n") + 1, error.offset - (before.rfind(b"\n") + 1) + 1
        assert error.what.startswith((f"line {line}, column {column}: ", "wanted the line of / first, got none")), error
        return None


def _text(dump: Dump) -> bytes:
    return b"".join(format_dump(dump.root))


def _check_written(dump: Dump, dialect: Dialect, chance: random.Random) -> None:
    text = _text(dump)
    again = _read_again(text, dialect)
    if again is not None:
        assert _text(again) == text, "read again"
    version = chance.choice((0, 1, 2) if dialect is Dialect.RUST else (0, 1))
    try:
        image = write_image(dump.root, version, dialect=dialect, homes=dump.homes)
    except TreeError:
        return
    try:
        tree = load_tree(image, dialect=dialect)
    except FormatError as error:
        assert dialect is Dialect.C or version == 2, error  # which write what they do not read
        return
    second = write_image(tree, version, dialect=dialect)
    assert b"".join(format_dump(load_tree(second, dialect=dialect))) == b"".join(format_dump(tree)), "read from images"


def _read_again(text: bytes, dialect: Dialect) -> Dump | None:
    """Neither dialect reads all that is written: no times before 1970, no paths longer than its limit."""
    try:
        return parse_dump(read_lines(io.BytesIO(text)), "dump again", dialect=dialect)
    except FormatError:
        return None


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change fields, and the order of lines."""
    if chance.randrange(5) == 0:
        return havoc(chance, data, _WORDS)
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(9):
        case 0:
            lines.insert(at, chance.choice(_LINES))
        case 1:
            lines.insert(at, lines[chance.randrange(len(lines))])
        case 2:
            del lines[at]
        case 3:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            fields = lines[at].split(b" ")
            index = chance.randrange(min(len(fields), len(FIELDS)))
            fields[index] = chance.choice((chance.choice(_WORDS), havoc(chance, fields[index], _WORDS)))
            lines[at] = b" ".join(fields)
    return b"\n".join(lines)


def _seeds() -> dict[str, bytes]:
    return {"lines": b"\n".join(_LINES) + b"\n", "root": _LINES[0], "c": b"/ 0 40755 2 0 0 0 1.0 - - -\n/a 0 100644\n"}


def _golden() -> list[bytes]:
    paths = sorted((vectors.ROOT / "dumps").rglob("*.dump*"))
    return [data for path in paths if len(data := vectors.read(path)) <= _GOLDEN_MAX]


DUMPFILE = Target("dumpfile", check, mutate, _seeds, _golden, share=6)
